"""Any of a service's addresses: in turn, past those that fail."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry

from services.runtime.errors import NotFound, Unavailable
from services.runtime.metrics import Metrics
from services.runtime.resilience import CallPolicy
from services.runtime.server import GrpcServer
from services.runtime.targets import NoTarget, Targets
from tests.integration.runtime.loopback import SERVICE, Sample
from tests.support.clock import ManualClock

POLICY = CallPolicy(deadline=timedelta(seconds=5))
# Nothing listens there, and nothing can: the connection is refused at once.
NOWHERE = "127.0.0.1:1"


class Replica:
    """The sample service on a port of its own."""

    def __init__(self) -> None:
        self.sample = Sample()
        self._server = GrpcServer("127.0.0.1:0", metrics=Metrics(CollectorRegistry()))
        self._server.add(self.sample.register, SERVICE)
        self.target = ""

    async def __aenter__(self) -> "Replica":
        self.target = f"127.0.0.1:{await self._server.start()}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.drain(0)


@pytest.fixture
async def replicas() -> AsyncIterator[list[Replica]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Replica()) for _ in range(3)]


def targets_of(*addresses: str) -> Targets:
    return Targets(SERVICE, addresses, package="", clock=ManualClock(), metrics=Metrics(CollectorRegistry()))


async def ask(targets: Targets, request: str = "hello") -> str:
    return await targets.call("UnaryUnary", request, encode=str.encode, decode=bytes.decode, policy=POLICY)


async def test_each_call_goes_to_the_next_address(replicas: list[Replica]) -> None:
    targets = targets_of(*(each.target for each in replicas))
    for _ in range(6):
        assert await ask(targets) == "hello"
    assert [each.sample.answered for each in replicas] == [2, 2, 2]
    await targets.close()


async def test_an_address_that_fails_is_passed_by(replicas: list[Replica]) -> None:
    targets = targets_of(NOWHERE, replicas[0].target)
    for _ in range(4):
        assert await ask(targets) == "hello"
    assert replicas[0].sample.answered == 4
    await targets.close()


async def test_calls_at_the_same_time_each_try_every_address(replicas: list[Replica]) -> None:
    targets = targets_of(NOWHERE, replicas[0].target)
    assert await asyncio.gather(*(ask(targets) for _ in range(2))) == ["hello", "hello"]
    assert replicas[0].sample.answered == 2
    await targets.close()


async def test_where_every_address_fails_the_last_failure_is_told() -> None:
    targets = targets_of(NOWHERE, NOWHERE)
    with pytest.raises(Unavailable):
        await ask(targets)
    await targets.close()


async def test_a_refusal_comes_as_the_error_that_it_is(replicas: list[Replica]) -> None:
    targets = targets_of(*(each.target for each in replicas))
    with pytest.raises(NotFound):
        await ask(targets, "refuse")
    await targets.close()


async def test_without_an_address_that_is_what_is_told() -> None:
    targets = targets_of()
    with pytest.raises(NoTarget, match=SERVICE):
        await ask(targets)
    await targets.close()
