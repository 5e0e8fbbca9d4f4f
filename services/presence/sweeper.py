"""What happens by time alone: leases that ran out, graces that ended, data that were lost. One task per replica.

Every replica ticks; whoever claims a tick sweeps for all. Nobody has to: what is swept twice, or half, or by a replica
that dies in the middle, comes out the same. While the store is not settled nothing is swept, because leases that ran
out prove nothing when their edges could not renew.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from services.presence.errors import Contended, StoreUnavailable
from services.presence.reports import Reports
from services.presence.store import Lease, PresenceStore, Tick
from services.presence.updates import Updates
from services.runtime.log import logger
from services.runtime.metrics import Metrics

# Users whose grace ended, in one batch.
_MAX_DUE = 480
# Ticks that fail in a row until the store counts as away: a second or two of silence, including the waiting for it.
_AWAY_AFTER = 2

_log = logger(__name__)


class TickObserver(Protocol):
    """Called on the event loop; must not block or raise."""

    def ticked(self, tick: Tick) -> None: ...

    def store_went_away(self) -> None:
        """No hiccup: several ticks in a row failed. Told once, until one succeeds."""


class Sweeper:
    """A component. Orphans are rare: they are looked for every `orphans_every_ms`."""

    def __init__(
        self,
        store: PresenceStore,
        reports: Reports,
        updates: Updates,
        observer: TickObserver,
        *,
        tick_s: float,
        orphans_every_ms: int,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._reports = reports
        self._updates = updates
        self._observer = observer
        self._tick_s = tick_s
        self._orphans_every_ms = orphans_every_ms
        self._orphans_at_ms = 0
        self._ticking: asyncio.Task[None] | None = None
        self._sweeping: asyncio.Task[None] | None = None
        self._is_up = metrics.gauge("presence_store_up", "1 while the store answers.")
        self._edges = metrics.gauge("presence_edges", "Leases that run, as of the last tick.")
        self._settled = metrics.gauge("presence_settled", "0 while the edges are given time to report again.")
        self._eras = metrics.counter("presence_eras", "Times that what was stored had been lost, or left unattended.")
        self._era: str | None = None
        self._failures = 0

    async def start(self) -> None:
        """Ticks once, so that the store is used from now on if it is there; where it is not, that is no failure."""
        await self._tick()
        self._ticking = asyncio.create_task(self._tick_for_ever(), name="presence ticks")

    async def stop(self) -> None:
        tasks = [task for task in (self._ticking, self._sweeping) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _tick_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._tick_s)
            await self._tick()

    async def _tick(self) -> None:
        try:
            self._note(await self._store.tick())
        except StoreUnavailable:
            self._is_up.set(0)
            self._failures += 1
            if self._failures == _AWAY_AFTER:
                self._observer.store_went_away()
        except Exception:  # the edge of this task
            _log.exception("presence_tick_failed")

    def _note(self, tick: Tick) -> None:
        self._is_up.set(1)
        self._failures = 0
        self._settled.set(tick.is_settled)
        self._edges.set(sum(lease.is_alive for lease in tick.leases))
        if tick.era != self._era:
            self._eras.inc()
            _log.info("presence_era_began", settles_in_ms=max(0, tick.settles_ms - tick.now_ms))
            self._era = tick.era
        self._observer.ticked(tick)
        is_sweeping = self._sweeping is not None and not self._sweeping.done()
        if tick.is_claimed and tick.is_settled and not is_sweeping:
            # Aside, so that a long sweep does not leave the store unattended.
            self._sweeping = asyncio.create_task(self._sweep_quietly(tick), name="presence sweep")

    async def sweep(self, tick: Tick) -> None:
        """Clears the leases that had ended at this tick, and whoever's grace is over.

        Raises:
            StoreUnavailable, Contended: something is left for the next tick.
        """
        orphans: Sequence[Lease] = ()
        if tick.now_ms >= self._orphans_at_ms:
            orphans = await self._store.find_orphans()
            self._orphans_at_ms = tick.now_ms + self._orphans_every_ms
        for lease in (*tick.leases, *orphans):
            if not lease.is_alive:
                await self._reports.clear(lease)
        while len(due := await self._store.find_due(limit=_MAX_DUE)):
            await self._updates.let_time_pass(due)

    async def _sweep_quietly(self, tick: Tick) -> None:
        try:
            await self.sweep(tick)
        except (StoreUnavailable, Contended):
            return  # the next tick goes on with it
        except Exception:
            _log.exception("presence_sweep_failed")
