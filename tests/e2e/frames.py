"""STOMP frames as the tests see them, and a small codec for the tests that write them to the letter.

The codec is for tests only and knows nothing of the one under test. It decodes strictly: a server that leaves out
a NUL, miscounts a body or repeats a header is caught here.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_ESCAPES = {"\\": "\\\\", "\r": "\\r", "\n": "\\n", ":": "\\c"}
_UNESCAPES = {"\\\\": "\\", "\\r": "\r", "\\n": "\n", "\\c": ":"}
_UNESCAPED_COMMANDS = ("CONNECT", "CONNECTED")


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame that arrived, its headers and body decoded."""

    command: str
    headers: Mapping[str, str]
    body: str = ""

    def json(self) -> dict[str, Any]:
        """The body, which must be a JSON object."""
        value = json.loads(self.body)
        assert isinstance(value, dict), self
        return value

    @property
    def seq(self) -> int:
        return int(self.headers["x-seq"])


Matcher = Callable[[Frame], bool]


def a(command: str, **headers: str) -> Matcher:
    """Matches a frame by its command and some headers (`receipt_id=` stands for `receipt-id`)."""
    wanted = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda frame: frame.command == command and wanted.items() <= frame.headers.items()


def an_answer_to(receipt: str) -> Matcher:
    """Matches whatever answers a frame that asked for this receipt: a RECEIPT, an ERROR or a refusal."""
    return lambda frame: (
        frame.headers.get("receipt-id") == receipt
        or (frame.command == "MESSAGE" and frame.json().get("receiptId") == receipt)
    )


def an_event(event: str, **fields: object) -> Matcher:
    """Matches a MESSAGE whose body is that event and has these fields."""
    wanted: dict[str, object] = {"event": event, **fields}
    return lambda frame: frame.command == "MESSAGE" and wanted.items() <= frame.json().items()


def encode(command: str, headers: Mapping[str, str] | None = None, body: str = "", *, version: str = "1.2") -> bytes:
    """A frame as a well-behaved client of that version writes it; no header is added."""
    lines = [command]
    for name, value in (headers or {}).items():
        lines.append(f"{_escape(name, command, version)}:{_escape(value, command, version)}")
    return ("\n".join(lines) + "\n\n" + body).encode() + b"\0"


def decode_all(payload: bytes, *, version: str) -> Iterator[Frame | None]:
    """The frames of one WebSocket message; None for each heart-beat between them."""
    rest = payload
    while rest:
        if rest[:1] == b"\n":
            yield None
            rest = rest[1:]
            continue
        head, separator, rest = rest.partition(b"\n\n")
        assert separator, f"no empty line after the headers: {payload!r}"
        command, *lines = head.decode().split("\n")
        headers = _headers(lines, command, version)
        length = int(headers["content-length"]) if "content-length" in headers else rest.index(b"\0")
        assert rest[length : length + 1] == b"\0", f"no NUL after the body: {payload!r}"
        yield Frame(command, headers, rest[:length].decode())
        rest = rest[length + 1 :]


def _headers(lines: list[str], command: str, version: str) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        assert colon, f"a header without a colon: {line!r}"
        name = _unescape(name, command, version)
        assert name not in headers, f"repeated header {name!r}"
        headers[name] = _unescape(value, command, version)
    return headers


def _escape(text: str, command: str, version: str) -> str:
    if version == "1.0" or command in _UNESCAPED_COMMANDS:
        return text
    kept = "\r" if version == "1.1" else ""  # 1.1 knows no \r
    return "".join(_ESCAPES.get(char, char) if char != kept else char for char in text)


def _unescape(text: str, command: str, version: str) -> str:
    if version == "1.0" or command in _UNESCAPED_COMMANDS or "\\" not in text:
        return text
    decoded, at = "", 0
    while at < len(text):
        if text[at] == "\\":
            pair = text[at : at + 2]
            assert pair in _UNESCAPES, f"undefined escape in {text!r}"
            assert version != "1.1" or pair != "\\r", f"\\r is not of version 1.1: {text!r}"
            decoded += _UNESCAPES[pair]
            at += 2
        else:
            decoded += text[at]
            at += 1
    return decoded
