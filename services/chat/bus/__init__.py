"""Hints between chat replicas: what one of them passed on, so that the others need not ask the log.

Nothing here is relied on. An event may be lost, late or repeated; every topic notices by its seqs and reads the gap
from the log. What is relied on is `BusListener.bus_was_deaf`: after any time in which events may have been missed, the
listener is told, and checks every watched topic against its head. tests/contract/chat/test_bus.py runs over both buses.
"""

from typing import Protocol

from services.chat.model import ConversationId


class BusListener(Protocol):
    """Called on the event loop; must not block or raise."""

    def bus_event(self, conversation_id: ConversationId, event: bytes) -> None:
        """Another replica published `event`; never called with what this replica published itself."""

    def bus_was_deaf(self) -> None:
        """Events may have been missed for any subscription; all of them work again now."""


class Bus(Protocol):
    async def start(self, listener: BusListener) -> None:
        """Begins to deliver. A broker that is away does not fail the start: the bus keeps trying, and reports
        `bus_was_deaf` once it hears again."""

    async def close(self) -> None:
        """Flushes what `publish` took, within a bound, and disconnects."""

    async def subscribe(self, conversation_id: ConversationId) -> None:
        """Events of this conversation, from when this returns. Idempotent.

        While the broker is away it returns at once: the subscription is made on reconnecting, and `bus_was_deaf`
        follows. Never waits longer than a second.
        """

    def unsubscribe(self, conversation_id: ConversationId) -> None:
        """No more of them, soon. A later `subscribe` of the same conversation is never undone by it."""

    def publish(self, conversation_id: ConversationId, event: bytes) -> None:
        """Tells the other replicas, soon, in batches; order is kept within a conversation while the broker is up.

        Never waits and never fails: while the broker is away, or more than a bound waits, events are dropped (and
        counted).
        """

    @property
    def is_connected(self) -> bool: ...


def open_bus(url: str, *, replica_id: str) -> Bus:
    """The bus that `url` names: `redis://…`, `rediss://…` or `memory://name` (all in one process that use the name).

    Raises:
        ValueError: no such kind of bus.
    """
    if url.startswith(("redis://", "rediss://")):
        from services.chat.bus.redis import RedisBus

        return RedisBus(url, replica_id=replica_id)
    if url.startswith("memory://"):
        from services.chat.bus.memory import MemoryBus

        return MemoryBus(url.removeprefix("memory://"), replica_id=replica_id)
    raise ValueError(f"bus URL {url.split(':', 1)[0]!r}: expected redis://… or memory://…")
