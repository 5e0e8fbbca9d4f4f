"""Delivered marks on their way to chat."""

from collections.abc import AsyncIterator, Mapping

import pytest
from prometheus_client import CollectorRegistry

from edge import delivered as module
from edge.delivered import Delivered
from edge.model import ConversationId, Seq, UserId
from services.runtime.errors import Unavailable
from services.runtime.metrics import Metrics
from tests.e2e.waiting import eventually

ALICE, BOB = UserId("alice"), UserId("bob")
C, D = ConversationId("gc"), ConversationId("gd")


class FakeChat:
    def __init__(self) -> None:
        self.taken: list[dict[tuple[ConversationId, UserId], Seq]] = []
        self.tries = 0
        self.is_away = False

    async def mark_delivered(self, marks: Mapping[tuple[ConversationId, UserId], Seq]) -> None:
        self.tries += 1
        if self.is_away:
            raise Unavailable
        self.taken.append(dict(marks))


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> FakeChat:
    monkeypatch.setattr(module, "_PACE_S", 0.01)
    monkeypatch.setattr(module, "_RETRY_S", 0.01)
    return FakeChat()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
async def delivered(chat: FakeChat, registry: CollectorRegistry) -> AsyncIterator[Delivered]:
    delivered = Delivered(chat, Metrics(registry))
    yield delivered
    await delivered.stop()


async def test_of_each_user_and_conversation_the_furthest_mark_is_told(delivered: Delivered, chat: FakeChat) -> None:
    for conversation, user, seq in ((C, BOB, 1), (C, BOB, 7), (C, BOB, 5), (C, ALICE, 2), (D, BOB, 3)):
        delivered.written(conversation, user, Seq(seq))
    await delivered.start()
    await eventually(lambda: chat.taken)
    assert chat.taken == [{(C, BOB): 7, (C, ALICE): 2, (D, BOB): 3}]


async def test_marks_wait_while_chat_is_away_and_none_is_lost(delivered: Delivered, chat: FakeChat) -> None:
    chat.is_away = True
    await delivered.start()
    delivered.written(C, BOB, Seq(1))
    delivered.written(C, ALICE, Seq(4))
    await eventually(lambda: chat.tries > 1)
    delivered.written(C, BOB, Seq(2))
    chat.is_away = False
    await eventually(lambda: chat.taken)
    assert {key: seq for taken in chat.taken for key, seq in taken.items()} == {(C, BOB): 2, (C, ALICE): 4}


async def test_marks_beyond_the_bound_are_dropped_and_counted(
    chat: FakeChat, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_WAITING", 1)
    delivered = Delivered(chat, Metrics(registry))
    for user in (BOB, ALICE, BOB):
        delivered.written(C, user, Seq(1))
    assert registry.get_sample_value("parley_edge_delivered_waiting") == 1
    assert registry.get_sample_value("parley_edge_delivered_dropped_total") == 1
    await delivered.stop()
    assert chat.taken == [{(C, BOB): 1}]


async def test_stopping_tells_the_last(delivered: Delivered, chat: FakeChat) -> None:
    delivered.written(C, BOB, Seq(1))
    await delivered.stop()
    assert chat.taken == [{(C, BOB): 1}]
