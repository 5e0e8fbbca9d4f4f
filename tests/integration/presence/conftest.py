"""Worlds over both stores, and one over a Redis of its own that a test may harm."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from scripts.servers import RedisServer
from tests.integration.presence.world import World


@pytest.fixture(params=["memory", "redis"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    if request.param == "memory":
        world = World(f"memory://{uuid4().hex}", "")
    else:
        world = World(request.getfixturevalue("redis_url"), request.getfixturevalue("redis_prefix"))
    before = asyncio.all_tasks()
    yield world
    await world.stop()
    await asyncio.sleep(0.05)  # closed connections' readers are just ending
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not left, left


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that may be in any state when the test ends."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def fragile(server: RedisServer) -> AsyncIterator[World]:
    """A world over that Redis."""
    world = World(server.url, "fragile:")
    yield world
    await world.stop()
