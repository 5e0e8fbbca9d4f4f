"""Of whom chat is told that he sees everything arrive: whoever has one connection in all, and watches on it."""

import random

import pytest
from prometheus_client import CollectorRegistry

from edge.attendance import Attendance
from edge.model import ConversationId, UserId
from edge.users import Users
from services.runtime.metrics import Metrics
from tests.unit.edge.sessions import FakeSession

ALICE, BOB = UserId("alice"), UserId("bob")
C, D = ConversationId("gc"), ConversationId("gd")


class World:
    def __init__(self) -> None:
        self.said: list[tuple[ConversationId, UserId, bool]] = []
        self.users = Users(Metrics(CollectorRegistry()))
        self.attendance = Attendance(self.users, self._say)

    def _say(self, conversation_id: ConversationId, user_id: UserId, *, attends: bool) -> None:
        self.said.append((conversation_id, user_id, attends))

    def connect(self, user: UserId = BOB, *watching: ConversationId) -> FakeSession:
        session = FakeSession(user)
        self.users.enter(session)
        for conversation_id in watching:
            self.watch(session, conversation_id)
        return session

    def watch(self, session: FakeSession, conversation_id: ConversationId = C) -> None:
        session.watching.add(conversation_id)
        self.attendance.watching_changed(conversation_id, session.user_id)

    def unwatch(self, session: FakeSession, conversation_id: ConversationId = C) -> None:
        session.watching.discard(conversation_id)
        self.attendance.watching_changed(conversation_id, session.user_id)

    def take(self) -> list[tuple[ConversationId, UserId, bool]]:
        said, self.said = self.said, []
        return said


@pytest.fixture
def world() -> World:
    return World()


def test_who_watches_on_his_only_connection_attends_until_he_watches_no_more(world: World) -> None:
    session = world.connect()
    assert world.take() == []
    world.watch(session)
    world.watch(session)  # on another subscription
    assert world.take() == [(C, BOB, True)]
    assert world.attendance.attends(C, BOB)
    assert not world.attendance.attends(D, BOB)
    assert not world.attendance.attends(C, ALICE)
    world.unwatch(session)
    world.unwatch(session)
    assert world.take() == [(C, BOB, False)]
    assert not world.attendance.attends(C, BOB)


def test_a_second_connection_ends_it_and_the_end_of_that_one_brings_it_back(world: World) -> None:
    world.connect(BOB, C, D)
    world.take()
    second = world.connect()
    assert sorted(world.take()) == [(C, BOB, False), (D, BOB, False)]
    world.users.leave(second)
    assert sorted(world.take()) == [(C, BOB, True), (D, BOB, True)]


def test_who_watches_on_two_connections_does_not_attend(world: World) -> None:
    world.connect(BOB, C)
    world.connect(BOB, C)
    assert world.take() == [(C, BOB, True), (C, BOB, False)]


def test_the_connection_that_is_left_decides_what_he_attends(world: World) -> None:
    first = world.connect(BOB, C)
    world.connect(BOB, D)
    world.take()
    world.users.leave(first)
    assert world.take() == [(D, BOB, True)]


def test_who_is_connected_elsewhere_too_does_not_attend(world: World) -> None:
    session = world.connect(BOB, C)
    world.users.set_elsewhere(BOB, elsewhere=True)
    assert world.take() == [(C, BOB, True), (C, BOB, False)]
    world.watch(session, D)
    assert world.take() == []
    world.users.set_elsewhere(BOB, elsewhere=False)
    assert sorted(world.take()) == [(C, BOB, True), (D, BOB, True)]


def test_who_leaves_attends_nothing_any_more(world: World) -> None:
    session = world.connect(BOB, C)
    world.connect(ALICE, C)
    world.take()
    world.users.leave(session)
    assert world.take() == [(C, BOB, False)]
    assert world.attendance.attends(C, ALICE)


def test_a_conversation_that_chat_has_again_is_told_again_and_no_other(world: World) -> None:
    world.connect(BOB, C, D)
    world.connect(ALICE, C)
    gone = world.connect(UserId("carol"), C)
    world.unwatch(gone)
    world.take()
    world.attendance.joined(C)
    assert sorted(world.take()) == [(C, ALICE, True), (C, BOB, True)]
    world.attendance.joined(ConversationId("nobody attends"))
    assert world.take() == []


def test_whatever_happens_chat_knows_in_the_end_who_attends_and_nothing_is_kept_of_who_left(world: World) -> None:
    for seed in range(100):
        rng = random.Random(seed)
        sessions: list[FakeSession] = []
        elsewhere: set[UserId] = set()
        for _ in range(60):
            user = rng.choice((ALICE, BOB))
            match rng.randrange(5):
                case 0 if len(sessions) < 4:
                    sessions.append(world.connect(user))
                case 1 if sessions:
                    left = sessions.pop(rng.randrange(len(sessions)))
                    world.users.leave(left)
                case 2 if world.users.find(user):
                    (elsewhere.discard if user in elsewhere else elsewhere.add)(user)
                    world.users.set_elsewhere(user, elsewhere=user in elsewhere)
                case 3 if sessions:
                    world.watch(rng.choice(sessions), rng.choice((C, D)))
                case 4 if sessions:
                    world.unwatch(rng.choice(sessions), rng.choice((C, D)))
            elsewhere &= set(world.users.connected)
            told = {(conversation, user) for (conversation, user), attends in _last(world.said).items() if attends}
            expected = {
                (conversation, each.user_id)
                for each in sessions
                for conversation in each.watching
                if len(world.users.find(each.user_id)) == 1 and each.user_id not in elsewhere
            }
            assert told == expected
            assert all(world.attendance.attends(*each) for each in expected)
        for session in sessions:
            world.users.leave(session)
        assert not world.attendance._said
        assert not world.attendance._of_user


def _last(said: list[tuple[ConversationId, UserId, bool]]) -> dict[tuple[ConversationId, UserId], bool]:
    return {(conversation, user): attends for conversation, user, attends in said}
