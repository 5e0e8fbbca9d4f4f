"""Frames out are legal and measured right; frames in are found however the bytes were cut."""

import json

import pytest

from bench import wire
from bench.wire import SendTemplate, WebSocketReader, WireError
from tests.unit.bench.fake_edge import server_fragments, server_frame


@pytest.mark.parametrize(("length", "head"), [(5, 6), (125, 6), (126, 8), (65_535, 8), (65_536, 14)])
def test_client_frames_are_masked_with_the_zero_key(length: int, head: int) -> None:
    frame = wire.client_frame(b"x" * length)
    assert frame[0] == 0x81
    assert frame[1] & 0x80
    assert frame[head - 4 : head] == b"\0\0\0\0"
    assert frame[head:] == b"x" * length


@pytest.mark.parametrize("content_bytes", [1, 64, 128, 4_000, 70_000])
def test_a_send_is_one_stomp_frame_with_the_right_lengths(content_bytes: int) -> None:
    template = SendTemplate("d123%s", "run", content_bytes=content_bytes)
    token = wire.token_of(1_234_567, b"00000042")
    frame = template.frame(b"00000042", token)
    payload = _payload(frame)
    head, _, rest = payload.partition(b"\n\n")
    headers = dict(line.split(b":", 1) for line in head.split(b"\n")[1:])
    body = rest[: int(headers[b"content-length"])]
    value = json.loads(body)
    assert rest == body + b"\0"
    assert headers[b"receipt"] == b"00000042"
    assert headers[b"destination"] == b"/app/chat.send"
    assert (value["conversationId"], value["type"]) == ("d123%s", "text")
    assert value["clientMessageId"] == "run-00000042"
    assert value["content"].startswith("bench@000000000123456700000042")
    assert len(value["content"]) == max(content_bytes, len(wire.MARK) + wire.TOKEN_BYTES)


def _payload(frame: bytes) -> bytes:
    length, at = frame[1] & 0x7F, 2
    if length > 125:
        width = 2 if length == 126 else 8
        length, at = int.from_bytes(frame[2 : 2 + width], "big"), 2 + width
    assert len(frame) == at + 4 + length
    return frame[at + 4 :]


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 1000])
def test_messages_are_found_however_the_bytes_were_cut(piece: int) -> None:
    payloads = [b"", b"short", b"m" * 126, b"long" * 20_000, b"last"]
    stream = b"".join(_server_frame(payload) for payload in payloads)
    reader = WebSocketReader()
    found = []
    for at in range(0, len(stream), piece):
        found += [buffer[start:end] for _, buffer, start, end in reader.feed(stream[at : at + piece])]
    assert found == payloads


def _server_frame(payload: bytes) -> bytes:
    if len(payload) < 1 << 16:
        return server_frame(payload)
    return bytes((0x81, 127)) + len(payload).to_bytes(8, "big") + payload


def test_fragments_become_one_message_with_a_ping_in_between() -> None:
    found = WebSocketReader().feed(server_fragments(b"a message that is longer than twenty bytes"))
    assert [(opcode, buffer[start:end]) for opcode, buffer, start, end in found] == [
        (wire.OP_PING, b""),
        (wire.OP_TEXT, b"a message that is longer than twenty bytes"),
    ]


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(b"\x81\x85\0\0\0\0hello", id="masked"),
        pytest.param(b"\xc1\x02hi", id="compressed"),
        pytest.param(b"\x80\x02hi", id="a continuation of nothing"),
        pytest.param(b"\x81\x7f\0\0\0\1\0\0\0\0", id="far too long"),
    ],
)
def test_what_a_server_must_not_send_is_refused(stream: bytes) -> None:
    with pytest.raises(WireError):
        WebSocketReader().feed(stream)


def test_headers_are_found_and_bodies_are_not_mistaken_for_them() -> None:
    frame = b'MESSAGE\nx-seq:17\r\nmessage-id:d-17\n\n{"x-seq":99}'
    assert wire.find_header(frame, b"x-seq", 0, len(frame)) == b"17"
    assert wire.find_header(frame, b"message-id", 0, len(frame)) == b"d-17"
    assert wire.find_header(frame, b"receipt-id", 0, len(frame)) is None
    assert wire.body_of(frame, 0, len(frame)) == b'{"x-seq":99}'


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 404 Not Found",
        b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: wrong",
        b"nonsense",
    ],
)
def test_an_upgrade_that_was_refused_is_noticed(answer: bytes) -> None:
    with pytest.raises(WireError):
        wire.check_upgrade(answer)
