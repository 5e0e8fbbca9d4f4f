"""STOMP frames as bytes: versions, commands, escaping, encoding.

Owns what a frame looks like when it leaves; reading is `parser`. Knows nothing of states or meanings.
Source: STOMP 1.0, 1.1 and 1.2, "Value Encoding" and "Repeated Header Entries".

What each version can express in a header:

    1.0   no escaping. A newline cannot be written and becomes a space.
    1.1   `\\n` `\\c` `\\\\`
    1.2   the same and `\\r`

CONNECT, STOMP and CONNECTED are written by the rules of 1.0 in every version (STOMP 1.2: they "do not
escape ... in order to remain backward compatible with STOMP 1.0"). A NUL ends a frame for most clients,
so no header may hold one.
"""

import re
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from edge.stomp.errors import LocalProtocolError


class Version(Enum):
    """The protocol versions that the engine speaks, by their name on the wire."""

    V1_0 = "1.0"
    V1_1 = "1.1"
    V1_2 = "1.2"


CONNECT_COMMANDS = frozenset({"CONNECT", "STOMP"})
TRANSACTION_COMMANDS = frozenset({"BEGIN", "COMMIT", "ABORT"})
CLIENT_COMMANDS = (
    frozenset({"SEND", "SUBSCRIBE", "UNSUBSCRIBE", "ACK", "NACK", "DISCONNECT"})
    | CONNECT_COMMANDS
    | TRANSACTION_COMMANDS
)
"""What a client may say. What only a server says (MESSAGE, RECEIPT, ...) is unknown to the parser."""

UNESCAPED_COMMANDS = CONNECT_COMMANDS | {"CONNECTED"}

HEART_BEAT = b"\n"
"""What is sent when there is nothing to send (STOMP 1.2, "Heart-beating")."""


_SPECIAL = re.compile(r"[\\\n\r:\0]").search


class Frame(NamedTuple):
    """One frame as it was read: unescaped headers, the first of each name, in order of arrival."""

    command: str
    headers: dict[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"Frame({self.command}, {len(self.headers)} headers, {len(self.body)} bytes)"


def receipt_of(command: str, headers: dict[str, str]) -> str | None:
    """The receipt that a frame asks for. CONNECT cannot ask for one (STOMP 1.2, "Header receipt")."""
    return None if command in CONNECT_COMMANDS else headers.get("receipt")


def escape_header(value: str, version: Version) -> str:
    """A header name or value as `version` writes it.

    Raises:
        LocalProtocolError: the value holds a NUL, which no version can express.
    """
    if "\0" in value:
        raise LocalProtocolError("a header cannot hold a NUL")
    if version is Version.V1_0:
        return value.replace("\n", " ")
    escaped = value.replace("\\", "\\\\").replace("\n", "\\n").replace(":", "\\c")
    return escaped.replace("\r", "\\r") if version is Version.V1_2 else escaped


def unescape_header(value: str, version: Version) -> str:
    """The reverse of `escape_header`, in a constant number of passes however many escapes there are.

    `value` must not hold a NUL (the parser has refused it before): it stands in for the escaped backslash.

    Raises:
        ValueError: an escape that `version` does not define.
    """
    if version is Version.V1_0 or "\\" not in value:
        return value
    plain = value.replace("\\\\", "\0").replace("\\n", "\n").replace("\\c", ":")
    if version is Version.V1_2:
        plain = plain.replace("\\r", "\r")
    if "\\" in plain:
        raise ValueError("undefined escape")
    return plain.replace("\0", "\\")


def encode_headers(headers: Iterable[tuple[str, str]], version: Version) -> str:
    """Header lines, each with its line end.

    Raises:
        LocalProtocolError: an empty name, a name that 1.0 cannot express, a NUL, or a content-length (the
            encoder alone sets that one).
    """
    lines = []
    for name, value in headers:
        if not name or name == "content-length":
            raise LocalProtocolError("a header name is empty, or is content-length, which the encoder sets")
        if _SPECIAL(name + value) is not None:
            if version is Version.V1_0 and ":" in name:
                raise LocalProtocolError("STOMP 1.0 cannot express a colon in a header name")
            name, value = escape_header(name, version), escape_header(value, version)
        lines.append(f"{name}:{value}\n")
    return "".join(lines)


def to_utf8(text: str) -> bytes:
    """UTF-8, or LocalProtocolError where the text has a lone surrogate."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise LocalProtocolError("a lone surrogate cannot be sent") from error


def encode_frame(command: str, headers: Iterable[tuple[str, str]], body: bytes = b"", *, version: Version) -> bytes:
    """One frame, ready to send; with a body it gets a content-length.

    Raises:
        LocalProtocolError: a header that cannot be written (see `encode_headers`, `to_utf8`).
    """
    rules = Version.V1_0 if command in UNESCAPED_COMMANDS else version
    lines = encode_headers(headers, rules)
    if not body:
        return to_utf8(f"{command}\n{lines}\n\0")
    return to_utf8(f"{command}\n{lines}content-length:{len(body)}\n\n") + body + b"\0"
