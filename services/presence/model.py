"""The values of presence: who, on which session of which edge, in which status."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

UserId = NewType("UserId", str)
SessionId = NewType("SessionId", str)
EdgeId = NewType("EdgeId", str)
"""Names one lease: one start of one edge process."""
Seq = NewType("Seq", int)
"""The number of a report; ascending for each edge."""


class Status(StrEnum):
    ONLINE = "online"
    AWAY = "away"
    BUSY = "busy"
    OFFLINE = "offline"
    # The store cannot say just now. Neither stored nor announced.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Session:
    """What an edge reports: a connection of a user, as ONLINE, AWAY or BUSY."""

    session_id: SessionId
    user_id: UserId
    status: Status


@dataclass(frozen=True, slots=True)
class Presence:
    """What others see of a user. `last_active_ms` is 0 where nothing is known of any activity."""

    user_id: UserId
    status: Status
    last_active_ms: int = 0
