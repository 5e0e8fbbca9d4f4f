"""Wire ↔ model for presence.v1, and nothing else."""

from collections.abc import Iterable, Mapping, Sequence

from protos.presence.v1 import presence_pb2
from services.presence.errors import BadRequest
from services.presence.model import EdgeId, Presence, Seq, Session, SessionId, Status, UserId
from services.presence.reports import Report
from services.presence.streams import Update

_STATUSES = {
    Status.OFFLINE: presence_pb2.STATUS_OFFLINE,
    Status.ONLINE: presence_pb2.STATUS_ONLINE,
    Status.AWAY: presence_pb2.STATUS_AWAY,
    Status.BUSY: presence_pb2.STATUS_BUSY,
    Status.UNKNOWN: presence_pb2.STATUS_UNKNOWN,
}
_OF_SESSIONS = {_STATUSES[status]: status for status in (Status.ONLINE, Status.AWAY, Status.BUSY)}

_MAX_USER_ID = 64  # wire.md
_MAX_ID = 128
# Two and a half times the connections that one process may have.
_MAX_SESSIONS = 50_000
_MAX_ACTIVITIES = 50_000
_MAX_ASKED = 1_000


def report_from(wire: presence_pb2.ReportSessionsRequest) -> Report:
    if not 1 <= wire.seq < 1 << 52:
        raise BadRequest(problem="seq: expected 1 or more")
    if len(wire.opened) + len(wire.changed) + len(wire.closed) > _MAX_SESSIONS:
        raise BadRequest(problem=f"sessions: expected at most {_MAX_SESSIONS}")
    return Report(
        edge_id=edge_id_from(wire.edge_id),
        seq=Seq(wire.seq),
        is_full=wire.full,
        put=[_session_from(each, _status_from(each.status)) for each in (*wire.opened, *wire.changed)],
        closed=[_session_from(each, Status.OFFLINE) for each in wire.closed],
        activities=activities_from(wire.activities),
    )


def edge_id_from(wire: str) -> EdgeId:
    return EdgeId(_checked(wire, "edge id", _MAX_ID))


def user_ids_from(wire: Sequence[str]) -> Sequence[UserId]:
    if len(wire) > _MAX_ASKED:
        raise BadRequest(problem=f"user_ids: expected at most {_MAX_ASKED}")
    return [_user_id_from(user_id) for user_id in wire]


def interest_from(wire: Iterable[str]) -> Sequence[UserId]:
    return [_user_id_from(user_id) for user_id in wire]


def activities_from(wire: Sequence[presence_pb2.Activity]) -> Mapping[UserId, int]:
    """The latest of each user."""
    if len(wire) > _MAX_ACTIVITIES:
        raise BadRequest(problem=f"activities: expected at most {_MAX_ACTIVITIES}")
    latest: dict[UserId, int] = {}
    for activity in wire:
        if activity.at_ms < 0:
            raise BadRequest(problem="at_ms: expected 0 or more")
        user_id = _user_id_from(activity.user_id)
        latest[user_id] = max(latest.get(user_id, 0), activity.at_ms)
    return latest


def presence(value: Presence) -> presence_pb2.Presence:
    return presence_pb2.Presence(
        user_id=value.user_id, status=_STATUSES[value.status], last_active_at_ms=value.last_active_ms
    )


def update(value: Update) -> presence_pb2.WatchPresenceResponse:
    return presence_pb2.WatchPresenceResponse(
        presences=map(presence, value.presences), report_needed=value.report_needed
    )


def _session_from(wire: presence_pb2.Session, status: Status) -> Session:
    return Session(SessionId(_checked(wire.session_id, "session id", _MAX_ID)), _user_id_from(wire.user_id), status)


def _status_from(wire: presence_pb2.Status.ValueType) -> Status:
    try:
        return _OF_SESSIONS[wire]
    except KeyError:
        raise BadRequest(problem="status: expected ONLINE, AWAY or BUSY") from None


def _user_id_from(wire: str) -> UserId:
    return UserId(_checked(wire, "user id", _MAX_USER_ID))


def _checked(wire: str, what: str, limit: int) -> str:
    if not 1 <= len(wire) <= limit:
        raise BadRequest(problem=f"{what}: expected 1 to {limit} characters")
    return wire
