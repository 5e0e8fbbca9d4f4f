"""A peer that freezes, dies or restarts is noticed, and found again, in about a second."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import grpc

from services.runtime.channel import open_channel, outgoing_metadata
from services.runtime.log import correlation_id
from services.runtime.wire import Keepalive
from tests.integration.runtime.loopback import SERVICE, method, stream

PEER = "tests.integration.runtime.peer"


@asynccontextmanager
async def peer_process(port: int = 0) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """The sample service in a process of its own, which a test may stop and kill."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", PEER, str(port), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            yield process, int(await process.stdout.readline())
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def failure_of(call: Awaitable[object], within_s: float) -> tuple[grpc.StatusCode, float]:
    """The code with which the call fails, and after how many seconds."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(within_s):
            await call
    except grpc.aio.AioRpcError as error:
        return error.code(), time.monotonic() - began
    raise AssertionError("the call did not fail")


async def test_a_frozen_peer_is_noticed_long_before_the_deadline() -> None:
    keepalive = Keepalive(silence=timedelta(milliseconds=300), timeout=timedelta(milliseconds=500))
    async with peer_process() as (process, port):
        channel = open_channel(f"127.0.0.1:{port}", keepalive=keepalive)
        call = stream(channel, f"/{SERVICE}/UnaryStream")(b"wait", timeout=60)
        assert await call.read() == b"first"
        os.kill(process.pid, signal.SIGSTOP)
        code, after_s = await failure_of(call.read(), 20)
        os.kill(process.pid, signal.SIGCONT)
        await channel.close()
    assert code is grpc.StatusCode.UNAVAILABLE
    assert after_s < 5


async def test_a_peer_that_was_long_away_is_found_again_as_soon_as_the_longest_pause_is_over() -> None:
    async with peer_process() as (_, port):
        channel = open_channel(f"127.0.0.1:{port}", max_backoff=timedelta(seconds=0.2))
        ask = method(channel, f"/{SERVICE}/UnaryUnary")
        assert await ask(b"hello", timeout=5) == b"hello"
    away_until = time.monotonic() + 3.0  # long enough for pauses without a bound to have grown past a second
    while time.monotonic() < away_until:
        code, _ = await failure_of(ask(b"hello", timeout=1), 5)
        assert code is grpc.StatusCode.UNAVAILABLE
        await asyncio.sleep(0.05)
    async with peer_process(port):
        back = time.monotonic()
        while True:
            try:
                await ask(b"hello", timeout=1)
                break
            except grpc.aio.AioRpcError:
                assert time.monotonic() - back < 1.0
                await asyncio.sleep(0.02)
        await channel.close()


async def test_nobody_listening_is_told_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    channel = open_channel(f"127.0.0.1:{port}")
    code, after_s = await failure_of(method(channel, f"/{SERVICE}/UnaryUnary")(b"", timeout=30), 20)
    assert code is grpc.StatusCode.UNAVAILABLE
    assert after_s < 5
    await channel.close()


async def test_the_correlation_id_is_the_metadata_and_outside_a_call_there_is_none() -> None:
    bound = correlation_id.set("abc")
    assert outgoing_metadata() == (("x-correlation-id", "abc"),)
    correlation_id.reset(bound)
    assert outgoing_metadata() == ()
