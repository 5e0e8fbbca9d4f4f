"""The use cases over a store whose operations are let through one by one, on a clock that tests move."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

from prometheus_client import CollectorRegistry

from services.presence.reads import Reads
from services.presence.reports import Reports
from services.presence.store import StoreTimes
from services.presence.store.memory import MemoryPresenceStore
from services.presence.sweeper import Sweeper
from services.presence.updates import Updates
from services.presence.watches import Watches
from services.runtime.metrics import Metrics
from tests.support.clock import ManualClock

TTL_S = 15
GRACE_S = 5
SETTLE_S = 15
TIMES = StoreTimes(
    lease_ttl=timedelta(seconds=TTL_S),
    grace=timedelta(seconds=GRACE_S),
    settle=timedelta(seconds=SETTLE_S),
    tick=timedelta(seconds=1),
    activity_kept=timedelta(days=1),
)
_GATED = (
    *("admit", "end_lease", "forget_lease", "load", "load_edge", "commit"),
    *("supersede", "find_due", "find_orphans"),
)

Call = asyncio.Task[Any]


class Gate:
    """A store; while it is closed, each call stops before each of its operations."""

    def __init__(self, store: MemoryPresenceStore) -> None:
        self.is_open = False
        # Where each call has stopped.
        self._waiting: dict[Call, asyncio.Future[None]] = {}
        self._store = store

    def let_through(self, call: Call) -> None:
        turn = self._waiting.pop(call, None)
        if turn is not None:
            turn.set_result(None)

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._store, name)
        if name not in _GATED:
            return operation

        async def gated(*arguments: Any, **options: Any) -> Any:
            call = asyncio.current_task()
            if not self.is_open and call is not None:
                self._waiting[call] = asyncio.get_running_loop().create_future()
                await self._waiting[call]
            return await operation(*arguments, **options)

        return gated


class GatedService:
    """What `services.presence.app` builds, without a process and with a gate."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = MemoryPresenceStore(uuid4().hex, times=TIMES, clock=self.clock)
        self.gate = Gate(self.store)
        metrics = Metrics(CollectorRegistry())
        gated: Any = self.gate
        grace_ms = GRACE_S * 1000
        self.updates = Updates(gated, grace_ms=grace_ms, metrics=metrics)
        self.reports = Reports(gated, self.updates, lease_ttl_ms=TTL_S * 1000, metrics=metrics)
        self.reads = Reads(self.store, grace_ms=grace_ms, metrics=metrics)
        self.watches = Watches(self.reads, metrics)
        self.sweeper = Sweeper(
            *(gated, self.reports, self.updates, self.watches),
            tick_s=1,
            orphans_every_ms=TTL_S * 1000,
            metrics=metrics,
        )

    async def run_some(self, call: Call, operations: int) -> None:
        """Lets so many operations of the call through, then leaves it where it is."""
        for _ in range(operations):
            await self._let_run()
            self.gate.let_through(call)
            await self._let_run()
            if call.done():
                return

    async def run_through(self, call: Call) -> None:
        """A call that meets a conflict pauses for some real milliseconds."""
        while not call.done():
            self.gate.let_through(call)
            await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def let_time_pass(self, seconds: int) -> None:
        """Second by second, with ticks; nobody sweeps."""
        for _ in range(seconds):
            self.clock.advance(1)
            await self.store.tick()

    async def sweep(self) -> None:
        """As far as the store has settled."""
        tick = await self.store.tick()
        if tick.is_settled:
            was_open, self.gate.is_open = self.gate.is_open, True
            await self.sweeper.sweep(tick)
            self.gate.is_open = was_open

    async def close(self) -> None:
        await self.reads.close()
        await self.store.close()

    @staticmethod
    async def _let_run() -> None:
        for _ in range(4):
            await asyncio.sleep(0)
