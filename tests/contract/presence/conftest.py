"""The contract runs over both stores, with real time and short times."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from uuid import uuid4

import pytest
from prometheus_client import CollectorRegistry
from redis import Redis

from services.presence.model import Presence
from services.presence.store import PresenceStore, StoreTimes, open_store
from services.presence.store.memory import MemoryPresenceStore
from services.runtime.clock import SystemClock
from services.runtime.metrics import Metrics

TTL_S = 0.6
GRACE_S = 0.3
SETTLE_S = 0.2
TIMES = StoreTimes(
    lease_ttl=timedelta(seconds=TTL_S),
    grace=timedelta(seconds=GRACE_S),
    settle=timedelta(seconds=SETTLE_S),
    tick=timedelta(seconds=0.05),
    activity_kept=timedelta(seconds=60),
)


class Replica:
    """A started store and what it was told."""

    def __init__(self, store: PresenceStore) -> None:
        self.store = store
        self.told: list[Presence] = []
        self.missed = 0

    def presence_changed(self, presences: Sequence[Presence]) -> None:
        self.told.extend(presences)

    def changes_were_missed(self) -> None:
        self.missed += 1


class World:
    """One installation: its replicas share what is stored, and nobody else does."""

    def __init__(self, url: str, prefix: str) -> None:
        self.url = url
        self._prefix = prefix
        self._opened: list[PresenceStore] = []

    async def open_replica(self) -> Replica:
        """Started, hearing, and ticked once."""
        replica = Replica(self.open_store())
        await replica.store.start(replica)
        async with asyncio.timeout(5):
            while not replica.missed:  # noqa: ASYNC110 - the store tells nobody else
                await asyncio.sleep(0.005)
        await replica.store.tick()
        return replica

    def open_store(self) -> PresenceStore:
        store = open_store(
            self.url, key_prefix=self._prefix, times=TIMES, clock=SystemClock(), metrics=Metrics(CollectorRegistry())
        )
        self._opened.append(store)
        return store

    def lose_everything(self) -> None:
        """As FLUSHALL does, but for this installation alone."""
        if self.url.startswith("memory://"):
            assert isinstance(self._opened[0], MemoryPresenceStore)
            self._opened[0].lose_everything()
            return
        with Redis.from_url(self.url) as client:
            for key in client.scan_iter(f"{self._prefix}*", count=1000):
                client.delete(key)

    async def close(self) -> None:
        async with AsyncExitStack() as closing:
            for store in self._opened:
                closing.push_async_callback(store.close)


OpenReplica = Callable[[], Awaitable[Replica]]


@pytest.fixture(params=["memory", "redis"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    before = asyncio.all_tasks()
    if request.param == "memory":
        url, prefix = f"memory://{uuid4().hex}", ""
    else:
        url, prefix = request.getfixturevalue("redis_url"), request.getfixturevalue("redis_prefix")
    world = World(url, prefix)
    yield world
    await world.close()
    assert asyncio.all_tasks() <= before | {asyncio.current_task()}, "a task outlives its store"


@pytest.fixture
async def replica(world: World) -> Replica:
    return await world.open_replica()


@pytest.fixture
def store(replica: Replica) -> PresenceStore:
    return replica.store
