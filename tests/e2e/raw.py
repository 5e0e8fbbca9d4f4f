"""A WebSocket with nothing on top: frames to the letter, as a test wrote them."""

import asyncio
from collections.abc import Mapping, Sequence
from socket import SHUT_RDWR
from typing import Self

import aiohttp

from tests.e2e.frames import Frame, Matcher, a, decode_all, encode
from tests.e2e.inbox import Inbox
from tests.e2e.waiting import PATIENCE_S

NO_CODE_IN_CLOSE_FRAME = 1005
NO_CLOSE_FRAME = 1006

_TIMEOUT = aiohttp.ClientWSTimeout(ws_close=2)


class RawClient:
    """One connection. `send` writes a frame, `write` writes bytes; a task reads whatever comes."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, *, version: str, name: str) -> None:
        self.version = version
        self.inbox = Inbox(name)
        self.heartbeats_received = 0
        self.failure: Exception | None = None
        self._socket = socket
        self._reader = asyncio.create_task(self._read(), name=f"reader of {name}")

    @classmethod
    async def open(
        cls,
        http: aiohttp.ClientSession,
        base_url: str,
        *,
        version: str = "1.2",
        subprotocols: Sequence[str] | None = None,
        headers: Mapping[str, str] | None = None,
        name: str = "raw client",
    ) -> Self:
        """Open the WebSocket; by default the version's subprotocol is offered. Nothing is sent yet."""
        offered = (f"v{version.replace('.', '')}.stomp",) if subprotocols is None else subprotocols
        socket = await http.ws_connect(
            f"{base_url}/ws", protocols=offered, headers=headers, max_msg_size=0, timeout=_TIMEOUT
        )
        return cls(socket, version=version, name=name)

    @property
    def subprotocol(self) -> str | None:
        return self._socket.protocol

    async def write(self, payload: bytes | str) -> None:
        """One WebSocket message: text where the payload is UTF-8, else binary."""
        if isinstance(payload, str):
            await self._socket.send_str(payload)
            return
        try:
            await self._socket.send_str(payload.decode())
        except UnicodeDecodeError:
            await self._socket.send_bytes(payload)

    async def send(self, command: str, headers: Mapping[str, str] | None = None, body: str = "") -> None:
        await self.write(encode(command, headers, body, version=self.version))

    async def connect(self, token: str | None, **headers: str) -> Frame:
        """CONNECT with `Authorization`, and wait for CONNECTED. `heart_beat=` stands for `heart-beat`."""
        wanted = {"accept-version": self.version, "host": "parley"}
        wanted |= {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            wanted["Authorization"] = f"Bearer {token}"
        await self.send("CONNECT", wanted)
        return await self.take(a("CONNECTED"))

    async def subscribe(self, destination: str, id: str = "0", **headers: str) -> Frame:
        """SUBSCRIBE, and wait until the subscription is live. `x_after_seq=` stands for `x-after-seq`."""
        receipt = f"subscribed-{id}"
        wanted = {"id": id, "destination": destination, "receipt": receipt}
        wanted |= {name.replace("_", "-"): value for name, value in headers.items()}
        await self.send("SUBSCRIBE", wanted)
        return await self.take(a("RECEIPT", receipt_id=receipt))

    async def take(self, wanted: Matcher, *, timeout_s: float = PATIENCE_S) -> Frame:
        return await self.inbox.take(wanted, timeout_s=timeout_s)

    async def closed(self, *, timeout_s: float = PATIENCE_S) -> int:
        """The close code, once the server has ended the connection."""
        return await self.inbox.closed(timeout_s=timeout_s)

    async def close(self) -> None:
        await self._socket.close()
        await self._reader
        if self.failure is not None:
            raise self.failure

    def cut(self) -> None:
        """Vanish: end the TCP connection without a WebSocket close."""
        self._socket.get_extra_info("socket").shutdown(SHUT_RDWR)

    async def _read(self) -> None:
        try:
            code = await self._read_until_close()
        except Exception as failure:
            # Kept for `close`: what a server wrote against the standard must fail the test, not vanish here.
            self.failure = failure
            code = NO_CLOSE_FRAME
        self.inbox.close(code)

    async def _read_until_close(self) -> int:
        while True:
            message = await self._socket.receive()
            if message.type is aiohttp.WSMsgType.TEXT:
                payload = message.data.encode()
            elif message.type is aiohttp.WSMsgType.BINARY:
                payload = message.data
            elif message.type is aiohttp.WSMsgType.CLOSE:
                self.inbox.close_reason = message.extra or ""
                return message.data or NO_CODE_IN_CLOSE_FRAME
            elif message.type is aiohttp.WSMsgType.ERROR:
                raise AssertionError(f"the server broke RFC 6455: {message.data!r}")
            else:
                return NO_CLOSE_FRAME
            for frame in decode_all(payload, version=self.version):
                if frame is None:
                    self.heartbeats_received += 1
                else:
                    self.inbox.put(frame)
