"""The bus of replicas that live in one process: the embedded default, and what tests use.

All buses of one name hear one another. Delivery is on the event loop, soon, never inside `publish`. One event loop: it
is not for threads. A replica that does not keep up loses events, as it would with a broker, and is told.
"""

import asyncio
from collections import deque

from services.chat.bus import BusListener
from services.chat.model import ConversationId

# Events that wait for one replica; beyond them it is deaf. Its loop is then at least tens of milliseconds behind.
_MAX_WAITING = 10_000
# Events handed over before others get the loop: a few milliseconds of a listener's work.
_MAX_AT_ONCE = 200

# The started buses of each name. Only a place known to the whole process can let those meet that were opened apart;
# an entry goes with its last bus.
_started: dict[str, list["MemoryBus"]] = {}


class MemoryBus:
    """See `services.chat.bus.Bus`. `dropped` counts the events that some other replica had no room for."""

    def __init__(self, name: str, *, replica_id: str) -> None:
        self.dropped = 0
        self._name = name
        self._replica_id = replica_id
        self._listener: BusListener | None = None
        self._subscribed: set[ConversationId] = set()
        self._inbox: deque[tuple[ConversationId, bytes]] = deque()
        self._is_draining = False
        self._has_missed = False

    def __repr__(self) -> str:
        return f"MemoryBus({self._name!r}, replica_id={self._replica_id!r})"

    @property
    def is_connected(self) -> bool:
        return self._listener is not None

    async def start(self, listener: BusListener) -> None:
        self._listener = listener
        _started.setdefault(self._name, []).append(self)

    async def close(self) -> None:
        if self._listener is None:
            return
        self._listener = None
        self._inbox.clear()
        self._subscribed.clear()
        others = _started[self._name]
        others.remove(self)
        if not others:
            del _started[self._name]

    async def subscribe(self, conversation_id: ConversationId) -> None:
        self._subscribed.add(conversation_id)

    def unsubscribe(self, conversation_id: ConversationId) -> None:
        self._subscribed.discard(conversation_id)

    def publish(self, conversation_id: ConversationId, event: bytes) -> None:
        if self._listener is None:
            self.dropped += 1
            return
        for other in _started[self._name]:
            if other is not self and not other._take(conversation_id, event):
                self.dropped += 1

    def _take(self, conversation_id: ConversationId, event: bytes) -> bool:
        if conversation_id not in self._subscribed:
            return True
        if len(self._inbox) >= _MAX_WAITING:
            self._has_missed = True
            return False
        self._inbox.append((conversation_id, event))
        if not self._is_draining:
            self._is_draining = True
            asyncio.get_running_loop().call_soon(self._drain)
        return True

    def _drain(self) -> None:
        try:
            for _ in range(min(len(self._inbox), _MAX_AT_ONCE)):
                conversation_id, event = self._inbox.popleft()
                if self._listener is not None and conversation_id in self._subscribed:
                    self._listener.bus_event(conversation_id, event)
                if self._listener is None:  # closed, perhaps by what it just heard
                    break
        finally:
            self._is_draining = bool(self._inbox)
            if self._is_draining:
                asyncio.get_running_loop().call_soon(self._drain)
        if not self._is_draining and self._has_missed and self._listener is not None:
            self._has_missed = False
            self._listener.bus_was_deaf()
