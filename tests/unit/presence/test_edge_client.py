"""Which replica the edge asks."""

from typing import Any

import pytest

from edge.clients.presence import PresenceClient
from edge.model import UserId
from protos.presence.v1 import presence_pb2
from services.runtime.channel import open_channel
from services.runtime.errors import Unavailable

ALICE = UserId("alice")


class FakeReplica:
    """What is used of `edge.replicas.Replica`: counts calls, and fails those while it is frozen."""

    def __init__(self) -> None:
        self.is_up = True
        self.is_frozen = False
        self.calls = 0
        self.channel = open_channel("127.0.0.1:1")  # for the stubs; nothing is sent

    @property
    def caller(self) -> "FakeReplica":
        return self

    async def call(self, *_: object, **__: object) -> presence_pb2.GetPresenceResponse:
        self.calls += 1
        if self.is_frozen:
            raise Unavailable
        return presence_pb2.GetPresenceResponse()


class FakeReplicas:
    def __init__(self, *replicas: FakeReplica) -> None:
        self.up = replicas

    def any(self) -> FakeReplica:
        return self.up[0]


def client_of(*replicas: FakeReplica) -> PresenceClient:
    fakes: Any = FakeReplicas(*replicas)
    return PresenceClient(fakes)


async def test_a_replica_that_failed_is_not_asked_again_at_once_though_it_counts_as_up() -> None:
    frozen, well = FakeReplica(), FakeReplica()
    frozen.is_frozen = True
    client = client_of(frozen, well)
    failures = 0
    for _ in range(200):
        try:
            await client.get([ALICE])
        except Unavailable:
            failures += 1
            already = well.calls
            await client.get([ALICE])
            assert well.calls == already + 1
    assert failures == frozen.calls > 10, "it is asked again after another has answered"


async def test_the_only_replica_is_asked_again_whatever_it_answered() -> None:
    only = FakeReplica()
    client = client_of(only)
    only.is_frozen = True
    for _ in range(2):
        with pytest.raises(Unavailable):
            await client.get([ALICE])
    only.is_frozen = False
    await client.get([ALICE])
    assert only.calls == 3
