"""Invariants 7 and 8: status never goes back and is nobody's invention; unread at rest is head − readSeq."""

from collections import defaultdict
from collections.abc import Iterator

from tests.chaos.checker.finding import Finding
from tests.chaos.checker.members import Memberships
from tests.chaos.checker.reach import Reach
from tests.chaos.checker.sights import all_attempts, sights, stored_messages, subscription
from tests.chaos.entries import FinalMarks, Mark, Send, Source, Status, StatusTold, UnreadTold
from tests.chaos.history import History, Outcome


def status_never_goes_back(history: History) -> Iterator[Finding]:
    """Also: nobody who never received a message has seen it; an acked mark is there at the end."""
    reached: dict[tuple[int, str, Status], int] = {}
    readers = _Readers(history)
    for told in history.of(StatusTold):
        key = (told.subscription, told.user, told.status)
        if told.seq < reached.get(key, 0):
            text = f"subscription {told.subscription}: {told.user} had {told.status} {reached[key]}, now {told.seq}"
            yield Finding(7, text, (told.subscription,), told.at_s)
        reached[key] = max(told.seq, reached.get(key, 0))
        conversation = subscription(history, told.subscription).what.conversation
        if told.status is Status.SEEN and not readers.may_have_seen(conversation, told.user, told.seq, told.at_s):
            text = f"{told.user} is told to have seen {told.seq} of {conversation}, and never said so"
            yield Finding(7, text, (told.subscription,), told.at_s)
    for marks in history.of(FinalMarks):
        if not readers.may_have_seen(marks.conversation, marks.user, marks.read_seq, marks.at_s):
            text = f"the final {marks.source} read says that {marks.user} has seen {marks.read_seq} of "
            yield Finding(7, f"{text}{marks.conversation}, and he never said so", (), marks.at_s)
    yield from _marked_unseen(history)
    yield from _forgotten_marks(history)


class _Readers:
    """Who has said that he has seen how much."""

    def __init__(self, history: History) -> None:
        self._members = Memberships(history)
        said: defaultdict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)
        for mark in history.ops(Mark):
            if mark.what.status is Status.SEEN and mark.outcome is not Outcome.REFUSED:
                said[mark.what.conversation, mark.user].append((mark.invoked_s, mark.what.seq))
        for key, attempts in all_attempts(history).items():  # who writes has read up to there
            if attempts.seq is not None:
                said[key.conversation, key.sender].append((attempts.asked_s, attempts.seq))
        self._said = {member: Reach(steps) for member, steps in said.items()}

    def may_have_seen(self, conversation: str, user: str, seq: int, at_s: float) -> bool:
        if seq == 0 or self._members.was_added(conversation, user):  # a newcomer starts at the head
            return True
        said = self._said.get((conversation, user))
        return said is not None and said.by(at_s) >= seq


def _marked_unseen(history: History) -> Iterator[Finding]:
    shown: dict[tuple[str, str, int], float] = {}
    for sight in sights(history):
        key = (sight.conversation, sight.user, sight.message.seq)
        shown[key] = min(sight.at_s, shown.get(key, sight.at_s))
    for mark in history.ops(Mark):
        at_s = shown.get((mark.what.conversation, mark.user, mark.what.seq))
        if mark.outcome is not Outcome.REFUSED and (at_s is None or at_s > mark.invoked_s):
            text = f"{mark.user} marked {mark.what.seq} of {mark.what.conversation} {mark.what.status} before he had it"
            yield Finding(7, text, (mark.op,), mark.invoked_s)


def _forgotten_marks(history: History) -> Iterator[Finding]:
    finals: defaultdict[tuple[str, str], list[FinalMarks]] = defaultdict(list)
    for marks in history.of(FinalMarks):
        finals[marks.conversation, marks.user].append(marks)
    members, end_s = Memberships(history), history.ended_s
    for mark in history.ops(Mark):
        if not mark.is_ok:
            continue
        what = f"{mark.user} was told that {mark.what.seq} of {mark.what.conversation} is {mark.what.status}"
        read = finals[mark.what.conversation, mark.user]
        is_there = members.is_member(mark.what.conversation, mark.user, end_s, end_s)
        if is_there and not any(each.source is Source.MONGODB for each in read):
            yield Finding(7, f"{what}, and no final read tells", (mark.op,))
        for final in read:
            kept = final.read_seq if mark.what.status is Status.SEEN else final.delivered_seq
            if kept is not None and kept < mark.what.seq:
                yield Finding(7, f"{what}, and the final {final.source} read has {kept}", (mark.op,), final.at_s)


def unread_is_derived(history: History) -> Iterator[Finding]:
    """Unread at rest is head − readSeq, everywhere the same."""
    heads: defaultdict[str, int] = defaultdict(int)
    for conversation, seq in stored_messages(history):
        heads[conversation] = max(seq, heads[conversation])
    first: dict[tuple[str, str], FinalMarks] = {}
    for marks in history.of(FinalMarks):
        where = f"the final {marks.source} read of {marks.conversation} for {marks.user}"
        expected = heads[marks.conversation] - marks.read_seq
        if marks.unread_count != expected:
            text = f"{where} has {marks.unread_count} unread: head {heads[marks.conversation]}, read {marks.read_seq}"
            yield Finding(8, text, (), marks.at_s)
        known = first.setdefault((marks.conversation, marks.user), marks)
        if known.read_seq != marks.read_seq:
            yield Finding(8, f"{where} has read {marks.read_seq}; {known.source} has {known.read_seq}", (), marks.at_s)
    rest_s = max((min(send.ended_s, history.ended_s) for send in history.ops(Send)), default=0.0)
    for told in history.of(UnreadTold):
        final = first.get((told.conversation, told.user))
        if final is None or told.at_s < rest_s or told.read_seq != final.read_seq:
            continue  # more was sent or read afterwards
        if told.unread_count != final.unread_count:
            text = f"{told.client} was told {told.unread_count} unread in {told.conversation}, not {final.unread_count}"
            yield Finding(8, text, (), told.at_s)
