"""Deployments for the whole session, and a world of one's own for each test."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.deployments import (
    DRAIN_S,
    PUSH_KEY,
    QUICK_CONNECT_LIMIT,
    QUICK_HEARTBEATS,
    QUICK_PRESENCE,
    ROOMY_LIMITS,
    WEB_PUSH,
    Deployment,
    Embedded,
    FullStack,
)
from tests.e2e.world import World
from tests.support.push_services import WebPushService

_RUNTIME = {"PARLEY_RUNTIME_DRAIN_S": f"{DRAIN_S:g}"}
_EDGE = {**ROOMY_LIMITS, **QUICK_HEARTBEATS, **QUICK_CONNECT_LIMIT, **_RUNTIME}
_PRESENCE = {**QUICK_PRESENCE, **_RUNTIME}
_NOTIFY = {**WEB_PUSH, **_RUNTIME}


@pytest.fixture(scope="session")
def embedded(session_directory: Path) -> Iterator[Embedded]:
    """One process with everything."""
    deployment = Embedded(session_directory / "embedded", {**_EDGE, **_PRESENCE, **_NOTIFY})
    deployment.start()
    yield deployment
    deployment.stop()


@pytest.fixture(scope="session")
def stack(session_directory: Path) -> Iterator[FullStack]:
    """Two edges and two chats on real servers. Nobody kills anything here; see `faulty_stack`."""
    deployment = full_stack(session_directory / "stack", presence=_PRESENCE, rabbitmq=True)
    deployment.start()
    yield deployment
    deployment.stop()


@pytest.fixture(scope="session")
def _faulty_stack(session_directory: Path) -> Iterator[FullStack]:
    deployment = full_stack(session_directory / "faulty-stack", presence=_RUNTIME, rabbitmq=False)
    deployment.start()
    yield deployment
    deployment.stop()


@pytest.fixture
def faulty_stack(_faulty_stack: FullStack) -> Iterator[FullStack]:
    """A stack whose processes a test may kill and terminate; whatever is gone is started again afterwards."""
    _faulty_stack.heal()
    yield _faulty_stack
    _faulty_stack.heal()


def full_stack(directory: Path, *, presence: Mapping[str, str], rabbitmq: bool) -> FullStack:
    """`presence`: its settings; where processes are killed and restarted its own times have to hold. `rabbitmq` False
    saves its 10 s where no test is about notifications: then nobody is sent any."""
    settings = {"edge": _EDGE, "chat": _RUNTIME, "presence": presence, "notify": _NOTIFY}
    return FullStack(directory, settings, rabbitmq=rabbitmq)


@pytest.fixture(scope="session", params=["embedded", "stack"])
def deployment(request: pytest.FixtureRequest) -> Deployment:
    """Each of the two ways to run the code."""
    found: Deployment = request.getfixturevalue(request.param)
    return found


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """One HTTP client for the test; without aiohttp's limit of 100 connections."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30)) as session:
        yield session


@pytest.fixture
async def closing() -> AsyncIterator[AsyncExitStack]:
    """Closes whatever a test has pushed onto it."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def browsers() -> AsyncIterator[WebPushService]:
    """Where this test's devices are: a push service and the browsers behind it, which decrypt what they get."""
    async with WebPushService(PUSH_KEY) as service:
        yield service


@pytest.fixture
def world(deployment: Deployment, http: aiohttp.ClientSession, closing: AsyncExitStack) -> World:
    return World(deployment, http, closing)


@pytest.fixture
def stack_world(stack: FullStack, http: aiohttp.ClientSession, closing: AsyncExitStack) -> World:
    """A world over two edges and two chats."""
    return World(stack, http, closing)


@pytest.fixture
def faulty_world(faulty_stack: FullStack, http: aiohttp.ClientSession, closing: AsyncExitStack) -> World:
    """A world whose processes may die."""
    return World(faulty_stack, http, closing)
