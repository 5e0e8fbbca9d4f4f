"""Asking presence: it answers, or nobody is known; it never fails its caller."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from protos.presence.v1 import presence_pb2
from services.notify.convert import PRESENCE_SERVICE, decode_presence_response, encode_presence_request
from services.notify.model import Status, UserId
from services.notify.presence import GrpcPresence
from services.runtime.clock import SystemClock
from services.runtime.metrics import Metrics
from services.runtime.targets import Targets
from tests.unit.notify.samples import ANN, BOB, CID

ANSWERS = {ANN: presence_pb2.STATUS_ONLINE, BOB: presence_pb2.STATUS_OFFLINE, CID: presence_pb2.STATUS_UNSPECIFIED}


@pytest.fixture
async def target() -> AsyncIterator[str]:
    async def answer(raw: bytes, _: Any) -> bytes:
        request = presence_pb2.GetPresenceRequest.FromString(raw)
        assert len(request.user_ids) <= 1_000
        found = [
            presence_pb2.Presence(user_id=user, status=ANSWERS.get(UserId(user), presence_pb2.STATUS_AWAY))
            for user in request.user_ids
        ]
        return presence_pb2.GetPresenceResponse(presences=found).SerializeToString()

    server = grpc.aio.server()
    handler: Any = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(PRESENCE_SERVICE, {"GetPresence": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)


def client(*targets: str) -> GrpcPresence:
    return GrpcPresence(
        Targets(
            PRESENCE_SERVICE,
            targets,
            package="services.notify",
            clock=SystemClock(),
            metrics=Metrics(CollectorRegistry()),
        ),
        encode=encode_presence_request,
        decode=decode_presence_response,
    )


async def test_each_user_has_the_status_that_presence_gives(target: str) -> None:
    presence = client(target)
    assert await presence.read([ANN, BOB, CID]) == {ANN: Status.ONLINE, BOB: Status.OFFLINE, CID: Status.UNKNOWN}
    many = [UserId(f"u{n}") for n in range(2_500)]
    assert set((await presence.read(many)).values()) == {Status.AWAY}
    assert await presence.read([]) == {}
    await presence.close()


async def test_a_replica_that_is_away_is_passed_over(target: str) -> None:
    presence = client("127.0.0.1:1", target)
    for _ in range(3):
        assert await presence.read([ANN]) == {ANN: Status.ONLINE}
    await presence.close()


async def test_without_any_replica_nobody_is_known() -> None:
    presence = client("127.0.0.1:1")
    assert await presence.read([ANN]) == {}
    await presence.close()
