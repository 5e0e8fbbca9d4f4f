"""A tiny service over bytes, on loopback: what it does is told by the request."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from prometheus_client import CollectorRegistry

from services.runtime import errors, log
from services.runtime.channel import open_channel
from services.runtime.metrics import Metrics
from services.runtime.server import GrpcServer, time_left

# Named here, so that a program may import it after `services.runtime`, as our processes import gRPC.
CallBroken = grpc.aio.AioRpcError

SERVICE = "test.v1.Sample"
DEADLINE_S = 5.0


class ShelfEmpty(errors.NotFound):
    reason = "TEST_SHELF_EMPTY"
    template = "shelf {shelf} is empty"


class Sample:
    """Answers with the request, unless the request is the name of something else to do."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()
        self.running = asyncio.Event()
        self.release = asyncio.Event()
        self.answered = 0

    async def act(self, request: bytes, context: Any) -> bytes:
        match request:
            case b"refuse":
                raise ShelfEmpty(shelf="a3", retry_after_ms=1500)
            case b"bug":
                raise KeyError("a detail that is nobody's business")
            case b"abort":
                await context.abort(grpc.StatusCode.OUT_OF_RANGE, "by hand")
            case b"wait":
                await self._wait()
            case b"correlation":
                return log.correlation_id.get().encode()
            case b"time left":
                left = time_left(context)
                return b"none" if left is None else str(left.total_seconds()).encode()
        self.answered += 1
        return request

    async def _wait(self) -> None:
        self.running.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def unary_unary(self, request: bytes, context: Any) -> bytes:
        return await self.act(request, context)

    async def unary_stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"  # tells the client that the handler runs
        yield await self.act(request, context)

    async def stream_unary(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b",".join([await self.act(request, context) async for request in requests])

    async def stream_stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield await self.act(request, context)

    async def writes_itself(self, request: bytes, context: Any) -> None:
        await context.write(b"written")
        await context.write(await self.act(request, context))

    def register(self, server: grpc.aio.Server) -> None:
        handlers: dict[str, Any] = {
            "UnaryUnary": grpc.unary_unary_rpc_method_handler(self.unary_unary),
            "UnaryStream": grpc.unary_stream_rpc_method_handler(self.unary_stream),
            "StreamUnary": grpc.stream_unary_rpc_method_handler(self.stream_unary),
            "StreamStream": grpc.stream_stream_rpc_method_handler(self.stream_stream),
            "WritesItself": grpc.unary_stream_rpc_method_handler(self.writes_itself),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


def method(channel: grpc.aio.Channel, name: str) -> Any:
    """A unary method over bytes (the type stubs know only messages)."""
    return channel.unary_unary(name)


def stream(channel: grpc.aio.Channel, name: str) -> Any:
    """A method with one request and many answers, over bytes."""
    return channel.unary_stream(name)


def health(channel: grpc.aio.Channel) -> Any:
    """The health stub (its type stubs list no methods)."""
    return health_pb2_grpc.HealthStub(channel)


class Loopback:
    """The service, its server and a channel to it."""

    def __init__(self, server: GrpcServer, sample: Sample, channel: grpc.aio.Channel, metrics: Metrics) -> None:
        self.server = server
        self.sample = sample
        self.channel = channel
        self.metrics = metrics
        self.unary_unary = method(channel, f"/{SERVICE}/UnaryUnary")
        self.unary_stream = stream(channel, f"/{SERVICE}/UnaryStream")
        self.stream_unary: Any = channel.stream_unary(f"/{SERVICE}/StreamUnary")
        self.stream_stream: Any = channel.stream_stream(f"/{SERVICE}/StreamStream")
        self.writes_itself: Any = channel.unary_stream(f"/{SERVICE}/WritesItself")

    async def ask(self, request: bytes, kind: str, **options: Any) -> list[bytes]:
        """One request by any kind of call; all answers."""
        options = {"timeout": DEADLINE_S} | options
        match kind:
            case "unary_unary":
                return [await self.unary_unary(request, **options)]
            case "stream_unary":
                return [await self.stream_unary(iter([request]), **options)]
            case "unary_stream":
                return [answer async for answer in self.unary_stream(request, **options)]
            case "writes_itself":
                return [answer async for answer in self.writes_itself(request, **options)]
            case _:
                return [answer async for answer in self.stream_stream(iter([request]), **options)]

    def calls(self, method: str, code: str) -> float | None:
        return self.metrics.registry.get_sample_value(
            "parley_rpc_server_calls_total", {"method": f"{SERVICE}/{method}", "code": code}
        )


@asynccontextmanager
async def loopback(**options: Any) -> AsyncIterator[Loopback]:
    """Server options go to `GrpcServer`; those that begin with `channel_` to `open_channel`."""
    for_channel = {key.removeprefix("channel_"): options.pop(key) for key in list(options) if "channel_" in key}
    metrics = Metrics(CollectorRegistry())
    sample = Sample()
    server = GrpcServer("127.0.0.1:0", metrics=metrics, **options)
    server.add(sample.register, SERVICE)
    port = await server.start()
    channel = open_channel(f"127.0.0.1:{port}", **for_channel)
    try:
        yield Loopback(server, sample, channel, metrics)
    finally:
        sample.release.set()
        await channel.close()
        await server.drain(0)
