"""How late the event loop is: the first thing to look at when everything is slow at once."""

import asyncio
import time
from typing import Final

from services.runtime.metrics import Metrics
from services.runtime.tasks import Tasks

# Often enough to see a blockage of 100 ms, seldom enough to cost nothing (10 wake-ups a second).
PERIOD_S: Final = 0.1

BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class LoopLag:
    """Sleeps `PERIOD_S` again and again and records by how much it woke up late, in seconds."""

    def __init__(self, metrics: Metrics) -> None:
        self._lag = metrics.histogram("loop_lag_seconds", "How late the event loop ran a timer", buckets=BUCKETS_S)
        self._tasks = Tasks()

    async def start(self) -> None:
        self._tasks.spawn(self._watch(), "loop_lag")

    async def stop(self) -> None:
        await self._tasks.stop()

    async def _watch(self) -> None:
        while True:
            due = time.monotonic() + PERIOD_S
            await asyncio.sleep(PERIOD_S)
            self._lag.observe(max(0.0, time.monotonic() - due))
