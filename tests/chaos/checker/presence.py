"""Invariant 10: presence is true within 20 s of healing; a rolling restart shows no flap."""

from collections.abc import Iterator, Sequence

from tests.chaos.checker.finding import Finding
from tests.chaos.checker.sessions import Session, all_sessions
from tests.chaos.entries import Fault, FaultBegan, PresenceTold
from tests.chaos.history import History

_TRUE_WITHIN_S = 20.0
# design.md: the grace before offline is announced; who is back within it was never away.
_GRACE_S = 5.0
_OFFLINE = "offline"
_STATES = frozenset(("online", "away", "busy", _OFFLINE))


def presence_is_true(history: History) -> Iterator[Finding]:
    """What somebody is told, and what he believes at the end, is so, 20 s after the healing and after any change."""
    sessions = all_sessions(history)
    settled_s = history.healed_s + _TRUE_WITHIN_S
    last: dict[tuple[str, str], PresenceTold] = {}
    for told in history.of(PresenceTold):
        last[told.client, told.about] = told
        if told.at_s >= settled_s:
            yield from _untrue(told, told.at_s, sessions)
    for told in last.values():
        watches = any(each.client == told.client and _is_on(each, told.at_s, history.ended_s) for each in sessions)
        if watches and settled_s <= history.ended_s:
            yield from _untrue(told, history.ended_s, sessions)
    yield from _flaps(history, sessions)


def _untrue(told: PresenceTold, at_s: float, sessions: Sequence[Session]) -> Iterator[Finding]:
    theirs = [each for each in sessions if each.user == told.about]
    is_on = any(_is_on(each, at_s - _TRUE_WITHIN_S, at_s) for each in theirs)
    is_off = not any(each.may_touch(at_s - _TRUE_WITHIN_S, at_s) for each in theirs)
    what = f"{told.client} was told at {told.at_s:.3f} s that {told.about} is {told.status}"
    if told.status not in _STATES:
        yield Finding(10, f"{what}, long after the healing", (), at_s)
    elif is_on and told.status == _OFFLINE:
        yield Finding(10, f"{what}, who has been connected all the time", (), at_s)
    elif is_off and told.status != _OFFLINE:
        yield Finding(10, f"{what}, who has been away all the time", (), at_s)


def _is_on(session: Session, from_s: float, to_s: float) -> bool:
    return session.from_s <= from_s and to_s <= session.to_s


def _flaps(history: History, sessions: Sequence[Session]) -> Iterator[Finding]:
    for fault in history.of(FaultBegan):
        if fault.fault is not Fault.ROLLING_RESTART:
            continue
        until_s = history.healed_s + _TRUE_WITHIN_S
        for told in history.of(PresenceTold):
            if not fault.at_s <= told.at_s <= until_s or told.status != _OFFLINE:
                continue
            if not _was_away([each for each in sessions if each.user == told.about], fault.at_s, told.at_s):
                text = f"{told.client} was told that {told.about} is offline, who came back within {_GRACE_S:g} s"
                yield Finding(10, text, (), told.at_s)


def _was_away(sessions: Sequence[Session], from_s: float, to_s: float) -> bool:
    """Whether there was a time of more than the grace without any of them."""
    covered_s = from_s
    for each in sorted(sessions, key=lambda each: each.from_s):
        if each.from_s > covered_s + _GRACE_S:
            break
        covered_s = max(covered_s, each.to_s)
    return covered_s + _GRACE_S < to_s
