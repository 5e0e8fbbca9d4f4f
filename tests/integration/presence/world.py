"""Presence replicas over one store and edges that use them, all over real gRPC in one event loop.

Times are short: an edge renews about every 0.4 s. An installation that a test begins with is one that settled long ago.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from itertools import dropwhile
from typing import Any

from prometheus_client import CollectorRegistry

from edge.clients.presence import SERVICE_NAME, Presence, PresenceStatus
from edge.model import UserId
from edge.presence import EdgePresence
from edge.replicas import Replicas
from services.presence.app import build
from services.presence.config import PresenceSettings
from services.runtime.clock import SystemClock
from services.runtime.config import RuntimeSettings
from services.runtime.metrics import Metrics
from services.runtime.process import Process
from services.runtime.tasks import Tasks
from tests.e2e.waiting import eventually

ALICE, BOB, CAROL = UserId("alice"), UserId("bob"), UserId("carol")
ONLINE, AWAY, BUSY = PresenceStatus.ONLINE, PresenceStatus.AWAY, PresenceStatus.BUSY
OFFLINE, UNKNOWN = PresenceStatus.OFFLINE, PresenceStatus.UNKNOWN
_NOT_THERE = (OFFLINE, UNKNOWN)

TTL_S = 1.2
GRACE_S = 0.6
# An edge that is asked to report needs a moment; one that has to find its replica first, a second.
SETTLE_S = 1.6
TICK_S = 0.1
DEFAULT_TIMES = PresenceSettings().model_dump(include={"lease_ttl_s", "grace_s", "settle_s", "tick_s", "coalesce_ms"})
# What a busy 2-core machine may add to any of them.
A_MOMENT_S = 1.0


class Service:
    """One presence replica."""

    def __init__(self, store_url: str, prefix: str, **settings: Any) -> None:
        short = PresenceSettings(
            listen="127.0.0.1:0",
            store_url=store_url,
            key_prefix=prefix,
            lease_ttl_s=TTL_S,
            grace_s=GRACE_S,
            settle_s=SETTLE_S,
            tick_s=TICK_S,
            coalesce_ms=100,
        )
        self._settings = short.model_copy(update=settings)
        self._process: Process | None = None
        self.port = 0

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def metric(self, name: str, **labels: str) -> float:
        assert self._process is not None
        return self._process.registry.get_sample_value(f"parley_presence_{name}", labels) or 0.0

    def sum_of(self, name: str) -> float:
        """Over all labels."""
        assert self._process is not None
        return sum(
            sample.value
            for metric in self._process.registry.collect()
            for sample in metric.samples
            if sample.name == f"parley_presence_{name}"
        )

    async def start(self) -> None:
        """Again on the same port, where it was there before."""
        settings = self._settings.model_copy(update={"listen": f"127.0.0.1:{self.port}"})
        process = self._process = Process("presence", RuntimeSettings(drain_s=1))
        server = await build(process, settings)
        for part in process._parts:
            await part.component.start()
            part.live = True
        self.port = server.port

    async def stop(self) -> None:
        if self._process is not None:
            for part in reversed(self._process._parts):
                if part.live:
                    await part.component.stop()
            await self._process.tasks.stop()
        self._process = None


class Edge:
    """An edge's presence, and the sessions that a test opens there."""

    def __init__(self, targets: Sequence[str]) -> None:
        self.metrics = Metrics(CollectorRegistry())
        self._tasks = Tasks()
        clock = SystemClock()
        self._replicas = Replicas(
            *("presence", SERVICE_NAME, targets),
            resolve_every_s=60,
            clock=clock,
            metrics=self.metrics,
            tasks=self._tasks,
        )
        self.presence = EdgePresence(self._replicas, clock, self._tasks, self.metrics)
        self._is_over = False

    async def start(self) -> None:
        await self._replicas.start()
        await self.presence.start()

    async def leave(self) -> None:
        """As SIGTERM does."""
        if not self._is_over:
            self._is_over = True
            await self.presence.stop()
            await self._end()

    async def die(self) -> None:
        """As SIGKILL does: not a word to anybody."""
        self._is_over = True
        await self._end()

    async def _end(self) -> None:
        await self._tasks.stop()
        await self._replicas.stop()

    def open(self, session_id: str, user_id: UserId) -> None:
        self.presence.opened(session_id, user_id)

    def close(self, session_id: str) -> None:
        self.presence.closed(session_id)

    def watch(self, watcher: UserId, *contacts: UserId) -> "Watcher":
        watching = Watcher()
        self.presence.subscribe(watcher, contacts, watching)
        return watching

    async def get(self, user_id: UserId) -> PresenceStatus:
        (presence,) = await self.presence.get([user_id])
        return presence.status

    def reports(self, kind: str, outcome: str = "taken") -> float:
        labels = {"kind": kind, "outcome": outcome}
        return self.metrics.registry.get_sample_value("parley_edge_presence_reports_total", labels) or 0.0


class Watcher:
    """A subscription to presence: everything that it was told, in order, and when."""

    def __init__(self) -> None:
        self.told: list[tuple[float, Presence]] = []

    def presence(self, presences: Sequence[Presence]) -> None:
        now = time.monotonic()
        self.told += [(now, presence) for presence in presences]

    def of(self, user_id: UserId) -> list[PresenceStatus]:
        return [presence.status for _, presence in self.told if presence.user_id == user_id]

    def saw_leave(self, user_id: UserId) -> bool:
        """Having seen the user there, it was told that they had gone, or that nobody can say."""
        since_there = dropwhile(_NOT_THERE.__contains__, self.of(user_id))
        return any(status in _NOT_THERE for status in since_there)

    def sees(self, user_id: UserId, status: PresenceStatus) -> bool:
        return self.of(user_id)[-1:] == [status]

    async def comes_to_see(self, user_id: UserId, status: PresenceStatus) -> float:
        """Waits for it, and tells when that was."""
        await eventually(lambda: self.sees(user_id, status), what=f"{user_id} {status}: {self.of(user_id)}")
        return next(at for at, presence in reversed(self.told) if presence.user_id == user_id)


class World:
    """What a test starts; all of it is stopped when it ends."""

    def __init__(self, store_url: str, prefix: str) -> None:
        self._store_url = store_url
        self._prefix = prefix
        self.services: list[Service] = []
        self._edges: list[Edge] = []

    async def start_service(self, **settings: Any) -> Service:
        service = Service(self._store_url, self._prefix, **settings)
        is_first = not self.services
        self.services.append(service)
        if is_first:  # finds what another one began, for which nobody's absence is in doubt
            begun = Service(self._store_url, self._prefix, settle_s=0.0)
            await begun.start()
            await service.start()
            await begun.stop()
        else:
            await service.start()
        return service

    async def start_edge(self, *services: Service) -> Edge:
        """An edge that uses these replicas, or all there are."""
        edge = Edge([service.target for service in services or self.services])
        self._edges.append(edge)
        await edge.start()
        return edge

    async def stop(self) -> None:
        for edge in self._edges:
            await edge.leave()
        for service in self.services:
            await service.stop()


async def never(check: Callable[[], bool], *, for_s: float) -> None:
    """Watches for so long that it does not happen."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(for_s):
            while True:
                assert not check()
                await asyncio.sleep(0.02)
