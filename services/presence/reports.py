"""What edges report: their sessions, under a lease each."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from services.presence.errors import Superseded
from services.presence.machine import FINAL_SEQ, Closed, EdgeGone, Event, Listed, Put, Verdict
from services.presence.model import EdgeId, Seq, Session, SessionId, Status, UserId
from services.presence.store import Lease, Origin, PresenceStore
from services.presence.updates import Updates
from services.runtime.log import logger
from services.runtime.metrics import SIZE_BUCKETS, Metrics

_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Report:
    """`put`: opened, or changed. With `is_full` they are all that the edge has."""

    edge_id: EdgeId
    seq: Seq
    is_full: bool
    put: Sequence[Session]
    closed: Sequence[Session]
    activities: Mapping[UserId, int]


class Reports:
    def __init__(self, store: PresenceStore, updates: Updates, *, lease_ttl_ms: int, metrics: Metrics) -> None:
        self._store = store
        self._updates = updates
        self._lease_ttl_ms = lease_ttl_ms
        self._reports = metrics.counter("presence_reports", "Reports of edges.", labels=("kind", "outcome"))
        self._sizes = metrics.histogram("presence_report_sessions", "Sessions in one report.", buckets=SIZE_BUCKETS)
        self._cleared = metrics.counter("presence_leases_ended", "Leases whose users were cleared.", labels=("why",))

    async def take(self, report: Report) -> bool:
        """Takes a report; False: the lease is not known, nothing was taken, a full report is needed.

        Raises:
            Superseded: a later report was taken; or this one came too late.
            StoreUnavailable, Contended: some of it may have been taken.
        """
        kind = "full" if report.is_full else "changes" if report.put or report.closed else "renewal"
        outcome = "failed"
        try:
            is_taken = await self._take(report)
            outcome = "taken" if is_taken else "needs_full"
        except Superseded:
            outcome = "superseded"
            raise
        finally:
            self._reports.labels(kind, outcome).inc()
        return is_taken

    async def _take(self, report: Report) -> bool:
        admission = await self._store.admit(report.edge_id, report.seq, is_full=report.is_full)
        if admission.verdict is Verdict.SUPERSEDED:
            raise Superseded
        if admission.verdict is Verdict.NEEDS_FULL:
            return False
        if report.activities:  # before the sessions: what is announced of those carries it
            await self._store.record_activity(report.activities)
        origin = Origin(report.edge_id, report.seq, admission.take_by_ms)
        events = await self._full_events(report, origin) if report.is_full else _events(report)
        if events:
            self._sizes.observe(len(report.put) + len(report.closed))
            await self._updates.apply(events, origin)
        return True

    async def release(self, edge_id: EdgeId) -> None:
        """The edge gives its lease back. What it still may have under way takes no effect. Idempotent.

        Raises:
            StoreUnavailable, Contended: some of its users may not be cleared yet; the sweeper does it, if nobody else.
        """
        await self.clear(await self._store.end_lease(edge_id))

    async def clear(self, lease: Lease) -> None:
        """Ends every session of a lease that has ended. Idempotent; several may do it at once.

        The grace counts from when the edge was last heard of: at its farewell; or, where it died, at its last renewal,
        as its users have had the rest of the TTL to turn up elsewhere.

        Raises:
            StoreUnavailable, Contended: some of its users may not be cleared yet.
        """
        is_released = lease.seq == FINAL_SEQ
        gone = EdgeGone(lease.edge_id, lease.expires_ms - (0 if is_released else self._lease_ttl_ms))
        origin = Origin(lease.edge_id, lease.seq, is_ending=True)
        try:
            users = await self._users_of(origin)
            await self._updates.apply(dict.fromkeys(users, (gone,)), origin)
        except Superseded:  # the edge came back, and has reported again
            return
        await self._store.forget_lease(lease)
        why = "released" if is_released else "expired"
        self._cleared.labels(why).inc()
        _log.info("lease_cleared", edge=lease.edge_id, users=len(users), why=why)

    async def _full_events(self, report: Report, origin: Origin) -> Mapping[UserId, Sequence[Event]]:
        listed: dict[UserId, dict[SessionId, Status]] = {user_id: {} for user_id in await self._users_of(origin)}
        for session in report.put:
            listed.setdefault(session.user_id, {})[session.session_id] = session.status
        return {user_id: [Listed(report.edge_id, sessions)] for user_id, sessions in listed.items()}

    async def _users_of(self, origin: Origin) -> Set[UserId]:
        """Everybody whom earlier reports of the edge put there; none of those can put anybody there any more."""
        if not await self._store.supersede(origin):
            raise Superseded
        return await self._store.load_edge(origin.edge_id)


def _events(report: Report) -> Mapping[UserId, Sequence[Event]]:
    """Opened before closed: a session that did both since the last report has gone."""
    events: dict[UserId, list[Event]] = {}
    for session in report.put:
        put = Put(session.session_id, report.edge_id, session.status)
        events.setdefault(session.user_id, []).append(put)
    for session in report.closed:
        events.setdefault(session.user_id, []).append(Closed(session.session_id))
    return events
