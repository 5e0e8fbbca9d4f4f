"""Who is attached, and the streams that lead there."""

import pytest
from prometheus_client import CollectorRegistry

from services.notify import live
from services.notify.live import LiveHub, LiveStream
from services.notify.model import LiveMessage, LiveUnread, Seq, UserId
from services.runtime.metrics import Metrics
from tests.unit.notify.samples import ANN, BOB, ROOM, message


def hub() -> LiveHub:
    return LiveHub(Metrics(CollectorRegistry()))


def told(user: UserId = BOB, seq: int = 1) -> LiveMessage:
    return LiveMessage(user, message(seq), 1)


async def test_everybody_attached_is_told_on_each_of_his_edges_and_nobody_else() -> None:
    here, first, second, other = hub(), LiveStream(), LiveStream(), LiveStream()
    here.attach(first, [BOB])
    here.attach(second, [BOB])
    here.attach(other, [ANN])
    assert here.tell(told())
    assert await first.take() == await second.take() == [told()]
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
