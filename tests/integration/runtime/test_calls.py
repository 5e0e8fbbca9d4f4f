"""A caller and a server of ours agree about errors, deadlines, cancellation and correlation."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import grpc
import pytest

from services.runtime import errors, log
from services.runtime.breaker import Breaker
from services.runtime.clock import SystemClock
from services.runtime.resilience import Caller, CallPolicy, ChannelClosed, CircuitOpen
from services.runtime.server import GrpcServer
from tests.integration.runtime.loopback import SERVICE, Loopback, ShelfEmpty, loopback

ONCE = CallPolicy(timedelta(seconds=5))


class Pair:
    """The caller, and the peer that it calls."""

    def __init__(self, peer: Loopback) -> None:
        self.peer = peer
        clock = SystemClock()
        self.breaker = Breaker(
            "peer", clock=clock, metrics=peer.metrics, fail_max=3, reset_after=timedelta(milliseconds=200)
        )
        self.caller = Caller(self.breaker, clock, peer.metrics)

    async def call(self, request: bytes, policy: CallPolicy = ONCE) -> bytes:
        answer: bytes = await self.caller.call(self.peer.unary_unary, request, policy=policy, method="UnaryUnary")
        return answer


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with loopback() as peer:
        yield Pair(peer)


async def test_an_error_arrives_as_the_class_that_was_raised(pair: Pair) -> None:
    with pytest.raises(ShelfEmpty) as caught:
        await pair.call(b"refuse")
    assert caught.value.fields["shelf"] == "a3"
    assert isinstance(caught.value.__cause__, grpc.aio.AioRpcError)


async def test_the_correlation_id_of_the_caller_is_that_of_the_handler(pair: Pair) -> None:
    bound = log.bind_correlation(None)
    assert await pair.call(b"correlation") == bound.encode()


async def test_the_deadline_of_the_policy_reaches_the_handler_and_ends_the_call(pair: Pair) -> None:
    policy = CallPolicy(timedelta(seconds=1.5))
    assert 1.0 < float(await pair.call(b"time left", policy)) <= 1.5
    with pytest.raises(errors.DeadlineExceeded):
        await pair.call(b"wait", CallPolicy(timedelta(seconds=0.1)))
    await asyncio.wait_for(pair.peer.sample.cancelled.wait(), 5)


async def test_cancelling_the_caller_cancels_the_handler_and_is_no_failure(pair: Pair) -> None:
    for _ in range(4):
        pair.peer.sample.running.clear()
        pair.peer.sample.cancelled.clear()
        task = asyncio.ensure_future(pair.call(b"wait"))
        await asyncio.wait_for(pair.peer.sample.running.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(pair.peer.sample.cancelled.wait(), 5)
    assert pair.breaker.state == "closed"


async def test_closing_the_channel_under_a_call_is_an_error_and_not_a_cancellation(pair: Pair) -> None:
    task = asyncio.ensure_future(pair.call(b"wait"))
    await asyncio.wait_for(pair.peer.sample.running.wait(), 5)
    await pair.peer.channel.close()
    with pytest.raises(ChannelClosed):
        await task
    with pytest.raises(ChannelClosed):
        await pair.call(b"hello")
    assert pair.breaker.state == "closed"


async def test_bugs_of_the_peer_open_the_breaker_and_an_answer_closes_it(pair: Pair) -> None:
    for _ in range(3):
        with pytest.raises(errors.Internal):
            await pair.call(b"bug")
    with pytest.raises(CircuitOpen):
        await pair.call(b"hello")
    assert pair.peer.sample.answered == 0
    async with asyncio.timeout(5):
        while pair.breaker.state != "closed":
            await asyncio.sleep(0.02)
            try:
                assert await pair.call(b"hello") == b"hello"
            except CircuitOpen:
                continue


async def test_an_idempotent_call_outlasts_the_restart_of_its_peer(pair: Pair) -> None:
    """It fails while nobody listens, waits, and finds the new server on the same port."""
    policy = CallPolicy(timedelta(seconds=10), attempts=50, idempotent=True, max_pause=timedelta(seconds=0.1))
    assert await pair.call(b"hello") == b"hello"
    metrics = pair.peer.metrics
    await pair.peer.server.drain(0)

    waited: list[float] = []
    failed_once = asyncio.Event()

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        failed_once.set()
        await asyncio.sleep(seconds)

    patient = Breaker("patient", clock=SystemClock(), metrics=metrics, fail_max=1000)
    caller = Caller(patient, SystemClock(), metrics, sleep=sleep)
    call = asyncio.ensure_future(caller.call(pair.peer.unary_unary, b"hello", policy=policy, method="UnaryUnary"))
    await asyncio.wait_for(failed_once.wait(), 5)

    successor = GrpcServer(f"127.0.0.1:{pair.peer.server.port}", metrics=metrics)
    successor.add(pair.peer.sample.register, SERVICE)
    await successor.start()
    assert await call == b"hello"
    assert len(waited) >= 1
    await successor.drain(0)
