"""A circuit breaker: stop asking a target that has failed, and find out carefully when it is back.

pybreaker keeps the states and the counts; who may ask is decided here, because with coroutines pybreaker's
own ways (tried: 1.4.1) never trip (`@breaker`), want tornado (`call_async`), or let every caller through
half-open and count a cancellation as a failure (`calling()`). So: admission, the call, and then its outcome
is replayed through `breaker.call` at once and synchronously.

What counts. Failure: UNAVAILABLE, DEADLINE_EXCEEDED, INTERNAL, UNKNOWN, and any exception that is not a
`ServiceError` (an adapter of a library that does not translate has met something it did not expect). Success:
an answer, and every refusal (NOT_FOUND, INVALID_ARGUMENT, PERMISSION_DENIED, ALREADY_EXISTS, ABORTED, …),
since who refuses is there and decides; RESOURCE_EXHAUSTED too, as shedding load is an answer, and a breaker
on top would turn one caller's excess into an outage for all. Neither: a cancellation, which says nothing of
the target.

Not safe for threads; one event loop uses it.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from typing import Any, Final, TypeVar

import grpc
import pybreaker

from services.runtime import log as runtime_log
from services.runtime.clock import Clock
from services.runtime.errors import ServiceError, Unavailable
from services.runtime.metrics import Metrics
from services.runtime.wire import milliseconds

T = TypeVar("T")

FAILURE_CODES: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)

# As the gauge shows them.
STATE_VALUES: Final = {pybreaker.STATE_CLOSED: 0, pybreaker.STATE_HALF_OPEN: 1, pybreaker.STATE_OPEN: 2}

# What a caller is told to wait while somebody else's trial is under way: about as long as a trial takes.
TRIAL_RETRY_AFTER_MS: Final = 250

_log = runtime_log.logger(__name__)


class CircuitOpen(Unavailable):
    """Refused here, without asking the target. `retry_after_ms` is when asking makes sense again."""

    reason = "CIRCUIT_OPEN"
    template = "{target} has failed; it is not asked again yet"


class ChannelClosed(Unavailable):
    """We closed the channel ourselves while the call was under way; its outcome is unknown."""

    reason = "CHANNEL_CLOSED"
    template = "the channel was closed during the call"


class Outcome(Enum):
    """What a call says about its target."""

    SUCCESS = auto()
    FAILURE = auto()
    NEITHER = auto()


def judge(error: Exception) -> Outcome:
    """The rule in the module's docstring. (Cancellations are not asked about; they are NEITHER.)"""
    if isinstance(error, ChannelClosed):
        return Outcome.NEITHER
    if isinstance(error, ServiceError):
        return Outcome.FAILURE if error.code in FAILURE_CODES else Outcome.SUCCESS
    if isinstance(error, grpc.aio.AioRpcError):
        return Outcome.FAILURE if error.code() in FAILURE_CODES else Outcome.SUCCESS
    return Outcome.FAILURE


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to make one call. Give it back with `Breaker.settle`, once."""

    generation: int
    trial: bool


class Breaker:
    """Opens after `fail_max` failures in a row; after `reset_after` lets one trial through at a time.

    A trial that succeeds closes it, one that fails opens it for `reset_after` again, one that is cancelled
    leaves the place to the next caller. A call that was admitted before the last change of state no longer
    counts: a late failure does not re-open, a late success does not close.
    """

    def __init__(
        self,
        name: str,
        *,
        clock: Clock,
        metrics: Metrics,
        fail_max: int = 5,
        reset_after: timedelta = timedelta(seconds=1),
        judge: Callable[[Exception], Outcome] = judge,
    ) -> None:
        self.name = name
        self._clock = clock
        self._reset_s = reset_after.total_seconds()
        self._judge = judge
        self._storage = _Storage(clock)
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=fail_max,
            reset_timeout=self._reset_s,
            state_storage=self._storage,
            listeners=[_Listener(self._changed)],
            name=name,
            throw_new_error_on_trip=False,
        )
        self._generation = 0
        self._trial_running = False
        self._state = metrics.gauge(
            "breaker_state", "0 closed, 1 half-open (one trial at a time), 2 open", ("breaker",)
        ).labels(name)
        self._state.set(STATE_VALUES[self.state])
        self._refusals = metrics.counter(
            "breaker_refusals", "Calls refused without asking the target", ("breaker",)
        ).labels(name)

    @property
    def state(self) -> str:
        """One of "closed", "half-open" and "open". An open breaker that is due stays "open" until somebody asks."""
        return str(self._breaker.current_state)

    def admit(self) -> Permit:
        """Ask before each call.

        Raises:
            CircuitOpen: the target is not to be asked now.
        """
        if self.state == pybreaker.STATE_CLOSED:
            return Permit(self._generation, trial=False)
        wait_s = self._storage.opened_s + self._reset_s - self._clock.monotonic()
        if self.state == pybreaker.STATE_OPEN and wait_s > 0:
            raise self._refusal(max(1, milliseconds(timedelta(seconds=wait_s))))
        if self._trial_running:
            raise self._refusal(TRIAL_RETRY_AFTER_MS)
        self._trial_running = True
        if self.state == pybreaker.STATE_OPEN:
            self._breaker.half_open()
        return Permit(self._generation, trial=True)

    def settle(self, permit: Permit, outcome: Outcome) -> None:
        """Give the permit back. NEITHER: the call was cancelled or never made, and counts as nothing."""
        if permit.generation != self._generation:
            return
        if permit.trial:
            self._trial_running = False
        if outcome is Outcome.SUCCESS:
            self._breaker.call(_succeed)
        elif outcome is Outcome.FAILURE:
            with suppress(_ReplayedFailure):
                self._breaker.call(_fail)

    @asynccontextmanager
    async def guard(self) -> AsyncIterator[None]:
        """Admission around a block, whose exception is the outcome; it passes on unchanged."""
        permit = self.admit()
        outcome = Outcome.NEITHER  # stays so when the block is cancelled
        try:
            yield
            outcome = Outcome.SUCCESS
        except Exception as error:
            outcome = self._judge(error)
            raise
        finally:
            self.settle(permit, outcome)

    async def call(self, make: Callable[[], Awaitable[T]]) -> T:
        """`await make()` inside `guard`."""
        async with self.guard():
            return await make()

    def _refusal(self, retry_after_ms: int) -> CircuitOpen:
        self._refusals.inc()
        return CircuitOpen(target=self.name, retry_after_ms=retry_after_ms)

    def _changed(self, old: str, new: str) -> None:
        self._generation += 1
        self._state.set(STATE_VALUES[new])
        report = _log.warning if new == pybreaker.STATE_OPEN else _log.info
        report("breaker_changed", breaker=self.name, old=old, new=new, failures=self._storage.counter)


class _Storage(pybreaker.CircuitMemoryStorage):
    """In memory, and remembers the opening on our clock: pybreaker's own time of day may jump."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(pybreaker.STATE_CLOSED)
        self._clock = clock
        self.opened_s = 0.0

    @property
    def opened_at(self) -> Any:
        return self._opened_at

    @opened_at.setter
    def opened_at(self, value: Any) -> None:
        self._opened_at = value
        self.opened_s = self._clock.monotonic()


class _Listener(pybreaker.CircuitBreakerListener):
    def __init__(self, changed: Callable[[str, str], None]) -> None:
        self._changed = changed

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        self._changed(old_state.name if old_state else "", new_state.name)


class _ReplayedFailure(Exception):
    """Stands for the real one, whose traceback and cause must stay as they are."""


def _succeed() -> None:
    return None


def _fail() -> None:
    raise _ReplayedFailure
