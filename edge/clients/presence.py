"""The edge's way to presence: stubs → the edge's values, gRPC failures → our errors, policy as data for each method."""

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from itertools import islice
from typing import Any, Protocol

import grpc
import uuid_utils

from edge.clients.writing import was_written
from edge.model import UserId
from edge.replicas import Replica, Replicas
from protos.presence.v1 import presence_pb2, presence_pb2_grpc
from services.runtime.channel import outgoing_metadata
from services.runtime.errors import ServiceError, Unavailable, from_rpc_error
from services.runtime.resilience import CallPolicy

SERVICE_NAME = presence_pb2.DESCRIPTOR.services_by_name["PresenceService"].full_name

# One attempt: what failed is reported again with what came meanwhile, under the next seq. A full report of 15,000
# sessions takes about a second on an idle 2-core machine.
_REPORT = CallPolicy(deadline=timedelta(seconds=5))
_RELEASE = CallPolicy(deadline=timedelta(seconds=1.5), attempts=3, idempotent=True)
# The service itself answers UNKNOWN after a second where its store is frozen.
_GET = CallPolicy(deadline=timedelta(seconds=2), attempts=2, idempotent=True)

_MAX_ASKED = 1_000
# Users in one message up; updates handled before other work gets its turn.
_MAX_UP = 1_000
_TURN = 100

_Call = grpc.aio.StreamStreamCall[presence_pb2.WatchPresenceRequest, presence_pb2.WatchPresenceResponse]


class PresenceStatus(StrEnum):
    """As clients read it (wire.md); UNKNOWN while nobody can say."""

    ONLINE = "online"
    AWAY = "away"
    BUSY = "busy"
    OFFLINE = "offline"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Presence:
    """`last_active_at_ms` is 0 where no activity is known."""

    user_id: UserId
    status: PresenceStatus
    last_active_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class ReportedSession:
    session_id: str
    user_id: UserId
    status: PresenceStatus


@dataclass(frozen=True, slots=True)
class SessionReport:
    """With `is_full`, `put` is every session that the edge has."""

    edge_id: str
    seq: int
    is_full: bool
    put: Sequence[ReportedSession] = ()
    closed: Sequence[ReportedSession] = ()
    activities: Mapping[UserId, int] | None = None


@dataclass(frozen=True, slots=True)
class ReportTaken:
    needs_full: bool
    lease_ttl_s: float


_STATUSES = {
    PresenceStatus.ONLINE: presence_pb2.STATUS_ONLINE,
    PresenceStatus.AWAY: presence_pb2.STATUS_AWAY,
    PresenceStatus.BUSY: presence_pb2.STATUS_BUSY,
    PresenceStatus.OFFLINE: presence_pb2.STATUS_OFFLINE,
    PresenceStatus.UNKNOWN: presence_pb2.STATUS_UNKNOWN,
}
_STATUS_NAMES = {number: status for status, number in _STATUSES.items()}


class PresenceClient:
    """What the edge asks of presence, at any replica that is up, but not twice in a row at one that fails; watching is
    `WatchCall`."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas
        # Whose answer to the last call failed: it may be frozen, and count as up for two seconds more.
        self._failed: Replica | None = None
        self._stubs: dict[Replica, presence_pb2_grpc.PresenceServiceStub] = {}

    async def report(self, report: SessionReport) -> ReportTaken:
        """
        Raises:
            ServiceError: some of it may have been taken.
        """
        activities = report.activities or {}
        request = presence_pb2.ReportSessionsRequest(
            request_id=str(uuid_utils.uuid7()),
            edge_id=report.edge_id,
            seq=report.seq,
            full=report.is_full,
            opened=map(_session, report.put),
            closed=map(_session, report.closed),
            activities=(presence_pb2.Activity(user_id=user, at_ms=at_ms) for user, at_ms in activities.items()),
        )
        answer = await self._call("ReportSessions", request, _REPORT)
        return ReportTaken(answer.full_report_needed, answer.lease_ttl_ms / 1000)

    async def release(self, edge_id: str) -> None:
        """
        Raises:
            ServiceError: the lease may run until its end.
        """
        request = presence_pb2.ReleaseLeaseRequest(request_id=str(uuid_utils.uuid7()), edge_id=edge_id)
        await self._call("ReleaseLease", request, _RELEASE)

    async def get(self, user_ids: Sequence[UserId]) -> Sequence[Presence]:
        """In that order.

        Raises:
            ServiceError: presence is away.
        """
        found: list[Presence] = []
        for start in range(0, len(user_ids), _MAX_ASKED):
            request = presence_pb2.GetPresenceRequest(user_ids=user_ids[start : start + _MAX_ASKED])
            answer = await self._call("GetPresence", request, _GET)
            found.extend(map(_presence_from, answer.presences))
        return found

    def stub(self, replica: Replica) -> presence_pb2_grpc.PresenceServiceStub:
        stub = self._stubs.get(replica)
        if stub is None:
            for gone in [known for known in self._stubs if not known.is_up]:
                del self._stubs[gone]
            stub = self._stubs[replica] = presence_pb2_grpc.PresenceServiceStub(replica.channel)
        return stub

    async def _call(self, method: str, request: Any, policy: CallPolicy) -> Any:
        others = [replica for replica in self._replicas.up if replica is not self._failed]
        replica = random.choice(others) if others else self._replicas.any()
        try:
            answer = await replica.caller.call(
                getattr(self.stub(replica), method), request, policy=policy, method=method
            )
        except ServiceError:
            self._failed = replica
            raise
        self._failed = None
        return answer


class WatchListener(Protocol):
    """What a stream brings, in its order. Called on the event loop; does not block and does not raise."""

    def updated(self, presences: Sequence[Presence]) -> None: ...

    def report_needed(self) -> None:
        """The service has lost what it knew."""


class WatchCall:
    """One watch stream to one replica. What is wanted is asked of `is_wanted` when a message goes up, so a later wish
    never loses to an earlier one, and what waits is bounded by the users that there are."""

    def __init__(
        self, stub: presence_pb2_grpc.PresenceServiceStub, wanted: Iterable[UserId], is_wanted: Callable[[UserId], bool]
    ) -> None:
        self._stub = stub
        self._is_wanted = is_wanted
        self._asked: set[UserId] = set()
        # To be asked for also where they have been: whoever wants them now has not heard the answer.
        self._again: set[UserId] = set()
        self._unchecked: dict[UserId, None] = dict.fromkeys(wanted)
        self._news = asyncio.Event()
        self._news.set()
        self._call: _Call | None = None

    def want(self, user_id: UserId) -> None:
        """From now on. A value comes, also where this user was watched before."""
        self._again.add(user_id)
        self._unchecked[user_id] = None
        self._news.set()

    def want_no_more(self, user_id: UserId) -> None:
        self._unchecked[user_id] = None
        self._news.set()

    async def run(self, listener: WatchListener) -> None:
        """Opens the stream and follows it to its end.

        Raises:
            ServiceError: it broke.
        """
        try:
            self._call = self._stub.WatchPresence(metadata=outgoing_metadata())
        except grpc.aio.UsageError as error:
            raise Unavailable.told("the channel is closed") from error
        writing = asyncio.create_task(self._write(self._call))
        try:
            await _follow(self._call, listener)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, package="edge") from error
        except asyncio.CancelledError as error:
            # Also what grpc.aio raises where the call was given up or its channel closed, and nobody cancelled us then.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise Unavailable.told("the stream was given up") from error
        finally:
            writing.cancel()
            await asyncio.wait((writing,))
            self._call.cancel()

    def give_up(self) -> None:
        """Ends `run`: the replica is not up any more, though its end of the stream may not say so."""
        if self._call is not None:
            self._call.cancel()

    async def _write(self, call: _Call) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._unchecked:
                if not await was_written(call.write(self._next_request())):
                    return  # the reading side sees the end of the stream, and why

    def _next_request(self) -> presence_pb2.WatchPresenceRequest:
        users = list(islice(self._unchecked, _MAX_UP))
        for user_id in users:
            del self._unchecked[user_id]
        unwatches = [user_id for user_id in users if user_id in self._asked and not self._is_wanted(user_id)]
        self._asked -= self._again.intersection(users)
        self._again.difference_update(users)
        watches = [user_id for user_id in users if user_id not in self._asked and self._is_wanted(user_id)]
        self._asked.update(watches)
        self._asked.difference_update(unwatches)
        return presence_pb2.WatchPresenceRequest(watch_user_ids=watches, unwatch_user_ids=unwatches)


async def _follow(call: _Call, listener: WatchListener) -> None:
    async for response in call:
        if response.report_needed:
            listener.report_needed()
        for start in range(0, len(response.presences), _TURN):
            listener.updated([_presence_from(wire) for wire in response.presences[start : start + _TURN]])
            await asyncio.sleep(0)


def _session(session: ReportedSession) -> presence_pb2.Session:
    return presence_pb2.Session(
        session_id=session.session_id, user_id=session.user_id, status=_STATUSES[session.status]
    )


def _presence_from(wire: presence_pb2.Presence) -> Presence:
    status = _STATUS_NAMES.get(wire.status, PresenceStatus.UNKNOWN)  # a newer service than this edge
    return Presence(UserId(wire.user_id), status, wire.last_active_at_ms)
