"""Who on an edge is told of whom: the rare orders (tests/integration/presence has the usual ones)."""

from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from edge.clients.presence import Presence, PresenceStatus
from edge.interest import _MAX_CONTACTS, Interest
from edge.model import UserId
from services.runtime.metrics import Metrics
from services.runtime.tasks import Tasks
from tests.unit.presence.fake_presence import FakeCall, FakeReplicas, Heard

ALICE, BOB, CAROL, DAVE = UserId("alice"), UserId("bob"), UserId("carol"), UserId("dave")
ONLINE, BUSY, UNKNOWN = PresenceStatus.ONLINE, PresenceStatus.BUSY, PresenceStatus.UNKNOWN


class Watching(Interest):
    """Not started; a test says when a stream is open, and what comes."""

    def __init__(self) -> None:
        nothing: Any = None
        replicas: Any = FakeReplicas()
        super().__init__(nothing, replicas, Tasks(), Metrics(CollectorRegistry()), on_report_needed=lambda: None)
        self.stream_opens()

    def stream_opens(self) -> FakeCall:
        call = FakeCall()
        self._call = call  # type: ignore[assignment] # stands in for it
        return call

    async def stream_breaks(self) -> None:
        self._call = None
        await self._went_down()

    def says(self, user_id: UserId, status: PresenceStatus) -> None:
        self.updated([Presence(user_id, status)])

    def listen(self, user_id: UserId, *contacts: UserId) -> Heard:
        heard = Heard()
        self.subscribe(user_id, contacts, heard)
        return heard


@pytest.fixture
def watching() -> Watching:
    return Watching()


async def test_who_waits_for_a_first_value_when_the_stream_breaks_is_told_that_nobody_can_say(
    watching: Watching,
) -> None:
    early = watching.listen(BOB, ALICE)
    watching.says(ALICE, ONLINE)
    await watching.stream_breaks()
    watching.stream_opens()
    late = watching.listen(CAROL, ALICE)
    assert late.told == []
    await watching.stream_breaks()
    assert late.told == [(ALICE, UNKNOWN)]
    watching.stream_opens()
    watching.says(ALICE, ONLINE)
    assert late.told == [(ALICE, UNKNOWN), (ALICE, ONLINE)]
    assert early.told[0] == (ALICE, ONLINE)
    assert (ALICE, UNKNOWN) not in early.told


async def test_who_subscribes_while_there_is_no_stream_is_told_when_there_is_one(watching: Watching) -> None:
    watching.listen(BOB, ALICE)
    watching.says(ALICE, ONLINE)
    await watching.stream_breaks()
    late = watching.listen(CAROL, ALICE)
    assert late.told == [(ALICE, UNKNOWN)]
    watching.stream_opens()
    watching.says(ALICE, ONLINE)
    assert late.told == [(ALICE, UNKNOWN), (ALICE, ONLINE)], "though nothing changed for the others"


async def test_unknown_is_told_only_to_who_knows_nothing_better(watching: Watching) -> None:
    early = watching.listen(BOB, ALICE)
    watching.says(ALICE, ONLINE)
    watching.says(ALICE, UNKNOWN)
    assert early.told == [(ALICE, ONLINE)]
    late = watching.listen(CAROL, ALICE)
    assert late.told == [(ALICE, UNKNOWN)]
    watching.says(ALICE, ONLINE)
    assert late.told[1:] == [(ALICE, ONLINE)]
    watching.says(ALICE, ONLINE)
    assert late.told[2:] == []


async def test_a_first_value_that_is_unknown_is_made_good(watching: Watching) -> None:
    """The replica changed, and the new one cannot say."""
    watching.listen(BOB, ALICE)
    watching.says(ALICE, ONLINE)
    await watching.stream_breaks()
    watching.stream_opens()
    late = watching.listen(CAROL, ALICE)
    watching.says(ALICE, UNKNOWN)
    watching.says(ALICE, ONLINE)
    assert late.told == [(ALICE, UNKNOWN), (ALICE, ONLINE)]


def test_nobody_is_told_after_another_listener_ended_their_subscription(watching: Watching) -> None:
    victim = Heard()

    class Ending(Heard):
        def presence(self, presences: Sequence[Presence]) -> None:
            watching.unsubscribe(victim)

    watching.subscribe(BOB, [ALICE], Ending())
    watching.subscribe(CAROL, [ALICE], victim)
    watching.says(ALICE, ONLINE)
    assert victim.told == []


def test_who_waits_is_not_told_of_whom_they_no_longer_have(watching: Watching) -> None:
    watching.listen(BOB, ALICE)
    heard = watching.listen(CAROL, ALICE, DAVE)
    watching.contacts_changed(CAROL, [DAVE])
    watching.says(ALICE, UNKNOWN)
    watching.says(ALICE, ONLINE)
    watching.says(DAVE, BUSY)
    assert heard.told == [(DAVE, BUSY)]


def test_a_second_session_with_other_contacts_changes_them_for_the_first_too(watching: Watching) -> None:
    first = watching.listen(BOB, ALICE)
    watching.says(ALICE, ONLINE)
    watching.listen(CAROL, DAVE)
    watching.says(DAVE, BUSY)
    second = watching.listen(BOB, ALICE, DAVE)
    assert first.told == [(ALICE, ONLINE), (DAVE, BUSY)]
    assert sorted(second.told) == [(ALICE, ONLINE), (DAVE, BUSY)]


def test_a_contact_is_asked_for_once_and_again_after_it_was_given_up(watching: Watching) -> None:
    call = watching.stream_opens()
    first, second = watching.listen(BOB, ALICE), watching.listen(CAROL, ALICE)
    for heard in (first, second):
        watching.unsubscribe(heard)
    watching.listen(BOB, ALICE)
    assert call.wishes == [("want", ALICE), ("want no more", ALICE), ("want", ALICE)]


def test_contacts_beyond_the_limit_are_unknown_and_not_watched(watching: Watching) -> None:
    contacts = [UserId(f"u{number}") for number in range(_MAX_CONTACTS + 5)]
    call = watching.stream_opens()
    watching.listen(BOB, *contacts)
    assert len(call.wishes) == _MAX_CONTACTS
    assert ("want", contacts[-1]) not in call.wishes


def test_when_the_edge_watches_all_it_can_further_contacts_are_unknown(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.interest._MAX_WATCHED", 1)
    first = watching.listen(BOB, ALICE)
    second = watching.listen(CAROL, ALICE, DAVE)
    watching.says(ALICE, ONLINE)
    assert first.told == [(ALICE, ONLINE)]
    assert sorted(second.told) == [(ALICE, ONLINE), (DAVE, UNKNOWN)]
    watching.unsubscribe(second)
    watching.unsubscribe(first)
    assert not watching._contacts
