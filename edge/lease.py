"""The edge's lease at presence, and its sessions on it: reported while busy in batches, renewed when idle.

The edge is the truth for its own sessions. What it has not been told as taken it reports again, as it is by then, under
the next seq; where that grew too much, or presence asks for it, it reports everything. Presence may be away for as long
as it likes: nothing here waits for it, and what is remembered for it is bounded.
"""

import asyncio
import random
from dataclasses import dataclass
from itertools import islice

import uuid_utils

from edge.clients.presence import PresenceClient, PresenceStatus, ReportedSession, SessionReport
from edge.errors import NoReplica
from edge.model import UserId
from edge.replicas import Replicas
from services.runtime.clock import Clock
from services.runtime.errors import ServiceError
from services.runtime.log import logger
from services.runtime.metrics import Metrics
from services.runtime.tasks import Tasks

# Renewals in one TTL: two may be lost.
_RENEWALS = 3
# Until presence has told its TTL.
_FIRST_RENEWAL_S = 5.0
# The shortest time between two reports; what comes in between goes together. At most ten reports a second.
_PACE_S = 0.1
# Activity alone is in no hurry: what a report or a renewal does not take along goes after this.
_ACTIVITY_S = 1.0
_RETRY_S = (0.1, 1.0)
# Sessions in one report of changes. More changes than _MAX_PENDING are as much as a full report.
_MAX_CHANGES = 2_000
_MAX_PENDING = 10_000

_log = logger(__name__)


@dataclass(slots=True)
class _User:
    sessions: int = 0
    last_active_ms: int = 0


class Lease:
    """A component with one task, which reports."""

    def __init__(
        self, client: PresenceClient, replicas: Replicas, clock: Clock, tasks: Tasks, metrics: Metrics
    ) -> None:
        self.edge_id = uuid_utils.uuid4().hex
        self._client = client
        self._replicas = replicas
        self._clock = clock
        self._tasks = tasks
        self._sessions: dict[str, ReportedSession] = {}
        self._users: dict[UserId, _User] = {}
        # What presence has not confirmed: sessions by id (those that are not in `_sessions` are closed), and activity.
        self._pending: dict[str, UserId] = {}
        self._activities: dict[UserId, int] = {}
        self._is_full_needed = True
        self._seq = 0
        self._renew_every_s = _FIRST_RENEWAL_S
        self._renew_at = 0.0
        self._activity_at = 0.0
        self._not_before = 0.0
        self._failures = 0
        self._news = asyncio.Event()
        self._reporting: asyncio.Task[None] | None = None
        self._reports = metrics.counter("edge_presence_reports", "Reports to presence.", labels=("kind", "outcome"))
        metrics.gauge("edge_presence_sessions", "Sessions that presence is told of.").set_function(
            lambda: len(self._sessions)
        )
        metrics.gauge("edge_presence_pending", "Sessions whose change presence has not confirmed.").set_function(
            lambda: len(self._pending)
        )

    # ---- What sessions do. None of it waits or fails.

    def opened(self, session_id: str, user_id: UserId) -> None:
        self._sessions[session_id] = ReportedSession(session_id, user_id, PresenceStatus.ONLINE)
        self._users.setdefault(user_id, _User()).sessions += 1
        self._changed(session_id, user_id)
        self.active(user_id)

    def closed(self, session_id: str) -> None:
        session = self._sessions.pop(session_id, None)
        if session is None:
            return
        user = self._users[session.user_id]
        user.sessions -= 1
        if not user.sessions:
            del self._users[session.user_id]
        self._changed(session_id, session.user_id)

    def set_status(self, session_id: str, status: PresenceStatus) -> None:
        """
        Raises:
            ValueError: no status that a session can have.
        """
        if status not in (PresenceStatus.ONLINE, PresenceStatus.AWAY, PresenceStatus.BUSY):
            raise ValueError(status)
        session = self._sessions.get(session_id)
        if session is None:
            return
        self.active(session.user_id)
        if session.status is not status:
            self._sessions[session_id] = ReportedSession(session_id, session.user_id, status)
            self._changed(session_id, session.user_id)

    def active(self, user_id: UserId) -> None:
        """Only of users with a session here."""
        user = self._users.get(user_id)
        if user is None:
            return
        user.last_active_ms = self._clock.time_ms()
        if not self._activities:
            self._activity_at = asyncio.get_running_loop().time() + _ACTIVITY_S
            self._news.set()
        self._activities[user_id] = user.last_active_ms

    def report_soon(self) -> None:
        """Presence wants to hear from this edge: so it is there, whatever failed before."""
        self._renew_at = 0.0
        self._end_pause()
        self._news.set()

    # ---- Component.

    async def start(self) -> None:
        self._replicas.changed.append(self._replicas_changed)
        self._reporting = self._tasks.spawn(self._report_for_ever(), "presence reports")

    async def stop(self) -> None:
        """Hands over: the users of this edge have the grace to turn up at another."""
        self._replicas.changed.remove(self._replicas_changed)
        if self._reporting is not None:
            self._reporting.cancel()
            await asyncio.wait((self._reporting,))
        try:
            await self._client.release(self.edge_id)
        except ServiceError as error:
            _log.info("presence_lease_not_released", message=str(error))

    # ---- Inside.

    def _changed(self, session_id: str, user_id: UserId) -> None:
        self._pending[session_id] = user_id
        if len(self._pending) > _MAX_PENDING:
            self._is_full_needed = True
            self._pending.clear()
        self._news.set()

    def _replicas_changed(self) -> None:
        self._end_pause()
        self._news.set()

    def _end_pause(self) -> None:
        """What failed is tried again at once."""
        if self._failures:
            self._not_before = 0.0

    async def _report_for_ever(self) -> None:
        while True:
            await self._until_due()
            report = self._next_report()
            outcome = "failed"
            try:
                taken = await self._client.report(report)
            except ServiceError as error:
                self._put_back(report)
                self._note_failure(error)
            else:
                outcome = "needs_full" if taken.needs_full else "taken"
                self._note_answer(needs_full=taken.needs_full, lease_ttl_s=taken.lease_ttl_s)
            kind = "full" if report.is_full else "changes" if report.put or report.closed else "renewal"
            self._reports.labels(kind, outcome).inc()

    async def _until_due(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            has_changes = self._is_full_needed or bool(self._pending)
            due_at = 0.0 if has_changes else self._renew_at
            if self._activities:
                due_at = min(due_at, self._activity_at)
            left_s = max(due_at, self._not_before) - loop.time()
            if left_s <= 0 and self._replicas.up:
                return
            self._news.clear()
            try:
                async with asyncio.timeout(left_s if self._replicas.up else None):
                    await self._news.wait()
            except TimeoutError:
                continue

    def _next_report(self) -> SessionReport:
        self._seq += 1
        activities, self._activities = self._activities, {}
        if self._is_full_needed:
            self._is_full_needed = False
            self._pending.clear()
            activities = {user_id: user.last_active_ms for user_id, user in self._users.items()}
            put = list(self._sessions.values())
            return SessionReport(self.edge_id, self._seq, is_full=True, put=put, activities=activities)
        put, closed = [], []
        for session_id in list(islice(self._pending, _MAX_CHANGES)):
            user_id = self._pending.pop(session_id)
            session = self._sessions.get(session_id)
            if session is not None:
                put.append(session)
            else:
                closed.append(ReportedSession(session_id, user_id, PresenceStatus.OFFLINE))
        return SessionReport(self.edge_id, self._seq, is_full=False, put=put, closed=closed, activities=activities)

    def _put_back(self, report: SessionReport) -> None:
        """What may not have been taken goes again, unless something newer waits."""
        for user_id, at_ms in (report.activities or {}).items():
            if user_id in self._users:
                self._activities.setdefault(user_id, at_ms)
        if report.is_full:
            self._is_full_needed = True
            return
        for session in (*report.put, *report.closed):
            self._pending.setdefault(session.session_id, session.user_id)

    def _note_answer(self, *, needs_full: bool, lease_ttl_s: float) -> None:
        now = asyncio.get_running_loop().time()
        self._is_full_needed = self._is_full_needed or needs_full
        self._renew_every_s = max(_PACE_S, lease_ttl_s / _RENEWALS)
        self._renew_at = now + self._renew_every_s
        self._not_before = now if needs_full else now + _PACE_S
        if self._failures:
            _log.info("presence_reports_resumed", failures=self._failures)
            self._failures = 0

    def _note_failure(self, error: ServiceError) -> None:
        if not self._failures and not isinstance(error, NoReplica):
            _log.warning("presence_reports_failing", message=str(error))
        first_s, max_s = _RETRY_S
        limit_s = min(max_s, first_s * 2 ** min(self._failures, 10))
        self._failures += 1
        self._not_before = asyncio.get_running_loop().time() + random.uniform(limit_s / 2, limit_s)
        self._renew_at = 0.0
