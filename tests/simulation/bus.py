"""Hints between the simulated replicas: late, lost, doubled, out of order, or not at all for a while.

Keeps what `services.chat.bus` promises: nothing, but that a listener that was deaf is told so.
"""

import asyncio
import random

from services.chat.bus import BusListener
from services.chat.model import ConversationId
from tests.simulation.loop import SimProcess
from tests.simulation.trouble import Trouble

_SUBSCRIBE_S = 0.004


class SimBroker:
    """Where the buses of all replicas meet."""

    def __init__(self, trouble: Trouble, rng: random.Random) -> None:
        self.trouble = trouble
        self.rng = rng
        self.buses: list[SimBus] = []
        self.lost = 0


class SimBus:
    """A replica's `Bus`."""

    def __init__(self, broker: SimBroker, process: SimProcess) -> None:
        self._broker = broker
        self._process = process
        self._listener: BusListener | None = None
        self._subscribed: set[ConversationId] = set()
        self._is_deaf = False

    @property
    def is_connected(self) -> bool:
        return not self._is_deaf

    async def start(self, listener: BusListener) -> None:
        self._listener = listener
        self._broker.buses.append(self)

    async def close(self) -> None:
        self._listener = None
        self._broker.buses.remove(self)

    async def subscribe(self, conversation_id: ConversationId) -> None:
        await asyncio.sleep(self._broker.rng.random() * _SUBSCRIBE_S)
        self._subscribed.add(conversation_id)

    def unsubscribe(self, conversation_id: ConversationId) -> None:
        self._subscribed.discard(conversation_id)

    def publish(self, conversation_id: ConversationId, event: bytes) -> None:
        if not self._process.is_alive or self._is_deaf:
            return
        broker, rng = self._broker, self._broker.rng
        loop = asyncio.get_running_loop()
        for other in broker.buses:
            if other is self or conversation_id not in other._subscribed:
                continue
            if rng.random() < broker.trouble.lost_hint_odds:
                broker.lost += 1
                continue
            copies = 2 if rng.random() < broker.trouble.doubled_hint_odds else 1
            for _ in range(copies):
                late_s = rng.random() * broker.trouble.late_hint_s
                loop.call_later(late_s, other._hear, conversation_id, event, context=other._process.context)

    def go_deaf(self) -> None:
        self._is_deaf = True

    def hear_again(self) -> None:
        self._is_deaf = False
        if self._listener is not None and self._process.is_alive:
            self._process.context.run(self._listener.bus_was_deaf)

    def _hear(self, conversation_id: ConversationId, event: bytes) -> None:
        hears = self._process.is_alive and not self._is_deaf and conversation_id in self._subscribed
        if hears and self._listener is not None:
            self._listener.bus_event(conversation_id, event)
