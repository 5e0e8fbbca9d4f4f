"""SockJS frames to the letter, and what is no message."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.sockjs.frames import (
    ANOTHER_LISTENS,
    EVENTSOURCE,
    HEARTBEAT,
    INTERRUPTED,
    MAX_MESSAGES,
    OPEN,
    XHR,
    XHR_STREAMING,
    BrokenJson,
    NoPayload,
    TooManyMessages,
    close_frame,
    join_messages,
    join_socket_messages,
    messages_frame,
    quote,
)

# The protocol's `escapable_by_server`, without the surrogates that UTF-8 cannot have.
ESCAPED = [
    *range(0x20),
    *range(0x200C, 0x2010),
    *range(0x2028, 0x2030),
    *range(0x2060, 0x2070),
    *range(0xFFF0, 0x10000),
]
TEXTS = st.text(st.characters(codec="utf-8"))


def test_frames_are_as_the_protocol_writes_them() -> None:
    assert (OPEN, HEARTBEAT) == (b"o", b"h")
    assert messages_frame([quote("x"), quote("y")]) == b'a["x","y"]'
    assert close_frame(3000, "Go away!") == b'c[3000,"Go away!"]'
    assert ANOTHER_LISTENS == b'c[2010,"Another connection still open"]'
    assert INTERRUPTED == b'c[1002,"Connection interrupted"]'


def test_frames_stand_in_each_answer_as_the_protocol_writes_them() -> None:
    assert XHR.wrap(OPEN) == b"o\n"
    assert XHR_STREAMING.wrap(b'a["100%"]') == b'a["100%"]\n'
    assert XHR_STREAMING.prelude == b"h" * 2048 + b"\n"
    assert EVENTSOURCE.wrap(b'a["x"]') == b'data: a["x"]\r\n\r\n'
    assert EVENTSOURCE.prelude == b"\r\n"
    assert EVENTSOURCE.wrap(b'a["100%"]') == b'data: a["100%25"]\r\n\r\n'


def test_exactly_what_browsers_change_is_escaped() -> None:
    plain = {chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000} - {'"', "\\"}
    for char in plain:
        quoted = quote(char)
        if ord(char) in ESCAPED:
            assert quoted.isascii(), hex(ord(char))
            assert json.loads(quoted) == char
        else:
            assert quoted == f'"{char}"'.encode(), hex(ord(char))
    assert quote("\u2028") == b'"\\u2028"'


@given(st.lists(TEXTS, max_size=5))
def test_what_is_quoted_comes_back(texts: list[str]) -> None:
    frame = messages_frame([quote(text) for text in texts])
    assert json.loads(frame[1:]) == texts
    assert b"\n" not in frame


@given(st.lists(TEXTS, max_size=5), st.booleans())
def test_messages_of_a_client_are_joined_however_it_escapes_them(texts: list[str], ensure_ascii: bool) -> None:
    payload = json.dumps(texts, ensure_ascii=ensure_ascii).encode()
    assert join_messages(payload) == join_socket_messages(payload) == "".join(texts).encode()


def test_a_socket_may_also_send_nothing_or_one_text() -> None:
    assert join_socket_messages(b"") == b""
    assert join_socket_messages(b'"x"') == b"x"


@pytest.mark.parametrize(
    "payload",
    [b'["x', b"x", b"{}", b"[1]", b"[null]", b'[["x"]]', b'["x"]x', b'["\xff"]', b'["\\ud800"]', b'["\\udc00"]'],
)
def test_what_is_no_message_is_broken(payload: bytes) -> None:
    with pytest.raises(BrokenJson, match=r"^Broken JSON encoding\.$"):
        join_messages(payload)
    with pytest.raises(BrokenJson):
        join_socket_messages(payload)


def test_an_empty_body_is_missed() -> None:
    with pytest.raises(NoPayload, match=r"^Payload expected\.$"):
        join_messages(b"")


def test_so_many_messages_and_no_more() -> None:
    assert join_messages(json.dumps(["x"] * MAX_MESSAGES).encode()) == b"x" * MAX_MESSAGES
    with pytest.raises(TooManyMessages):
        join_messages(json.dumps(["x"] * (MAX_MESSAGES + 1)).encode())
