"""How frames are written: escaping by version, content-length, what cannot be expressed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.stomp.errors import LocalProtocolError
from edge.stomp.frames import Frame, Version, encode_frame, escape_header, unescape_header
from edge.stomp.parser import FrameParser, Limits
from tests.unit.stomp.peer import read_server_frame

ESCAPED = [
    (Version.V1_0, "a:b\\c\nd\re", "a:b\\c d\re"),
    (Version.V1_1, "a:b\\c\nd\re", "a\\cb\\\\c\\nd\re"),
    (Version.V1_2, "a:b\\c\nd\re", "a\\cb\\\\c\\nd\\re"),
    (Version.V1_2, "\\n", "\\\\n"),
    (Version.V1_2, "plain value", "plain value"),
    (Version.V1_2, "", ""),
]

UNESCAPED = [
    (Version.V1_0, "\\c\\n\\x\\", "\\c\\n\\x\\"),
    (Version.V1_1, "\\c\\n\\\\", ":\n\\"),
    (Version.V1_2, "\\c\\n\\\\\\r", ":\n\\\r"),
    (Version.V1_2, "\\\\n", "\\n"),
    (Version.V1_2, "\\\\\\n", "\\\n"),
    (Version.V1_2, "\\\\\\\\c", "\\\\c"),
]


@pytest.mark.parametrize(("version", "value", "written"), ESCAPED)
def test_a_value_is_escaped_by_the_rules_of_its_version(version: Version, value: str, written: str) -> None:
    assert escape_header(value, version) == written


@pytest.mark.parametrize(("version", "written", "value"), UNESCAPED)
def test_a_value_is_unescaped_by_the_rules_of_its_version(version: Version, written: str, value: str) -> None:
    assert unescape_header(written, version) == value


@pytest.mark.parametrize("written", ["\\t", "\\", "a\\", "\\\\\\", "\\N", "\\:"])
@pytest.mark.parametrize("version", [Version.V1_1, Version.V1_2])
def test_an_escape_that_no_version_defines_is_an_error(version: Version, written: str) -> None:
    with pytest.raises(ValueError, match="undefined"):
        unescape_header(written, version)


def test_the_carriage_return_escape_is_undefined_in_1_1() -> None:
    assert unescape_header("\\r", Version.V1_2) == "\r"
    with pytest.raises(ValueError, match="undefined"):
        unescape_header("\\r", Version.V1_1)


@pytest.mark.parametrize("version", list(Version))
def test_connected_is_not_escaped_in_any_version(version: Version) -> None:
    assert encode_frame("CONNECTED", [("server", "a:b\\c")], version=version) == (b"CONNECTED\nserver:a:b\\c\n\n\0")


@pytest.mark.parametrize("version", [Version.V1_1, Version.V1_2])
def test_newline_colon_and_backslash_arrive_as_the_literal_value_of_one_header(version: Version) -> None:
    value = "x\n\nSEND\nevil:1\\\\n\n"
    frame = read_server_frame(encode_frame("MESSAGE", [("k", value)], b"b", version=version), version)
    assert frame.get("k") == value
    assert frame.body == b"b"
    assert [name for name, _ in frame.headers] == ["k", "content-length"]


def test_a_newline_becomes_a_space_where_1_0_cannot_write_it() -> None:
    frame = encode_frame("MESSAGE", [("k", "a\n\nb")], version=Version.V1_0)
    assert frame == b"MESSAGE\nk:a  b\n\n\0"


def test_header_names_are_escaped_like_values() -> None:
    assert encode_frame("MESSAGE", [("a:b", "c")], version=Version.V1_2) == b"MESSAGE\na\\cb:c\n\n\0"


def test_a_body_gets_a_content_length_in_octets() -> None:
    frame = encode_frame("SEND", [("destination", "/a")], "grün".encode(), version=Version.V1_2)
    assert frame == b"SEND\ndestination:/a\ncontent-length:5\n\ngr\xc3\xbcn\0"


def test_no_body_gets_no_content_length() -> None:
    assert encode_frame("RECEIPT", [("receipt-id", "7")], version=Version.V1_2) == (b"RECEIPT\nreceipt-id:7\n\n\0")


@pytest.mark.parametrize(
    ("version", "name", "value"),
    [
        (Version.V1_2, "", "no name"),
        (Version.V1_2, "nul", "a\0b"),
        (Version.V1_2, "n\0ul", "ab"),
        (Version.V1_0, "nul", "a\0b"),
        (Version.V1_2, "surrogate", "\ud800"),
        (Version.V1_2, "content-length", "3"),
        (Version.V1_0, "a:b", "c"),
    ],
)
def test_what_cannot_be_written_is_our_own_fault(version: Version, name: str, value: str) -> None:
    with pytest.raises(LocalProtocolError):
        encode_frame("MESSAGE", [(name, value)], version=version)


def test_the_repr_of_a_frame_shows_neither_headers_nor_body() -> None:
    shown = repr(Frame("SEND", {"passcode": "hunter2"}, b"secret"))
    assert "hunter2" not in shown
    assert "secret" not in shown
    assert "SEND" in shown


any_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
any_name = any_text.filter(lambda name: name not in ("", "content-length"))


@pytest.mark.parametrize("version", [Version.V1_1, Version.V1_2])
@settings(max_examples=150, deadline=None)
@given(headers=st.lists(st.tuples(any_name, any_text), max_size=6), body=st.binary(max_size=200))
def test_any_headers_and_any_body_come_back_as_they_were_written(
    version: Version, headers: list[tuple[str, str]], body: bytes
) -> None:
    parser = FrameParser(Limits())
    parser.version = version
    parser.feed(encode_frame("SEND", headers, body, version=version))
    frame = parser.next_frame()
    assert frame is not None
    expected = dict(reversed(headers))  # the first of a repeated name wins
    assert {k: v for k, v in frame.headers.items() if k != "content-length"} == expected
    assert frame.body == body
    assert not parser.in_frame


plain_text = st.text(st.characters(exclude_characters="\0\n", exclude_categories=["Cs"]), max_size=30)
plain_name = plain_text.filter(lambda name: name not in ("", "content-length") and ":" not in name)


@settings(max_examples=150, deadline=None)
@given(headers=st.lists(st.tuples(plain_name, plain_text), max_size=6), body=st.binary(max_size=200))
def test_what_1_0_can_express_comes_back_as_it_was_written(headers: list[tuple[str, str]], body: bytes) -> None:
    parser = FrameParser(Limits())
    parser.version = Version.V1_0
    parser.feed(encode_frame("SEND", headers, body, version=Version.V1_0))
    frame = parser.next_frame()
    assert frame is not None
    assert {k: v for k, v in frame.headers.items() if k != "content-length"} == dict(reversed(headers))
    assert frame.body == body


@pytest.mark.parametrize("version", list(Version))
@settings(max_examples=100, deadline=None)
@given(headers=st.lists(st.tuples(any_name, any_text), max_size=6), body=st.binary(max_size=200))
def test_a_peer_reads_exactly_one_frame_whatever_the_values_are(
    version: Version, headers: list[tuple[str, str]], body: bytes
) -> None:
    if version is Version.V1_0:
        headers = [(name.replace(":", "-"), value) for name, value in headers]
    frame = read_server_frame(encode_frame("MESSAGE", headers, body, version=version), version)
    read = [(name, value) for name, value in frame.headers if name != "content-length"]
    if version is Version.V1_0:
        headers = [(name.replace("\n", " "), value.replace("\n", " ")) for name, value in headers]
    assert read == headers
    assert frame.body == body
