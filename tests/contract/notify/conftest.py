"""The queue contract runs over two: in memory and RabbitMQ. The store contract over three: SQLite, MongoDB by motor
(what the service uses) and by pymongo's own asynchronous client (what it will use)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from pymongo import AsyncMongoClient

from services.notify.queue import Queue, QueueOptions, open_queue
from services.notify.store import Store, open_store
from services.notify.store.mongo import MongoStore

# Opens the test's own queue once more, started; closed when the test ends.
StartQueue = Callable[[], Awaitable[Queue]]
StartStore = Callable[[], Awaitable[Store]]


@pytest.fixture
def queue_options(amqp_prefix: str) -> QueueOptions:
    """Delays that a test can wait for."""
    return QueueOptions(
        retry_delays=tuple(timedelta(milliseconds=ms) for ms in (50, 100, 200, 400)),
        delays=(timedelta(milliseconds=300), timedelta(seconds=60)),
        prefetch=8,
        prefix=amqp_prefix,
        stop_grace=timedelta(milliseconds=300),
    )


@pytest.fixture(params=["memory", "rabbitmq"])
def queue_url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return "memory://notify"
    url: str = request.getfixturevalue("amqp_url")
    return url


@pytest.fixture
async def queue(queue_url: str, queue_options: QueueOptions) -> AsyncIterator[Queue]:
    opened = open_queue(queue_url, queue_options)
    await opened.start()
    assert opened.is_connected
    yield opened
    await opened.close()


@pytest.fixture(params=["sqlite", "motor", "pymongo"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    if request.param == "sqlite":
        return lambda: open_store(f"sqlite:///{tmp_path}/data/notify.db")
    url: str = request.getfixturevalue("mongo_database_url")
    if request.param == "motor":
        return lambda: open_store(url)
    return lambda: MongoStore(url, client_factory=AsyncMongoClient)


@pytest.fixture
async def start_store(make_store: Callable[[], Store]) -> AsyncIterator[StartStore]:
    started: list[Store] = []

    async def start() -> Store:
        store = make_store()
        await store.start()
        started.append(store)
        return store

    yield start
    for store in started:
        await store.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}, "a task outlives its store"


@pytest.fixture
async def store(start_store: StartStore) -> Store:
    return await start_store()
