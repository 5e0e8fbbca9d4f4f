"""Presence over the HTTP API: of those whom the caller may see, and of nobody else."""

from collections.abc import AsyncIterator, Sequence

import pytest

from edge.model import UserId
from edge.presence import Presence, PresenceStatus
from services.runtime.errors import Unavailable
from tests.unit.edge import test_gateway
from tests.unit.edge.fake_chat import SENT_AT_MS
from tests.unit.edge.test_gateway import World, refused

ACTIVE_AT = "2026-11-22T10:00:00.123Z"


class FakePresence:
    """Everybody is busy, unless `known` says otherwise."""

    def __init__(self) -> None:
        self.asked: list[list[UserId]] = []
        self.known: dict[UserId, Presence] = {}

    async def get(self, user_ids: Sequence[UserId]) -> Sequence[Presence]:
        self.asked.append(list(user_ids))
        busy = PresenceStatus.BUSY
        return [self.known.get(user_id, Presence(user_id, busy, SENT_AT_MS)) for user_id in user_ids]


@pytest.fixture
def presence() -> FakePresence:
    return FakePresence()


@pytest.fixture
async def world(presence: FakePresence, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(test_gateway, "FakePresence", lambda: presence)
    async with World() as world:
        world.chat.contacts = [UserId("bob"), UserId("carol")]
        yield world


async def test_those_who_share_a_conversation_are_shown_in_the_order_asked_for(
    world: World, presence: FakePresence
) -> None:
    answer = await world.call("GET", "/presence?userId=carol&userId=bob")
    assert answer.json == {
        "presence": [
            {"userId": "carol", "status": "busy", "lastActiveAt": ACTIVE_AT},
            {"userId": "bob", "status": "busy", "lastActiveAt": ACTIVE_AT},
        ]
    }
    assert world.chat.asked == [("contacts", "alice")]


async def test_strangers_are_left_out_and_not_even_asked_for(world: World, presence: FakePresence) -> None:
    answer = await world.call("GET", "/presence?userId=eve&userId=bob&userId=mallory")
    assert [each["userId"] for each in answer.json["presence"]] == ["bob"]
    assert presence.asked == [["bob"]]


async def test_one_may_see_oneself(world: World, presence: FakePresence) -> None:
    answer = await world.call("GET", "/presence?userId=alice")
    assert [each["userId"] for each in answer.json["presence"]] == ["alice"]


async def test_who_is_asked_for_twice_is_shown_once(world: World, presence: FakePresence) -> None:
    await world.call("GET", "/presence?userId=bob&userId=carol&userId=bob")
    assert presence.asked == [["bob", "carol"]]


async def test_what_nobody_can_say_is_unknown_and_no_activity_is_null(world: World, presence: FakePresence) -> None:
    presence.known[UserId("bob")] = Presence(UserId("bob"), PresenceStatus.UNKNOWN)
    answer = await world.call("GET", "/presence?userId=bob")
    assert answer.json == {"presence": [{"userId": "bob", "status": "unknown", "lastActiveAt": None}]}


@pytest.mark.parametrize(
    "query",
    ["", "?user=bob", "?userId=", "?userId=a%20b", "?userId=bob&userId=" + "x" * 65, "?" + "userId=bob&" * 201],
    ids=["nobody", "another name", "empty", "no user id", "one too long", "too many"],
)
async def test_a_question_that_cannot_be_answered_is_refused_before_anybody_is_asked(
    world: World, presence: FakePresence, query: str
) -> None:
    refused(await world.call("GET", f"/presence{query}"), 400, "INVALID_ARGUMENT", saying="userId: expected 1 to 200")
    assert (world.chat.asked, presence.asked) == ([], [])


async def test_two_hundred_may_be_asked_for(world: World, presence: FakePresence) -> None:
    world.chat.contacts = [UserId(f"u{n}") for n in range(200)]
    answer = await world.call("GET", "/presence?" + "&".join(f"userId=u{n}" for n in range(200)))
    assert len(answer.json["presence"]) == 200


async def test_without_a_token_nobody_is_shown_and_without_chat_it_is_refused(
    world: World, presence: FakePresence
) -> None:
    refused(await world.call("GET", "/presence?userId=bob", token=None), 401, "UNAUTHENTICATED")
    world.chat.raises = Unavailable(retry_after_ms=500)
    refused(await world.call("GET", "/presence?userId=bob"), 503, "UNAVAILABLE")
    assert presence.asked == []
