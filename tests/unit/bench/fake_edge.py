"""An edge that keeps everything in memory, for the tests of the bench: honest, or wrong in one chosen way.

Owns just enough HTTP, WebSocket and STOMP for the generator. Refuses: checking tokens, limits, more than one process.
`python -m tests.unit.bench.fake_edge` runs it alone and prints its address: `python -m bench --at`
then tells what the generator itself costs.
"""

import asyncio
import itertools
import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import uvloop

from bench.plan import Address
from bench.wire import OP_CLOSE, OP_PING, OP_TEXT, upgrade_accept

_MASK_BIT = 0x80
_CLIENT_ID = b'"clientMessageId":"'
_NAMED = re.compile(rb"^([^:\r\n]+):([^\r\n]*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Faults:
    """What the edge does wrong; a seq of None never comes."""

    drop_seq: int | None = None
    repeat_seq: int | None = None
    swap_content_seq: int | None = None
    other_id_seq: int | None = None
    gap_seq: int | None = None
    withhold_receipt_seq: int | None = None
    refuse_number: bytes | None = None
    error_at_number: bytes | None = None
    close_at_number: bytes | None = None
    is_silent: bool = False
    has_no_tokens: bool = False
    is_ping_sent: bool = False
    is_fragmented: bool = False


class FakeEdge:
    """What all connections share."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.heads: defaultdict[str, int] = defaultdict(int)
        self.watchers: defaultdict[str, list[FakeConnection]] = defaultdict(list)
        self.ids = itertools.count(1)
        self.unmasked = 0
        self.pongs = 0
        self.accepted = 0
        self.keys: set[tuple[str, bytes]] = set()
        self._waiting: list[FakeConnection] = []

    def conversation_of(self, head: bytes, request: dict[str, Any]) -> str:
        """A pair has one direct conversation for ever; every request for a group makes another."""
        creator = dict(_lower(head))[b"authorization"].decode().removeprefix("Bearer token-of-")
        if request["type"] == "direct":
            return f"d-{'-'.join(sorted((creator, *request['memberIds'])))}"
        return f"g{next(self.ids):08d}"

    def will_flush(self, connection: "FakeConnection") -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting.append(connection)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for connection in waiting:
            connection.flush()


class FakeConnection(asyncio.Protocol):
    """One connection: HTTP until it asks for the upgrade."""

    def __init__(self, edge: FakeEdge) -> None:
        self._edge = edge
        self._received = b""
        self._is_websocket = False
        self._output: list[bytes] = []
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        for watchers in self._edge.watchers.values():
            if self in watchers:
                watchers.remove(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._edge.faults.is_silent:
            return
        while not self._is_websocket:
            head, separator, rest = self._received.partition(b"\r\n\r\n")
            length = int(dict(_lower(head)).get(b"content-length", b"0"))
            if not separator or len(rest) < length:
                return
            self._received = rest[length:]
            self._http(head, rest[:length])
        self._websocket()

    def flush(self) -> None:
        output, self._output = self._output, []
        if self._transport is not None:
            self._transport.write(b"".join(output))

    def put(self, frame: bytes) -> None:
        if not self._output:
            self._edge.will_flush(self)
        self._output.append(frame)

    def _http(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET /ws "):
            key = dict(_lower(head))[b"sec-websocket-key"]
            self._is_websocket = True
            self.put(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Protocol: v12.stomp\r\nSec-WebSocket-Accept: " + upgrade_accept(key) + b"\r\n\r\n"
            )
        elif head.startswith(b"POST /api/v1/dev/token ") and not self._edge.faults.has_no_tokens:
            self._json(201, {"token": f"token-of-{json.loads(body)['userId']}"})
        elif head.startswith(b"POST /api/v1/conversations "):
            self._json(201, {"conversationId": self._edge.conversation_of(head, json.loads(body))})
        else:
            self._json(403, {"event": "error", "code": "FORBIDDEN", "message": "not here"})

    def _json(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.put(
            f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )

    def _websocket(self) -> None:
        data = self._received
        position = 0
        while len(data) - position >= 6:
            length = data[position + 1] & 0x7F
            start = position + 2
            if length == 126:
                length = int.from_bytes(data[start : start + 2], "big")
                start += 2
            end = start + 4 + length
            if end > len(data):
                break
            self._edge.unmasked += not data[position + 1] & _MASK_BIT
            key, payload = data[start : start + 4], data[start + 4 : end]
            if key != b"\0\0\0\0":
                payload = bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))
            self._message(data[position] & 0x0F, payload)
            position = end
        self._received = data[position:]

    def _message(self, opcode: int, payload: bytes) -> None:
        if opcode == OP_CLOSE and self._transport is not None:
            self._transport.close()
        elif opcode == OP_TEXT:
            head, _, body = payload.partition(b"\n\n")
            command, _, rest = head.partition(b"\n")
            headers = dict(_NAMED.findall(rest))
            if command == b"SEND":
                self._send(headers, body.rstrip(b"\0"))
            elif command == b"SUBSCRIBE":
                self._subscribe(headers)
            elif command in (b"CONNECT", b"STOMP"):
                self._connect()
        else:
            self._edge.pongs += 1

    def _connect(self) -> None:
        self.put(server_frame(b"CONNECTED\nversion:1.2\nheart-beat:0,0\n\n\0"))
        if self._edge.faults.is_ping_sent:
            self.put(bytes((0x80 | OP_PING, 2)) + b"hi")

    def _subscribe(self, headers: dict[bytes, bytes]) -> None:
        name = headers[b"destination"].removeprefix(b"/topic/conversation.").decode()
        self._edge.watchers[name].append(self)
        receipt = b"RECEIPT\nreceipt-id:%b\nx-head-seq:%d\n\n\0" % (headers[b"receipt"], self._edge.heads[name])
        self.put(server_frame(receipt))

    def _send(self, headers: dict[bytes, bytes], body: bytes) -> None:
        edge, faults, number = self._edge, self._edge.faults, headers[b"receipt"]
        if number == faults.refuse_number:
            self._refuse(number, "UNAVAILABLE")
            return
        if number == faults.error_at_number:
            self.put(server_frame(b"ERROR\nmessage:no such thing\n\nit is not there\0"))
            return
        if number == faults.close_at_number and self._transport is not None:
            self._transport.abort()
            return
        at = body.index(b'":"') + 3
        name = body[at : body.index(b'"', at)].decode()
        at = body.index(_CLIENT_ID) + len(_CLIENT_ID)
        key = (name, body[at : body.index(b'"', at)])
        if key in edge.keys:
            self._refuse(number, "CONFLICT")
            return
        edge.keys.add(key)
        edge.heads[name] += 1
        edge.accepted += 1
        seq = edge.heads[name]
        message_id = b"%b-%010d" % (name.encode(), seq)
        if seq != faults.withhold_receipt_seq:
            receipt = b"RECEIPT\nreceipt-id:%b\nmessage-id:%b\nx-seq:%d\n\n\0" % (number, message_id, seq)
            self.put(server_frame(receipt))
        for frame in self._deliveries(name, seq, message_id, body):
            for watcher in edge.watchers[name]:
                watcher.put(frame)

    def _deliveries(self, name: str, seq: int, message_id: bytes, body: bytes) -> list[bytes]:
        faults = self._edge.faults
        if seq == faults.drop_seq:
            return []
        if seq == faults.gap_seq:
            body = b'{"event":"gap","conversationId":"%b","fromSeq":%d,"toSeq":%d}' % (name.encode(), seq, seq)
        if seq == faults.swap_content_seq:
            body = re.sub(rb"bench@\d{24}", b"bench@" + b"7" * 24, body)
        if seq == faults.other_id_seq:
            message_id = b"another"
        payload = b"MESSAGE\nsubscription:conversation\nmessage-id:%b\ndestination:/topic/conversation.%b\n" % (
            message_id,
            name.encode(),
        )
        payload += b"content-type:application/json\nx-seq:%d\ncontent-length:%d\n\n%b\0" % (seq, len(body), body)
        frame = server_fragments(payload) if faults.is_fragmented else server_frame(payload)
        return [frame, frame] if seq == faults.repeat_seq else [frame]

    def _refuse(self, number: bytes, code: str) -> None:
        body = b'{"event":"error","code":"%b","retryAfterMs":10,"receiptId":"%b"}' % (code.encode(), number)
        self.put(server_frame(b"MESSAGE\nsubscription:errors\nmessage-id:e\n\n" + body + b"\0"))


def server_frame(payload: bytes, *, first: int = 0x80 | OP_TEXT) -> bytes:
    if len(payload) < 126:
        return bytes((first, len(payload))) + payload
    return bytes((first, 126)) + len(payload).to_bytes(2, "big") + payload


def server_fragments(payload: bytes) -> bytes:
    """The message as two fragments with a ping between them."""
    ping = bytes((0x80 | OP_PING, 0))
    return server_frame(payload[:20], first=OP_TEXT) + ping + server_frame(payload[20:], first=0x80)


def _lower(head: bytes) -> list[tuple[bytes, bytes]]:
    return [(name.strip().lower(), value.strip()) for name, value in _NAMED.findall(head.replace(b"\r", b""))]


@asynccontextmanager
async def fake_edge(faults: Faults | None = None) -> AsyncIterator[tuple[FakeEdge, Address]]:
    edge = FakeEdge(faults or Faults())
    server = await asyncio.get_running_loop().create_server(lambda: FakeConnection(edge), "127.0.0.1", 0)
    try:
        yield edge, Address("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()


async def _main() -> None:
    async with fake_edge() as (_, address):
        print(address, flush=True)  # noqa: T201 - this is the command's output
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_main())
