"""One stack with everything for the session, whose processes and servers a test may stop; and a world in it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from pymongo import AsyncMongoClient

from scripts.stack.stack import DATABASE
from tests.e2e.deployments import ROOMY_LIMITS, FullStack
from tests.e2e.world import World
from tests.integration.chat.receiver import Receiver
from tests.support.push_services import pem_of

Document = dict[str, Any]


@pytest.fixture(scope="session")
def application_key() -> ec.EllipticCurvePrivateKey:
    """What notify signs its pushes with."""
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="session")
def _stack(session_directory: Path, application_key: ec.EllipticCurvePrivateKey) -> Iterator[FullStack]:
    settings = {
        "edge": ROOMY_LIMITS,
        "notify": {
            "PARLEY_NOTIFY_VAPID_PRIVATE_KEY": pem_of(application_key),
            "PARLEY_NOTIFY_VAPID_SUBJECT": "mailto:ops@example.org",
            "PARLEY_NOTIFY_WEBPUSH_PRIVATE_ENDPOINTS": "true",
        },
    }
    deployment = FullStack(session_directory / "fault-stack", settings, rabbitmq=True)
    deployment.start()
    yield deployment
    deployment.stop()


@pytest.fixture
def stack(_stack: FullStack) -> Iterator[FullStack]:
    """Two edges, two chats and all servers. Whatever a test has ended is started again after it."""
    yield _stack
    for server in _stack.stack.processes.values():
        if not server.is_alive:
            server.restart()
    _stack.heal()


@pytest.fixture
async def world(stack: FullStack) -> AsyncIterator[World]:
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30)) as http,
        AsyncExitStack() as closing,
    ):
        yield World(stack, http, closing)


@pytest.fixture
async def receiver(application_key: ec.EllipticCurvePrivateKey) -> AsyncIterator[Receiver]:
    async with Receiver(application_key) as service:
        yield service
        service.answer_everything()


@pytest.fixture
async def mongo(stack: FullStack) -> AsyncIterator[AsyncMongoClient[Document]]:
    """Past every service, into the database that they share."""
    async with AsyncMongoClient[Document](stack.stack.mongod.url_of(DATABASE)) as client:
        yield client
