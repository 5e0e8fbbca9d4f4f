"""Presence while edges come and go: nobody flaps who comes back, and nobody stays who cannot."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import aiohttp
import pytest

from tests.e2e.api import Json, User
from tests.e2e.deployments import FullStack
from tests.e2e.raw import RawClient
from tests.e2e.waiting import eventually
from tests.e2e.world import PRESENCE, World

LEASE_TTL_S = 15.0
"""The default, which no deployment of these tests changes."""


class Roamer:
    """A client that listens to presence, and goes to the next edge whenever its own sends it away."""

    def __init__(self, world: World, user: User, edge: int) -> None:
        self.user = user
        self.connections = 0
        self._world = world
        self._edge = edge
        self._client: RawClient | None = None
        self._told: list[Json] = []
        self._roaming = asyncio.create_task(self._roam())

    @property
    def told(self) -> list[Json]:
        """Every presence event of every connection so far."""
        return [*self._told, *(() if self._client is None else _events(self._client))]

    def statuses_of(self, user: User) -> list[str]:
        return [event["status"] for event in self.told if event["userId"] == user.user_id]

    async def close(self) -> None:
        self._roaming.cancel()
        await asyncio.wait((self._roaming,))
        if self._client is not None:
            await self._client.close()

    def stay(self) -> None:
        """Goes nowhere else when its edge is gone."""
        self._roaming.cancel()

    async def _roam(self) -> None:
        while True:
            with suppress(aiohttp.ClientError, OSError):
                client = await RawClient.open(self._world.http, self._world.edge(self._edge), name=self.user.user_id)
                await client.connect(self.user.token)
                self._client = client
                await client.subscribe(PRESENCE, "presence")
                self.connections += 1
                await client.closed(timeout_s=120)
                self._told += _events(client)
                self._client = None
            self._edge += 1


def _events(client: RawClient) -> list[Json]:
    return [frame.json() for frame in client.inbox.frames if frame.command == "MESSAGE"]


@pytest.fixture
async def roamers(faulty_world: World) -> AsyncIterator[list[Roamer]]:
    members: list[Roamer] = []
    yield members
    for member in members:
        await member.close()


async def pair(world: World, roamers: list[Roamer], *, edges: tuple[int, int]) -> tuple[Roamer, Roamer]:
    """Two people who share a conversation, each seen online by the other."""
    ann, ben = await world.users(2)
    await world.direct(ann, ben)
    roamers += [Roamer(world, ann, edges[0]), Roamer(world, ben, edges[1])]
    at_ann, at_ben = roamers[-2:]
    await eventually(lambda: at_ann.statuses_of(ben)[-1:] == at_ben.statuses_of(ann)[-1:] == ["online"])
    return at_ann, at_ben


@pytest.mark.timeout(150)
async def test_rolling_restart_of_the_edges_shows_nobody_offline(
    faulty_world: World, faulty_stack: FullStack, roamers: list[Roamer]
) -> None:
    at_ann, at_ben = await pair(faulty_world, roamers, edges=(0, 1))
    seen_before = len(at_ann.told), len(at_ben.told)
    for edge in ("edge-1", "edge-2"):
        await asyncio.to_thread(faulty_stack.stack.restart, edge)
        # Everybody is on the edge that was not restarted last; what they were told there comes soon.
        await eventually(lambda: at_ann.statuses_of(at_ben.user)[-1:] == ["online"])
        await eventually(lambda: at_ben.statuses_of(at_ann.user)[-1:] == ["online"])
    assert at_ann.connections >= 2
    assert at_ben.connections >= 2
    later = at_ann.told[seen_before[0] :] + at_ben.told[seen_before[1] :]
    assert later
    assert "offline" not in [event["status"] for event in later]


@pytest.mark.timeout(150)
async def test_killed_edge_takes_its_users_with_it_within_its_lease_and_five_seconds(
    faulty_world: World, faulty_stack: FullStack, roamers: list[Roamer]
) -> None:
    at_ann, at_ben = await pair(faulty_world, roamers, edges=(0, 1))
    at_ann.stay()
    killed_at = time.monotonic()
    await asyncio.to_thread(faulty_stack.stack.kill, "edge-1")
    await eventually(lambda: at_ben.statuses_of(at_ann.user)[-1:] == ["offline"], timeout_s=LEASE_TTL_S + 10)
    assert 5 < time.monotonic() - killed_at < LEASE_TTL_S + 5  # sooner, and it was no lease that ended
