"""Calling another process: how long, how often, and when not at all. Policy is data, one per method.

One deadline surrounds all attempts; each attempt gets what is left of it; the breaker sits inside each
attempt. Only UNAVAILABLE and ABORTED are tried again, and only what the policy calls idempotent: after any
failure of a call that was sent, nobody knows whether it took effect. Deadlines are not tried again, the
budget is gone.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol, TypeVar

import grpc
import tenacity

from services.runtime.breaker import Breaker, ChannelClosed, CircuitOpen, Outcome
from services.runtime.channel import outgoing_metadata
from services.runtime.clock import Clock
from services.runtime.errors import DeadlineExceeded, ServiceError, from_rpc_error
from services.runtime.metrics import Metrics

__all__ = ["Breaker", "CallPolicy", "Caller", "ChannelClosed", "CircuitOpen", "Outcome", "UnaryRpc"]

RETRIED: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED})

# An attempt with less left than this cannot be answered even on one machine; it would only load the peer.
MIN_ATTEMPT_S: Final = 0.001

Metadata = Sequence[tuple[str, str | bytes]]
Req = TypeVar("Req", contravariant=True)
Resp = TypeVar("Resp", covariant=True)
A = TypeVar("A")
B = TypeVar("B")


class UnaryRpc(Protocol[Req, Resp]):
    """A unary method of a generated stub; `timeout` in seconds."""

    def __call__(
        self, request: Req, /, *, timeout: float | None = None, metadata: Metadata | None = None
    ) -> Awaitable[Resp]: ...


@dataclass(frozen=True, slots=True)
class CallPolicy:
    """How one method is called.

    `deadline` bounds everything: attempts and the pauses between them. `attempts` counts the first one too
    and is used only where `idempotent`. The pause before attempt n+1 is drawn evenly from 0 to
    min(`max_pause`, `first_pause` · 2ⁿ⁻¹), or is what the server asked for if that is longer.
    """

    deadline: timedelta
    attempts: int = 1
    idempotent: bool = False
    first_pause: timedelta = timedelta(milliseconds=50)
    max_pause: timedelta = timedelta(seconds=1)

    def __post_init__(self) -> None:
        if self.deadline <= timedelta(0) or self.attempts < 1:
            raise ValueError("a policy needs a deadline and at least one attempt")
        if self.attempts > 1 and not self.idempotent:
            raise ValueError("only what is idempotent may have more than one attempt")


class Caller:
    """Calls the unary methods of one target by their policies.

    `package` says whose error classes are wanted (see `errors.from_rpc_error`).
    """

    def __init__(
        self,
        breaker: Breaker,
        clock: Clock,
        metrics: Metrics,
        rng: random.Random | None = None,
        *,
        package: str = "",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._breaker = breaker
        self._clock = clock
        self._rng = rng or random.Random()
        self._package = package
        self._sleep = sleep
        self._attempts = metrics.counter(
            "rpc_client_attempts", "Attempts by target, method and gRPC code", ("target", "method", "code")
        )
        self._seconds = metrics.histogram(
            "rpc_client_seconds", "Time of a whole call, attempts and pauses included", ("target", "method")
        )

    async def call(
        self,
        rpc: UnaryRpc[A, B],
        request: A,
        *,
        policy: CallPolicy,
        method: str,
        metadata: Metadata = (),
        budget: timedelta | None = None,
    ) -> B:
        """The answer, or the last error.

        `budget` is what remains of one's own caller's deadline (`server.time_left`); the shorter one holds.
        `method` names the call in metrics. The correlation id of this task goes along.

        Raises:
            CircuitOpen: the target is not asked, this time.
            ServiceError: what the target or the transport answered at the last attempt.
        """
        started = self._clock.monotonic()
        allowed = policy.deadline if budget is None else min(policy.deadline, budget)
        ends = started + allowed.total_seconds()

        async def attempt() -> B:
            return await self._attempt(rpc, request, method, [*outgoing_metadata(), *metadata], ends)

        try:
            if policy.attempts == 1:
                return await attempt()
            return await self._retrying(policy, ends)(attempt)
        finally:
            self._seconds.labels(self._breaker.name, method).observe(self._clock.monotonic() - started)

    def _retrying(self, policy: CallPolicy, ends: float) -> tenacity.AsyncRetrying:
        return tenacity.AsyncRetrying(
            sleep=self._sleep,
            retry=tenacity.retry_if_exception(_is_retried),
            stop=tenacity.stop_after_attempt(policy.attempts) | _BudgetSpent(self._clock, ends),
            wait=_FullJitter(policy, self._rng),
            reraise=True,
        )

    async def _attempt(self, rpc: UnaryRpc[A, B], request: A, method: str, metadata: Metadata, ends: float) -> B:
        left_s = ends - self._clock.monotonic()
        if left_s < MIN_ATTEMPT_S:
            raise DeadlineExceeded(method=method)
        code = "CANCELLED"
        try:
            async with self._breaker.guard():
                answer = await self._translated(rpc, request, metadata, left_s)
        except ServiceError as error:
            code = error.reason if isinstance(error, CircuitOpen) else error.code.name
            raise
        else:
            code = "OK"
            return answer
        finally:
            self._attempts.labels(self._breaker.name, method, code).inc()

    async def _translated(self, rpc: UnaryRpc[A, B], request: A, metadata: Metadata, left_s: float) -> B:
        try:
            return await rpc(request, timeout=left_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, package=self._package) from error
        except grpc.aio.UsageError as error:  # the channel was closed before
            raise ChannelClosed() from error
        except asyncio.CancelledError as error:
            # grpc.aio also raises this in a call whose channel is closed meanwhile, and nobody cancelled us
            # then.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise ChannelClosed() from error


class _FullJitter(tenacity.wait_random_exponential):
    """tenacity's full jitter with a generator of our own, and never sooner than the server asked."""

    def __init__(self, policy: CallPolicy, rng: random.Random) -> None:
        super().__init__(multiplier=policy.first_pause.total_seconds(), max=policy.max_pause)
        self._rng = rng

    def __call__(self, retry_state: tenacity.RetryCallState) -> float:
        ceiling = tenacity.wait_exponential.__call__(self, retry_state)
        return max(self._rng.uniform(0, ceiling), _asked_for_s(retry_state))


class _BudgetSpent(tenacity.stop.stop_base):
    """True when the pause would end with nothing left to try with (tenacity's own has its own clock)."""

    def __init__(self, clock: Clock, ends: float) -> None:
        self._clock = clock
        self._ends = ends

    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        return self._clock.monotonic() + retry_state.upcoming_sleep + MIN_ATTEMPT_S > self._ends


def _asked_for_s(retry_state: tenacity.RetryCallState) -> float:
    error = retry_state.outcome.exception() if retry_state.outcome else None
    if isinstance(error, ServiceError) and error.retry_after_ms is not None:
        return error.retry_after_ms / 1000
    return 0.0


def _is_retried(error: BaseException) -> bool:
    """What ended here is not: the breaker is there to fail fast, and a closed channel stays closed."""
    if isinstance(error, CircuitOpen | ChannelClosed):
        return False
    return isinstance(error, ServiceError) and error.code in RETRIED
