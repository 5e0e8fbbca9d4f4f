"""What stands in front of every provider: a deadline, a breaker for each target, and an end to surprises."""

import asyncio
from datetime import timedelta

from services.notify.model import Device, Note, Platform
from services.notify.providers import Outcome, Provider, RetryLater
from services.runtime.breaker import Breaker, CircuitOpen
from services.runtime.breaker import Outcome as Said
from services.runtime.clock import Clock
from services.runtime.log import logger
from services.runtime.metrics import Metrics

# Under the number of tries of one job, so that one job alone does not use all of them up before the breaker opens.
_FAIL_MAX = 3
_RESET_AFTER = timedelta(seconds=2)

_log = logger(__name__)


class Guarded:
    """A provider that always answers within `timeout`. Raises nothing but its caller's cancellation."""

    def __init__(self, provider: Provider, *, timeout: timedelta, clock: Clock, metrics: Metrics) -> None:
        self._provider = provider
        self._timeout_s = timeout.total_seconds()
        self._clock = clock
        self._metrics = metrics
        self._breakers: dict[str, Breaker] = {}
        self._seconds = metrics.histogram("notify_push_seconds", "Time of one push, by provider", ("provider",))
        self._outcomes = metrics.counter("notify_pushes", "Pushes by provider and outcome", ("provider", "outcome"))

    @property
    def platform(self) -> Platform:
        return self._provider.platform

    @property
    def public_key(self) -> str:
        return self._provider.public_key

    async def start(self) -> None:
        await self._provider.start()

    async def close(self) -> None:
        await self._provider.close()

    async def push(self, device: Device, note: Note) -> Outcome:
        target = self._provider.target_of(device)
        breaker = self._breaker(target)
        try:
            permit = breaker.admit()
        except CircuitOpen:
            self._count(RetryLater("circuit open", counted=False))
            return RetryLater("circuit open", counted=False)
        said = Said.NEITHER  # stays so when we are cancelled
        started = self._clock.monotonic()
        try:
            outcome = await self._bounded(device, note)
            said = Said.FAILURE if isinstance(outcome, RetryLater) and outcome.is_away else Said.SUCCESS
        finally:
            breaker.settle(permit, said)
        self._seconds.labels(target).observe(self._clock.monotonic() - started)
        self._count(outcome)
        return outcome

    async def _bounded(self, device: Device, note: Note) -> Outcome:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._provider.push(device, note)
        except TimeoutError:
            return RetryLater("timeout")
        except OSError as error:  # no text: addresses stand in it
            return RetryLater(type(error).__name__)
        except Exception as error:
            # Not with its traceback's values: what was sent is in them. The type and the place are enough.
            _log.error("push_failed", provider=self.platform.value, kind=type(error).__name__, at=_place_of(error))
            return RetryLater(f"bug: {type(error).__name__}", is_away=False)

    def _breaker(self, target: str) -> Breaker:
        breaker = self._breakers.get(target)
        if breaker is None:
            breaker = self._breakers[target] = Breaker(
                f"push:{target}", clock=self._clock, metrics=self._metrics, fail_max=_FAIL_MAX, reset_after=_RESET_AFTER
            )
        return breaker

    def _count(self, outcome: Outcome) -> None:
        self._outcomes.labels(self.platform.value, type(outcome).__name__).inc()


def _place_of(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}"
