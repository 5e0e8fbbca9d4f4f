"""Invariant 11: nothing reaches a member after the removal was acknowledged."""

from collections.abc import Iterator

from tests.chaos.checker.finding import Finding
from tests.chaos.checker.members import Memberships
from tests.chaos.checker.sights import all_attempts, subscription
from tests.chaos.entries import (
    AddDevice,
    GapTold,
    Notified,
    Pushed,
    Read,
    Received,
    RemoveMember,
    StatusTold,
    Subscribe,
)
from tests.chaos.history import History, Op

# What was written to the socket before the removal is still read afterwards. A message that was *sent* after it gets no
# such time.
_IN_FLIGHT_S = 2.0


def nothing_after_removal(history: History) -> Iterator[Finding]:
    members = Memberships(history)
    sent_s = {(key.conversation, each.seq): each.asked_s for key, each in all_attempts(history).items()}
    for removal in members.removals():
        until_s = members.back_from_s(removal)
        for at_s, what, seq in _heard(history, removal):
            sent_later = seq is not None and sent_s.get((removal.what.conversation, seq), 0.0) > removal.ended_s
            if at_s < until_s and (sent_later or at_s > removal.ended_s + _IN_FLIGHT_S):
                yield _finding(removal, what, at_s)
        asked: list[Op[Read] | Op[Subscribe]] = [*history.ops(Read), *history.ops(Subscribe)]
        for op in asked:
            if not _is_theirs(removal, op.user, op.what.conversation) or not op.is_ok:
                continue
            if removal.ended_s < op.invoked_s and op.ended_s < until_s:
                yield _finding(removal, f"operation {op.op} was allowed", op.invoked_s)


def _heard(history: History, removal: Op[RemoveMember]) -> Iterator[tuple[float, str, int | None]]:
    """When the removed user was given something of the conversation, what, and the seq of the message if it is one."""
    owners = {op.what.device: op.user for op in history.ops(AddDevice)}
    for entry in history.entries:
        if entry.at_s <= removal.ended_s:
            continue
        match entry:
            case Received(subscription=number) | StatusTold(subscription=number) | GapTold(subscription=number):
                op = subscription(history, number)
                if _is_theirs(removal, op.user, op.what.conversation):
                    seq = entry.message.seq if isinstance(entry, Received) else None
                    yield entry.at_s, f"subscription {number} got {type(entry).__name__} {seq or ''}".rstrip(), seq
            case Notified() if _is_theirs(removal, entry.user, entry.conversation):
                yield entry.at_s, f"{entry.client} was notified of {entry.seq}", entry.seq
            case Pushed() if entry.conversation == removal.what.conversation:
                if owners.get(entry.device) == removal.what.user:
                    yield entry.at_s, f"{entry.device} got a push for {entry.seq}", entry.seq


def _is_theirs(removal: Op[RemoveMember], user: str, conversation: str) -> bool:
    return (user, conversation) == (removal.what.user, removal.what.conversation)


def _finding(removal: Op[RemoveMember], what: str, at_s: float) -> Finding:
    text = f"{removal.what.user} was out of {removal.what.conversation} at {removal.ended_s:.3f} s, and {what}"
    return Finding(11, text, (removal.op,), at_s)
