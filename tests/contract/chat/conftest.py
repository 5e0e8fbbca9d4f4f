"""The store contract runs over three: SQLite, MongoDB by motor (what the service uses), MongoDB by pymongo's own
asynchronous client (what it will use)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pymongo
import pytest
from pymongo import AsyncMongoClient

from scripts.servers import Mongod
from services.chat.store import Store, open_store
from services.chat.store.mongo import MongoStore

# Makes one more store over the test's own database, not started.
MakeStore = Callable[[], Store]
# The same, started; closed when the test ends.
StartStore = Callable[[], Awaitable[Store]]


@pytest.fixture(scope="session")
def chat_database_url(mongod: Mongod) -> Iterator[str]:
    """A database for the store tests, which they empty: making one with its indexes takes 150 ms each time."""
    name = f"test_{uuid4().hex}"
    yield mongod.url_of(name)
    with pymongo.MongoClient[dict[str, object]](mongod.url) as client:
        client.drop_database(name)


@pytest.fixture
def empty_database_url(chat_database_url: str) -> str:
    with pymongo.MongoClient[dict[str, object]](chat_database_url) as client:
        database = client.get_default_database()
        for name in database.list_collection_names():
            database[name].delete_many({})
    return chat_database_url


@pytest.fixture(params=["sqlite", "motor", "pymongo"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
    if request.param == "sqlite":
        return lambda: open_store(f"sqlite:///{tmp_path}/data/chat.db")
    url: str = request.getfixturevalue("empty_database_url")
    if request.param == "motor":
        return lambda: open_store(url)
    return lambda: MongoStore(url, client_factory=AsyncMongoClient)


@pytest.fixture
async def start_store(make_store: MakeStore) -> AsyncIterator[StartStore]:
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
