"""The rules of presence, as pure functions: (state, event, now) → state. Time is the store's, in milliseconds.

A user is in one of three phases, told by what is held of them:

    phase      sessions   lingers   shown as
    PRESENT    some       no        the most present status of the sessions (`PRECEDENCE`)
    LINGERING  none       yes       what they were when the last session ended, until the grace is over
    ABSENT     none       no        OFFLINE (nothing is stored)

    event                                  PRESENT                      LINGERING            ABSENT
    Put, Listed with sessions              PRESENT                      PRESENT              PRESENT
    Closed, Listed without, EdgeGone       PRESENT, or LINGERING        the same             the same
                                           when it was the last
    TimePassed                             the same                     ABSENT once over     the same

Every event is idempotent: applying it again changes nothing. Order matters only between events of one edge, and there
a late one is recognised by its seq (`is_superseded`) before it comes here. A session belongs to one edge for ever.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, assert_never

from services.presence.model import EdgeId, Seq, SessionId, Status

# What several sessions of one user add up to: the first of these that any of them has. Busy is a wish ("do not
# disturb") and holds for the person, on whichever device it was said. Away on one device while active on another means
# that the person is there.
PRECEDENCE: Final = (Status.BUSY, Status.ONLINE, Status.AWAY)

# Supersedes every report that an edge could still have under way: the lease was given back.
FINAL_SEQ: Final = Seq(1 << 53)


# ---- One user.


@dataclass(frozen=True, slots=True)
class Held:
    """A session as it is held: where, and in which status."""

    edge_id: EdgeId
    status: Status


@dataclass(frozen=True, slots=True)
class Lingering:
    """Nobody is told yet that the user has gone: as `status` until `until_ms`."""

    status: Status
    until_ms: int


@dataclass(frozen=True, slots=True)
class UserState:
    sessions: Mapping[SessionId, Held] = field(default_factory=dict)
    lingers: Lingering | None = None

    def is_on(self, edge_id: EdgeId) -> bool:
        return any(held.edge_id == edge_id for held in self.sessions.values())


ABSENT: Final = UserState()


@dataclass(frozen=True, slots=True)
class Put:
    """A session was opened, or changed its status."""

    session_id: SessionId
    edge_id: EdgeId
    status: Status


@dataclass(frozen=True, slots=True)
class Closed:
    session_id: SessionId


@dataclass(frozen=True, slots=True)
class Listed:
    """The user's sessions on that edge are exactly these."""

    edge_id: EdgeId
    sessions: Mapping[SessionId, Status]


@dataclass(frozen=True, slots=True)
class EdgeGone:
    """The edge's lease ended, and all its sessions with it; it was last heard of at that time."""

    edge_id: EdgeId
    at_ms: int


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Nothing happened, but a grace may be over."""


Event = Put | Closed | Listed | EdgeGone | TimePassed


def step(state: UserState, event: Event, now_ms: int, *, grace_ms: int) -> UserState:
    """The state after the event; the same object where nothing changed."""
    sessions = _sessions_after(state.sessions, event)
    if sessions == state.sessions and (sessions or state.lingers is None):
        return state
    if sessions:
        return UserState(sessions)
    if state.sessions:
        ended_ms = min(event.at_ms, now_ms) if isinstance(event, EdgeGone) else now_ms
        return UserState(lingers=Lingering(standing(state), ended_ms + grace_ms))
    assert state.lingers is not None
    if isinstance(event, TimePassed) and is_over(state.lingers, now_ms, grace_ms=grace_ms):
        return ABSENT
    return state


def run(state: UserState, events: Sequence[Event], now_ms: int, *, grace_ms: int) -> UserState:
    for event in events:
        state = step(state, event, now_ms, grace_ms=grace_ms)
    return state


def is_over(lingers: Lingering, now_ms: int, *, grace_ms: int) -> bool:
    """Also where the end is further away than any grace: then the clock went back, and nobody waits for that."""
    return not now_ms < lingers.until_ms <= now_ms + grace_ms


def standing(state: UserState) -> Status:
    """What the others have been told of a user in this state, whatever the time. It changes only by events, so a
    change of it is what there is to announce."""
    if state.sessions:
        held = {session.status for session in state.sessions.values()}
        return next(status for status in PRECEDENCE if status in held)
    return state.lingers.status if state.lingers is not None else Status.OFFLINE


def shown(state: UserState, now_ms: int, *, is_settled: bool, grace_ms: int) -> Status:
    """What somebody who asks is told at this time.

    `is_settled`: every edge that lives has had the time to report what it holds. Until then nobody is called offline.
    """
    if state.lingers is not None and is_over(state.lingers, now_ms, grace_ms=grace_ms):
        state = ABSENT
    status = standing(state)
    return Status.UNKNOWN if status is Status.OFFLINE and not is_settled else status


def _sessions_after(sessions: Mapping[SessionId, Held], event: Event) -> Mapping[SessionId, Held]:
    match event:
        case Put(session_id, edge_id, status):
            return {**sessions, session_id: Held(edge_id, status)}
        case Closed(session_id):
            return {each: held for each, held in sessions.items() if each != session_id}
        case Listed(edge_id, listed):
            others = {each: held for each, held in sessions.items() if held.edge_id != edge_id}
            return others | {each: Held(edge_id, status) for each, status in listed.items()}
        case EdgeGone(edge_id):
            return {each: held for each, held in sessions.items() if held.edge_id != edge_id}
        case TimePassed():
            return sessions
        case _ as never:
            assert_never(never)


# ---- The reports of one edge.


class Verdict(Enum):
    """What becomes of a report."""

    TAKEN = auto()
    # The lease is not known: only a full report can begin a new one.
    NEEDS_FULL = auto()
    # A later report has been taken: this one says nothing any more.
    SUPERSEDED = auto()


def admit(last_seq: Seq | None, seq: Seq, *, is_alive: bool, is_full: bool) -> Verdict:
    """`last_seq` is the latest that was admitted under this lease, `is_alive` whether the lease runs."""
    if last_seq is not None and is_superseded(last_seq, seq):
        return Verdict.SUPERSEDED
    return Verdict.TAKEN if is_alive or is_full else Verdict.NEEDS_FULL


def is_superseded(last_seq: Seq, seq: Seq) -> bool:
    """The same seq is not: it is the same report, tried again after a part of it was taken."""
    return seq < last_seq


# ---- The age of what is stored.


def has_been_unattended(last_tick_ms: int | None, now_ms: int, *, gap_ms: int) -> bool:
    """Whether edges may have been unable to renew (no replica ran, or reached the store), so that leases that have run
    out prove nothing. A clock that jumped looks the same, and is treated so."""
    return last_tick_ms is None or not 0 <= now_ms - last_tick_ms <= gap_ms
