"""stomp.py over its WebSocket transport, as a StompClient.

The library has a class for version 1.2 only (`WSStompConnection`); those for 1.0 and 1.1 are put together here from
its own parts, the same way. It offers no subprotocol, opens 1.1 and 1.2 with STOMP instead of CONNECT, sends no
`host` in 1.1, and tells nobody the close code.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from socket import SHUT_RDWR
from typing import Any, Self
from urllib.parse import urlsplit

import stomp
from stomp.adapter.ws import WSTransport
from stomp.connect import BaseConnection, StompConnection10, StompConnection11
from stomp.protocol import Protocol10, Protocol11
from stomp.utils import default_create_thread

from tests.e2e.clients import NO_HEARTBEAT, Heartbeat
from tests.e2e.frames import Frame, a
from tests.e2e.inbox import Inbox
from tests.e2e.waiting import PATIENCE_S

_CODE_IS_NOT_TOLD = 1005


class _WebSocketConnection10(StompConnection10):  # type: ignore[misc] # the library has no types
    def __init__(self, hosts: list[tuple[str, int]], path: str) -> None:
        transport = WSTransport(hosts, ws_path=path)
        BaseConnection.__init__(self, transport)
        Protocol10.__init__(self, transport)


class _WebSocketConnection11(StompConnection11):  # type: ignore[misc] # the library has no types
    def __init__(self, hosts: list[tuple[str, int]], path: str, heartbeats: tuple[int, int]) -> None:
        transport = WSTransport(hosts, ws_path=path)
        BaseConnection.__init__(self, transport)
        Protocol11.__init__(self, transport, heartbeats)


class _Listener(stomp.ConnectionListener):  # type: ignore[misc] # the library has no types
    """Hands everything over to the event loop; its methods are called in the library's threads."""

    def __init__(self, owner: "StompPy") -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()

    def on_connected(self, frame: Any) -> None:
        self._hand_over(self._owner.inbox.put, _frame(frame))

    on_message = on_receipt = on_error = on_connected

    def on_heartbeat(self) -> None:
        self._hand_over(self._owner.count_heartbeat_received)

    def on_send(self, frame: Any) -> None:
        if frame.cmd is None:
            self._hand_over(self._owner.count_heartbeat_sent)

    def on_receiver_loop_completed(self, _: Any) -> None:
        # Not `on_disconnected`: the library calls that before it hands out the RECEIPT of a DISCONNECT.
        self._hand_over(self._owner.inbox.close, _CODE_IS_NOT_TOLD)

    def _hand_over(self, function: Callable[..., None], *arguments: object) -> None:
        self._loop.call_soon_threadsafe(function, *arguments)


class StompPy:
    """One connection of stomp.py."""

    def __init__(self) -> None:
        self.inbox = Inbox("stomp.py")
        self.heartbeats_received = 0
        self.heartbeats_sent = 0
        self._connection: Any = None
        self._socket: Any = None
        self._connecting: asyncio.Task[None] | None = None
        self._version = ""
        self._subscriptions: dict[str, str] = {}

    @classmethod
    async def start(cls) -> Self:
        return cls()

    async def connect(
        self,
        base_url: str,
        *,
        version: str,
        headers: Mapping[str, str],
        heartbeat: Heartbeat = NO_HEARTBEAT,
    ) -> Frame:
        address = urlsplit(base_url)
        hosts = [(str(address.hostname), int(address.port or 80))]
        offered = (heartbeat.outgoing_ms, heartbeat.incoming_ms)
        self._version = version
        match version:
            case "1.0":
                self._connection = _WebSocketConnection10(hosts, "/ws")
            case "1.1":
                self._connection = _WebSocketConnection11(hosts, "/ws", offered)
            case _:
                self._connection = stomp.WSStompConnection(hosts, ws_path="/ws", heartbeats=offered)
        self._connection.set_listener("test", _Listener(self))
        self._connection.transport.override_threading(self._start_reading)
        others = {name: value for name, value in headers.items() if name not in ("login", "passcode")}
        self._connecting = asyncio.create_task(
            asyncio.to_thread(self._connection.connect, headers.get("login"), headers.get("passcode"), headers=others)
        )
        await asyncio.shield(self._connecting)
        return await self.inbox.take(lambda frame: frame.command in ("CONNECTED", "ERROR"))

    async def subscribe(
        self, destination: str, id: str, headers: Mapping[str, str] | None = None, *, ack: str = "auto"
    ) -> Frame:
        wanted = {"receipt": f"subscribe {id}", **(headers or {})}
        receipt = wanted["receipt"]  # the library writes its escapes into the dictionary that it is given
        self._subscriptions[id] = destination
        self._connection.subscribe(destination, id=id, ack=ack, headers=wanted)
        return await self.inbox.take(a("RECEIPT", receipt_id=receipt))

    async def unsubscribe(self, id: str) -> Frame:
        receipt = f"unsubscribe {id}"
        self._connection.unsubscribe(id=id, headers={"receipt": receipt})
        return await self.inbox.take(a("RECEIPT", receipt_id=receipt))

    async def send(self, destination: str, body: str, headers: Mapping[str, str]) -> None:
        self._connection.send(destination, body, headers=dict(headers))

    async def acknowledge(self, message: Frame) -> Frame:
        receipt = f"ack {message.headers['message-id']}"
        match self._version:
            case "1.0":
                self._connection.ack(message.headers["message-id"], receipt=receipt)
            case "1.1":
                self._connection.ack(message.headers["message-id"], message.headers["subscription"], receipt=receipt)
            case _:
                self._connection.ack(message.headers["ack"], receipt=receipt)
        return await self.inbox.take(a("RECEIPT", receipt_id=receipt))

    async def disconnect(self) -> Frame:
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.to_thread(self._connection.disconnect, "goodbye")
        return await self.inbox.take(a("RECEIPT", receipt_id="goodbye"))

    def freeze(self) -> None:
        """The library's heart-beat thread ends; 1.0 has none."""
        ended = getattr(self._connection, "heartbeat_terminate_event", None)
        if ended is not None:
            ended.set()

    def thaw(self) -> None:
        """Nothing to do: what ended with `freeze` does not come back."""

    async def close(self) -> None:
        if self._connecting is None:
            return
        await asyncio.wait({self._connecting})
        if self._socket is None:
            return
        transport = self._connection.transport
        self.freeze()
        # The library would only close the descriptor, which does not wake its own thread out of `recv`.
        if self._socket.sock is not None:
            with suppress(OSError):
                self._socket.sock.shutdown(SHUT_RDWR)
        for thread in (transport.io_thread, getattr(self._connection, "heartbeat_thread", None)):
            if thread is not None:
                await asyncio.to_thread(thread.join, PATIENCE_S)
        self._socket.shutdown()  # it forgets to close a connection that was reset
        await asyncio.sleep(0)  # what the threads handed over before they ended

    def _start_reading(self, read: Callable[[], None]) -> Any:
        """Start the library's thread as it would, and keep the socket, which the library forgets."""
        self._socket = self._connection.transport.socket
        return default_create_thread(read)

    def count_heartbeat_received(self) -> None:
        self.heartbeats_received += 1

    def count_heartbeat_sent(self) -> None:
        self.heartbeats_sent += 1


def _frame(frame: Any) -> Frame:
    return Frame(frame.cmd, dict(frame.headers), frame.body)
