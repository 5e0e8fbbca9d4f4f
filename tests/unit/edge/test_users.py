"""Who is connected here, and whether anywhere else."""

import pytest
from prometheus_client import CollectorRegistry

from edge.model import UserId
from edge.users import Users
from services.runtime.metrics import Metrics
from tests.unit.edge.sessions import FakeSession

ALICE, BOB = UserId("alice"), UserId("bob")


@pytest.fixture
def users() -> Users:
    return Users(Metrics(CollectorRegistry()))


def test_a_users_sessions_are_found_for_as_long_as_they_are_there(users: Users) -> None:
    first, second, other = FakeSession(BOB), FakeSession(BOB), FakeSession(ALICE)
    for session in (first, second, other):
        users.enter(session)
    assert users.find(BOB) == (first, second)
    assert set(users.connected) == {ALICE, BOB}
    users.leave(first)
    assert users.find(BOB) == (second,)
    users.leave(second)
    assert users.find(BOB) == ()
    assert set(users.connected) == {ALICE}


def test_the_only_session_is_that_of_who_has_no_other_here_or_elsewhere(users: Users) -> None:
    assert users.find_only(BOB) is None
    first, second = FakeSession(BOB), FakeSession(BOB)
    users.enter(first)
    assert users.find_only(BOB) is first
    users.enter(second)
    assert users.find_only(BOB) is None
    users.leave(first)
    assert users.find_only(BOB) is second
    users.set_elsewhere(BOB, elsewhere=True)
    assert users.find_only(BOB) is None
    users.set_elsewhere(BOB, elsewhere=False)
    assert users.find_only(BOB) is second


def test_what_is_said_of_who_is_not_connected_here_is_not_kept(users: Users) -> None:
    users.set_elsewhere(BOB, elsewhere=True)
    session = FakeSession(BOB)
    users.enter(session)
    assert users.find_only(BOB) is session
    users.set_elsewhere(BOB, elsewhere=True)
    users.leave(session)
    users.enter(session)
    assert users.find_only(BOB) is session


def test_every_change_is_told_once_and_after_it_holds(users: Users) -> None:
    heard: list[tuple[UserId, int, bool]] = []
    users.changed.append(lambda user: heard.append((user, len(users.find(user)), users.find_only(user) is not None)))
    session = FakeSession(BOB)
    users.enter(session)
    users.set_elsewhere(BOB, elsewhere=False)
    users.set_elsewhere(BOB, elsewhere=True)
    users.set_elsewhere(BOB, elsewhere=True)
    users.set_elsewhere(ALICE, elsewhere=True)
    users.set_elsewhere(BOB, elsewhere=False)
    users.leave(session)
    assert heard == [(BOB, 1, True), (BOB, 1, False), (BOB, 1, True), (BOB, 0, False)]
