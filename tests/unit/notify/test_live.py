"""Who is attached, and the streams that lead there."""

import pytest
from prometheus_client import CollectorRegistry

from services.notify import live
from services.notify.live import LiveHub, LiveStream
from services.notify.model import Elsewhere, LiveMessage, LiveUnread, Seq, UserId
from services.runtime.metrics import Metrics
from tests.unit.notify.samples import ANN, BOB, ROOM, message


def hub() -> LiveHub:
    return LiveHub(Metrics(CollectorRegistry()))


def told(user: UserId = BOB, seq: int = 1) -> LiveMessage:
    return LiveMessage(user, message(seq), 1)


def said(stream: LiveStream) -> list[Elsewhere | str]:
    """What has come over the stream since it was last asked; of all that is no `Elsewhere`, only its kind."""
    came, waiting = [], stream._queue
    while waiting:
        news = waiting.popleft()
        came.append(news if isinstance(news, Elsewhere) else type(news).__name__)
    return came


HERE_TOO, ONLY_HERE = Elsewhere(BOB, elsewhere=True), Elsewhere(BOB, elsewhere=False)


async def test_everybody_attached_is_told_on_each_of_his_edges_and_nobody_else() -> None:
    here, first, second, other = hub(), LiveStream(), LiveStream(), LiveStream()
    here.attach(first, [BOB])
    here.attach(second, [BOB])
    here.attach(other, [ANN])
    assert here.tell(told())
    assert await first.take() == await second.take() == [HERE_TOO, told()]
    other.close()
    assert await other.take() == []


def test_who_is_detached_or_was_never_attached_is_not_told() -> None:
    here, stream = hub(), LiveStream()
    assert not here.tell(told())
    here.attach(stream, [BOB, ANN])
    here.detach(stream, [BOB, UserId("stranger")])
    assert not here.is_attached(BOB)
    assert here.is_attached(ANN)
    assert not here.tell(told())


async def test_a_repeat_of_a_message_counts_as_told_and_is_not_shown_twice() -> None:
    here, stream = hub(), LiveStream()
    assert not here.tell(told())  # before he was attached: not shown
    here.attach(stream, [BOB])
    assert here.tell(told())
    assert here.tell(told())
    assert here.tell(LiveUnread(BOB, ROOM, Seq(1), 0))
    assert here.tell(LiveUnread(BOB, ROOM, Seq(1), 0))
    assert [type(each).__name__ for each in await stream.take()] == ["LiveMessage", "LiveUnread", "LiveUnread"]


def test_an_edge_that_does_not_keep_up_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_MAX_WAITING", 3)
    here, stream = hub(), LiveStream()
    here.attach(stream, [BOB])
    for seq in range(1, 5):
        here.tell(told(seq=seq))
    assert stream.is_closed
    assert not here.is_attached(BOB)
    assert not here.tell(told(seq=9))


def test_an_edge_that_attaches_the_whole_world_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_MAX_ATTACHED", 3)
    here, stream = hub(), LiveStream()
    here.attach(stream, [UserId(f"u{n}") for n in range(9)])
    assert stream.is_closed
    assert not stream.users
    assert not here.is_attached(UserId("u0"))


def test_nothing_is_remembered_of_a_stream_that_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    here, stream = hub(), LiveStream()
    here.attach(stream, [BOB, ANN])
    here.ended(stream)
    here.ended(stream)
    assert not here._streams
    monkeypatch.setattr(live, "_MAX_REMEMBERED", 5)
    here.attach(other := LiveStream(), [BOB])
    for seq in range(1, 20):
        here.tell(told(seq=seq))
    assert len(here._shown) == 5
    here.ended(other)


# ---- Elsewhere.


def test_who_is_attached_by_one_edge_is_not_said_to_be_elsewhere() -> None:
    here, only = hub(), LiveStream()
    here.attach(only, [BOB, ANN])
    here.attach(only, [BOB])
    assert said(only) == []


def test_when_a_second_edge_attaches_somebody_both_hear_of_it_and_of_nobody_else() -> None:
    here, first, second = hub(), LiveStream(), LiveStream()
    here.attach(first, [BOB, ANN])
    here.attach(second, [BOB, UserId("cid")])
    assert said(first) == said(second) == [HERE_TOO]


def test_of_a_third_edge_only_that_one_hears() -> None:
    here, first, second, third = hub(), LiveStream(), LiveStream(), LiveStream()
    for stream in (first, second):
        here.attach(stream, [BOB])
        said(stream)
    said(first)
    here.attach(third, [BOB])
    assert said(first) == said(second) == []
    assert said(third) == [HERE_TOO]


def test_an_edge_that_let_somebody_go_and_has_him_again_at_once_hears_that_he_is_elsewhere_once_more() -> None:
    here, first, second = hub(), LiveStream(), LiveStream()
    for stream in (first, second):
        here.attach(stream, [BOB])
    for stream in (first, second):
        said(stream)
    here.attach(first, [BOB])  # what an edge sends of both in one message
    assert said(first) == [HERE_TOO]
    assert said(second) == []


def test_the_one_that_is_left_hears_that_he_is_nowhere_else_and_no_sooner() -> None:
    here, first, second, third = hub(), LiveStream(), LiveStream(), LiveStream()
    for stream in (first, second, third):
        here.attach(stream, [BOB])
    for stream in (first, second, third):
        said(stream)
    here.detach(second, [BOB])
    assert said(first) == said(second) == said(third) == []
    here.detach(third, [BOB])
    here.detach(third, [BOB])
    assert said(first) == [ONLY_HERE]
    assert said(third) == []


def test_an_edge_that_is_gone_leaves_its_users_to_the_other() -> None:
    here, first, second = hub(), LiveStream(), LiveStream()
    here.attach(first, [BOB, ANN])
    here.attach(second, [BOB, ANN])
    said(first)
    here.ended(second)
    here.ended(second)
    assert sorted(said(first), key=str) == sorted([ONLY_HERE, Elsewhere(ANN, elsewhere=False)], key=str)


def test_it_is_said_in_its_place_between_what_is_told() -> None:
    here, first, second = hub(), LiveStream(), LiveStream()
    here.attach(first, [BOB])
    here.tell(told(seq=1))
    here.attach(second, [BOB])
    here.tell(told(seq=2))
    here.detach(second, [BOB])
    assert said(first) == ["LiveMessage", HERE_TOO, "LiveMessage", ONLY_HERE]
