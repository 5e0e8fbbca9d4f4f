"""The replicas of a run: who is up, who is asked, who is killed and comes back."""

import asyncio
import random

from services.chat.model import ConversationId
from tests.simulation.bus import SimBroker
from tests.simulation.loop import SimProcess
from tests.simulation.record import Record
from tests.simulation.replica import Parts, SimReplica
from tests.simulation.trouble import CALM, Trouble
from tests.simulation.truth import Truth

_BACK_S = 0.5
_DEAF_S = 1.0


class Fleet:
    def __init__(self, parts: Parts, truth: Truth, trouble: Trouble, record: Record, seed: int) -> None:
        self.trouble = trouble
        self._parts = parts
        self._truth = truth
        self._record = record
        self._seed = seed
        self._rng = random.Random(seed * 7 + 1)
        self._broker = SimBroker(trouble, random.Random(seed * 7 + 2))
        self._born = 0
        self._replicas: list[SimReplica] = []
        self._loop = asyncio.get_running_loop()

    async def start(self, count: int) -> None:
        for _ in range(count):
            self._replicas.append(await self._make())

    def route(self, conversation_id: ConversationId, rng: random.Random) -> SimReplica | None:
        """The conversation's own replica, mostly; None while none is up."""
        if rng.random() < self.trouble.misrouted_odds:
            return self.route_any(rng)
        up = [replica for replica in self._replicas if replica.is_alive]
        return up[sum(conversation_id.encode()) % len(up)] if up else None

    def route_any(self, rng: random.Random) -> SimReplica | None:
        up = [replica for replica in self._replicas if replica.is_alive]
        return rng.choice(up) if up else None

    async def kill_one(self) -> None:
        """Kills a replica; a new one, which knows nothing, takes its place a little later."""
        place = self._rng.randrange(len(self._replicas))
        victim = self._replicas[place]
        if not victim.is_alive:
            return
        self._record.note(self._loop.time(), "killed", f"replica {place}")
        await victim.kill()
        await asyncio.sleep(self._rng.random() * _BACK_S)
        self._replicas[place] = await self._make()

    async def deafen_one(self) -> None:
        bus = self._rng.choice(self._replicas).bus
        self._record.note(self._loop.time(), "deafened", "")
        bus.go_deaf()
        await asyncio.sleep(self._rng.random() * _DEAF_S)
        bus.hear_again()

    def heal(self) -> None:
        self.trouble = self._broker.trouble = CALM
        for replica in self._replicas:
            replica.store.trouble = CALM

    async def stop(self) -> None:
        self._record.counts["appends"] += sum(replica.store.appends for replica in self._replicas)
        self._record.counts["lost hints"] += self._broker.lost
        for replica in self._replicas:
            if replica.is_alive:
                for error in replica.find_unheard():
                    self._record.problem(self._loop.time(), f"a task of a replica failed, and nobody heard: {error!r}")
                await replica.kill()

    async def _make(self) -> SimReplica:
        self._born += 1
        seed = self._seed * 13 + self._born
        process = SimProcess()
        store = self._parts.store(self._truth, process, self.trouble, seed)
        replica = SimReplica(self._parts, store, self._broker, process, seed)
        await replica.start()
        return replica
