"""What presence is told of who writes."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from services.chat import activity as module
from services.chat.activity import Activity
from services.chat.model import ConversationId, UserId
from services.runtime.errors import Unavailable
from services.runtime.metrics import Metrics
from tests.e2e.waiting import eventually
from tests.unit.chat.fake_jobs import message_of

ALICE, BOB = UserId("alice"), UserId("bob")
C = ConversationId("gc")
START_MS = 1_790_000_000_000


def encode(activity: Mapping[UserId, int]) -> bytes:
    return json.dumps(activity).encode()


class FakePresence:
    """What is used of `Targets`."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, int]]] = []
        self.tries = 0
        self.is_away = False
        self.closed = False

    async def call(self, method: str, request: Any, *, encode: Any, decode: Any, policy: Any) -> Any:
        self.tries += 1
        if self.is_away:
            raise Unavailable
        self.told.append((method, json.loads(encode(request))))
        return decode(b"")

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def presence(monkeypatch: pytest.MonkeyPatch) -> FakePresence:
    monkeypatch.setattr(module, "_PACE_S", 0.01)
    monkeypatch.setattr(module, "_RETRY_S", 0.01)
    return FakePresence()


def activity_to(presence: FakePresence | None, registry: CollectorRegistry | None = None) -> Activity:
    stands_in: Any = presence
    return Activity(stands_in, encode, Metrics(registry or CollectorRegistry()))


@pytest.fixture
async def activity(presence: FakePresence) -> AsyncIterator[Activity]:
    activity = activity_to(presence)
    yield activity
    await activity.stop()


async def test_of_each_writer_the_latest_time_is_told(activity: Activity, presence: FakePresence) -> None:
    activity.record([message_of(C, 1, ALICE), message_of(C, 3, ALICE), message_of(C, 2, ALICE), message_of(C, 4, BOB)])
    await activity.start()
    await eventually(lambda: presence.told)
    assert presence.told == [("RecordActivity", {"alice": START_MS + 3, "bob": START_MS + 4})]


async def test_what_presence_did_not_take_is_told_again_with_what_is_newer(
    activity: Activity, presence: FakePresence
) -> None:
    presence.is_away = True
    await activity.start()
    activity.record([message_of(C, 1, ALICE)])
    await eventually(lambda: presence.tries > 1)
    activity.record([message_of(C, 2, BOB)])
    presence.is_away = False
    await eventually(lambda: {user for _, told in presence.told for user in told} == {"alice", "bob"})


async def test_writers_beyond_the_bound_are_dropped_and_counted(
    presence: FakePresence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_WAITING", 1)
    registry = CollectorRegistry()
    activity = activity_to(presence, registry)
    activity.record([message_of(C, 1, ALICE), message_of(C, 2, BOB), message_of(C, 3, ALICE)])
    await activity.stop()
    assert presence.told == [("RecordActivity", {"alice": START_MS + 3})]
    assert registry.get_sample_value("parley_chat_activity_dropped_total") == 1


async def test_stopping_tells_the_last_and_then_leaves_presence(activity: Activity, presence: FakePresence) -> None:
    activity.record([message_of(C, 1, ALICE)])
    await activity.stop()
    assert len(presence.told) == 1
    assert presence.closed


async def test_without_presence_nothing_is_kept() -> None:
    activity = activity_to(None)
    await activity.start()
    activity.record([message_of(C, 1, ALICE)])
    assert activity._waiting.waiting == 0
    await activity.stop()
