"""The breaker lets one trial through, and counts what says something about the target."""

import asyncio
from datetime import timedelta
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from services.runtime import errors
from services.runtime.breaker import Breaker, ChannelClosed, CircuitOpen, Outcome, judge
from services.runtime.metrics import Metrics
from tests.support.clock import ManualClock

FAIL_MAX = 3
RESET_S = 10.0


class Bench:
    """A breaker, its clock, and a target whose answers a test holds back."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.registry = CollectorRegistry()
        self.breaker = Breaker(
            "target",
            clock=self.clock,
            metrics=Metrics(self.registry),
            fail_max=FAIL_MAX,
            reset_after=timedelta(seconds=RESET_S),
        )
        self.asked = 0

    async def ask(self, outcome: BaseException | None = None) -> str:
        async def target() -> str:
            self.asked += 1
            if outcome is not None:
                raise outcome
            return "answer"

        return await self.breaker.call(target)

    async def fail(self, times: int = 1) -> None:
        for _ in range(times):
            with pytest.raises(errors.Unavailable):
                await self.ask(errors.Unavailable())

    async def open(self) -> None:
        await self.fail(FAIL_MAX)
        assert self.breaker.state == "open"

    def hold(self) -> "Held":
        return Held(self)

    @property
    def gauge(self) -> float | None:
        return self.registry.get_sample_value("parley_breaker_state", {"breaker": "target"})


class Held:
    """A call that is under way until the test ends it."""

    def __init__(self, bench: Bench) -> None:
        self.released: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def target() -> str:
            bench.asked += 1
            return await self.released

        self.task = asyncio.ensure_future(bench.breaker.call(target))

    async def answer(self) -> None:
        self.released.set_result("late")
        assert await self.task == "late"

    async def fail(self) -> None:
        self.released.set_exception(errors.Unavailable())
        with pytest.raises(errors.Unavailable):
            await self.task

    async def cancel(self) -> None:
        self.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.task


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_it_opens_after_so_many_failures_in_a_row(bench: Bench) -> None:
    await bench.fail(FAIL_MAX - 1)
    assert bench.breaker.state == "closed"
    await bench.fail()
    assert bench.breaker.state == "open"


async def test_a_success_in_between_starts_the_count_again(bench: Bench) -> None:
    await bench.fail(FAIL_MAX - 1)
    await bench.ask()
    await bench.fail(FAIL_MAX - 1)
    assert bench.breaker.state == "closed"


async def test_the_failure_that_opens_it_reaches_its_caller_unchanged(bench: Bench) -> None:
    await bench.fail(FAIL_MAX - 1)
    original = errors.Unavailable(at="last")
    with pytest.raises(errors.Unavailable) as caught:
        await bench.ask(original)
    assert caught.value is original
    assert caught.value.__context__ is None


async def test_open_refuses_without_asking_and_says_when_to_come_back(bench: Bench) -> None:
    await bench.open()
    bench.clock.advance(RESET_S - 2.5)
    with pytest.raises(CircuitOpen) as caught:
        await bench.ask()
    assert bench.asked == FAIL_MAX
    assert caught.value.retry_after_ms == 2500
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert bench.registry.get_sample_value("parley_breaker_refusals_total", {"breaker": "target"}) == 1


async def test_a_jump_of_the_wall_clock_changes_nothing(bench: Bench) -> None:
    await bench.open()
    bench.clock.jump_wall_ms(3_600_000)
    with pytest.raises(CircuitOpen):
        await bench.ask()


async def test_when_due_exactly_one_trial_passes_among_many_callers(bench: Bench) -> None:
    await bench.open()
    bench.clock.advance(RESET_S)
    calls = [bench.hold() for _ in range(50)]
    await asyncio.sleep(0)
    refused = [call for call in calls if call.task.done()]
    assert bench.asked == FAIL_MAX + 1
    assert len(refused) == 49
    for call in refused:
        assert isinstance(call.task.exception(), CircuitOpen)
    (trial,) = [call for call in calls if not call.task.done()]
    await trial.answer()
    assert bench.breaker.state == "closed"


async def test_a_trial_that_fails_opens_it_for_the_whole_time_again(bench: Bench) -> None:
    await bench.open()
    bench.clock.advance(RESET_S)
    await bench.fail()
    assert bench.breaker.state == "open"
    bench.clock.advance(RESET_S - 0.1)
    with pytest.raises(CircuitOpen):
        await bench.ask()
    bench.clock.advance(0.2)
    assert await bench.ask() == "answer"
    assert bench.breaker.state == "closed"


async def test_a_cancelled_trial_counts_as_nothing_and_leaves_its_place(bench: Bench) -> None:
    await bench.open()
    bench.clock.advance(RESET_S)
    trial = bench.hold()
    await asyncio.sleep(0)
    await trial.cancel()
    assert bench.breaker.state == "half-open"
    next_trial = bench.hold()
    await asyncio.sleep(0)
    with pytest.raises(CircuitOpen):
        await bench.ask()
    await next_trial.answer()
    assert bench.breaker.state == "closed"


async def test_a_cancellation_neither_counts_nor_forgets_failures(bench: Bench) -> None:
    await bench.fail(FAIL_MAX - 1)
    for _ in range(5):
        call = bench.hold()
        await asyncio.sleep(0)
        await call.cancel()
    assert bench.breaker.state == "closed"
    await bench.fail()
    assert bench.breaker.state == "open"


@pytest.mark.parametrize(
    "refusal",
    [
        errors.NotFound(),
        errors.InvalidArgument(),
        errors.Forbidden(),
        errors.Conflict(),
        errors.RateLimited(),
        errors.Aborted(),
        errors.Unauthenticated(),
        errors.Unimplemented(),
    ],
    ids=lambda refusal: refusal.reason,
)
async def test_a_refusal_is_a_success_to_the_breaker(bench: Bench, refusal: errors.ServiceError) -> None:
    await bench.fail(FAIL_MAX - 1)
    with pytest.raises(type(refusal)):
        await bench.ask(refusal)
    await bench.fail(FAIL_MAX - 1)
    assert bench.breaker.state == "closed"


async def test_a_refusal_of_the_trial_closes_it(bench: Bench) -> None:
    await bench.open()
    bench.clock.advance(RESET_S)
    with pytest.raises(errors.NotFound):
        await bench.ask(errors.NotFound())
    assert bench.breaker.state == "closed"


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (errors.Unavailable(), Outcome.FAILURE),
        (errors.DeadlineExceeded(), Outcome.FAILURE),
        (errors.Internal(), Outcome.FAILURE),
        (ConnectionResetError(), Outcome.FAILURE),
        (errors.TooLarge(), Outcome.SUCCESS),
        (ChannelClosed(), Outcome.NEITHER),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_counts(error: Exception, outcome: Outcome) -> None:
    assert judge(error) is outcome


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (grpc.StatusCode.UNKNOWN, Outcome.FAILURE),
        (grpc.StatusCode.UNAVAILABLE, Outcome.FAILURE),
        (grpc.StatusCode.NOT_FOUND, Outcome.SUCCESS),
    ],
)
def test_an_error_of_grpc_that_nobody_translated_goes_by_its_code(code: grpc.StatusCode, outcome: Outcome) -> None:
    assert judge(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())) is outcome


async def test_an_adapter_may_judge_for_itself(bench: Bench) -> None:
    breaker = Breaker(
        "own",
        clock=bench.clock,
        metrics=Metrics(bench.registry),
        fail_max=1,
        judge=lambda error: Outcome.SUCCESS if isinstance(error, KeyError) else Outcome.FAILURE,
    )
    for error, state in ((KeyError(), "closed"), (ValueError(), "open")):
        with pytest.raises(type(error)):
            async with breaker.guard():
                raise error
        assert breaker.state == state


async def test_a_late_failure_does_not_open_it_again(bench: Bench) -> None:
    late = bench.hold()
    await asyncio.sleep(0)
    await bench.open()
    bench.clock.advance(RESET_S)
    await bench.ask()
    await late.fail()
    await bench.fail(FAIL_MAX - 1)
    assert bench.breaker.state == "closed"


async def test_a_late_success_does_not_close_it(bench: Bench) -> None:
    late = bench.hold()
    await asyncio.sleep(0)
    await bench.open()
    await late.answer()
    assert bench.breaker.state == "open"


async def test_a_late_outcome_does_not_end_somebody_elses_trial(bench: Bench) -> None:
    late = [bench.hold(), bench.hold()]
    await asyncio.sleep(0)
    await bench.open()
    bench.clock.advance(RESET_S)
    trial = bench.hold()
    await asyncio.sleep(0)
    await late[0].fail()
    await late[1].answer()
    assert bench.breaker.state == "half-open"
    with pytest.raises(CircuitOpen):
        await bench.ask()
    await trial.answer()


async def test_each_change_is_one_log_line_and_the_gauge_follows(bench: Bench) -> None:
    assert bench.gauge == 0
    with capture_logs() as lines:
        await bench.open()
        assert bench.gauge == 2
        bench.clock.advance(RESET_S)
        trial = bench.hold()
        await asyncio.sleep(0)
        assert bench.gauge == 1
        await trial.answer()
        assert bench.gauge == 0
    seen: list[tuple[Any, ...]] = [(line["event"], line["old"], line["new"]) for line in lines]
    assert seen == [
        ("breaker_changed", "closed", "open"),
        ("breaker_changed", "open", "half-open"),
        ("breaker_changed", "half-open", "closed"),
    ]
