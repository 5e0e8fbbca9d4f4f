"""Who hears about what, and how long failures wait."""

from datetime import timedelta

import pytest

from services.notify.model import Mark, Seq, Status
from services.notify.rules import Route, clears_pushes, hears, is_seen, retry_delay, route_when_due
from tests.unit.notify.samples import ANN, BOB, message, to

DELAYS = tuple(timedelta(seconds=s) for s in (1, 2, 4, 8))
NOT_OFFLINE = [status for status in Status if status is not Status.OFFLINE]


def test_the_sender_never_hears_of_his_own_message() -> None:
    assert not hears(message(sender=ANN), to(ANN))
    assert hears(message(sender=ANN), to(BOB))


def test_who_has_muted_the_conversation_hears_nothing() -> None:
    assert not hears(message(), to(BOB, muted=True))


@pytest.mark.parametrize(("read", "seen"), [(0, False), (4, False), (5, True), (6, True)])
def test_a_message_is_seen_when_the_watermark_has_reached_it(read: int, seen: bool) -> None:
    assert is_seen(message(5), Mark(Seq(read))) is seen


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("shown", [True, False])
def test_who_is_attached_nowhere_is_pushed_to_whatever_presence_says(status: Status, shown: bool) -> None:
    assert route_when_due(attached=False, status=status, shown=shown) is Route.PUSH


@pytest.mark.parametrize("status", NOT_OFFLINE)
def test_who_is_attached_is_told_live_once_and_not_pushed_to(status: Status) -> None:
    assert route_when_due(attached=True, status=status, shown=False) is Route.LIVE
    assert route_when_due(attached=True, status=status, shown=True) is Route.NOTHING


def test_an_attachment_that_presence_has_given_up_does_not_spare_the_push() -> None:
    assert route_when_due(attached=True, status=Status.OFFLINE, shown=True) is Route.PUSH


@pytest.mark.parametrize(
    ("before", "read", "stale"),
    [
        (Mark(Seq(3), Seq(5)), 5, True),
        (Mark(Seq(3), Seq(5)), 4, True),  # some of it: the badge is another
        (Mark(Seq(3), Seq(5)), 3, False),  # nothing new
        (Mark(Seq(5), Seq(5)), 6, False),  # read before
        (Mark(Seq(0), Seq(0)), 6, False),  # never pushed
    ],
)
def test_reading_makes_a_push_stale_only_where_one_was_unread(before: Mark, read: int, stale: bool) -> None:
    assert clears_pushes(before, Seq(read)) is stale


def test_failures_wait_twice_as_long_each_time_and_at_least_as_long_as_asked() -> None:
    assert [retry_delay(tries, None, DELAYS).total_seconds() for tries in (1, 2, 3, 4, 5)] == [1, 2, 4, 8, 8]
    assert retry_delay(1, timedelta(seconds=30), DELAYS) == timedelta(seconds=30)
    assert retry_delay(4, timedelta(seconds=1), DELAYS) == timedelta(seconds=8)
