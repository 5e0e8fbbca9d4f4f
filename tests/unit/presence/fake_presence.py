"""Presence as the edge's side of it sees it: replicas that come and go, and calls that a test answers."""

from collections.abc import Callable, Sequence
from typing import Any

from edge.clients.presence import Presence, PresenceStatus, ReportTaken, SessionReport
from edge.errors import NoReplica
from edge.model import UserId
from services.runtime.errors import Unavailable


class FakeReplicas:
    """What is used of `edge.replicas.Replicas`."""

    def __init__(self) -> None:
        self.up: list[Any] = ["a replica"]
        self.changed: list[Callable[[], None]] = []

    def any(self) -> Any:
        if not self.up:
            raise NoReplica(service="presence")
        return self.up[0]

    def set_up(self, *, is_up: bool) -> None:
        self.up = ["a replica"] if is_up else []
        for tell in self.changed:
            tell()


class FakeClient:
    """What `edge.lease` uses of `PresenceClient`. Takes reports, unless `fails` or `needs_full` says otherwise."""

    def __init__(self, ttl_s: float = 60.0) -> None:
        self.reports: list[SessionReport] = []
        self.released: list[str] = []
        self.fails = False
        self.needs_full = False
        self._ttl_s = ttl_s

    async def report(self, report: SessionReport) -> ReportTaken:
        self.reports.append(report)
        if self.fails:
            raise Unavailable
        needs_full, self.needs_full = self.needs_full and not report.is_full, False
        return ReportTaken(needs_full, self._ttl_s)

    async def release(self, edge_id: str) -> None:
        self.released.append(edge_id)
        if self.fails:
            raise Unavailable


class FakeCall:
    """What `edge.interest` uses of `WatchCall`: an open stream on which nothing has come yet."""

    def __init__(self) -> None:
        self.wishes: list[tuple[str, UserId]] = []

    def want(self, user_id: UserId) -> None:
        self.wishes.append(("want", user_id))

    def want_no_more(self, user_id: UserId) -> None:
        self.wishes.append(("want no more", user_id))


class Heard:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.told: list[tuple[UserId, PresenceStatus]] = []

    def presence(self, presences: Sequence[Presence]) -> None:
        self.told += [(each.user_id, each.status) for each in presences]
