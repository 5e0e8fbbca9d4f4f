"""Invariants 1 to 3: acked is durable, no phantom, once."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

from tests.chaos.checker.finding import Finding
from tests.chaos.checker.sights import Key, all_attempts, final_logs, key_of, sights, stored_messages
from tests.chaos.entries import FinalLog, Message, Notified, Pushed, Received, Send, Source
from tests.chaos.history import History, Op, Outcome


def acked_is_durable(history: History) -> Iterator[Finding]:
    """Every send with a receipt is in all three reads, with the same id, seq and body."""
    logs = final_logs(history)
    held: dict[int, Mapping[int, Message]] = {
        id(log): {message.seq: message for message in log.messages} for each in logs.values() for log in each
    }
    for send in history.ops(Send):
        if send.stored is None:
            continue
        expected = Message(send.stored.message_id, send.stored.seq, send.user, send.what.key, send.what.content)
        for source in Source:
            read = [log for log in logs.get((source, send.what.conversation), ()) if log.after_seq < expected.seq]
            if not read:
                text = f"{_named(send)} was acked as {expected.seq}, and no {source} read covers it"
                yield Finding(1, text, (send.op,))
            for log in read:
                found = held[id(log)].get(expected.seq)
                if found != expected:
                    yield Finding(1, f"{_named(send)} was acked as {expected.seq}; {_shown(log, found)}", (send.op,))


def no_phantom(history: History) -> Iterator[Finding]:
    """Nothing is seen that nobody sent; a refused send never appears."""
    attempts = all_attempts(history)
    for sight in sights(history):
        key = key_of(sight.conversation, sight.message)
        sends = [
            send
            for send in (attempts[key].sends if key in attempts else ())
            if send.what.content == sight.message.content and send.invoked_s <= sight.at_s
        ]
        what = f"{sight.where} showed {sight.message.message_id} ({key.key} of {key.sender})"
        if not sends:
            yield Finding(2, f"{what}, which nobody had sent with that body", (), sight.at_s)
        elif all(send.outcome is Outcome.REFUSED for send in sends):
            yield Finding(2, f"{what}, which was refused", tuple(send.op for send in sends), sight.at_s)
    stored = stored_messages(history)
    for told in history.of(Notified):
        message = stored.get((told.conversation, told.seq))
        if message is None or message.sender != told.sender:
            text = (
                f"{told.client} was notified of {told.seq} in {told.conversation} by {told.sender}: there is {message}"
            )
            yield Finding(2, text, (), told.at_s)
    for push in history.of(Pushed):
        if (push.conversation, push.seq) not in stored:
            text = f"{push.device} got a push for {push.seq} in {push.conversation}, which does not exist"
            yield Finding(2, text, (), push.at_s)


def once(history: History) -> Iterator[Finding]:
    """One (sender, clientMessageId) is one message; no seq or id twice in a log or on one subscription."""
    places: defaultdict[Key, set[tuple[str, int]]] = defaultdict(set)
    for sight in sights(history):
        places[key_of(sight.conversation, sight.message)].add((sight.message.message_id, sight.message.seq))
    for key, attempts in all_attempts(history).items():
        for send in attempts.sends:
            if send.stored is not None:
                places[key].add((send.stored.message_id, send.stored.seq))
    for key, found in places.items():
        if len(found) > 1:
            yield Finding(3, f"{key.key} of {key.sender} in {key.conversation} is several messages: {sorted(found)}")
    for log in history.of(FinalLog):
        yield from _repeated(log.messages, f"the final {log.source} read of {log.conversation}")
    received: defaultdict[int, list[Message]] = defaultdict(list)
    for told in history.of(Received):
        received[told.subscription].append(told.message)
    for number, messages in received.items():
        yield from _repeated(messages, f"subscription {number}")


def _repeated(messages: "list[Message] | tuple[Message, ...]", where: str) -> Iterator[Finding]:
    seqs, ids = Counter(each.seq for each in messages), Counter(each.message_id for each in messages)
    for what, count in [*seqs.items(), *ids.items()]:
        if count > 1:
            yield Finding(3, f"{where} shows {what} {count} times")


def _named(send: Op[Send]) -> str:
    return f"{send.what.key} of {send.user} in {send.what.conversation}"


def _shown(log: FinalLog, found: Message | None) -> str:
    there = "nothing" if found is None else f"{found.message_id} ({found.key} of {found.sender}, {found.content!r})"
    return f"the {log.source} read for {log.reader} has {there} there"
