"""Invariants 4 to 6: one order, real time and session order, no gap in a resume."""

from collections import defaultdict
from collections.abc import Iterator

from tests.chaos.checker.finding import Finding
from tests.chaos.checker.sights import Attempts, all_attempts, sights, subscription
from tests.chaos.entries import FinalLog, GapTold, Message, Read, Received, Send, Source, Subscribe
from tests.chaos.history import History, Op


def one_order(history: History) -> Iterator[Finding]:
    """(conversation, seq) names one message for every observer; 1…N without a hole; ascending on a subscription."""
    first: dict[tuple[str, int], tuple[Message, str]] = {}
    for sight in sights(history):
        known, where = first.setdefault((sight.conversation, sight.message.seq), (sight.message, sight.where))
        if known != sight.message:
            text = (
                f"{sight.message.seq} of {sight.conversation} is {known} in {where}, {sight.message} in {sight.where}"
            )
            yield Finding(4, text, (), sight.at_s)
    heads: defaultdict[str, dict[int, Source]] = defaultdict(dict)
    for log in history.of(FinalLog):
        where = f"the final {log.source} read of {log.conversation} for {log.reader}"
        for place, message in enumerate(log.messages, log.after_seq + 1):
            if message.seq != place:
                yield Finding(4, f"{where} has {message.seq} where {place} belongs", (), log.at_s)
                break
        heads[log.conversation][log.messages[-1].seq if log.messages else log.after_seq] = log.source
    for conversation, found in heads.items():
        if len(found) > 1:
            yield Finding(4, f"the final reads of {conversation} end at different seqs: {found}")
    last: dict[int, int] = {}
    for told in history.of(Received):
        if told.message.seq < last.get(told.subscription, 0):
            text = f"subscription {told.subscription} got {told.message.seq} after {last[told.subscription]}"
            yield Finding(4, text, (told.subscription,), told.at_s)
        last[told.subscription] = told.message.seq


def real_time_order(history: History) -> Iterator[Finding]:
    """Acked before sent means a smaller seq; one client's pipelined sends keep their order."""
    by_conversation: defaultdict[str, list[Attempts]] = defaultdict(list)
    for attempts in all_attempts(history).values():
        if attempts.seq is not None:
            by_conversation[attempts.key.conversation].append(attempts)
    for sent in by_conversation.values():
        yield from _acked_before_sent(sent)
    pipelines: defaultdict[tuple[str, int, str], list[Op[Send]]] = defaultdict(list)
    for sent in by_conversation.values():
        for attempts in sent:
            first = attempts.sends[0]
            if first.is_ok:  # what had to be sent again has its place from another try
                pipelines[first.client, first.session, first.what.conversation].append(first)
    for sends in pipelines.values():
        yield from _pipelined(sorted(sends, key=lambda send: send.op))


def _acked_before_sent(sent: list[Attempts]) -> Iterator[Finding]:
    acked = sorted(sent, key=lambda each: each.acked_s)
    highest: Attempts | None = None
    passed = 0
    for each in sorted(sent, key=lambda each: each.asked_s):
        while acked[passed].acked_s < each.asked_s:
            if highest is None or (acked[passed].seq or 0) > (highest.seq or 0):
                highest = acked[passed]
            passed += 1
        if highest is not None and (each.seq or 0) <= (highest.seq or 0):
            text = (
                f"{each.key.key} of {each.key.sender} has {each.seq}, and was sent after {highest.key.key} of "
                f"{highest.key.sender} had been acked with {highest.seq}"
            )
            yield Finding(5, text, (highest.sends[0].op, each.sends[0].op), each.asked_s)


def _pipelined(sends: list[Op[Send]]) -> Iterator[Finding]:
    before: Op[Send] | None = None
    for send in sends:
        if before is not None and send.stored is not None and before.stored is not None:
            seqs = before.stored.seq, send.stored.seq
            if seqs[0] > seqs[1]:
                text = f"{send.client} sent {before.what.key} and then {send.what.key} to {send.what.conversation}"
                yield Finding(5, f"{text}, and they have {seqs}", (before.op, send.op), send.invoked_s)
        before = send


def resume_has_no_gap(history: History) -> Iterator[Finding]:
    """After `x-after-seq:s` come s+1, s+2, …; a gap event is followed by a read that fills it."""
    expected: dict[int, int] = {op.op: _first(op) for op in history.ops(Subscribe) if _first(op)}
    for entry in history.entries:
        if not isinstance(entry, Received | GapTold):
            continue
        number = entry.subscription
        begins, ends = (
            (entry.message.seq, entry.message.seq) if isinstance(entry, Received) else (entry.from_seq, entry.to_seq)
        )
        due = expected.get(number, begins)
        if begins > due or ends < begins:
            what = "got" if isinstance(entry, Received) else "was told of a gap from"
            yield Finding(6, f"subscription {number} {what} {begins} where {due} was due", (number,), entry.at_s)
        elif begins < due and isinstance(entry, Received):
            yield Finding(6, f"subscription {number} got {begins} again: {due} was due", (number,), entry.at_s)
        expected[number] = max(due, ends + 1)
        if isinstance(entry, GapTold):
            yield from _unfilled(history, entry)


def _first(op: Op[Subscribe]) -> int:
    """The first seq that is due on a subscription; 0 where that is not known."""
    after, head = op.what.after_seq, op.head_seq
    if after is None:
        return 0 if head is None else head + 1
    return (after if head is None else min(after, head)) + 1


def _unfilled(history: History, gap: GapTold) -> Iterator[Finding]:
    op = subscription(history, gap.subscription)
    missing = set(range(gap.from_seq, gap.to_seq + 1))
    for read in history.ops(Read):
        if (read.client, read.what.conversation) == (op.client, op.what.conversation) and read.ended_s > gap.at_s:
            missing.difference_update(message.seq for message in read.messages)
    for told in history.of(Received):  # or it lost the connection first, and resumed from before the gap
        later = subscription(history, told.subscription)
        if (later.client, later.what.conversation) == (op.client, op.what.conversation) and told.at_s > gap.at_s:
            missing.discard(told.message.seq)
    if missing:
        text = f"subscription {op.op} was told of a gap from {gap.from_seq} to {gap.to_seq}, and {op.client} never got"
        yield Finding(6, f"{text} {sorted(missing)}", (op.op,), gap.at_s)
