"""The other side of the wire for these tests: a client that was written without looking at the engine.

It reads whole server frames in the plainest way, one character at a time, so that it shares no shortcut (and no
mistake) with the code under test.
"""

from collections.abc import Iterator
from typing import NamedTuple

from edge.stomp.connection import ServerConnection
from edge.stomp.errors import RemoteProtocolError
from edge.stomp.events import ConnectReceived, Event
from edge.stomp.frames import Version
from edge.stomp.parser import Limits

ESCAPES = {
    Version.V1_0: {},
    Version.V1_1: {"n": "\n", "c": ":", "\\": "\\"},
    Version.V1_2: {"n": "\n", "c": ":", "\\": "\\", "r": "\r"},
}


class ServerFrame(NamedTuple):
    command: str
    headers: list[tuple[str, str]]
    body: bytes

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


def read_server_frame(data: bytes, version: Version) -> ServerFrame:
    """Exactly one frame; an AssertionError where that is not what `data` holds."""
    head, blank, rest = data.partition(b"\n\n")
    assert blank, data
    command, *lines = head.decode().split("\n")
    rules = Version.V1_0 if command == "CONNECTED" else version
    headers = []
    for line in lines:
        name, colon, value = line.partition(":")
        assert colon, line
        assert rules is Version.V1_0 or ":" not in value, "a colon in a value is escaped from 1.1 on"
        headers.append((unescape(name, rules), unescape(value, rules)))
    length = dict(headers).get("content-length")
    size = rest.index(b"\0") if length is None else int(length)
    assert rest[size:] == b"\0", "one frame, and nothing after its NUL"
    return ServerFrame(command, headers, rest[:size])


def unescape(text: str, version: Version) -> str:
    if version is Version.V1_0:
        return text
    plain = ""
    characters = iter(text)
    for character in characters:
        plain += character if character != "\\" else ESCAPES[version][next(characters)]
    return plain


def new_connection(limits: Limits | None = None) -> ServerConnection:
    return ServerConnection(limits or Limits(), server="parley/0.1")


def connect_frame(version: Version) -> bytes:
    return f"CONNECT\naccept-version:{version.value}\nhost:parley\nheart-beat:0,0\n\n\0".encode()


def connected(version: Version = Version.V1_2, limits: Limits | None = None) -> ServerConnection:
    connection = new_connection(limits)
    connection.receive_data(connect_frame(version))
    connection.next_event()
    connection.accept(session="s-1", user="alice")
    return connection


def pull(connection: ServerConnection) -> Iterator[Event]:
    """Every event that is ready, one by one; CONNECT is accepted as it comes."""
    while (event := connection.next_event()) is not None:
        yield event
        if isinstance(event, ConnectReceived):
            connection.accept(session="s-1", user="alice")


def pull_all(connection: ServerConnection) -> list[Event]:
    return list(pull(connection))


def receive(connection: ServerConnection, data: bytes) -> Event:
    """The one event that `data` is."""
    connection.receive_data(data)
    (event,) = pull_all(connection)
    return event


def refused(connection: ServerConnection, data: bytes) -> RemoteProtocolError:
    """The error that `data` ends in, whatever came before it."""
    connection.receive_data(data)
    try:
        events = pull_all(connection)
    except RemoteProtocolError as error:
        assert connection.is_closed
        return error
    raise AssertionError(f"nothing was refused: {events}")
