"""SockJS frames: what goes to a client and what comes from it, as bytes; no I/O, no clock, no state.

To the client: `o` opened, `h` heart-beat, `a[...]` messages, `c[code,reason]` the end. From it: JSON, a list of texts.

Source: the SockJS protocol 0.3.3 ("Framing accepted by the client", "JSON Unicode Encoding"), whose text is its test.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import orjson

OPEN = b"o"
HEARTBEAT = b"h"

# A client that publishes while it waits for an answer sends all of it at once, and gets no further than its burst of
# SENDs (60 by default) before it is refused. Each text costs 50 bytes here however short it is.
MAX_MESSAGES = 1_024

# What browsers are known to change or lose on the way: format characters of U+2000 and the specials below U+FFFF.
_mangled = re.compile(rb"\xe2\x80[\x8c-\x8f\xa8-\xaf]|\xe2\x81[\xa0-\xaf]|\xef\xbf[\xb0-\xbf]")
_list_of_texts = msgspec.json.Decoder(list[str])
_one_or_more_texts = msgspec.json.Decoder(list[str] | str)


class BadPayload(ValueError):
    """What a client sent is not messages; the text is for that client."""


class NoPayload(BadPayload):
    def __init__(self) -> None:
        super().__init__("Payload expected.")


class BrokenJson(BadPayload):
    def __init__(self) -> None:
        super().__init__("Broken JSON encoding.")


class TooManyMessages(BadPayload):
    def __init__(self) -> None:
        super().__init__(f"At most {MAX_MESSAGES} messages at once.")


def quote(text: str) -> bytes:
    """A JSON string in UTF-8 that reaches every browser as it is."""
    return _mangled.sub(_escape, orjson.dumps(text))


def _escape(mangled: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % ord(mangled[0].decode())


def messages_frame(quoted: Sequence[bytes]) -> bytes:
    """Messages that `quote` has made ready."""
    return b"a[" + b",".join(quoted) + b"]"


def close_frame(code: int, reason: str) -> bytes:
    return b"c[%d,%b]" % (code, quote(reason))


def join_messages(payload: bytes) -> bytes:
    """The messages of one `xhr_send`, one after another.

    Raises:
        BadPayload: they are none.
    """
    if not payload:
        raise NoPayload
    return _decode(payload, _list_of_texts)


def join_socket_messages(payload: bytes) -> bytes:
    """The same for one WebSocket message, which may be empty, and may be one text instead of a list.

    Raises:
        BadPayload: they are none.
    """
    return _decode(payload, _one_or_more_texts) if payload else b""


def _decode(
    payload: bytes, decoder: "msgspec.json.Decoder[list[str]] | msgspec.json.Decoder[list[str] | str]"
) -> bytes:
    try:
        decoded = decoder.decode(payload)
        if isinstance(decoded, list) and len(decoded) > MAX_MESSAGES:
            raise TooManyMessages
        return "".join(decoded).encode()
    except (msgspec.DecodeError, UnicodeError):
        raise BrokenJson from None  # the cause would carry what was sent


@dataclass(frozen=True, slots=True)
class Framing:
    """How frames stand in the answer to a request."""

    content_type: str
    before: bytes
    after: bytes
    prelude: bytes = b""
    escapes_percent: bool = False

    def wrap(self, frame: bytes) -> bytes:
        if self.escapes_percent:
            frame = frame.replace(b"%", b"%25")
        return self.before + frame + self.after


XHR = Framing("application/javascript; charset=UTF-8", b"", b"\n")
# Old browsers show nothing of an answer before its first 2 KiB.
XHR_STREAMING = Framing(XHR.content_type, b"", b"\n", prelude=b"h" * 2048 + b"\n")
# sockjs-client unescapes what comes here as if it were a part of a URL, and a bare % would make it throw.
EVENTSOURCE = Framing("text/event-stream; charset=UTF-8", b"data: ", b"\r\n\r\n", prelude=b"\r\n", escapes_percent=True)

ANOTHER_LISTENS = close_frame(2010, "Another connection still open")
INTERRUPTED = close_frame(1002, "Connection interrupted")
