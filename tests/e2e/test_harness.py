"""Do the clients of this folder tell the truth? Each is run against a few lines that answer like an edge."""

from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from tests.e2e.clients import VERSIONS, Heartbeat, StompClient
from tests.e2e.frames import Frame, a, decode_all, encode
from tests.e2e.raw import NO_CLOSE_FRAME, RawClient
from tests.e2e.stompjs import StompJs
from tests.e2e.stomppy import StompPy
from tests.e2e.waiting import eventually

Answer = Callable[[web.WebSocketResponse, Frame, str], Awaitable[None]]


async def _answer_like_an_edge(socket: web.WebSocketResponse, frame: Frame, version: str) -> None:
    """Receipts for whatever asks, one message for each SEND, an ERROR for BEGIN."""

    async def say(command: str, headers: dict[str, str], body: str = "") -> None:
        await socket.send_bytes(encode(command, headers, body, version=version))

    if frame.command in ("CONNECT", "STOMP"):
        await say("CONNECTED", {"version": version, "heart-beat": "100,100"})
    if frame.command == "SEND":
        headers = {"subscription": "s", "message-id": "m:1", "destination": "/topic/x", "ack": "1"}
        await say("MESSAGE", headers | {"content-length": str(len(frame.body.encode()))}, frame.body)
    if "receipt" in frame.headers:
        await say("RECEIPT", {"receipt-id": frame.headers["receipt"]})
    if frame.command == "BEGIN":
        await socket.send_bytes(b"ERROR\nmessage:no\n\nwhy\0")
    if frame.command in ("BEGIN", "DISCONNECT"):
        await socket.close(code=1008 if frame.command == "BEGIN" else 1000)


class FakeEdge:
    """Answers on a free port; remembers what it got."""

    def __init__(self) -> None:
        self.url = ""
        self.frames: list[Frame] = []
        self.heartbeats = 0
        self.payloads: list[bytes] = []

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("v10.stomp", "v11.stomp", "v12.stomp"))
        await socket.prepare(request)
        version = "1.0"
        async for message in socket:
            payload = message.data.encode() if isinstance(message.data, str) else message.data
            self.payloads.append(payload)
            for frame in decode_all(payload, version=version):
                if frame is None:
                    self.heartbeats += 1
                    await socket.send_bytes(b"\n")
                    continue
                version = frame.headers.get("accept-version", version)
                self.frames.append(frame)
                await _answer_like_an_edge(socket, frame, version)
        return socket


@pytest.fixture
async def edge() -> AsyncIterator[FakeEdge]:
    fake = FakeEdge()
    application = web.Application()
    application.router.add_get("/ws", fake.serve)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    fake.url = f"http://{host}:{port}"
    yield fake
    await runner.cleanup()


@pytest.fixture(params=[StompJs, StompPy], ids=["stompjs", "stomppy"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[StompClient]:
    started: StompClient = await request.param.start()
    yield started
    await started.close()


@pytest.mark.parametrize("version", VERSIONS)
async def test_wrapped_client_speaks_through_a_whole_session(edge: FakeEdge, client: StompClient, version: str) -> None:
    connected = await client.connect(edge.url, version=version, headers={"login": "x", "passcode": "secret"})
    assert connected.headers["version"] == version
    assert edge.frames[0].headers["passcode"] == "secret"
    assert edge.frames[0].headers["accept-version"] == version
    await client.subscribe("/topic/x", "s", {"x-after-seq": "7"}, ack="client")
    assert edge.frames[1].headers["x-after-seq"] == "7"
    await client.send("/app/chat.send", '{"content":"ä\\u0000"}', {"receipt": "r1", "content-type": "application/json"})
    message = await client.inbox.take(a("MESSAGE", subscription="s"))
    assert message.json() == {"content": "ä\0"}
    await client.inbox.take(a("RECEIPT", receipt_id="r1"))
    await client.acknowledge(message)
    assert edge.frames[-1].command == "ACK"
    await client.unsubscribe("s")
    await client.disconnect()
    await client.inbox.closed()
    assert [frame.command for frame in edge.frames][-2:] == ["UNSUBSCRIBE", "DISCONNECT"]


@pytest.mark.parametrize("version", ["1.1", "1.2"])
async def test_wrapped_client_beats_and_counts_heart_beats_until_it_freezes(
    edge: FakeEdge, client: StompClient, version: str
) -> None:
    await client.connect(edge.url, version=version, headers={}, heartbeat=Heartbeat(100, 0))
    await eventually(lambda: edge.heartbeats >= 2)
    await eventually(lambda: client.heartbeats_received >= 2)
    assert client.heartbeats_sent >= 2
    client.freeze()
    counted = edge.heartbeats
    await eventually(lambda: _unchanged(edge, counted), what="the frozen client falls silent")
    client.thaw()


def _unchanged(edge: FakeEdge, counted: int) -> bool:
    return edge.heartbeats <= counted + 1


async def test_raw_client_reports_errors_close_codes_and_cut_connections(edge: FakeEdge) -> None:
    async with aiohttp.ClientSession() as http:
        refused = await RawClient.open(http, edge.url)
        await refused.connect("token")
        await refused.send("BEGIN", {"transaction": "t"})
        assert (await refused.take(a("ERROR"))).body == "why"
        assert await refused.closed() == 1008
        await refused.close()
        vanished = await RawClient.open(http, edge.url)
        vanished.cut()
        assert await vanished.closed() == NO_CLOSE_FRAME
        await vanished.close()


@pytest.mark.parametrize(
    ("version", "value"),
    [
        (version, value)
        for version in VERSIONS
        for value in ("plain", "a:b", "back\\slash", "two\nlines", "\\n")
        if version != "1.0" or "\n" not in value  # 1.0 has no escapes
    ],
)
def test_codec_of_the_tests_returns_what_it_was_given(version: str, value: str) -> None:
    written = encode("SEND", {"h": value}, "body", version=version)
    assert list(decode_all(written + b"\n", version=version)) == [Frame("SEND", {"h": value}, "body"), None]


@pytest.mark.parametrize(
    "broken",
    [
        b"MESSAGE\nx:1\n\nbody",
        b"MESSAGE\ncontent-length:3\n\nbody\0",
        b"MESSAGE\nx:1\nx:2\n\n\0",
        b"MESSAGE\nx\n\n\0",
        b"MESSAGE\nx:\\q\n\n\0",
        b"MESSAGE\nx:1\0",
    ],
)
def test_codec_of_the_tests_does_not_forgive(broken: bytes) -> None:
    with pytest.raises((AssertionError, ValueError)):
        list(decode_all(broken, version="1.2"))
