"""Bounded in memory, linear in time, and refusing as soon as a limit is passed."""

import time
import tracemalloc
from collections.abc import Callable

import pytest

from edge.stomp.errors import RemoteProtocolError
from edge.stomp.frames import Version
from edge.stomp.parser import FrameParser, Limits


def parser_of(limits: Limits) -> FrameParser:
    parser = FrameParser(limits)
    parser.version = Version.V1_2
    return parser


def send(body: bytes, *headers: bytes) -> bytes:
    return b"SEND\n" + b"".join(header + b"\n" for header in headers) + b"\n" + body + b"\0"


def outcome(data: bytes, limits: Limits, step: int) -> tuple[str, int]:
    """What became of `data`, and after how many octets that was known."""
    parser = parser_of(limits)
    for begin in range(0, len(data), step):
        parser.feed(data[begin : begin + step])
        try:
            if parser.next_frame() is not None:
                return "frame", begin + step
        except RemoteProtocolError as error:
            return error.message, begin + step
    return "waiting", len(data)


SMALL = Limits(max_frame_bytes=100, max_headers=3, max_header_bytes=20)

AT_THE_LIMIT = [
    ("a header of the longest length", send(b"", b"a:" + b"x" * 18), "frame"),
    ("a header one octet longer", send(b"", b"a:" + b"x" * 19), "header too long"),
    ("as many headers as allowed", send(b"", b"a:1", b"b:2", b"c:3"), "frame"),
    ("one header more", send(b"", b"a:1", b"b:2", b"c:3", b"d:4"), "too many headers"),
    ("a repeated header too many", send(b"", b"a:1", b"a:2", b"a:3", b"a:4"), "too many headers"),
    ("a frame of the largest size", send(b"x" * 93), "frame"),
    ("a frame one octet larger", send(b"x" * 94), "frame too large"),
    ("the largest with a length", send(b"x" * 75, b"content-length:75"), "frame"),
    ("one more with a length", send(b"x" * 76, b"content-length:76"), "frame too large"),
    ("a claim beyond the limit", send(b"x", b"content-length:77"), "frame too large"),
    ("headers that fill the frame", b"SEND\n" + b"a:1234567890123456\n" * 3 + b"x" * 60, "header too long"),
]


@pytest.mark.parametrize(("what", "data", "expected"), AT_THE_LIMIT)
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_what_is_at_the_limit_passes_and_one_more_does_not(what: str, data: bytes, expected: str, step: int) -> None:
    assert outcome(data, SMALL, step)[0] == expected, what


@pytest.mark.parametrize("step", [1, 1000])
@pytest.mark.parametrize("size", range(20, 60))
def test_headers_alone_can_make_a_frame_too_large(size: int, step: int) -> None:
    limits = Limits(max_frame_bytes=size, max_headers=100, max_header_bytes=30)
    data = send(b"", *[b"aaaa:bbbb"] * 6)  # 5 + 60 + 1 + 1
    assert outcome(data, limits, step)[0] == "frame too large"


@pytest.mark.parametrize("step", [1, 1000])
def test_leading_line_ends_do_not_count(step: int) -> None:
    assert outcome(b"\n" * 5000 + send(b"x" * 93), SMALL, step)[0] == "frame"


@pytest.mark.parametrize(
    ("flood", "message", "known_after"),
    [
        (b"X" * 10_000, "unknown command", 13),
        (b"SEND\n" + b"x" * 10_000, "header too long", 5 + 21),
        (b"SEND\n" + b"a:b\n" * 10_000, "too many headers", 5 + 16),
        (b"SEND\n\n" + b"x" * 10_000, "frame too large", 100),
        (b"SEND\ncontent-length:5000\n\n" + b"x" * 10_000, "frame too large", 26),
    ],
)
def test_a_flood_is_refused_at_the_octet_that_passes_the_limit(flood: bytes, message: str, known_after: int) -> None:
    assert outcome(flood, SMALL, 1) == (message, known_after)


def test_a_line_is_refused_at_the_octet_that_passes_the_limit_of_the_frame() -> None:
    limits = Limits(max_frame_bytes=100)
    assert outcome(b"SEND\n" + b"x" * 10_000, limits, 1) == ("frame too large", 100)


@pytest.mark.parametrize("step", [1, 1000])
def test_where_both_limits_meet_the_frame_is_named(step: int) -> None:
    limits = Limits(max_frame_bytes=25, max_header_bytes=20)
    assert outcome(send(b"", b"a:" + b"x" * 18), limits, step)[0] == "frame too large"


def test_every_frame_has_the_whole_limit_to_itself() -> None:
    parser = parser_of(SMALL)
    parser.feed(send(b"x" * 87, b"a:123") * 50)
    assert sum(parser.next_frame() is not None for _ in range(51)) == 50


def peak_bytes(act: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_content_length_allocates_nothing() -> None:
    limits = Limits(max_frame_bytes=1 << 30)
    parser = parser_of(limits)

    def promise() -> None:
        parser.feed(b"SEND\ncontent-length:1000000000\n\n")
        assert parser.next_frame() is None
        for _ in range(10):
            parser.feed(b"x")
            assert parser.next_frame() is None

    assert peak_bytes(promise) < 20_000


def test_what_waits_for_more_never_grows_beyond_one_frame() -> None:
    limits = Limits(max_frame_bytes=20_000)
    parser = parser_of(limits)
    frame = send(b"x" * 10_000, b"destination:/a")

    def stream() -> None:
        for _ in range(200):
            for begin in range(0, len(frame), 997):
                parser.feed(frame[begin : begin + 997])
                parser.next_frame()
                assert parser.buffered_bytes <= limits.max_frame_bytes

    assert peak_bytes(stream) < 100_000


def test_a_flood_of_line_ends_takes_no_memory() -> None:
    parser = parser_of(Limits())
    floods = [b"\n" * 500_000, b"\r\n" * 250_000]

    def beat() -> None:
        for flood in floods:
            parser.feed(flood)
            assert parser.next_frame() is None

    assert peak_bytes(beat) < 20_000


def test_an_idle_parser_holds_on_to_no_buffer() -> None:
    parser = parser_of(Limits(max_frame_bytes=2_000_000))

    def large_then_idle() -> int:
        parser.feed(send(b"x" * 1_000_000))
        assert parser.next_frame() is not None
        assert parser.next_frame() is None
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        assert large_then_idle() < 20_000
    finally:
        tracemalloc.stop()


def cpu_seconds(data: bytes, step: int) -> float:
    """The least of several runs, so that a busy machine does not look like a slow parser."""
    best = float("inf")
    for _ in range(2):
        parser = parser_of(Limits(max_frame_bytes=1 << 30, max_header_bytes=1 << 30, max_headers=1 << 30))
        began = time.process_time()
        for begin in range(0, len(data), step):
            parser.feed(data[begin : begin + step])
            while parser.next_frame() is not None:
                pass
        best = min(best, time.process_time() - began)
    return best


SHAPES: list[tuple[str, Callable[[int], bytes]]] = [
    ("a long body", lambda n: send(b"x" * n)),
    ("a long body with its length", lambda n: send(b"x" * n, b"content-length:%d" % n)),
    ("a long header", lambda n: send(b"", b"a:" + b"x" * n)),
    ("a header of escapes", lambda n: send(b"", b"a:" + b"\\\\" * (n // 2))),
    ("an unfinished header of carriage returns", lambda n: b"SEND\na:" + b"\r" * n),
    ("many headers", lambda n: send(b"", *[b"a:b"] * (n // 4))),
    ("many frames", lambda n: send(b"x", b"a:b") * (n // 12)),
    ("many frames with CR LF", lambda n: b"SEND\r\na:b\r\n\r\nx\0" * (n // 16)),
    ("heart-beats", lambda n: b"\n" * n),
]


@pytest.mark.parametrize(("what", "shape"), SHAPES)
@pytest.mark.parametrize(("step", "size"), [(16, 50_000), (1 << 30, 50_000)])
def test_ten_times_the_input_takes_about_ten_times_the_time(
    what: str, shape: Callable[[int], bytes], step: int, size: int
) -> None:
    """A parser that looks again at what it has seen would take a hundred times as long."""
    small, large = shape(size), shape(10 * size)
    ratios = []
    for _ in range(4):
        least = max(cpu_seconds(small, step), 50e-6)  # below the clock's grain a ratio says nothing
        ratios.append(cpu_seconds(large, step) / least)
        if ratios[-1] < 15:
            return
    pytest.fail(f"{what}: ten times the input took {min(ratios):.0f} times as long")
