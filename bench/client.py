"""One STOMP connection over a WebSocket: a bare asyncio Protocol that finds frames and hands them on.

Owns: opening, subscribing, answering pings, noticing the end. Refuses: reconnecting, heart-beats (it offers none),
back-pressure (what is in flight is bounded by its caller). A frame is handed on as (buffer, start, end) without a copy.
"""

import asyncio
import time
from typing import Protocol, cast

from bench import wire
from bench.plan import ClientPlan
from bench.wire import WireError

_MESSAGE = ord("M")
_RECEIPT = ord("R")
_END_OF_LINE = b"\r\n"
_MAX_UPGRADE_BYTES = 16_384


class Listener(Protocol):
    """Who hears what a connection receives. `now_us` is when its chunk of bytes was read."""

    def receipt(self, buffer: bytes, start: int, end: int, now_us: int) -> None: ...

    def message(self, buffer: bytes, start: int, end: int, now_us: int) -> None: ...

    def chunk_done(self) -> None:
        """All frames of one read have been handed on."""

    def lost(self, reason: str) -> None:
        """The connection is over, by whoever's doing; called once, and not after `close`."""


class ConnectFailed(Exception):
    """A connection could not be opened or subscribed; the text names the edge and the user."""


class Connection(asyncio.Protocol):
    """From the upgrade to the end. Made by `connect`."""

    def __init__(self, plan: ClientPlan) -> None:
        self.plan = plan
        self.listener: Listener | None = None
        self._transport: asyncio.Transport | None = None
        self._head: bytes | None = b""
        self._reader = wire.WebSocketReader()
        self._waiting: dict[bytes, asyncio.Future[bytes]] = {}
        self._is_over = False

    async def open(self) -> None:
        """Upgrade, then CONNECT.

        Raises:
            WireError: it was refused, or the connection ended.
        """
        upgraded = self._answer_to(b"upgrade")
        self.write(wire.upgrade_request(self.plan.edge.host, self.plan.edge.port))
        await upgraded
        headers = {
            "accept-version": "1.2",
            "host": self.plan.edge.host,
            "heart-beat": "0,0",
            "passcode": self.plan.token,
        }
        connected = self._answer_to(b"connected")
        self.write(wire.client_frame(wire.stomp_frame("CONNECT", headers)))
        await connected

    async def subscribe(self, subscription_id: str, destination: str) -> bytes:
        """The header lines of the RECEIPT, which comes when the subscription is live.

        Raises:
            WireError: the connection ended, which is how a refusal looks here.
        """
        receipt = f"sub-{subscription_id}"
        headers = {"id": subscription_id, "destination": destination, "receipt": receipt}
        answered = self._answer_to(receipt.encode())
        self.write(wire.client_frame(wire.stomp_frame("SUBSCRIBE", headers)))
        return await answered

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """Say good-bye and go; the listener hears nothing more."""
        self._is_over = True
        if self._transport is not None:
            self.write(wire.client_frame((1000).to_bytes(2, "big"), wire.OP_CLOSE))
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport has the interface without the base class.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._end(f"the connection was closed{f' ({exc})' if exc else ''}")

    def data_received(self, data: bytes) -> None:
        now_us = time.monotonic_ns() // 1000
        try:
            if self._head is not None:
                data = self._upgrade(self._head + data)
            if data:
                self._frames(data, now_us)
        except (WireError, ValueError) as unreadable:
            self._end(str(unreadable))

    def _upgrade(self, received: bytes) -> bytes:
        head, separator, rest = received.partition(b"\r\n\r\n")
        if not separator:
            if len(received) > _MAX_UPGRADE_BYTES:
                raise WireError("the answer to the WebSocket upgrade does not end")
            self._head = received
            return b""
        wire.check_upgrade(head)
        self._head = None
        self._resolve(b"upgrade", head)
        return rest

    def _frames(self, data: bytes, now_us: int) -> None:
        listener = self.listener
        for opcode, buffer, start, end in self._reader.feed(data):
            if opcode > wire.OP_BINARY:
                self._control(opcode, buffer[start:end])
                continue
            while start < end:
                first = buffer[start]
                if first in _END_OF_LINE:
                    start += 1
                    continue
                stop = buffer.find(b"\0", start, end)
                if stop < 0:
                    raise WireError("a STOMP frame without its end")
                if listener is None or self._waiting:
                    self._answer(buffer[start:stop])
                elif first == _MESSAGE:
                    listener.message(buffer, start, stop, now_us)
                elif first == _RECEIPT:
                    listener.receipt(buffer, start, stop, now_us)
                else:
                    self._answer(buffer[start:stop])
                start = stop + 1
        if listener is not None:
            listener.chunk_done()

    def _answer(self, frame: bytes) -> None:
        """A frame of the set-up, or an ERROR at any time."""
        command = frame[: frame.find(b"\n")].rstrip(b"\r")
        if command == b"CONNECTED":
            self._resolve(b"connected", frame)
        elif command == b"RECEIPT":
            self._resolve(wire.find_header(frame, b"receipt-id", 0, len(frame)) or b"", frame)
        elif command == b"ERROR":
            message = wire.find_header(frame, b"message", 0, len(frame)) or b"without a message"
            body = wire.body_of(frame, 0, len(frame))
            raise WireError(f"ERROR {message.decode(errors='replace')!r} {body.decode(errors='replace')[:200]}")
        elif command != b"MESSAGE":
            raise WireError(f"an unexpected {command.decode(errors='replace')[:40]!r} frame")

    def _control(self, opcode: int, payload: bytes) -> None:
        if opcode == wire.OP_PING:
            self.write(wire.client_frame(payload, wire.OP_PONG))
        elif opcode == wire.OP_CLOSE:
            code = int.from_bytes(payload[:2], "big")
            raise WireError(f"closed by the server with {code} {payload[2:].decode(errors='replace')!r}")

    def _answer_to(self, name: bytes) -> asyncio.Future[bytes]:
        if self._is_over:
            raise WireError("the connection is over")
        self._waiting[name] = future = asyncio.get_running_loop().create_future()
        return future

    def _resolve(self, name: bytes, frame: bytes) -> None:
        future = self._waiting.pop(name, None)
        if future is not None and not future.done():
            future.set_result(frame)

    def _end(self, reason: str) -> None:
        if self._is_over:
            return
        self._is_over = True
        if self._transport is not None:
            self._transport.close()
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(WireError(reason))
        if self.listener is not None and not waiting:
            self.listener.lost(reason)


async def connect(plan: ClientPlan, *, timeout_s: float) -> Connection:
    """An open STOMP connection, subscribed to its refusals so that one does not end it.

    Raises:
        ConnectFailed: refused, unreachable or silent for `timeout_s`.
    """
    connection = Connection(plan)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            await loop.create_connection(lambda: connection, plan.edge.host, plan.edge.port)
            await connection.open()
            await connection.subscribe("errors", "/user/queue/errors")
    except TimeoutError:
        connection.close()
        raise ConnectFailed(f"edge {plan.edge}: no answer to {plan.user_id} in {timeout_s:g} s") from None
    except (OSError, WireError) as failure:
        connection.close()
        raise ConnectFailed(f"edge {plan.edge}: {plan.user_id}: {failure}") from failure
    return connection
