"""What the speaking and the hearing half of the Redis bus share: channel names, payloads, commands, a connection.

Knows the broker's protocol and not its library, which only `redis` does.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

from services.chat.model import ConversationId

# Ends the name of the publisher in front of each event.
_END_OF_TAG = b"\n"


class BrokerLost(Exception):
    """The broker is away, refused, or hung up."""


class Connection(Protocol):
    """One connection, with the handshake done. `send` and `receive` may raise `BrokerLost`; it is then of no use."""

    async def send(self, commands: bytes) -> None:
        """One or more commands, packed; returns when the transport has room for more."""

    async def receive(self) -> object:
        """The next answer or event, whenever it comes."""

    async def close(self) -> None:
        """At once; what was sent may or may not arrive. May be repeated."""


Connect = Callable[[str], Awaitable[Connection]]
"""Connects within a second under a name for CLIENT LIST, or raises `BrokerLost`."""


class Channels:
    """The names of the channels of one installation.

    Redis does not keep the databases of one server apart in pub/sub: the names do. (A direct conversation's id is made
    of two user names, so two installations would read each other's.)
    """

    def __init__(self, database: int) -> None:
        root = "parley:" if database == 0 else f"parley:db{database}:"
        self._topic = f"{root}topic:"
        self._probe = f"{root}probe:"
        self.control = f"{root}control".encode()

    def topic(self, conversation_id: ConversationId) -> bytes:
        return f"{self._topic}{conversation_id}".encode()

    def probe(self, tag: bytes) -> bytes:
        return self._probe.encode() + tag.removesuffix(_END_OF_TAG)


def make_tag(replica_id: str, incarnation: str) -> bytes:
    """What stands in front of everything that one bus publishes: it knows its own by it, without decoding them.

    Raises:
        ValueError: the replica's name has more than one line.
    """
    tag = f"{replica_id}/{incarnation}".encode() + _END_OF_TAG
    if tag.count(_END_OF_TAG) != 1:
        raise ValueError("a replica's id is one line")
    return tag


def find_event(payload: bytes) -> bytes | None:
    """`payload` without its tag; None where there is no tag, so that it is not ours."""
    end = payload.find(_END_OF_TAG)
    return payload[end + 1 :] if end >= 0 else None


def pack(*words: bytes) -> bytes:
    """One command (https://redis.io/docs/latest/develop/reference/protocol-spec/)."""
    return b"*%d\r\n%b" % (len(words), b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words))


def backoff_limit_s(failures: int) -> float:
    """The longest pause after so many failures in a row: 50 ms, doubling up to 1 s. Take a random part of it."""
    return float(min(1.0, 0.05 * 2 ** min(failures - 1, 10)))
