"""How users and announcements are written in Redis: small JSON arrays, so that they can be read with redis-cli."""

from collections.abc import Sequence

import orjson

from services.presence.machine import ABSENT, Held, Lingering, UserState
from services.presence.model import EdgeId, Presence, SessionId, Status, UserId
from services.runtime.log import logger

_log = logger(__name__)


def encode_state(state: UserState) -> bytes:
    """`[[[session, edge, status], …], null | [status, until_ms]]`; nothing for the absent."""
    if state == ABSENT:
        return b""
    sessions = [(session_id, held.edge_id, held.status) for session_id, held in state.sessions.items()]
    lingers = state.lingers and (state.lingers.status, state.lingers.until_ms)
    return orjson.dumps((sessions, lingers))


def decode_state(raw: bytes | None) -> UserState:
    """What cannot be read counts as absent, and is overwritten by the next change: nothing here has to last."""
    if not raw:
        return ABSENT
    try:
        sessions, lingers = orjson.loads(raw)
        return UserState(
            {SessionId(session_id): Held(EdgeId(edge), Status(status)) for session_id, edge, status in sessions},
            None if lingers is None else Lingering(Status(lingers[0]), int(lingers[1])),
        )
    except (ValueError, TypeError, IndexError):
        _log.warning("presence_record_unreadable", bytes=len(raw))
        return ABSENT


def encode_presences(presences: Sequence[Presence]) -> bytes:
    """`[[user, status, last_active_ms], …]`"""
    return orjson.dumps([(each.user_id, each.status, each.last_active_ms) for each in presences])


def decode_presences(raw: bytes) -> Sequence[Presence]:
    """
    Raises:
        ValueError: this is no such thing.
    """
    try:
        return [Presence(UserId(user), Status(status), int(at)) for user, status, at in orjson.loads(raw)]
    except TypeError as error:
        raise ValueError("not a list of presences") from error
