"""Worlds: over each store, over Redis, and over a Redis of its own that a test may harm."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest

from scripts.servers import RedisServer
from tests.e2e.waiting import eventually
from tests.integration.presence.world import World


@pytest.fixture(params=["memory", "redis"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """Over each store."""
    if request.param == "memory":
        world = World(f"memory://{uuid4().hex}", "")
    else:
        world = World(request.getfixturevalue("redis_url"), request.getfixturevalue("redis_prefix"))
    async with _left_clean(world):
        yield world


@pytest.fixture
async def redis_world(redis_url: str, redis_prefix: str) -> AsyncIterator[World]:
    """For what takes its time: tests/contract/presence holds the other store to the same times."""
    async with _left_clean(World(redis_url, redis_prefix)) as world:
        yield world


@pytest.fixture
async def fragile(own_redis: RedisServer) -> AsyncIterator[World]:
    """A world over that Redis."""
    async with _left_clean(World(own_redis.url, "fragile:")) as world:
        yield world


@asynccontextmanager
async def _left_clean(world: World) -> AsyncIterator[World]:
    before = asyncio.all_tasks()
    yield world
    await world.stop()

    def left() -> set[asyncio.Task[Any]]:
        return asyncio.all_tasks() - before - {asyncio.current_task()}

    # Closed connections' readers are just ending.
    await eventually(lambda: not left(), what=f"tasks that are left behind: {left()}")
