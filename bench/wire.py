"""The client's half of WebSocket and STOMP, cut down to what a load costs least with.

Owns: bytes to frames and frames to bytes, without I/O. Refuses: extensions, escaped headers, bodies that hold a
NUL, and anything else that Parley's edge does not send; it is no client library. Sources: RFC 6455, STOMP 1.2.

Every client frame is masked, as the standard demands, and its key is zero. Any 32-bit key is legal; an unpredictable
one protects intermediaries from scripts in a browser (RFC 6455, 10.3), of which there are none here. Masking with
zero changes no byte, so the generator spends nothing on it, while the server unmasks as it does for everybody.
"""

import base64
import hashlib
from collections.abc import Mapping

OP_CONTINUATION = 0x0
OP_TEXT = 0x1
OP_BINARY = 0x2
OP_CLOSE = 0x8
OP_PING = 0x9
OP_PONG = 0xA

MAX_FRAME_BYTES = 1 << 20
"""More than sixteen times what the edge accepts from a client; a longer frame means that the boundary is lost."""

MARK = b"bench@"
"""What the content of every message of a load begins with; the token follows."""
STAMP_DIGITS = 16
NUMBER_DIGITS = 8
TOKEN_BYTES = STAMP_DIGITS + NUMBER_DIGITS
"""The token: send time (µs of the monotonic clock, which processes of one machine share), then the message's number."""

_FIN = 0x80
_MASKED = 0x80
_RSV_AND_FIN = 0xF0
_ZERO_KEY = b"\0\0\0\0"
_ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_KEY = base64.b64encode(b"parley-bench-key")


class WireError(Exception):
    """The server sent something that this reader cannot follow."""


def upgrade_request(host: str, port: int, path: str = "/ws") -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {_KEY.decode()}\r\n"
        "Sec-WebSocket-Protocol: v12.stomp\r\n\r\n"
    ).encode()


def upgrade_accept(key: bytes) -> bytes:
    return base64.b64encode(hashlib.sha1(key + _ACCEPT_GUID).digest())


def check_upgrade(head: bytes) -> None:
    """`head` is the server's answer without the empty line.

    Raises:
        WireError: it is no upgrade to WebSocket.
    """
    lines = head.split(b"\r\n")
    status = lines[0].split(b" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
    if len(status) < 2 or status[1] != b"101":
        raise WireError(f"the WebSocket upgrade was answered {lines[0].decode(errors='replace')!r}")
    if headers.get(b"sec-websocket-accept") != upgrade_accept(_KEY):
        raise WireError("the WebSocket upgrade was answered with a wrong Sec-WebSocket-Accept")
    if b"sec-websocket-extensions" in headers:
        raise WireError("the server uses an extension that was not offered")


def client_frame(payload: bytes, opcode: int = OP_TEXT) -> bytes:
    return _client_header(len(payload), opcode) + payload


def _client_header(length: int, opcode: int) -> bytes:
    first = bytes((_FIN | opcode,))
    if length < 126:
        return first + bytes((_MASKED | length,)) + _ZERO_KEY
    if length < 1 << 16:
        return first + bytes((_MASKED | 126,)) + length.to_bytes(2, "big") + _ZERO_KEY
    return first + bytes((_MASKED | 127,)) + length.to_bytes(8, "big") + _ZERO_KEY


def stomp_frame(command: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """One frame; the headers must need no escaping."""
    lines = [command, *(f"{name}:{value}" for name, value in headers.items())]
    if body:
        lines.append(f"content-length:{len(body)}")
    return "\n".join([*lines, "\n"]).encode() + body + b"\0"


def find_header(buffer: bytes, name: bytes, start: int, end: int) -> bytes | None:
    """The value of a header of the STOMP frame in `buffer[start:end]`; None when it has none.

    A name cannot be found in the body by mistake as long as that is JSON, which has no raw line end.
    """
    at = buffer.find(b"\n" + name + b":", start, end)
    if at < 0:
        return None
    at += len(name) + 2
    return buffer[at : buffer.find(b"\n", at, end)].rstrip(b"\r")


def body_of(buffer: bytes, start: int, end: int) -> bytes:
    """The body of the STOMP frame in `buffer[start:end]` (`end` is where its NUL stands)."""
    at = buffer.find(b"\n\n", start, end)
    if at >= 0:
        return buffer[at + 2 : end]
    at = buffer.find(b"\r\n\r\n", start, end)
    return buffer[at + 4 : end] if at >= 0 else b""


def token_of(stamp_us: int, number: bytes) -> bytes:
    return b"%016d" % stamp_us + number


class SendTemplate:
    """The SENDs of one sender to one conversation: everything but a number and a time is made once."""

    def __init__(self, conversation_id: str, client_prefix: str, *, content_bytes: int) -> None:
        """`client_prefix` begins every `clientMessageId`; it must be new for each run, or repeats come back."""
        padding = max(0, content_bytes - len(MARK) - TOKEN_BYTES)
        before_id = f'{{"conversationId":"{conversation_id}","type":"text","clientMessageId":"{client_prefix}-'
        before_token = f'","content":"{MARK.decode()}'
        after_token = "x" * padding + '"}'
        body_bytes = len(before_id) + NUMBER_DIGITS + len(before_token) + TOKEN_BYTES + len(after_token)
        head = "SEND\ndestination:/app/chat.send\ncontent-type:application/json\n"
        before_receipt = f"{head}content-length:{body_bytes}\nreceipt:"
        payload_bytes = len(before_receipt) + NUMBER_DIGITS + len("\n\n") + body_bytes + len("\0")
        self._before_receipt = _client_header(payload_bytes, OP_TEXT) + before_receipt.encode()
        self._before_id = b"\n\n" + before_id.encode()
        self._before_token = before_token.encode()
        self._after_token = after_token.encode() + b"\0"

    def frame(self, number: bytes, token: bytes) -> bytes:
        """One WebSocket frame. `number` has `NUMBER_DIGITS` digits and is the receipt id too."""
        return b"".join(
            (
                self._before_receipt,
                number,
                self._before_id,
                number,
                self._before_token,
                token,
                self._after_token,
            )
        )


class WebSocketReader:
    """Bytes of the server to messages and control frames."""

    def __init__(self) -> None:
        self._rest = b""
        self._fragments: list[bytes] = []
        self._fragmented_opcode = OP_TEXT

    def feed(self, data: bytes) -> list[tuple[int, bytes, int, int]]:
        """The frames that `data` completes: (opcode, buffer, start, end); the payload is `buffer[start:end]`.

        Nothing is copied for a whole frame: many share one buffer.

        Raises:
            WireError: masked, compressed or oversized frame, or fragments out of order.
        """
        if self._rest:
            data = self._rest + data
            self._rest = b""
        found: list[tuple[int, bytes, int, int]] = []
        position = 0
        size = len(data)
        while size - position >= 2:
            first = data[position]
            length = data[position + 1]
            start = position + 2
            if length > 125:
                if length > 127:
                    raise WireError("the server masked a frame")
                width = 2 if length == 126 else 8
                if size < start + width:
                    break
                length = int.from_bytes(data[start : start + width], "big")
                start += width
                if length > MAX_FRAME_BYTES:
                    raise WireError(f"a frame of {length} bytes")
            end = start + length
            if end > size:
                break
            if first == _FIN | OP_TEXT:
                found.append((OP_TEXT, data, start, end))
            else:
                self._uncommon(first, data, start, end, found)
            position = end
        if position < size:
            self._rest = data[position:]
        return found

    def _uncommon(
        self, first: int, data: bytes, start: int, end: int, found: list[tuple[int, bytes, int, int]]
    ) -> None:
        if first & _RSV_AND_FIN not in (0, _FIN):
            raise WireError("a frame with reserved bits")
        opcode = first & 0x0F
        is_final = bool(first & _FIN)
        if opcode >= OP_CLOSE or (is_final and opcode != OP_CONTINUATION):
            found.append((opcode, data, start, end))
            return
        if opcode == OP_CONTINUATION and not self._fragments:
            raise WireError("a continuation of nothing")
        if opcode != OP_CONTINUATION:
            self._fragmented_opcode = opcode
        self._fragments.append(data[start:end])
        if is_final:
            whole = b"".join(self._fragments)
            self._fragments = []
            found.append((self._fragmented_opcode, whole, 0, len(whole)))
