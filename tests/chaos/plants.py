"""Violations to plant into a clean history: for every invariant at least three, each a single wrong thing.

Each plant takes a whole history's entries and gives them back with one violation in it; it fails where the history has
no place for it.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TypeVar

from msgspec.structs import replace

from tests.chaos.entries import (
    AddDevice,
    AnyEntry,
    Connect,
    Entry,
    Fault,
    FaultBegan,
    FinalLog,
    FinalMarks,
    GapTold,
    Healed,
    Invoked,
    Live,
    Logged,
    Mark,
    Measured,
    Message,
    Moment,
    Notified,
    Page,
    PresenceTold,
    Pushed,
    Read,
    Received,
    Refused,
    RemoveMember,
    Restarted,
    Role,
    Send,
    Source,
    Started,
    Status,
    StatusTold,
    Stored,
    Subscribe,
    Succeeded,
    UnreadTold,
    Unsure,
)
from tests.chaos.perfect import ALICE, BOB, CAROL, DAVE, DEVICES, EDGES, EVE, MARKER, PAIR, ROOM, perfect_history

E = TypeVar("E", bound=Entry)
Entries = list[AnyEntry]
Plant = Callable[[Entries], Entries]

_TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJlLXBhcnQ"
_FREE_OP = 1_000_000


def clean() -> Entries:
    return perfect_history(random.Random(0))


# ---- Finding and changing entries.


def _all(entries: Entries, kind: type[E], which: Callable[[E], bool] = lambda _: True) -> Sequence[E]:
    found = [entry for entry in entries if isinstance(entry, kind) and which(entry)]
    assert found, f"there is no such {kind.__name__} to plant a violation in"
    return found


def _invoked(entries: Entries, kind: type[object], which: Callable[[Invoked], bool] = lambda _: True) -> Invoked:
    return _all(entries, Invoked, lambda each: isinstance(each.operation, kind) and which(each))[-1]


def _end(entries: Entries, op: int) -> Succeeded:
    return _all(entries, Succeeded, lambda each: each.op == op)[0]


def _acked(entries: Entries, user: str = BOB, conversation: str = ROOM) -> Succeeded:
    """The first receipt of a message of that user."""
    ops = {
        each.op
        for each in _all(entries, Invoked, lambda each: each.user == user)
        if isinstance(each.operation, Send) and each.operation.conversation == conversation
    }
    return _all(entries, Succeeded, lambda each: each.op in ops)[0]


def _swap(entries: Entries, old: AnyEntry, *new: AnyEntry) -> Entries:
    place = next(place for place, entry in enumerate(entries) if entry is old)
    return [*entries[:place], *new, *entries[place + 1 :]]


def _without(entries: Entries, which: Callable[[AnyEntry], bool]) -> Entries:
    left = [entry for entry in entries if not which(entry)]
    assert len(left) < len(entries), "there is nothing to leave out"
    return left


def _later(entries: Entries, seconds: float, *new: AnyEntry) -> Entries:
    """`new` behind everything, that much later."""
    at_s = entries[-1].at_s + seconds
    return [*entries, *(replace(each, at_s=at_s) for each in new)]


def _at(entries: Entries, *new: AnyEntry) -> Entries:
    """`new`, each at its own time."""
    return sorted([*entries, *new], key=lambda entry: entry.at_s)


def _final(entries: Entries, source: Source, conversation: str = ROOM) -> FinalLog:
    return _all(entries, FinalLog, lambda each: (each.source, each.conversation) == (source, conversation))[0]


def _change_log(
    entries: Entries, source: Source, change: Callable[[Sequence[Message]], Sequence[Message]], conversation: str = ROOM
) -> Entries:
    log = _final(entries, source, conversation)
    return _swap(entries, log, replace(log, messages=tuple(change(log.messages))))


def _live(entries: Entries, user: str) -> int:
    """The last subscription of that user to the room."""
    return _invoked(entries, Subscribe, lambda each: each.user == user and each.operation == _watching(each)).op


def _watching(invoked: Invoked) -> Subscribe:
    assert isinstance(invoked.operation, Subscribe)
    return Subscribe(ROOM, invoked.operation.after_seq)


def _fault(entries: Entries) -> FaultBegan:
    return _all(entries, FaultBegan)[0]


def _operation(entries: Entries, at_s: float, user: str, operation: Send | Read | Mark) -> Invoked:
    session = max(each.session for each in _all(entries, Invoked, lambda each: each.user == user))
    return Invoked(
        at_s=at_s,
        op=_FREE_OP,
        client=f"{user}'s client",
        user=user,
        session=session,
        edge=EDGES[1],
        operation=operation,
    )


# ---- The violations.


def _lost_from(source: Source) -> Plant:
    def plant(entries: Entries) -> Entries:
        return _change_log(entries, source, lambda messages: messages[:-1])

    return plant


def _acked_with_another_body(entries: Entries) -> Entries:
    return _change_log(
        entries, Source.MONGODB, lambda messages: [replace(messages[0], content=f"{MARKER} else"), *messages[1:]]
    )


def _acked_with_another_number(entries: Entries) -> Entries:
    receipt = _acked(entries)
    assert isinstance(receipt.result, Stored)
    return _swap(entries, receipt, replace(receipt, result=Stored(receipt.result.message_id, 10_000)))


def _not_read_back(entries: Entries) -> Entries:
    return _without(entries, lambda each: isinstance(each, FinalLog) and each.source is Source.HTTP)


def _received_what_nobody_sent(entries: Entries) -> Entries:
    told = _all(entries, Received)[-1]
    return _swap(entries, told, replace(told, message=replace(told.message, key="nobody's")))


def _refused_and_stored(entries: Entries) -> Entries:
    receipt = _acked(entries)
    return _swap(entries, receipt, Refused(at_s=receipt.at_s, op=receipt.op, code="RATE_LIMITED"))


def _seen_before_it_was_sent(entries: Entries) -> Entries:
    told = _all(entries, Received, lambda each: each.message.sender == ALICE)[-1]
    subscribed = _end(entries, told.subscription)
    return _at(entries, replace(told, at_s=subscribed.at_s))


def _notified_of_nothing(entries: Entries) -> Entries:
    told = _all(entries, Notified)[-1]
    return _swap(entries, told, replace(told, seq=9_999))


def _pushed_nothing(entries: Entries) -> Entries:
    push = _all(entries, Pushed)[-1]
    return _swap(entries, push, push, replace(push, seq=9_999))


def _stored_twice(entries: Entries) -> Entries:
    def again(messages: Sequence[Message]) -> Sequence[Message]:
        seq = messages[-1].seq + 1
        return [*messages, replace(messages[0], seq=seq, message_id=f"{ROOM}-{seq:010d}")]

    return _change_log(entries, Source.MONGODB, again)


def _received_twice(entries: Entries) -> Entries:
    told = _all(entries, Received)[-1]
    return _swap(entries, told, told, told)


def _one_id_twice(entries: Entries) -> Entries:
    return _change_log(
        entries,
        Source.HTTP,
        lambda messages: [*messages[:-1], replace(messages[-1], message_id=messages[0].message_id)],
    )


def _a_repeat_is_acked_with_another_number(entries: Entries) -> Entries:
    receipt = _acked(entries)
    first = _all(entries, Invoked, lambda each: each.op == receipt.op)[0]
    return _later(
        entries,
        0.1,
        replace(first, op=_FREE_OP),
        Succeeded(at_s=0, op=_FREE_OP, result=Stored(f"{ROOM}-0000000777", 777)),
    )


def _two_messages_under_one_number(entries: Entries) -> Entries:
    told = _all(entries, Received, lambda each: each.message.sender == BOB)[-1]
    return _swap(entries, told, replace(told, message=replace(told.message, content=f"{MARKER} else")))


def _a_hole(entries: Entries) -> Entries:
    return _change_log(entries, Source.MONGODB, lambda messages: [*messages[:1], *messages[2:]])


def _received_backwards(entries: Entries) -> Entries:
    number = _all(entries, Received)[-1].subscription
    one, other = _all(entries, Received, lambda each: each.subscription == number)[-2:]
    swapped = _swap(entries, one, replace(one, message=other.message))
    return _swap(swapped, other, replace(other, message=one.message))


def _one_reader_is_behind(entries: Entries) -> Entries:
    return _change_log(entries, Source.RESUME, lambda messages: messages[:-2])


def _exchange_numbers(entries: Entries, one: Succeeded, other: Succeeded) -> Entries:
    """Two receipts change places, and the two messages in every log with them."""
    assert isinstance(one.result, Stored)
    assert isinstance(other.result, Stored)
    places = {one.result.seq: other.result, other.result.seq: one.result}
    changed = _swap(entries, one, replace(one, result=other.result))
    changed = _swap(changed, other, replace(other, result=one.result))

    def moved(message: Message) -> Message:
        to = places.get(message.seq)
        return message if to is None else replace(message, seq=to.seq, message_id=to.message_id)

    for log in _all(changed, FinalLog, lambda each: each.conversation == ROOM):
        messages = tuple(sorted(map(moved, log.messages), key=lambda each: each.seq))
        changed = _swap(changed, log, replace(log, messages=messages))
    return changed


def _receipts(entries: Entries, user: str) -> Sequence[tuple[Invoked, Succeeded]]:
    """The sends of the user to the room that were acked at once, with their receipts."""
    ends = {each.op: each for each in _all(entries, Succeeded)}
    sends = _all(entries, Invoked, lambda each: each.user == user and isinstance(each.operation, Send))
    return [
        (each, ends[each.op])
        for each in sends
        if each.op in ends and isinstance(each.operation, Send) and each.operation.conversation == ROOM
    ]


def _a_later_send_has_the_smaller_number(entries: Entries) -> Entries:
    sends = _receipts(entries, ALICE)
    return _exchange_numbers(entries, sends[0][1], sends[-1][1])


def _another_clients_later_send_has_the_smaller_number(entries: Entries) -> Entries:
    return _exchange_numbers(entries, _receipts(entries, BOB)[0][1], _receipts(entries, ALICE)[-1][1])


def _pipelined_and_exchanged(entries: Entries) -> Entries:
    sends = _receipts(entries, BOB)
    for (_, one), (later, other) in pairwise(sends):
        if later.at_s < one.at_s:
            return _exchange_numbers(entries, one, other)
    raise AssertionError("nothing was pipelined")


def _a_resume_begins_too_late(entries: Entries) -> Entries:
    number = _live(entries, CAROL)
    first = _all(entries, Received, lambda each: each.subscription == number)[0]
    return _without(entries, lambda each: each is first)


def _a_resume_begins_too_early(entries: Entries) -> Entries:
    number = _live(entries, CAROL)
    first = _all(entries, Received, lambda each: each.subscription == number)[0]
    before = next(each for each in _final(entries, Source.HTTP).messages if each.seq == first.message.seq - 1)
    return _swap(entries, first, replace(first, message=before), first)


def _something_is_left_out(entries: Entries) -> Entries:
    number = _live(entries, BOB)
    middle = _all(entries, Received, lambda each: each.subscription == number)[1]
    return _without(entries, lambda each: each is middle)


def _a_gap_is_never_filled(entries: Entries) -> Entries:
    gap = _all(entries, GapTold)[-1]
    op = _client_of(entries, gap.subscription)
    reads = {
        each.op for each in _all(entries, Invoked, lambda each: each.client == op and isinstance(each.operation, Read))
    }
    ends = _all(entries, Succeeded, lambda each: each.op in reads and each.at_s > gap.at_s)
    for end in ends:
        entries = _swap(entries, end, replace(end, result=Page(())))
    return entries


def _client_of(entries: Entries, number: int) -> str:
    return _all(entries, Invoked, lambda each: each.op == number)[0].client


def _a_gap_names_too_little(entries: Entries) -> Entries:
    gap = _all(entries, GapTold)[-1]
    return _swap(entries, gap, replace(gap, from_seq=gap.from_seq + 1))


def _status_goes_back(entries: Entries) -> Entries:
    told = _all(entries, StatusTold, lambda each: each.seq > 1)[-1]
    return _swap(entries, told, told, replace(told, seq=told.seq - 1))


def _seen_by_who_never_said_so(entries: Entries) -> Entries:
    told = _all(entries, StatusTold)[-1]
    return _swap(entries, told, told, replace(told, user=DAVE, status=Status.SEEN, seq=1))


def _seen_in_the_end_by_who_never_said_so(entries: Entries) -> Entries:
    marks = _all(entries, FinalMarks, lambda each: each.user == DAVE)[0]
    return _swap(entries, marks, replace(marks, read_seq=2, unread_count=marks.unread_count - 2))


def _an_acked_mark_is_lost(entries: Entries) -> Entries:
    marks = _all(entries, FinalMarks, lambda each: each.user == CAROL and each.source is Source.MONGODB)[0]
    return _swap(entries, marks, replace(marks, delivered_seq=0))


def _marked_before_it_was_had(entries: Entries) -> Entries:
    mark = _operation(entries, entries[-1].at_s, CAROL, Mark(ROOM, 9_999, Status.DELIVERED))
    return _at(entries, mark, Unsure(at_s=mark.at_s, op=mark.op, reason="no answer"))


def _change_marks(user: str, source: Source, *, read: int = 0, unread: int = 0) -> Plant:
    def plant(entries: Entries) -> Entries:
        marks = _all(entries, FinalMarks, lambda each: each.user == user and each.source is source)[0]
        changed = replace(marks, read_seq=marks.read_seq + read, unread_count=marks.unread_count + unread)
        return _swap(entries, marks, changed)

    return plant


def _told_of_too_many_unread(entries: Entries) -> Entries:
    told = _all(entries, UnreadTold)[-1]
    return _swap(entries, told, replace(told, unread_count=told.unread_count + 1))


def _a_push_is_missing(entries: Entries) -> Entries:
    last = _all(entries, Pushed)[-1]
    return _without(entries, lambda each: each is last)


def _one_device_gets_nothing(entries: Entries) -> Entries:
    return _without(entries, lambda each: isinstance(each, Pushed) and each.device == DEVICES[1])


def _a_push_comes_too_late(entries: Entries) -> Entries:
    last = _all(entries, Pushed)[-1]
    return _at(_without(entries, lambda each: each is last), replace(last, at_s=last.at_s + 24.0))


def _shown_twice(entries: Entries) -> Entries:
    push = _all(entries, Pushed)[-1]
    return _swap(entries, push, push, push)


def _with_device(entries: Entries, user: str) -> Entries:
    """The user has a device too: it is registered again, for him."""
    device = _all(entries, Invoked, lambda each: isinstance(each.operation, AddDevice))[0]
    mine = replace(device, op=_FREE_OP, user=user, client=f"{user}'s client", operation=AddDevice("another"))
    return _swap(
        entries, device, device, mine, Succeeded(at_s=device.at_s, op=_FREE_OP, result=_end(entries, device.op).result)
    )


def _pushed_to(user: str, *, sent_by: str) -> Plant:
    def plant(entries: Entries) -> Entries:
        message = next(each for each in reversed(_final(entries, Source.MONGODB).messages) if each.sender == sent_by)
        push = Pushed(at_s=0, device="another", conversation=ROOM, seq=message.seq, visible=True)
        return _later(_with_device(entries, user), 0.1, push)

    return plant


def _pushed_what_was_seen(entries: Entries) -> Entries:
    message = next(each for each in _final(entries, Source.MONGODB).messages if each.sender != BOB)
    push = Pushed(at_s=0, device="another", conversation=ROOM, seq=message.seq, visible=False)
    return _later(_with_device(entries, BOB), 0.1, push)


def _told(about: str, status: str) -> Plant:
    def plant(entries: Entries) -> Entries:
        told = _all(entries, PresenceTold)[-1]
        return _later(entries, 1.0, replace(told, about=about, status=status))

    return plant


def _believed_offline(entries: Entries) -> Entries:
    healed = _all(entries, Healed)[-1]
    told = PresenceTold(at_s=healed.at_s, client="bob's client", about=ALICE, status="offline")
    return _at(
        _without(entries, lambda each: isinstance(each, FaultBegan) and each.fault is Fault.ROLLING_RESTART), told
    )


def _a_flap(entries: Entries) -> Entries:
    rolling = _all(entries, FaultBegan, lambda each: each.fault is Fault.ROLLING_RESTART)[0]
    off = PresenceTold(at_s=rolling.at_s + 0.01, client="bob's client", about=CAROL, status="offline")
    return _at(entries, off, replace(off, at_s=off.at_s + 0.01, status="online"))


def _removal(entries: Entries) -> Succeeded:
    return _end(entries, _invoked(entries, RemoveMember).op)


def _eves(entries: Entries) -> int:
    removed_s = _removal(entries).at_s
    mine = _all(entries, Invoked, lambda each: each.user == EVE and each.at_s < removed_s)
    return [each for each in mine if isinstance(each.operation, Subscribe)][-1].op


def _received_after_removal(entries: Entries) -> Entries:
    removed_s = _removal(entries).at_s
    told = _all(entries, Received, lambda each: each.at_s > removed_s)[0]
    return _swap(entries, told, told, replace(told, subscription=_eves(entries)))


def _told_of_status_after_removal(entries: Entries) -> Entries:
    told = _all(entries, StatusTold)[-1]
    number = _eves(entries)
    return _at(entries, replace(told, subscription=number, at_s=_removal(entries).at_s + 2.5))


def _notified_after_removal(entries: Entries) -> Entries:
    removed_s = _removal(entries).at_s
    told = _all(entries, Received, lambda each: each.at_s > removed_s)[0]
    message = told.message
    notified = Notified(
        at_s=told.at_s,
        client="eve's client",
        user=EVE,
        conversation=ROOM,
        seq=message.seq,
        sender=message.sender,
        unread_count=1,
    )
    return _swap(entries, told, told, notified)


def _read_after_removal(entries: Entries) -> Entries:
    at_s = _removal(entries).at_s + 0.0001
    read = _operation(entries, at_s, EVE, Read(ROOM, 0))
    return _at(entries, read, Succeeded(at_s=at_s, op=read.op, result=Page(())))


def _too_many_connections(entries: Entries) -> Entries:
    """Five of Alice's, all used at the same time, over both edges."""
    return _crowd(entries, ALICE, sessions=5, sends=1)


def _crowd(entries: Entries, user: str, *, sessions: int, sends: int) -> Entries:
    """So many new connections of the user, all open at once, with so many acked sends over each."""
    at_s = entries[-1].at_s
    new: list[AnyEntry] = []
    op = _FREE_OP
    for place in range(sessions):
        first = _operation(entries, at_s, user, Send(PAIR, "", ""))
        op += 1
        connect = replace(first, op=op, session=100 + place, edge=EDGES[place % 2], operation=Connect())
        new += [connect, Succeeded(at_s=at_s, op=op, result=Page(()))]
    for place in range(sessions):
        for number in range(sends):
            op += 1
            what = Send(PAIR, f"crowd {place} {number}", f"{MARKER} crowd")
            send = replace(_operation(entries, at_s + 0.1, user, what), op=op, session=100 + place)
            new += [send, Succeeded(at_s=at_s + 0.2, op=op, result=Stored(f"{PAIR}-{op:010d}", op))]
    return _at(entries, *new)


def _too_many_sends(*, sessions: int) -> Plant:
    return lambda entries: _crowd(entries, BOB, sessions=sessions, sends=80 // sessions)


def _sends_fail_after_a_loss(entries: Entries, outcome: Refused | Unsure) -> Entries:
    at_s = _fault(entries).at_s + 2.5
    send = _operation(entries, at_s, CAROL, Send(ROOM, "late", f"{MARKER} late"))
    return _at(entries, send, replace(outcome, at_s=at_s + 0.5))


def _refused_after_a_loss(entries: Entries) -> Entries:
    return _sends_fail_after_a_loss(entries, Refused(at_s=0, op=_FREE_OP, code="UNAVAILABLE"))


def _unsure_after_a_loss(entries: Entries) -> Entries:
    return _sends_fail_after_a_loss(entries, Unsure(at_s=0, op=_FREE_OP, reason="no answer"))


def _nothing_is_acked_in_time(entries: Entries) -> Entries:
    """The first receipts after the loss of the edge come later than two seconds."""
    lost_s = _fault(entries).at_s
    sends = {
        each.op
        for each in _all(
            entries, Invoked, lambda each: lost_s < each.at_s <= lost_s + 2 and isinstance(each.operation, Send)
        )
    }
    return _at(
        _without(entries, lambda each: isinstance(each, Succeeded) and each.op in sends),
        *(replace(each, at_s=lost_s + 2.1) for each in _all(entries, Succeeded, lambda each: each.op in sends)),
    )


def _nobody_tried(entries: Entries) -> Entries:
    healed = _all(entries, Healed)[-1]
    return _at(entries, FaultBegan(at_s=healed.at_s + 10.0, fault=Fault.KILL, role=Role.CHAT, target="chat-1"))


def _the_primary_is_lost_for_long(entries: Entries) -> Entries:
    at_s = _all(entries, Healed)[-1].at_s + 8.0
    lost = FaultBegan(at_s=at_s, fault=Fault.KILL, role=Role.MONGODB_PRIMARY, target="mongod-1")
    send = _operation(entries, at_s + 1.0, CAROL, Send(ROOM, "late", f"{MARKER} late"))
    return _at(entries, lost, send, Refused(at_s=at_s + 11.0, op=send.op, code="UNAVAILABLE"))


def _restarted_by_hand(entries: Entries) -> Entries:
    restarted = _all(entries, Restarted)[0]
    return _swap(entries, restarted, replace(restarted, by_hand=True))


def _measured(**more: int) -> Plant:
    def plant(entries: Entries) -> Entries:
        after = _all(entries, Measured, lambda each: each.moment is Moment.AFTER)[0]
        changed = {name: getattr(after, name) + by for name, by in more.items()}
        return _swap(entries, after, replace(after, **changed))

    return plant


def _not_measured(entries: Entries) -> Entries:
    last = _all(entries, Measured)[-1]
    return _without(entries, lambda each: each is last)


def _logged(line: str) -> Plant:
    def plant(entries: Entries) -> Entries:
        return _later(entries, 0.1, Logged(at_s=0, process="chat-1", line=line))

    return plant


def _no_fault(entries: Entries) -> Entries:
    return _without(entries, lambda each: isinstance(each, FaultBegan))


def _nothing_acked(entries: Entries) -> Entries:
    began_s = _fault(entries).at_s
    return _without(
        entries,
        lambda each: isinstance(each, Succeeded) and each.at_s > began_s and isinstance(each.result, Stored),
    )


def _nobody_resumed(entries: Entries) -> Entries:
    began_s = _fault(entries).at_s
    return _without(
        entries, lambda each: isinstance(each, Succeeded) and each.at_s > began_s and isinstance(each.result, Live)
    )


def _a_body_without_the_marker(entries: Entries) -> Entries:
    started = _all(entries, Started)[0]
    return _swap(entries, started, replace(started, body_marker="another"))


def _all_plants() -> Iterator[tuple[int, str, Plant]]:
    yield 0, "no fault was injected", _no_fault
    yield 0, "nothing was acked", _nothing_acked
    yield 0, "nobody resumed", _nobody_resumed
    yield 0, "bodies could not be recognised in a log", _a_body_without_the_marker
    yield 1, "an acked message is not in MongoDB", _lost_from(Source.MONGODB)
    yield 1, "an acked message is not in the history over HTTP", _lost_from(Source.HTTP)
    yield 1, "an acked message is not there after a resume", _lost_from(Source.RESUME)
    yield 1, "an acked message has another body", _acked_with_another_body
    yield 1, "a receipt names another number", _acked_with_another_number
    yield 1, "one of the three reads was not done", _not_read_back
    yield 2, "somebody received what nobody sent", _received_what_nobody_sent
    yield 2, "a refused send is stored", _refused_and_stored
    yield 2, "a message was seen before it was sent", _seen_before_it_was_sent
    yield 2, "a notification of nothing", _notified_of_nothing
    yield 2, "a push for nothing", _pushed_nothing
    yield 3, "a message is stored twice", _stored_twice
    yield 3, "a message is received twice", _received_twice
    yield 3, "one id stands for two messages", _one_id_twice
    yield 3, "a repeat is acked with another number", _a_repeat_is_acked_with_another_number
    yield 4, "two messages under one number", _two_messages_under_one_number
    yield 4, "a hole in the log", _a_hole
    yield 4, "a subscription goes backwards", _received_backwards
    yield 4, "one reader's log ends earlier", _one_reader_is_behind
    yield 5, "a client's later send has the smaller number", _a_later_send_has_the_smaller_number
    yield 5, "another client's later send has the smaller number", _another_clients_later_send_has_the_smaller_number
    yield 5, "pipelined sends change places", _pipelined_and_exchanged
    yield 6, "a resume begins too late", _a_resume_begins_too_late
    yield 6, "a resume begins too early", _a_resume_begins_too_early
    yield 6, "something is left out", _something_is_left_out
    yield 6, "a gap is never filled", _a_gap_is_never_filled
    yield 6, "a gap names too little", _a_gap_names_too_little
    yield 7, "a status goes back", _status_goes_back
    yield 7, "a status of one who never said so", _seen_by_who_never_said_so
    yield 7, "a watermark of one who never said so", _seen_in_the_end_by_who_never_said_so
    yield 7, "an acked mark is lost", _an_acked_mark_is_lost
    yield 7, "marked before it was had", _marked_before_it_was_had
    yield 8, "unread is counted, and wrong", _change_marks(DAVE, Source.MONGODB, unread=1)
    yield 8, "two reads have different marks", _change_marks(CAROL, Source.HTTP, read=-1, unread=1)
    yield 8, "one read forgets to count", _change_marks(DAVE, Source.HTTP, unread=-1)
    yield 8, "a client is told too many", _told_of_too_many_unread
    yield 9, "a push is missing", _a_push_is_missing
    yield 9, "one of two devices gets nothing", _one_device_gets_nothing
    yield 9, "a push comes too late", _a_push_comes_too_late
    yield 9, "a push is shown twice", _shown_twice
    yield 9, "a push to the sender", _pushed_to(ALICE, sent_by=ALICE)
    yield 9, "a push to a stranger", _pushed_to("mallory", sent_by=ALICE)
    yield 9, "a push for what was seen", _pushed_what_was_seen
    yield 10, "somebody connected is told to be offline", _told(ALICE, "offline")
    yield 10, "somebody away is told to be online", _told(DAVE, "online")
    yield 10, "nobody knows, long after the healing", _told(ALICE, "unknown")
    yield 10, "what was told in the trouble was never corrected", _believed_offline
    yield 10, "a flap in a rolling restart", _a_flap
    yield 11, "a message to somebody removed", _received_after_removal
    yield 11, "a status to somebody removed", _told_of_status_after_removal
    yield 11, "a notification to somebody removed", _notified_after_removal
    yield 11, "a read by somebody removed", _read_after_removal
    yield 12, "too many connections over two edges", _too_many_connections
    yield 12, "too many sends over one connection", _too_many_sends(sessions=1)
    yield 12, "too many sends over two edges", _too_many_sends(sessions=2)
    yield 13, "a send is refused long after a loss", _refused_after_a_loss
    yield 13, "a send is not answered long after a loss", _unsure_after_a_loss
    yield 13, "no send is acked in time", _nothing_is_acked_in_time
    yield 13, "nobody tried", _nobody_tried
    yield 13, "the primary is lost and nothing is acked", _the_primary_is_lost_for_long
    yield 13, "a restart by hand", _restarted_by_hand
    yield 14, "descriptors leak", _measured(descriptors=100)
    yield 14, "tasks leak", _measured(tasks=100)
    yield 14, "memory leaks", _measured(memory_bytes=1 << 30)
    yield 14, "a queue is not empty", _measured(queued=1)
    yield 14, "nobody measured", _not_measured
    yield 15, "a token in a log", _logged(f'{{"event": "refused", "token": "{_TOKEN}"}}')
    yield 15, "a body in a log", _logged(f'{{"event": "sent", "content": "{MARKER} 3"}}')
    yield 15, "a traceback in a log", _logged('{"exception": "Traceback (most recent call last):\\n  File"}')


PLANTS = tuple(_all_plants())
