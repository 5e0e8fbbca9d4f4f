"""Heart-beats: the agreement and the timing, on a clock that the test moves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.stomp.errors import RemoteProtocolError
from edge.stomp.heartbeat import MAX_INTERVAL_MS, HeartBeat, bounded_offer, negotiate, parse_heart_beat


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        (None, (0, 0)),
        ("0,0", (0, 0)),
        ("1,1", (1, 1)),
        ("10000,0", (10_000, 0)),
        ("0,4000", (0, 4_000)),
        ("007,000", (7, 0)),
        ("0000000000000000000005,0", (5, 0)),
        (f"{MAX_INTERVAL_MS},{MAX_INTERVAL_MS + 1}", (MAX_INTERVAL_MS, MAX_INTERVAL_MS)),
        ("9223372036854775808," + "9" * 5000, (MAX_INTERVAL_MS, MAX_INTERVAL_MS)),
    ],
)
def test_a_heart_beat_header_is_two_bounded_numbers(value: str | None, parsed: tuple[int, int]) -> None:
    assert parse_heart_beat(value) == parsed


@pytest.mark.parametrize(
    "value", ["", "1", "1,2,3", "-1,0", "0,-1", "a,b", "1.5,2", " 1,2", "1, 2", "+1,2", ",", "1,", "٥,1"]
)
def test_anything_else_is_refused(value: str) -> None:
    with pytest.raises(RemoteProtocolError, match="bad heart-beat"):
        parse_heart_beat(value)


@pytest.mark.parametrize(
    ("offer", "bounded"),
    [
        ((10_000, 10_000), (10_000, 10_000)),
        ((0, 0), (0, 0)),
        ((1, 999), (1_000, 1_000)),
        ((1_000, 0), (1_000, 0)),
        ((-5, 10**9), (0, MAX_INTERVAL_MS)),
    ],
)
def test_our_offer_is_never_below_our_minimum(offer: tuple[int, int], bounded: tuple[int, int]) -> None:
    assert bounded_offer(offer, 1_000) == bounded


@pytest.mark.parametrize(
    ("client", "offer", "send_ms", "expect_ms"),
    [
        ((0, 0), (10_000, 10_000), 0, 0),
        ((5_000, 0), (10_000, 10_000), 0, 10_000),
        ((0, 5_000), (10_000, 10_000), 10_000, 0),
        ((20_000, 30_000), (10_000, 10_000), 30_000, 20_000),
        ((1, 1), (10_000, 10_000), 10_000, 10_000),
        ((5_000, 5_000), (0, 10_000), 0, 10_000),
        ((5_000, 5_000), (10_000, 0), 10_000, 0),
        ((3_000, 7_000), (5_000, 4_000), 7_000, 4_000),
    ],
)
def test_each_direction_beats_at_the_slower_of_what_both_said(
    client: tuple[int, int], offer: tuple[int, int], send_ms: int, expect_ms: int
) -> None:
    agreed = negotiate(client, offer)
    assert (agreed.send_ms, agreed.expect_ms) == (send_ms, expect_ms)


def test_a_beat_is_due_shortly_before_the_interval_ends() -> None:
    beat = HeartBeat(send_ms=10_000, expect_ms=0)
    beat.sent(100.0)
    assert not beat.should_send(108.9)
    assert beat.should_send(109.0)
    assert beat.should_send(110.0)


def test_whatever_is_sent_puts_the_next_beat_off() -> None:
    beat = HeartBeat(send_ms=10_000, expect_ms=0)
    beat.sent(100.0)
    beat.sent(105.0)
    assert not beat.should_send(113.9)
    assert beat.should_send(114.0)


def test_a_peer_is_dead_after_two_silent_intervals() -> None:
    beat = HeartBeat(send_ms=0, expect_ms=10_000)
    beat.received(100.0)
    assert not beat.is_dead(119.9)
    assert beat.is_dead(120.0)


def test_whatever_is_received_keeps_the_peer_alive() -> None:
    beat = HeartBeat(send_ms=0, expect_ms=10_000)
    beat.received(100.0)
    beat.received(119.0)
    assert not beat.is_dead(138.9)
    assert beat.is_dead(139.0)


def test_without_agreed_beats_nothing_is_ever_due() -> None:
    beat = HeartBeat(send_ms=0, expect_ms=0)
    beat.sent(0.0)
    beat.received(0.0)
    assert not beat.should_send(1e9)
    assert not beat.is_dead(1e9)
    assert beat.next_check_at(1e9) is None


def test_before_anything_was_sent_or_received_a_beat_is_due_and_the_peer_lives() -> None:
    beat = HeartBeat(send_ms=1_000, expect_ms=1_000)
    assert beat.should_send(50.0)
    assert not beat.is_dead(1e9)
    assert beat.next_check_at(50.0) == 50.0


def test_the_next_check_is_the_earlier_of_both_directions() -> None:
    beat = HeartBeat(send_ms=10_000, expect_ms=2_000)
    beat.sent(100.0)
    beat.received(100.0)
    assert beat.next_check_at(100.0) == pytest.approx(104.0)
    beat.received(106.0)
    assert beat.next_check_at(106.0) == pytest.approx(109.0)


@given(
    send_ms=st.integers(1_000, MAX_INTERVAL_MS),
    expect_ms=st.integers(1_000, MAX_INTERVAL_MS),
    sent=st.floats(0, 1e9),
    received=st.floats(0, 1e9),
)
def test_at_the_next_check_there_is_always_something_to_do(
    send_ms: int, expect_ms: int, sent: float, received: float
) -> None:
    """Otherwise a caller that sleeps until then would spin."""
    beat = HeartBeat(send_ms, expect_ms)
    beat.sent(sent)
    beat.received(received)
    at = beat.next_check_at(max(sent, received))
    assert at is not None
    assert beat.should_send(at) or beat.is_dead(at)
