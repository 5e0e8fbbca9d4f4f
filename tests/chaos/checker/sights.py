"""Every time that somebody was shown a message, and what is known of each send: what most checks begin with."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tests.chaos.entries import FinalLog, Message, Read, Received, Send, Source, Subscribe
from tests.chaos.history import BrokenHistory, History, Op


@dataclass(frozen=True, slots=True)
class Sight:
    """`user` was shown `message`."""

    at_s: float
    user: str
    conversation: str
    message: Message
    where: str
    op: int | None


class Key(NamedTuple):
    """What makes a message one message."""

    conversation: str
    sender: str
    key: str


@dataclass(frozen=True, slots=True)
class Attempts:
    """All sends of one key, and where it ended up."""

    key: Key
    sends: Sequence[Op[Send]]
    # In the log or by a receipt; None where it is nowhere.
    seq: int | None

    @property
    def asked_s(self) -> float:
        return self.sends[0].invoked_s

    @property
    def acked_s(self) -> float:
        """Infinite where nobody was ever told."""
        return min((send.ended_s for send in self.sends if send.is_ok), default=math.inf)


def key_of(conversation: str, message: Message) -> Key:
    return Key(conversation, message.sender, message.key)


def subscription(history: History, number: int) -> Op[Subscribe]:
    """
    Raises:
        BrokenHistory: there is no such subscription.
    """
    op = history.op(number)
    if not isinstance(op.what, Subscribe):
        raise BrokenHistory(f"operation {number} is no subscription")
    return op  # type: ignore[return-value]  # what is checked


def sights(history: History) -> Iterator[Sight]:
    for told in history.of(Received):
        op = subscription(history, told.subscription)
        yield Sight(told.at_s, op.user, op.what.conversation, told.message, f"subscription {op.op}", op.op)
    for read in history.ops(Read):
        for message in read.messages:
            yield Sight(read.ended_s, read.user, read.what.conversation, message, f"history read {read.op}", read.op)
    for log in history.of(FinalLog):
        for message in log.messages:
            yield Sight(log.at_s, log.reader, log.conversation, message, f"final {log.source} read", None)


def final_logs(history: History) -> Mapping[tuple[Source, str], Sequence[FinalLog]]:
    """By the way they were read, and conversation."""
    logs: defaultdict[tuple[Source, str], list[FinalLog]] = defaultdict(list)
    for log in history.of(FinalLog):
        logs[log.source, log.conversation].append(log)
    return logs


def stored_messages(history: History) -> Mapping[tuple[str, int], Message]:
    """What MongoDB holds at the end, by conversation and seq."""
    return {
        (log.conversation, message.seq): message
        for log in history.of(FinalLog)
        if log.source is Source.MONGODB
        for message in log.messages
    }


def all_attempts(history: History) -> Mapping[Key, Attempts]:
    sends: defaultdict[Key, list[Op[Send]]] = defaultdict(list)
    for send in history.ops(Send):
        sends[Key(send.what.conversation, send.user, send.what.key)].append(send)
    stored = {key_of(conversation, each): each.seq for (conversation, _), each in stored_messages(history).items()}
    found = {}
    for key, attempts in sends.items():
        told = [send.stored.seq for send in attempts if send.stored is not None]
        found[key] = Attempts(key, attempts, told[0] if told else stored.get(key))
    return found
