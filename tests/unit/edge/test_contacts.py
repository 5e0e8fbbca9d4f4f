"""Whose presence a user sees: read once he asks, and again whenever it may have changed."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import pytest

from edge import contacts as module
from edge.contacts import Contacts
from edge.errors import BadRequest
from edge.model import UserId
from edge.presence import Presence
from services.runtime.errors import ServiceError, Unavailable
from services.runtime.tasks import Tasks
from tests.e2e.waiting import eventually

ALICE, BOB, CAROL, DAVE = UserId("alice"), UserId("bob"), UserId("carol"), UserId("dave")


class Listener:
    """A subscription to presence; remembers how it was answered."""

    def __init__(self) -> None:
        self.answers: list[ServiceError | None] = []

    def presence(self, presences: Sequence[Presence]) -> None: ...


class World:
    """Chat, presence and the streams, which write down in `log` what they are asked, in order."""

    def __init__(self) -> None:
        self.log: list[tuple[str, Any]] = []
        self.contacts_of: dict[UserId, list[UserId]] = {BOB: [ALICE]}
        self.listening: dict[Any, UserId] = {}
        self.seen: dict[UserId, list[UserId]] = {}
        self.error: ServiceError | None = None
        self.errors_of: dict[UserId, Exception] = {}
        self.reading = 0
        self.most_at_once = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.tasks = Tasks()
        stand_in: Any = self
        self.contacts = Contacts(self, stand_in, self, self.tasks)

    # ---- Chat.

    async def list_contacts(self, user: UserId) -> Sequence[UserId]:
        self.log.append(("read", user))
        self.reading += 1
        self.most_at_once = max(self.most_at_once, self.reading)
        try:
            await self.gate.wait()
        finally:
            self.reading -= 1
        if self.error is not None:
            raise self.error
        if user in self.errors_of:
            raise self.errors_of[user]
        return list(self.contacts_of.get(user, ()))

    # ---- Follow.

    def follow(self, user_id: UserId) -> None:
        self.log.append(("follow", user_id))

    def unfollow(self, user_id: UserId) -> None:
        self.log.append(("unfollow", user_id))

    # ---- Presence.

    def subscribe(self, user_id: UserId, contacts: Iterable[UserId], listener: Any) -> None:
        self.listening[listener] = user_id
        self.seen[user_id] = list(contacts)

    def unsubscribe(self, listener: Any) -> None:
        self.listening.pop(listener, None)

    def contacts_changed(self, user_id: UserId, contacts: Iterable[UserId]) -> None:
        self.seen[user_id] = list(contacts)

    def is_listening(self, user_id: UserId) -> bool:
        return user_id in self.listening.values()

    # ---- The test's side.

    def listen(self, user: UserId = BOB) -> Listener:
        listener = Listener()
        self.contacts.subscribe(user, listener, listener.answers.append)
        return listener

    async def listens(self, user: UserId = BOB) -> Listener:
        listener = self.listen(user)
        await eventually(lambda: listener.answers == [None])
        return listener

    def count(self, *entry: Any) -> int:
        return self.log.count(entry)


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(module, "_PACE_S", 0.005)
    monkeypatch.setattr(module, "_RETRY_S", 0.01)
    world = World()
    await world.contacts.start()
    yield world
    world.gate.set()
    await world.contacts.stop()
    await world.tasks.stop()
    assert world.tasks.failure is None


async def test_who_subscribes_is_answered_when_presence_has_his_contacts(world: World) -> None:
    world.gate.clear()
    listener = world.listen()
    await eventually(lambda: world.reading == 1)
    assert listener.answers == []
    world.gate.set()
    await eventually(lambda: listener.answers == [None])
    assert world.listening == {listener: BOB}
    assert world.seen == {BOB: [ALICE]}


async def test_a_user_is_followed_before_his_contacts_are_read(world: World) -> None:
    await world.listens()
    assert world.log == [("follow", BOB), ("read", BOB)]


async def test_a_user_is_followed_until_his_last_subscription_ends(world: World) -> None:
    first, second = await world.listens(), await world.listens()
    world.contacts.unsubscribe(first)
    world.contacts.unsubscribe(first)
    assert (world.count("unfollow", BOB), set(world.listening)) == (0, {second})
    world.contacts.unsubscribe(second)
    assert (world.count("unfollow", BOB), world.listening) == (1, {})


async def test_who_unsubscribes_while_his_contacts_are_read_is_refused_and_not_subscribed_afterwards(
    world: World,
) -> None:
    world.gate.clear()
    listener = world.listen()
    await eventually(lambda: world.reading == 1)
    world.contacts.unsubscribe(listener)
    assert world.count("unfollow", BOB) == 1
    world.gate.set()
    await eventually(lambda: len(world.tasks) == 0)
    (answer,) = listener.answers
    assert isinstance(answer, BadRequest)
    assert (world.count("unfollow", BOB), world.listening) == (1, {})


async def test_who_unsubscribes_while_chat_is_away_is_answered_all_the_same(world: World) -> None:
    world.gate.clear()
    world.error = Unavailable()
    listener = world.listen()
    await eventually(lambda: world.reading == 1)
    world.contacts.unsubscribe(listener)
    world.gate.set()
    await eventually(lambda: len(world.tasks) == 0)
    assert listener.answers == [world.error]
    assert (world.count("unfollow", BOB), world.listening) == (1, {})


async def test_where_chat_is_away_the_subscription_is_refused_once_and_ends(world: World) -> None:
    world.error = Unavailable()
    listener = world.listen()
    await eventually(lambda: listener.answers)
    await eventually(lambda: len(world.tasks) == 0)
    assert listener.answers == [world.error]
    assert world.log == [("follow", BOB), ("read", BOB), ("unfollow", BOB)]
    assert world.listening == {}


async def test_a_refused_subscription_leaves_another_of_the_same_user_alone(world: World) -> None:
    other = await world.listens()
    world.error = Unavailable()
    listener = world.listen()
    await eventually(lambda: listener.answers == [world.error])
    assert (world.count("unfollow", BOB), set(world.listening)) == (0, {other})


async def test_contacts_that_changed_are_read_again(world: World) -> None:
    await world.listens()
    world.contacts_of[BOB] = [ALICE, CAROL]
    world.contacts.changed([BOB, DAVE])
    await eventually(lambda: world.seen[BOB] == [ALICE, CAROL])
    assert world.count("read", DAVE) == 0


async def test_where_nobody_is_named_everybody_who_listens_is_read_again(world: World) -> None:
    await world.listens()
    await world.listens(CAROL)
    world.contacts_of = {BOB: [DAVE], CAROL: [DAVE]}
    world.contacts.changed(())
    await eventually(lambda: world.seen == {BOB: [DAVE], CAROL: [DAVE]})


async def test_a_change_while_they_are_being_read_has_them_read_once_more(world: World) -> None:
    world.gate.clear()
    listener = world.listen()
    await eventually(lambda: world.reading == 1)
    world.gate.set()
    await eventually(lambda: listener.answers == [None])
    world.gate.clear()
    world.contacts.changed([BOB])
    await eventually(lambda: world.reading == 1)
    world.contacts_of[BOB] = [CAROL]
    world.contacts.changed([BOB])
    world.gate.set()
    await eventually(lambda: world.seen[BOB] == [CAROL])
    await eventually(lambda: world.count("read", BOB) == 3)


async def test_many_changes_that_wait_cost_one_reading(world: World) -> None:
    await world.listens()
    await world.listens(CAROL)
    world.gate.clear()
    world.contacts.changed([CAROL])
    await eventually(lambda: world.reading == 1)
    for _ in range(50):
        world.contacts.changed([BOB])
    world.gate.set()
    await eventually(lambda: world.count("read", BOB) == 2)
    await world.contacts.stop()
    assert world.count("read", BOB) == 2


async def test_while_chat_is_away_the_old_contacts_hold_and_are_read_again_until_it_answers(world: World) -> None:
    await world.listens()
    world.error = Unavailable()
    world.contacts_of[BOB] = [CAROL]
    world.contacts.changed([BOB])
    await eventually(lambda: world.count("read", BOB) > 3)
    assert world.seen[BOB] == [ALICE]
    world.error = None
    await eventually(lambda: world.seen[BOB] == [CAROL])


@pytest.mark.parametrize("error", [Unavailable(), KeyError("a bug")], ids=["refusal", "bug"])
async def test_one_whose_contacts_cannot_be_read_keeps_nobody_elses_from_being_told(
    world: World, error: Exception
) -> None:
    for user in (ALICE, BOB, CAROL):
        await world.listens(user)
    world.errors_of[BOB] = error
    world.contacts_of = {ALICE: [DAVE], BOB: [DAVE], CAROL: [DAVE]}
    world.contacts.changed(())
    await eventually(lambda: world.seen == {ALICE: [DAVE], BOB: [ALICE], CAROL: [DAVE]})


async def test_he_alone_is_behind_until_his_contacts_can_be_read(world: World) -> None:
    await world.listens()
    await world.listens(CAROL)
    world.errors_of[BOB] = Unavailable()
    world.contacts_of = {BOB: [DAVE], CAROL: [DAVE]}
    world.contacts.changed(())
    await eventually(lambda: world.count("read", BOB) > 3)
    assert world.seen == {BOB: [ALICE], CAROL: [DAVE]}
    world.errors_of.clear()
    await eventually(lambda: world.seen == {BOB: [DAVE], CAROL: [DAVE]})


async def test_no_more_are_read_again_at_once_than_may(world: World) -> None:
    users = [UserId(f"u{n}") for n in range(40)]
    for user in users:
        await world.listens(user)
    world.most_at_once = 0
    world.gate.clear()
    world.contacts.changed(())
    await eventually(lambda: world.reading == module._MAX_AT_ONCE)
    world.gate.set()
    await eventually(lambda: all(world.count("read", user) == 2 for user in users))
    assert world.most_at_once == module._MAX_AT_ONCE


async def test_nothing_is_read_for_who_listens_no_more(world: World) -> None:
    listener = await world.listens()
    await world.listens(CAROL)
    world.gate.clear()
    world.contacts.changed([CAROL])
    await eventually(lambda: world.reading == 1)
    world.contacts.changed([BOB])
    world.contacts.unsubscribe(listener)
    world.gate.set()
    await world.contacts.stop()
    assert world.count("read", BOB) == 1
