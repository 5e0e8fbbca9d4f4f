"""What surrounds every call that a server of ours answers, over real gRPC."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Literal

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from services.runtime import errors
from services.runtime.config import RuntimeSettings
from services.runtime.errors import from_rpc_error
from services.runtime.metrics import Metrics
from services.runtime.server import GrpcServer
from tests.integration.runtime.loopback import SERVICE, Loopback, ShelfEmpty, health, loopback, method

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream", "writes_itself")
METHODS = dict(zip(KINDS, ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream", "WritesItself"), strict=True))

Serving = health_pb2.HealthCheckResponse


@pytest.fixture
async def peer() -> AsyncIterator[Loopback]:
    async with loopback(reflect=True) as made:
        yield made


async def failure(peer: Loopback, request: bytes, kind: str = "unary_unary", **options: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await peer.ask(request, kind, **options)
    return caught.value


async def eventually(value: Any, wanted: object) -> None:
    """Metrics are counted when the handler ends, which is just after the client has its answer."""
    async with asyncio.timeout(5):
        while value() != wanted:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_of_call_is_answered_counted_and_timed(peer: Loopback, kind: str) -> None:
    answers = await peer.ask(b"hello", kind)
    assert answers[-1] == b"hello"
    await eventually(lambda: peer.calls(METHODS[kind], "OK"), 1)
    timed = peer.metrics.registry.get_sample_value(
        "parley_rpc_server_seconds_count", {"method": f"{SERVICE}/{METHODS[kind]}"}
    )
    assert timed == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_a_service_error_reaches_the_client_whole(peer: Loopback, kind: str) -> None:
    with capture_logs() as lines:
        received = await failure(peer, b"refuse", kind)
    error = from_rpc_error(received)
    assert type(error) is ShelfEmpty
    assert (dict(error.fields), error.retry_after_ms) == ({"shelf": "a3"}, 1500)
    assert received.details() == "shelf a3 is empty"
    assert lines == []
    await eventually(lambda: peer.calls(METHODS[kind], "NOT_FOUND"), 1)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_bug_is_internal_without_detail_and_logged_once_with_its_traceback(peer: Loopback, kind: str) -> None:
    with capture_logs() as lines:
        received = await failure(peer, b"bug", kind, metadata=(("x-correlation-id", "c-1"),))
    assert received.code() is grpc.StatusCode.INTERNAL
    assert "nobody's business" not in f"{received.details()}{received.trailing_metadata()}"
    (line,) = lines
    assert (line["event"], line["method"]) == ("rpc_failed", f"{SERVICE}/{METHODS[kind]}")
    assert line["exc_info"]
    await eventually(lambda: peer.calls(METHODS[kind], "INTERNAL"), 1)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_abort_by_hand_passes_through(peer: Loopback, kind: str) -> None:
    with capture_logs() as lines:
        received = await failure(peer, b"abort", kind)
    assert (received.code(), received.details()) == (grpc.StatusCode.OUT_OF_RANGE, "by hand")
    assert lines == []
    await eventually(lambda: peer.calls(METHODS[kind], "OUT_OF_RANGE"), 1)


@pytest.mark.parametrize("kind", KINDS)
async def test_the_correlation_id_of_the_client_is_bound(peer: Loopback, kind: str) -> None:
    answers = await peer.ask(b"correlation", kind, metadata=(("x-correlation-id", "from-the-client"),))
    assert answers[-1] == b"from-the-client"


async def test_a_correlation_id_is_made_where_none_came_and_differs_by_call(peer: Loopback) -> None:
    first, second = [await peer.ask(b"correlation", "unary_unary") for _ in range(2)]
    assert len(first[0]) == len(second[0]) == 36
    assert first != second


async def test_a_unary_call_without_a_deadline_is_refused_with_a_clear_text(peer: Loopback) -> None:
    received = await failure(peer, b"hello", timeout=None)
    assert received.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert received.details() == f"{SERVICE}/UnaryUnary needs a deadline: pass timeout= with the call"
    assert peer.sample.answered == 0


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "unary_unary"])
async def test_a_stream_needs_no_deadline(peer: Loopback, kind: str) -> None:
    assert (await peer.ask(b"hello", kind, timeout=None))[-1] == b"hello"


async def test_time_left_is_what_remains_of_the_clients_deadline(peer: Loopback) -> None:
    (left,) = await peer.ask(b"time left", "unary_unary", timeout=3.0)
    assert 2.0 < float(left) <= 3.0
    assert (await peer.ask(b"time left", "unary_stream", timeout=None))[-1] == b"none"


async def test_a_cancelled_call_cancels_its_handler_and_is_no_error(peer: Loopback) -> None:
    with capture_logs() as lines:
        call = peer.unary_unary(b"wait", timeout=30)
        await asyncio.wait_for(peer.sample.running.wait(), 5)
        call.cancel()
        await asyncio.wait_for(peer.sample.cancelled.wait(), 5)
    await eventually(lambda: peer.calls("UnaryUnary", "CANCELLED"), 1)
    assert lines == []


async def test_a_handler_is_cancelled_at_the_clients_deadline(peer: Loopback) -> None:
    received = await failure(peer, b"wait", timeout=0.1)
    assert received.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(peer.sample.cancelled.wait(), 5)


async def test_an_unknown_method_is_unimplemented_and_makes_no_metric(peer: Loopback) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(peer.channel, "/test.v1.Sample/Nothing")(b"", timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert peer.calls("Nothing", "UNIMPLEMENTED") is None


async def test_a_message_over_the_limit_is_refused() -> None:
    async with loopback(max_message_bytes=1000) as peer:
        assert await peer.ask(b"a" * 900, "unary_unary") == [b"a" * 900]
        received = await failure(peer, b"a" * 1100)
    assert received.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_calls_beyond_the_limit_are_shed_as_rate_limited() -> None:
    async with loopback(maximum_concurrent_rpcs=1) as peer:
        waiting = asyncio.ensure_future(peer.ask(b"wait", "unary_unary"))
        await asyncio.wait_for(peer.sample.running.wait(), 5)
        assert type(from_rpc_error(await failure(peer, b"hello"))) is errors.RateLimited
        peer.sample.release.set()
        assert await waiting == [b"wait"]


async def test_a_port_that_is_taken_is_refused(peer: Loopback) -> None:
    second = GrpcServer(f"127.0.0.1:{peer.server.port}", metrics=Metrics(CollectorRegistry()))
    with pytest.raises(RuntimeError, match="bind"):
        await second.start()


async def test_services_cannot_be_added_after_the_start(peer: Loopback) -> None:
    with pytest.raises(RuntimeError, match="before"):
        peer.server.add(peer.sample.register, SERVICE)


async def test_each_service_and_the_server_are_healthy_and_need_no_deadline(peer: Loopback) -> None:
    stub = health(peer.channel)
    for service in ("", SERVICE):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == Serving.SERVING


async def test_the_health_of_an_unknown_service_is_not_found(peer: Loopback) -> None:
    stub = health(peer.channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(health_pb2.HealthCheckRequest(service="other"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_draining_tells_watchers_lets_running_calls_end_and_takes_no_new_ones(peer: Loopback) -> None:
    stub = health(peer.channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    assert (await watch.read()).status == Serving.SERVING
    running = asyncio.ensure_future(peer.ask(b"wait", "unary_unary"))
    await asyncio.wait_for(peer.sample.running.wait(), 5)

    draining = asyncio.ensure_future(peer.server.drain(grace_s=30))
    assert (await watch.read()).status == Serving.NOT_SERVING
    assert await watch.read() is grpc.aio.EOF
    assert peer.server.draining.is_set()
    assert not draining.done()
    late = await failure(peer, b"hello", timeout=2)
    assert type(from_rpc_error(late)) is errors.Unavailable

    peer.sample.release.set()
    assert await running == [b"wait"]
    await asyncio.wait_for(draining, 5)


async def test_calls_still_work_during_the_notice(peer: Loopback) -> None:
    draining = asyncio.ensure_future(peer.server.drain(grace_s=1, notice_s=0.3))
    await asyncio.wait_for(peer.server.draining.wait(), 5)
    stub = health(peer.channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=""))
    assert answer.status == Serving.NOT_SERVING
    assert await peer.ask(b"hello", "unary_unary") == [b"hello"]
    await draining


async def test_the_grace_cuts_what_does_not_end(peer: Loopback) -> None:
    running = asyncio.ensure_future(failure(peer, b"wait"))
    await asyncio.wait_for(peer.sample.running.wait(), 5)
    await asyncio.wait_for(peer.server.drain(grace_s=0.1), 5)
    assert type(from_rpc_error(await running)) is errors.Unavailable
    assert peer.sample.cancelled.is_set()


async def test_draining_twice_is_draining_once(peer: Loopback) -> None:
    await peer.server.drain(1)
    await asyncio.wait_for(peer.server.stop(), 1)


async def listed_services(channel: grpc.aio.Channel) -> list[str]:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[arg-type] # the stubs know no aio
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    call = stub.ServerReflectionInfo(iter([question]))
    answer = await call.read()
    call.cancel()
    return [service.name for service in answer.list_services_response.service]


async def test_reflection_lists_the_services_where_it_is_on(peer: Loopback) -> None:
    assert SERVICE in await listed_services(peer.channel)


@pytest.mark.parametrize("environment", ["development", "production"])
async def test_reflection_is_off_in_production_only(environment: Literal["development", "production"]) -> None:
    settings = RuntimeSettings(environment=environment)
    server = GrpcServer.from_settings("127.0.0.1:0", settings, metrics=Metrics(CollectorRegistry()))
    port = await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        if environment == "development":
            assert await listed_services(channel)
        else:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await listed_services(channel)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    await server.drain(0)
