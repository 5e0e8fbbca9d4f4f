"""One deadline around all attempts; only what is harmless is tried again."""

import asyncio
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from services.runtime import errors, log
from services.runtime.breaker import Breaker
from services.runtime.errors import ServiceError, to_status
from services.runtime.metrics import Metrics
from services.runtime.resilience import Caller, CallPolicy, ChannelClosed, CircuitOpen
from tests.support.clock import ManualClock

ONCE = CallPolicy(deadline=timedelta(seconds=2))
OFTEN = CallPolicy(deadline=timedelta(seconds=2), attempts=5, idempotent=True)


def failure(error: ServiceError) -> grpc.aio.AioRpcError:
    status = to_status(error)
    return grpc.aio.AioRpcError(
        status.code, grpc.aio.Metadata(), grpc.aio.Metadata(*(status.trailing_metadata or ())), status.details
    )


class Target:
    """A stub's method: plays the given outcomes one after the other, then answers; each takes `takes_s`."""

    def __init__(self, clock: ManualClock, *outcomes: BaseException, takes_s: float = 0.0) -> None:
        self.clock = clock
        self.outcomes = list(outcomes)
        self.takes_s = takes_s
        self.timeouts: list[float] = []
        self.metadata: list[Any] = []

    async def __call__(self, request: str, /, *, timeout: float | None = None, metadata: Any = None) -> str:
        assert timeout is not None
        self.timeouts.append(timeout)
        self.metadata.append(list(metadata))
        self.clock.advance(self.takes_s)
        if self.outcomes:
            raise self.outcomes.pop(0)
        return f"{request} answered"


class HighestDraw(random.Random):
    """Draws the upper bound: the longest pause that jitter may choose."""

    def uniform(self, a: float, b: float) -> float:
        return b


class Bench:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.registry = CollectorRegistry()
        metrics = Metrics(self.registry)
        self.breaker = Breaker("peer", clock=self.clock, metrics=metrics, fail_max=4)
        self.caller = Caller(self.breaker, self.clock, metrics, HighestDraw(), sleep=self.clock.sleep)

    def target(self, *outcomes: BaseException, takes_s: float = 0.0) -> Target:
        return Target(self.clock, *outcomes, takes_s=takes_s)

    async def call(self, target: Any, policy: CallPolicy = ONCE, **options: Any) -> str:
        answer: str = await self.caller.call(target, "request", policy=policy, method="Ask", **options)
        return answer

    def attempts(self, code: str) -> float | None:
        return self.registry.get_sample_value(
            "parley_rpc_client_attempts_total", {"target": "peer", "method": "Ask", "code": code}
        )


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_an_answer_is_returned_and_counted(bench: Bench) -> None:
    assert await bench.call(bench.target()) == "request answered"
    assert bench.attempts("OK") == 1


@pytest.mark.parametrize("retried", [errors.Unavailable, errors.Aborted])
async def test_what_may_be_tried_again_is(bench: Bench, retried: type[ServiceError]) -> None:
    target = bench.target(failure(retried()), failure(retried()))
    assert await bench.call(target, OFTEN) == "request answered"
    assert len(target.timeouts) == 3
    assert bench.attempts(retried.code.name) == 2
    assert bench.attempts("OK") == 1


@pytest.mark.parametrize(
    "final",
    [errors.DeadlineExceeded, errors.Internal, errors.NotFound, errors.RateLimited, errors.Conflict],
)
async def test_everything_else_is_not(bench: Bench, final: type[ServiceError]) -> None:
    target = bench.target(failure(final()))
    with pytest.raises(final):
        await bench.call(target, OFTEN)
    assert len(target.timeouts) == 1


async def test_what_is_not_idempotent_is_asked_once(bench: Bench) -> None:
    target = bench.target(failure(errors.Unavailable()))
    with pytest.raises(errors.Unavailable):
        await bench.call(target, ONCE)
    assert len(target.timeouts) == 1
    assert bench.clock.slept_s == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: CallPolicy(timedelta(seconds=1), attempts=2),
        lambda: CallPolicy(timedelta(0)),
        lambda: CallPolicy(timedelta(seconds=1), attempts=0),
    ],
    ids=["attempts without idempotence", "no deadline", "no attempt"],
)
def test_a_policy_that_contradicts_itself_is_refused(make: Callable[[], CallPolicy]) -> None:
    with pytest.raises(ValueError, match=r"idempotent|deadline"):
        make()


async def test_attempts_share_one_deadline(bench: Bench) -> None:
    policy = CallPolicy(timedelta(seconds=2), attempts=3, idempotent=True, first_pause=timedelta(milliseconds=100))
    target = bench.target(failure(errors.Unavailable()), failure(errors.Unavailable()), takes_s=0.5)
    await bench.call(target, policy)
    assert target.timeouts == pytest.approx([2.0, 1.4, 0.7])
    assert bench.clock.slept_s == pytest.approx([0.1, 0.2])


async def test_no_attempt_starts_that_the_deadline_leaves_no_time_for(bench: Bench) -> None:
    last = errors.Unavailable(at="second")
    target = bench.target(failure(errors.Unavailable(at="first")), failure(last), takes_s=0.95)
    with pytest.raises(errors.Unavailable) as caught:
        await bench.call(target, OFTEN)
    assert len(target.timeouts) == 2
    assert caught.value.fields["at"] == "second"
    assert bench.clock.monotonic() - 1000 <= 2.0


async def test_the_last_error_is_raised_when_the_attempts_are_used_up(bench: Bench) -> None:
    policy = CallPolicy(timedelta(seconds=60), attempts=2, idempotent=True)
    target = bench.target(failure(errors.Unavailable(at="first")), failure(errors.Unavailable(at="second")))
    with pytest.raises(errors.Unavailable) as caught:
        await bench.call(target, policy)
    assert caught.value.fields["at"] == "second"
    assert isinstance(caught.value.__cause__, grpc.aio.AioRpcError)


async def test_the_callers_own_budget_holds_when_it_is_shorter(bench: Bench) -> None:
    target = bench.target()
    await bench.call(target, ONCE, budget=timedelta(seconds=0.5))
    await bench.call(target, ONCE, budget=timedelta(seconds=50))
    assert target.timeouts == [0.5, 2.0]


async def test_an_exhausted_budget_asks_nobody(bench: Bench) -> None:
    target = bench.target()
    with pytest.raises(errors.DeadlineExceeded):
        await bench.call(target, OFTEN, budget=timedelta(0))
    assert target.timeouts == []
    assert bench.breaker.state == "closed"


async def test_pauses_grow_to_their_bound_and_are_drawn_from_zero_to_it(bench: Bench) -> None:
    policy = CallPolicy(
        timedelta(seconds=60),
        attempts=4,
        idempotent=True,
        first_pause=timedelta(milliseconds=100),
        max_pause=timedelta(milliseconds=300),
    )
    aborted = [failure(errors.Aborted()) for _ in range(3)]
    await bench.call(bench.target(*aborted), policy)
    assert bench.clock.slept_s == pytest.approx([0.1, 0.2, 0.3])

    bench.clock.slept_s.clear()
    drawing = Caller(bench.breaker, bench.clock, Metrics(bench.registry), random.Random(1), sleep=bench.clock.sleep)
    for _ in range(50):
        target = bench.target(failure(errors.Aborted()))
        await drawing.call(target, "request", policy=policy, method="Ask")
    assert all(0 <= pause <= 0.1 for pause in bench.clock.slept_s)
    assert min(bench.clock.slept_s) < 0.02
    assert max(bench.clock.slept_s) > 0.08


async def test_the_pause_is_no_shorter_than_the_server_asked_for(bench: Bench) -> None:
    await bench.call(bench.target(failure(errors.Unavailable(retry_after_ms=1500))), OFTEN)
    assert bench.clock.slept_s == [1.5]


async def test_a_server_that_asks_for_more_than_the_deadline_is_believed_at_once(bench: Bench) -> None:
    target = bench.target(failure(errors.Unavailable(retry_after_ms=2500)))
    with pytest.raises(errors.Unavailable) as caught:
        await bench.call(target, OFTEN)
    assert caught.value.retry_after_ms == 2500
    assert (len(target.timeouts), bench.clock.slept_s) == (1, [])


async def test_the_breaker_sits_inside_each_attempt(bench: Bench) -> None:
    policy = CallPolicy(timedelta(seconds=60), attempts=10, idempotent=True)
    target = bench.target(*[failure(errors.Unavailable()) for _ in range(20)])
    with pytest.raises(CircuitOpen):
        await bench.call(target, policy)
    assert len(target.timeouts) == 4
    assert bench.attempts("UNAVAILABLE") == 4
    assert bench.attempts("CIRCUIT_OPEN") == 1


async def test_a_refusal_of_the_breaker_is_not_tried_again(bench: Bench) -> None:
    for _ in range(4):
        with pytest.raises(errors.Internal):
            await bench.call(bench.target(failure(errors.Internal())), ONCE)
    target = bench.target()
    with pytest.raises(CircuitOpen):
        await bench.call(target, OFTEN)
    assert (target.timeouts, bench.clock.slept_s) == ([], [])


async def test_a_cancelled_call_stays_cancelled_and_is_no_failure(bench: Bench) -> None:
    async def never(request: str, /, *, timeout: float | None = None, metadata: Any = None) -> str:
        await asyncio.get_running_loop().create_future()
        return "never"

    for _ in range(10):
        task = asyncio.ensure_future(bench.call(never, OFTEN))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert bench.breaker.state == "closed"
    assert bench.attempts("CANCELLED") == 10


async def test_a_channel_that_we_closed_is_an_error_and_not_a_cancellation(bench: Bench) -> None:
    for _ in range(10):
        target = bench.target(asyncio.CancelledError())
        with pytest.raises(ChannelClosed):
            await bench.call(target, OFTEN)
        assert len(target.timeouts) == 1
    assert bench.breaker.state == "closed"


async def test_the_correlation_id_goes_along(bench: Bench) -> None:
    bound = log.correlation_id.set("abc")
    try:
        target = bench.target(failure(errors.Unavailable()))
        await bench.call(target, OFTEN, metadata=(("x-extra", "1"),))
    finally:
        log.correlation_id.reset(bound)
    assert target.metadata == [[("x-correlation-id", "abc"), ("x-extra", "1")]] * 2


async def test_the_time_of_the_whole_call_is_measured(bench: Bench) -> None:
    await bench.call(bench.target(failure(errors.Unavailable(retry_after_ms=1000)), takes_s=0.25), OFTEN)
    total = bench.registry.get_sample_value("parley_rpc_client_seconds_sum", {"target": "peer", "method": "Ask"})
    assert total == pytest.approx(1.5)
