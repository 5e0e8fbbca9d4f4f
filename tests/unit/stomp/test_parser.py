"""The grammar, from the three specifications: what is one frame, what is none."""

import pytest

from edge.stomp.errors import RemoteProtocolError
from edge.stomp.frames import Frame, Version
from edge.stomp.parser import FrameParser, Limits


def parser_of(version: Version | None, limits: Limits | None = None) -> FrameParser:
    parser = FrameParser(limits or Limits())
    parser.version = version
    return parser


def frames(data: bytes, version: Version | None = Version.V1_2) -> list[Frame]:
    parser = parser_of(version)
    parser.feed(data)
    found = []
    while (frame := parser.next_frame()) is not None:
        found.append(frame)
    return found


def refusal(data: bytes, version: Version | None = Version.V1_2) -> RemoteProtocolError:
    with pytest.raises(RemoteProtocolError) as caught:
        frames(data, version)
    return caught.value


EXAMPLES = [
    (None, b"CONNECT\nlogin: bob\npasscode:x\n\n\0", Frame("CONNECT", {"login": " bob", "passcode": "x"}, b"")),
    (None, b"STOMP\naccept-version:1.2\n\n\0", Frame("STOMP", {"accept-version": "1.2"}, b"")),
    (None, b"CONNECT\r\nhost:a\r\n\r\n\0", Frame("CONNECT", {"host": "a"}, b"")),
    (
        Version.V1_0,
        b"SEND\ndestination:/queue/a\n\nhello queue a\n\0",
        Frame("SEND", {"destination": "/queue/a"}, b"hello queue a\n"),
    ),
    (Version.V1_1, b"DISCONNECT\n\n\0", Frame("DISCONNECT", {}, b"")),
    (
        Version.V1_2,
        b"SEND\ndestination:/queue/a\ncontent-type:text/plain\n\nhello queue a\n\0",
        Frame("SEND", {"destination": "/queue/a", "content-type": "text/plain"}, b"hello queue a\n"),
    ),
    (
        Version.V1_2,
        b"SEND\ndestination:/a\ncontent-length:5\n\na\0b\0c\0",
        Frame("SEND", {"destination": "/a", "content-length": "5"}, b"a\0b\0c"),
    ),
    (
        Version.V1_2,
        b"SEND\r\ndestination:/a\r\n\r\nx\r\n\0",
        Frame("SEND", {"destination": "/a"}, b"x\r\n"),
    ),
    (Version.V1_2, b"SEND\ndestination:/a\r\n\nx\0", Frame("SEND", {"destination": "/a"}, b"x")),
    (Version.V1_2, b"SEND\n\na\n\nb:c\n\n\0", Frame("SEND", {}, b"a\n\nb:c\n\n")),
    (
        Version.V1_2,
        "SEND\nschlüssel:grün\n\n\0".encode(),
        Frame("SEND", {"schlüssel": "grün"}, b""),
    ),
    (Version.V1_2, b"SEND\ncontent-length:0\n\n\0", Frame("SEND", {"content-length": "0"}, b"")),
    (Version.V1_2, b"SEND\ncontent-length:003\n\nabc\0", Frame("SEND", {"content-length": "003"}, b"abc")),
]


@pytest.mark.parametrize(("version", "data", "frame"), EXAMPLES)
def test_examples_of_each_version_are_read(version: Version | None, data: bytes, frame: Frame) -> None:
    assert frames(data, version) == [frame]


def test_the_first_of_repeated_headers_wins() -> None:
    (plain,) = frames(b"SEND\nfoo:World\nfoo:Hello\n\n\0")
    (escaped,) = frames(b"SEND\nfoo:W\\corld\nfoo:Hello\n\n\0")
    assert plain.headers == {"foo": "World"}
    assert escaped.headers == {"foo": "W:orld"}


@pytest.mark.parametrize("version", list(Version))
def test_nothing_is_trimmed_from_names_and_values(version: Version) -> None:
    (frame,) = frames(b"SEND\n a : b \nempty:\n\n\0", version)
    assert frame.headers == {" a ": " b ", "empty": ""}


def test_a_colon_in_a_value_is_part_of_the_value() -> None:
    (frame,) = frames(b"SEND\nurl:http://a:1/\n\n\0")
    assert frame.headers == {"url": "http://a:1/"}


def test_names_and_values_are_unescaped_by_the_rules_of_the_version() -> None:
    data = b"SEND\na\\cb:c\\\\\\n\n\n\0"
    assert frames(data, Version.V1_0)[0].headers == {"a\\cb": "c\\\\\\n"}
    assert frames(data, Version.V1_1)[0].headers == {"a:b": "c\\\n"}
    assert frames(data, Version.V1_2)[0].headers == {"a:b": "c\\\n"}


@pytest.mark.parametrize("version", [None, *Version])
@pytest.mark.parametrize("command", ["CONNECT", "STOMP"])
def test_connect_is_never_unescaped(version: Version | None, command: str) -> None:
    (frame,) = frames(f"{command}\nlogin:a\\cb\\t\n\n\0".encode(), version)
    assert frame.headers == {"login": "a\\cb\\t"}


@pytest.mark.parametrize("version", [Version.V1_0, Version.V1_1])
def test_a_carriage_return_is_data_before_1_2(version: Version) -> None:
    (frame,) = frames(b"SEND\na:b\r\nc:d\n\n\0", version)
    assert frame.headers == {"a": "b\r", "c": "d"}
    assert refusal(b"SEND\r\n\n\0", version).message == "unknown command"


@pytest.mark.parametrize("version", [None, *Version])
def test_line_ends_between_frames_are_heart_beats(version: Version | None) -> None:
    data = b"\n\r\n\nCONNECT\n\n\0\n\n\r\n\nCONNECT\n\n\0\n\r"
    assert [frame.command for frame in frames(data, version)] == ["CONNECT", "CONNECT"]


def test_a_line_end_may_be_cut_between_its_two_octets() -> None:
    parser = parser_of(Version.V1_2)
    for piece in (b"\r", b"\nSEND\r", b"\na:b\r", b"\n\r", b"\nx\0"):
        parser.feed(piece)
        frame = parser.next_frame()
    assert frame == Frame("SEND", {"a": "b"}, b"x")


def test_two_frames_in_one_chunk_are_two_frames() -> None:
    found = frames(b"SEND\ndestination:/a\n\n1\0SEND\ndestination:/b\n\n2\0")
    assert [(frame.headers["destination"], frame.body) for frame in found] == [("/a", b"1"), ("/b", b"2")]


BAD = [
    (b"HELLO\n\n\0", "unknown command"),
    (b"send\n\n\0", "unknown command"),
    (b"SEND \n\n\0", "unknown command"),
    (b" SEND\n\n\0", "unknown command"),
    (b"\rSEND\n\n\0", "unknown command"),
    (b"MESSAGE\n\n\0", "unknown command"),
    (b"RECEIPT\n\n\0", "unknown command"),
    (b"ERROR\n\n\0", "unknown command"),
    (b"CONNECTED\n\n\0", "unknown command"),
    (b"GET /ws HTTP/1.1\r\nHost: a\r\n\r\n", "unknown command"),
    (b"SEND\0", "unknown command"),
    (b"\0", "unknown command"),
    (b"UNSUBSCRIBEUNSUBSCRIBE", "unknown command"),
    (b"\xff\xfe\n\n\0", "unknown command"),
    (b"SEND\ndestination\n\n\0", "malformed header"),
    (b"SEND\n:value\n\n\0", "malformed header"),
    (b"SEND\ndestination:/a\nno colon here\n\n\0", "malformed header"),
    (b"SEND\na:\\t\n\n\0", "undefined escape in a header"),
    (b"SEND\na\\t:b\n\n\0", "undefined escape in a header"),
    (b"SEND\na:b\\\n\n\0", "undefined escape in a header"),
    (b"SEND\na:\\", None),
    (b"SEND\na:b\0c\n\n\0", "NUL in a header"),
    (b"SEND\na\0:b\n\n\0", "NUL in a header"),
    (b"DISCONNECT\nreceipt:77\n\0", "NUL in a header"),
    (b"DISCONNECT\n\0", "NUL in a header"),
    (b"SEND\na:\xff\n\n\0", "header is not UTF-8"),
    (b"SEND\na:\xed\xa0\x80\n\n\0", "header is not UTF-8"),
    (b"SEND\na:\xc0\x80\n\n\0", "header is not UTF-8"),
    (b"SEND\ncontent-length:-1\n\n\0", "bad content-length"),
    (b"SEND\ncontent-length:abc\n\n\0", "bad content-length"),
    (b"SEND\ncontent-length:+5\n\nhello\0", "bad content-length"),
    (b"SEND\ncontent-length: 5\n\nhello\0", "bad content-length"),
    (b"SEND\ncontent-length:5 \n\nhello\0", "bad content-length"),
    (b"SEND\ncontent-length:5.0\n\nhello\0", "bad content-length"),
    (b"SEND\ncontent-length:0x5\n\nhello\0", "bad content-length"),
    (b"SEND\ncontent-length:1_0\n\nhello\0", "bad content-length"),
    (b"SEND\ncontent-length:\n\nhello\0", "bad content-length"),
    ("SEND\ncontent-length:٥\n\nhello\0".encode(), "bad content-length"),
    (b"SEND\ncontent-length:9223372036854775808\n\n\0", "bad content-length"),
    (b"SEND\ncontent-length:" + b"9" * 4000 + b"\n\n\0", "bad content-length"),
    (b"SEND\ncontent-length:4\n\nhello\0", "content-length does not match the body"),
    (b"SEND\ncontent-length:6\n\nhello\0\n", "content-length does not match the body"),
    (b"SEND\ncontent-length:0\n\nhello\0", "content-length does not match the body"),
    (b"SEND\ncontent-length:9999999999\n\nhello\0", "frame too large"),
]


@pytest.mark.parametrize(("data", "message"), BAD)
@pytest.mark.parametrize("one_octet_at_a_time", [False, True])
def test_what_breaks_the_grammar_is_refused_with_its_reason(
    data: bytes, message: str | None, *, one_octet_at_a_time: bool
) -> None:
    parser = parser_of(Version.V1_2)
    pieces = [data[i : i + 1] for i in range(len(data))] if one_octet_at_a_time else [data]
    refused: RemoteProtocolError | None = None
    for piece in pieces:
        parser.feed(piece)
        try:
            assert parser.next_frame() is None
        except RemoteProtocolError as error:
            refused = error
            break
    assert (refused and refused.message) == message
    assert refused is None or refused.detail.endswith(".")


def test_the_carriage_return_escape_is_refused_in_1_1_and_read_in_1_2() -> None:
    data = b"SEND\na:b\\rc\n\n\0"
    assert frames(data, Version.V1_2)[0].headers == {"a": "b\rc"}
    assert refusal(data, Version.V1_1).message == "undefined escape in a header"


@pytest.mark.parametrize(
    ("data", "receipt_id"),
    [
        (b"SEND\nreceipt:r-1\ncontent-length:-1\n\n\0", "r-1"),
        (b"SEND\ncontent-length:1\nreceipt:r-1\nreceipt:r-2\n\nhello\0", "r-1"),
        (b"SEND\nreceipt:a\\cb\nbad\n\n\0", "a:b"),
        (b"SEND\nbad\nreceipt:r-1\n\n\0", None),
        (b"CONNECT\nreceipt:r-1\ncontent-length:-1\n\n\0", None),
        (b"SEND\nreceipt:r-1\n\n\0NOPE\n", None),
    ],
)
def test_a_refusal_names_the_receipt_that_the_bad_frame_asked_for(data: bytes, receipt_id: str | None) -> None:
    assert refusal(data).receipt_id == receipt_id


def test_the_error_for_bad_utf_8_does_not_carry_the_header_along() -> None:
    error = refusal(b"CONNECT\npasscode:hunter2\xff\n\n\0", None)
    assert error.__cause__ is None
    assert error.__suppress_context__
    assert "hunter2" not in f"{error} {error.detail}"


def test_the_parser_knows_whether_it_is_inside_a_frame() -> None:
    parser = parser_of(Version.V1_2)
    seen = []
    for piece in (b"\n", b"SE", b"ND\n", b"a:b\n\n", b"x", b"\0", b"\n\n"):
        parser.feed(piece)
        parser.next_frame()
        seen.append(parser.in_frame)
    assert seen == [False, True, True, True, True, False, False]


def test_the_parser_tells_how_much_it_holds() -> None:
    parser = parser_of(Version.V1_2)
    parser.feed(b"SEND\n\nx\0" * 3)
    assert parser.buffered_bytes == 24
    parser.next_frame()
    assert parser.buffered_bytes == 16


def test_a_buffer_that_the_caller_reuses_does_not_change_what_was_fed() -> None:
    parser = parser_of(Version.V1_2)
    reused = bytearray(b"SEND\n\nx\0")
    parser.feed(reused)  # type: ignore[arg-type]  # what a careless transport might do
    reused[6:7] = b"y"
    frame = parser.next_frame()
    assert frame is not None
    assert frame.body == b"x"
