"""One private MongoDB, Redis and RabbitMQ per test session, each started when the first test asks for it.

Loaded as a pytest plugin. A server that is missing or does not start is an error of the tests that need it,
never a reason to skip them. Tests share the servers, so each keeps to itself: its own database, key prefix,
queue prefix.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pymongo
import pytest

from scripts.servers import Mongod, RabbitNode, RedisServer

_BASE = Path(__file__).parents[2] / ".local" / "tests"


@pytest.fixture(scope="session")
def session_directory() -> Iterator[Path]:
    """A directory of this session under `.local/tests`; those of sessions that are gone are removed."""
    _BASE.mkdir(parents=True, exist_ok=True)
    for earlier in _BASE.glob("session-*"):
        if not Path(f"/proc/{earlier.name.removeprefix('session-')}").exists():
            shutil.rmtree(earlier, ignore_errors=True)
    directory = _BASE / f"session-{os.getpid()}"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def mongod(session_directory: Path) -> Iterator[Mongod]:
    """The session's mongod. Whoever kills or pauses it has to bring it back before the test ends."""
    with Mongod(session_directory / "mongod") as server:
        yield server


@pytest.fixture(scope="session")
def redis_server(session_directory: Path) -> Iterator[RedisServer]:
    with RedisServer(session_directory / "redis") as server:
        yield server


@pytest.fixture(scope="session")
def rabbit_node(session_directory: Path) -> Iterator[RabbitNode]:
    with RabbitNode(session_directory / "rabbitmq") as server:
        yield server


@pytest.fixture(scope="session")
def mongo_url(mongod: Mongod) -> str:
    """`mongodb://127.0.0.1:PORT/?replicaSet=rs0`"""
    return mongod.url


@pytest.fixture(scope="session")
def redis_url(redis_server: RedisServer) -> str:
    """`redis://127.0.0.1:PORT/0`"""
    return redis_server.url


@pytest.fixture(scope="session")
def amqp_url(rabbit_node: RabbitNode) -> str:
    """`amqp://guest:guest@127.0.0.1:PORT/`"""
    return rabbit_node.url


@pytest.fixture(scope="session")
def _mongo_janitor(mongo_url: str) -> Iterator[pymongo.MongoClient[dict[str, object]]]:
    with pymongo.MongoClient[dict[str, object]](mongo_url) as client:
        yield client


@pytest.fixture
def mongo_database(_mongo_janitor: pymongo.MongoClient[dict[str, object]]) -> Iterator[str]:
    """The name of a database that only this test uses, dropped afterwards."""
    name = f"test_{uuid4().hex}"
    yield name
    _mongo_janitor.drop_database(name)


@pytest.fixture
def mongo_database_url(mongod: Mongod, mongo_database: str) -> str:
    """The URL of that database: `mongodb://127.0.0.1:PORT/NAME?replicaSet=rs0`"""
    return mongod.url_of(mongo_database)


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that only this test uses, and may do anything to: it may be in any state when the test ends."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_prefix() -> str:
    """What every key and channel of this test begins with."""
    return f"test-{uuid4().hex}:"


@pytest.fixture
def amqp_prefix() -> str:
    """What the name of every queue and exchange of this test begins with."""
    return f"test-{uuid4().hex}."
