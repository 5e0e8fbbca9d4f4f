"""A TCP connection to the public port: handshakes and WebSocket frames that no client library would write."""

import asyncio
import base64
import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.e2e.waiting import PATIENCE_S

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ServerFrame:
    opcode: int
    payload: bytes

    @property
    def close_code(self) -> int:
        assert self.opcode == CLOSE, self
        return int(struct.unpack("!H", self.payload[:2])[0])


class BareConnection:
    """Bytes out, HTTP answers and WebSocket frames in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, authority: str) -> None:
        self.authority = authority
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, base_url: str) -> "BareConnection":
        address = urlsplit(base_url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        return cls(reader, writer, address.netloc)

    def request(
        self, changes: Mapping[str, str | None] | None = None, *, line: str = "GET /ws HTTP/1.1", more: str = ""
    ) -> bytes:
        """An upgrade request; `changes` replaces headers and None removes one, `more` is added as it stands."""
        headers: dict[str, str | None] = {
            "Host": self.authority,
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            "Sec-WebSocket-Version": "13",
            **(changes or {}),
        }
        lines = [line, *(f"{name}: {value}" for name, value in headers.items() if value is not None)]
        return ("\r\n".join(lines) + "\r\n" + more + "\r\n").encode()

    async def write(self, data: bytes) -> None:
        """What the server does not want to read any more is not an error here."""
        with suppress(ConnectionError):
            self._writer.write(data)
            await self._writer.drain()

    async def upgrade(self, changes: Mapping[str, str | None] | None = None) -> Response:
        """Open the WebSocket."""
        await self.write(self.request(changes))
        response = await self.response()
        assert response.status == 101, response
        return response

    async def response(self) -> Response:
        async with asyncio.timeout(PATIENCE_S):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status_line, *lines = head.strip().split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return Response(int(status_line.split(" ")[1]), {name.lower(): value.strip() for name, _, value in pairs})

    async def send(
        self, opcode: int, payload: bytes = b"", *, first_byte: int | None = None, masked: bool = True
    ) -> None:
        """One frame; `first_byte` replaces FIN and opcode."""
        await self.write(frame_bytes(opcode, payload, first_byte=first_byte, masked=masked))

    async def receive(self, *, timeout_s: float = PATIENCE_S) -> ServerFrame:
        """The next frame from the server; a CLOSE without a code where the connection just ends."""
        async with asyncio.timeout(timeout_s):
            try:
                first, second = await self._reader.readexactly(2)
                length = second & 0x7F
                if length == 126:
                    (length,) = struct.unpack("!H", await self._reader.readexactly(2))
                elif length == 127:
                    (length,) = struct.unpack("!Q", await self._reader.readexactly(8))
                return ServerFrame(first & 0x0F, await self._reader.readexactly(length))
            except (asyncio.IncompleteReadError, ConnectionError):
                return ServerFrame(CLOSE, struct.pack("!H", 1006))

    async def closed(self, *, timeout_s: float = PATIENCE_S) -> int:
        """The close code, with whatever comes before it."""
        while (frame := await self.receive(timeout_s=timeout_s)).opcode != CLOSE:
            pass
        return frame.close_code

    async def ended(self, *, timeout_s: float = PATIENCE_S) -> None:
        """Wait until the server has closed the TCP connection."""
        async with asyncio.timeout(timeout_s):
            with suppress(ConnectionError):
                while await self._reader.read(65536):
                    pass

    async def close(self) -> None:
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


def frame_bytes(opcode: int, payload: bytes, *, first_byte: int | None = None, masked: bool = True) -> bytes:
    """A WebSocket frame as a client writes it, unless told otherwise."""
    head = bytes([0x80 | opcode if first_byte is None else first_byte])
    bit = 0x80 if masked else 0
    if len(payload) < 126:
        head += bytes([bit | len(payload)])
    elif len(payload) < 1 << 16:
        head += bytes([bit | 126]) + struct.pack("!H", len(payload))
    else:
        head += bytes([bit | 127]) + struct.pack("!Q", len(payload))
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
