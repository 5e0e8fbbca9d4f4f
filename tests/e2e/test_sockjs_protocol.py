"""SockJS to the letter: what each request is answered, and what becomes of sessions that nobody asks for.

Source: the SockJS protocol 0.3.3, whose text is a test, and docs/wire.md.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.deployments import DRAIN_S, Embedded, bad_lines, find_exit_code
from tests.e2e.frames import a, an_event, encode
from tests.e2e.sockjs import PolledClient, Stream, fresh_session_id, messages_of, stomp_frames
from tests.e2e.waiting import PATIENCE_S, eventually
from tests.e2e.world import World, topic

NEVER_CACHED = "no-store, no-cache, must-revalidate, max-age=0"
ANOTHER_LISTENS = 'c[2010,"Another connection still open"]'
INTERRUPTED = 'c[1002,"Connection interrupted"]'
RESTARTING = 'c[1012,"restarting: reconnect"]'
PRELUDE = "h" * 2048
FRIEND, OTHER_FRIEND = "https://chat.example.org", "https://app.example.org"
MAX_BODY_BYTES = 256 * 1024
SLOW_READER_BYTES = 256 * 1024
POLICY = 1008


@pytest.fixture
def world(embedded: Embedded, http: aiohttp.ClientSession, closing: AsyncExitStack) -> World:
    """One deployment: what is asked about here is in the edge, which both deployments share."""
    return World(embedded, http, closing)


@pytest.fixture(scope="module")
def hasty(session_directory: Path) -> Iterator[Embedded]:
    """Heart-beats whenever the edge looks (each second), streams of 4 KiB, and two other origins."""
    settings = {
        "PARLEY_EDGE_SOCKJS_HEARTBEAT_S": "0.1",
        "PARLEY_EDGE_SOCKJS_RESPONSE_BYTES": "4096",
        "PARLEY_EDGE_ALLOWED_ORIGINS": f"{FRIEND},{OTHER_FRIEND}",
    }
    deployment = Embedded(session_directory / "embedded-sockjs-hasty", settings)
    deployment.start()
    yield deployment
    deployment.stop()


@pytest.fixture
def hasty_world(hasty: Embedded, http: aiohttp.ClientSession, closing: AsyncExitStack) -> World:
    return World(hasty, http, closing)


@pytest.fixture
def client(world: World) -> PolledClient:
    return PolledClient(world.http, world.edge())


@asynccontextmanager
async def stream(client: PolledClient, transport: str, http: aiohttp.ClientSession) -> AsyncIterator[Stream]:
    """Past its prelude."""
    if transport == "eventsource":
        async with http.get(client.url(transport)) as response:
            assert await response.content.readuntil(b"\r\n") == b"\r\n"
            yield Stream(response, separator=b"\r\n\r\n")
    else:
        async with http.post(client.url(transport)) as response:
            opened = Stream(response, separator=b"\n")
            assert await opened.frame() == PRELUDE
            yield opened


# ---- what there is


async def test_greeting_and_information_are_as_the_protocol_has_them(world: World) -> None:
    for path in ("/sockjs", "/sockjs/"):
        async with world.http.get(world.edge() + path) as response:
            assert (response.status, await response.text()) == (200, "Welcome to SockJS!\n")
            assert response.headers["Content-Type"] == "text/plain; charset=UTF-8"
    numbers = set()
    for _ in range(2):
        async with world.http.get(f"{world.edge()}/sockjs/info") as response:
            assert response.status == 200
            assert response.headers["Content-Type"] == "application/json; charset=UTF-8"
            assert response.headers["Cache-Control"] == NEVER_CACHED
            told = json.loads(await response.text())
        numbers.add(told.pop("entropy"))
        assert told == {"websocket": True, "cookie_needed": False, "origins": ["*:*"]}
    assert len(numbers) == 2
    assert all(0 <= number < 1 << 32 for number in numbers)


@pytest.mark.parametrize(
    "path",
    [
        "/a",
        "/a.html",
        "/iframe.html",
        "/000/session-of-a-test/htmlfile?c=callback",
        "/000/session-of-a-test/jsonp?c=callback",
        "/000/session-of-a-test/jsonp_send",
        "/000/session-of-a-test/",
        "/000/short12/xhr",
        "/000/dotted.session/xhr",
        "/0.0/session-of-a-test/xhr",
        "/000/" + "x" * 129 + "/xhr",
        "//session-of-a-test/xhr",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_is_not_served_is_not_found(world: World, method: str, path: str) -> None:
    async with world.http.request(method, f"{world.edge()}/sockjs{path}") as response:
        assert response.status == 404


async def test_other_methods_are_told_which_there_are(world: World, client: PolledClient) -> None:
    async with world.http.get(client.url("xhr")) as response:
        assert (response.status, response.headers["Allow"]) == (405, "OPTIONS,POST")


# ---- polling


async def test_polled_session_opens_takes_messages_and_hands_out_answers(world: World, client: PolledClient) -> None:
    opened = await client.post("xhr")
    assert (opened.status, opened.body) == (200, "o\n")
    assert opened.headers["Content-Type"] == "application/javascript; charset=UTF-8"
    assert opened.headers["Cache-Control"] == NEVER_CACHED
    assert opened.headers["X-Content-Type-Options"] == "nosniff"

    alice = await world.user("alice")
    connect = encode("CONNECT", {"accept-version": "1.2", "host": "parley", "passcode": alice.token}).decode()
    # The server part is for load balancers and means nothing; a message may be cut anywhere.
    sent = await client.post("xhr_send", json.dumps([connect[:10], connect[10:]]), server="999")
    assert (sent.status, sent.body) == (204, "")
    assert sent.headers["Content-Type"] == "text/plain; charset=UTF-8"
    assert sent.headers["Cache-Control"] == NEVER_CACHED
    (connected,) = stomp_frames(messages_of(await client.poll()))
    assert connected.headers["user-name"] == alice.user_id


@pytest.mark.parametrize("content_type", ["text/plain", "T", "application/json", "application/xml", ""])
async def test_messages_may_come_as_any_type_of_content(world: World, content_type: str) -> None:
    client = PolledClient(world.http, world.edge(), headers={"Content-Type": content_type})
    await client.open()
    assert (await client.post("xhr_send", '["\\n"]')).status == 204


async def test_waiting_poll_is_answered_as_soon_as_there_is_something(world: World, client: PolledClient) -> None:
    alice = await world.user("alice")
    conversation = await world.group(alice)
    await client.connect(alice.token)
    await client.subscribe(topic(conversation))
    waiting = asyncio.create_task(client.poll())
    await (await world.connect(alice)).sent(conversation, "here you are")
    (message,) = stomp_frames(messages_of(await waiting))
    assert message.json()["content"] == "here you are"


async def test_second_poll_at_once_is_refused_and_the_first_goes_on(world: World, client: PolledClient) -> None:
    alice = await world.user("alice")
    await client.open()
    first = asyncio.create_task(client.poll())

    async def second_is_refused() -> bool:
        return await client.poll() == ANOTHER_LISTENS

    # Until the first has arrived the second is the one that waits, and takes its place.
    await asyncio.wait_for(eventually(second_is_refused), PATIENCE_S)
    async with stream(client, "xhr_streaming", world.http) as third:
        assert await third.frame() == ANOTHER_LISTENS
        assert await third.frame() == ""
    await client.send(encode("CONNECT", {"accept-version": "1.2", "host": "parley", "passcode": alice.token}))
    (connected,) = stomp_frames(messages_of(await first))
    assert connected.command == "CONNECTED"


async def test_unknown_session_takes_no_messages(client: PolledClient) -> None:
    assert (await client.post("xhr_send", '["x"]')).status == 404


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (None, "Payload expected."),
        ("", "Payload expected."),
        ('["x', "Broken JSON encoding."),
        ("x", "Broken JSON encoding."),
        ('{"x": 1}', "Broken JSON encoding."),
        ('"x"', "Broken JSON encoding."),
        ("[1]", "Broken JSON encoding."),
        ('["x"] more', "Broken JSON encoding."),
        (b'["\xff"]', "Broken JSON encoding."),
        ('["\\ud800"]', "Broken JSON encoding."),
        ('["\\udc00"]', "Broken JSON encoding."),
        ("[" * 100_000, "Broken JSON encoding."),
    ],
    ids=lambda value: repr(value)[:20],
)
async def test_body_that_is_no_list_of_texts_is_refused_and_the_session_goes_on(
    client: PolledClient, body: str | bytes | None, answer: str
) -> None:
    await client.open()
    refused = await client.post("xhr_send", body)
    assert (refused.status, refused.body) == (500, answer)
    await client.send(b"\n")


@pytest.mark.parametrize(
    "body",
    [json.dumps(["\n" * MAX_BODY_BYTES]), json.dumps(["\n"] * 1025)],
    ids=["too long", "too many messages"],
)
async def test_body_beyond_the_limits_is_too_large_and_the_session_goes_on(client: PolledClient, body: str) -> None:
    await client.open()
    assert (await client.post("xhr_send", body)).status == 413
    await client.send(*[b"\n"] * 1024)


async def test_body_of_unknown_length_is_read_no_further_than_the_limit(client: PolledClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b'["'
        for _ in range(MAX_BODY_BYTES // 1024):
            yield b"\\n" * 512
        yield b'"]'

    await client.open()
    assert (await client.post("xhr_send", pieces())).status == 413
    await client.send(b"\n")


async def test_session_that_has_ended_says_so_as_often_as_it_is_asked(client: PolledClient) -> None:
    await client.open()
    await client.send(b"SHOUT\n\n\0")
    (error,) = stomp_frames(messages_of(await client.poll()))
    assert error.command == "ERROR"
    goodbye = await client.poll()
    assert json.loads(goodbye.removeprefix("c")) == [POLICY, error.headers["message"]]
    assert await client.poll() == goodbye
    assert (await client.post("xhr_send", '["x"]')).status == 404


# ---- streaming


@pytest.mark.parametrize(
    ("transport", "content_type", "before"),
    [
        ("xhr_streaming", "application/javascript; charset=UTF-8", ""),
        ("eventsource", "text/event-stream; charset=UTF-8", "data: "),
    ],
)
async def test_stream_carries_frames_as_they_come_and_ends_when_it_is_long(
    hasty_world: World, transport: str, content_type: str, before: str
) -> None:
    world = hasty_world
    client = PolledClient(world.http, world.edge())
    alice = await world.user("alice")
    conversation = await world.group(alice)
    talker = await world.connect(alice)
    async with stream(client, transport, world.http) as first:
        assert first.response.headers["Content-Type"] == content_type
        assert first.response.headers["Cache-Control"] == NEVER_CACHED
        assert await first.frame() == f"{before}o"
        await client.send(encode("CONNECT", {"accept-version": "1.2", "host": "parley", "passcode": alice.token}))
        assert "CONNECTED" in await first.frame()
        subscribe = {"id": "0", "destination": topic(conversation), "receipt": "live"}
        await client.send(encode("SUBSCRIBE", subscribe))
        assert "RECEIPT" in await first.frame()
        await talker.sent(conversation, "x" * 4096)
        (message,) = stomp_frames(messages_of((await first.frame()).removeprefix(before)))
        assert message.seq == 1
        assert await first.frame() == "", "it has had its 4 KiB"
    await talker.sent(conversation, "in between")
    async with stream(client, transport, world.http) as second:
        (message,) = stomp_frames(messages_of((await second.frame()).removeprefix(before)))
        assert message.seq == 2


async def test_percent_signs_are_escaped_for_eventsource_alone(world: World, client: PolledClient) -> None:
    alice = await world.user("alice")
    conversation = await world.group(alice)
    await client.connect(alice.token)
    await client.subscribe(topic(conversation))
    talker = await world.connect(alice)
    await talker.sent(conversation, "100%")
    assert "100%\\" in await client.poll()
    async with stream(client, "eventsource", world.http) as events:
        await talker.sent(conversation, "100%")
        assert "100%25\\" in await events.frame()


async def test_characters_that_browsers_change_are_escaped(world: World, client: PolledClient) -> None:
    alice = await world.user("alice")
    conversation = await world.group(alice)
    await client.connect(alice.token)
    await client.subscribe(topic(conversation))
    content = "".join(map(chr, [0x200C, 0x200F, 0x2028, 0x202F, 0x2060, 0x206F, 0xFFF0, 0xFFFF])) + "ä\u2027\u2030👋"
    await (await world.connect(alice)).sent(conversation, content)
    frame = await client.poll()
    assert "\\u200c\\u200f\\u2028\\u202f\\u2060\\u206f\\ufff0\\uffffä\u2027\u2030👋" in frame
    (message,) = stomp_frames(messages_of(frame))
    assert message.json()["content"] == content


# ---- WebSocket


async def test_websocket_speaks_in_frames_and_says_why_it_closes(world: World) -> None:
    alice = await world.user("alice")
    url = f"{world.edge()}/sockjs/000/{fresh_session_id()}/websocket"
    async with world.http.ws_connect(url) as socket, world.http.ws_connect(url) as namesake:
        assert await namesake.receive_str() == "o"
        assert await socket.receive_str() == "o"
        await socket.send_str("")
        connect = encode("CONNECT", {"accept-version": "1.2", "host": "parley", "passcode": alice.token}).decode()
        await socket.send_str(json.dumps([connect[:10], connect[10:]]))
        (connected,) = stomp_frames(messages_of(await socket.receive_str()))
        assert connected.command == "CONNECTED"
        await socket.send_str(json.dumps("DISCONNECT\nreceipt:bye\n\n\0"))
        (receipt,) = stomp_frames(messages_of(await socket.receive_str()))
        assert receipt.headers["receipt-id"] == "bye"
        assert await socket.receive_str() == 'c[1000,""]'
        assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
        assert not namesake.closed


@pytest.mark.parametrize(
    "said", ['["a', "[1]", "{}", b"\xff", json.dumps(["\n"] * 1025)], ids=lambda said: repr(said)[:9]
)
async def test_websocket_that_carries_no_messages_is_closed(world: World, said: str | bytes) -> None:
    async with world.http.ws_connect(f"{world.edge()}/sockjs/000/{fresh_session_id()}/websocket") as socket:
        assert await socket.receive_str() == "o"
        await (socket.send_bytes(said) if isinstance(said, bytes) else socket.send_str(said))
        assert (await socket.receive_str()).startswith(f"c[{POLICY},")
        closed = await socket.receive()
        assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, POLICY)


async def test_raw_websocket_speaks_stomp_without_frames(world: World) -> None:
    alice = await world.user("alice")
    async with world.http.ws_connect(f"{world.edge()}/sockjs/websocket") as socket:
        connect = encode("CONNECT", {"accept-version": "1.2", "host": "parley", "passcode": alice.token})
        await socket.send_str(connect.decode())
        assert (await socket.receive_str()).startswith("CONNECTED\n")


async def test_request_for_a_websocket_that_is_none_is_refused(client: PolledClient, world: World) -> None:
    async with world.http.get(client.url("websocket")) as response:
        assert response.status == 400
        assert 'Can "Upgrade" only to "WebSocket".' in await response.text()


# ---- other origins


async def test_page_of_an_unknown_origin_gets_nothing_and_may_not_read_that(world: World) -> None:
    for origin in ("https://evil.example", "null"):
        for path in ("", "/info", f"/000/{fresh_session_id()}/eventsource", f"/000/{fresh_session_id()}/websocket"):
            async with world.http.get(f"{world.edge()}/sockjs{path}", headers={"Origin": origin}) as response:
                assert response.status == 403
                assert "Access-Control-Allow-Origin" not in response.headers
        stranger = PolledClient(world.http, world.edge(), headers={"Origin": origin})
        assert (await stranger.post("xhr")).status == 403


async def test_page_of_an_allowed_origin_may_ask_with_credentials_and_read_refusals_too(hasty_world: World) -> None:
    friend = PolledClient(hasty_world.http, hasty_world.edge(), headers={"Origin": FRIEND})
    for answer in (await friend.post("xhr"), await friend.post("xhr_send", "["), await friend.post("none")):
        assert answer.headers["Access-Control-Allow-Origin"] == FRIEND
        assert answer.headers["Access-Control-Allow-Credentials"] == "true"
        assert answer.headers["Vary"] == "Origin"
    plain = await PolledClient(hasty_world.http, hasty_world.edge()).post("xhr")
    assert "Access-Control-Allow-Origin" not in plain.headers
    assert plain.headers["Vary"] == "Origin"


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("info", "OPTIONS, GET"),
        ("000/session-of-a-test/xhr", "OPTIONS, POST"),
        ("000/session-of-a-test/xhr_send", "OPTIONS, POST"),
        ("000/session-of-a-test/xhr_streaming", "OPTIONS, POST"),
        ("000/session-of-a-test/eventsource", "OPTIONS, GET"),
    ],
)
async def test_preflight_is_answered_and_may_be_remembered(hasty_world: World, path: str, methods: str) -> None:
    headers = {"Origin": FRIEND, "Access-Control-Request-Headers": "a, b, c"}
    async with hasty_world.http.options(f"{hasty_world.edge()}/sockjs/{path}", headers=headers) as response:
        assert (response.status, await response.text()) == (204, "")
        assert response.headers["Access-Control-Allow-Methods"] == methods
        assert response.headers["Access-Control-Allow-Headers"] == "a, b, c"
        assert response.headers["Access-Control-Allow-Origin"] == FRIEND
        assert response.headers["Access-Control-Max-Age"] == "31536000"
        assert response.headers["Cache-Control"] == "public, max-age=31536000"
        assert response.headers["Expires"].endswith("GMT")


async def test_session_of_one_origin_is_out_of_reach_of_another(hasty_world: World) -> None:
    world = hasty_world
    alice = await world.user("alice")
    friend = PolledClient(world.http, world.edge(), headers={"Origin": FRIEND})
    await friend.connect(alice.token)
    for headers in ({"Origin": OTHER_FRIEND}, {"Origin": world.edge()}, {}):
        thief = PolledClient(world.http, world.edge(), session_id=friend.session_id, headers=headers)
        assert (await thief.post("xhr_send", '["DISCONNECT\\n\\n\\u0000"]')).status == 404
    await friend.send(encode("SEND", {"destination": "/app/nothing", "receipt": "r"}, "{}"))
    await friend.take(a("ERROR"))


async def test_own_page_is_the_same_whether_the_browser_names_its_origin_or_not(world: World) -> None:
    # A browser sends no Origin with an EventSource of the page's own origin, and one with every POST.
    named = PolledClient(world.http, world.edge(), headers={"Origin": world.edge()})
    unnamed = PolledClient(world.http, world.edge(), session_id=named.session_id)
    await unnamed.open()
    await named.send(b"\n")


# ---- time


@pytest.mark.parametrize(("transport", "before"), [("xhr_streaming", ""), ("eventsource", "data: ")])
async def test_silent_stream_gets_heart_beats(hasty_world: World, transport: str, before: str) -> None:
    client = PolledClient(hasty_world.http, hasty_world.edge())
    async with stream(client, transport, hasty_world.http) as silent:
        assert await silent.frame() == f"{before}o"
        assert await silent.frame() == f"{before}h"
        assert await silent.frame() == f"{before}h"


async def test_silent_poll_and_silent_websocket_get_heart_beats(hasty_world: World) -> None:
    client = PolledClient(hasty_world.http, hasty_world.edge())
    url = f"{hasty_world.edge()}/sockjs/000/{fresh_session_id()}/websocket"
    async with hasty_world.http.ws_connect(url) as socket:
        await client.open()
        assert await client.poll() == "h"
        assert await client.poll() == "h"
        assert await socket.receive_str() == "o"
        assert await socket.receive_str() == "h"


async def test_session_that_nobody_asks_for_is_gone_after_five_seconds(world: World, client: PolledClient) -> None:
    alice = await world.user("alice")
    await client.connect(alice.token)
    begun = time.monotonic()

    async def is_gone() -> bool:
        return (await client.post("xhr_send", '["\\n"]')).status == 404

    await eventually(is_gone, timeout_s=10)
    assert time.monotonic() - begun > 4
    await client.open()


@pytest.mark.parametrize("transport", ["xhr", "xhr_streaming"])
async def test_session_ends_at_once_when_its_poll_breaks_off(
    world: World, client: PolledClient, transport: str
) -> None:
    await client.open()
    broken = asyncio.create_task(client.post(transport))

    async def is_listened_to() -> bool:
        return await client.poll() == ANOTHER_LISTENS

    await asyncio.wait_for(eventually(is_listened_to), PATIENCE_S)
    broken.cancel()

    async def is_over() -> bool:
        return await client.poll() == INTERRUPTED

    await eventually(is_over)


# ---- pressure


async def test_poller_that_is_slow_gets_a_gap_and_holds_up_nobody(world: World, client: PolledClient) -> None:
    # More than twice what may wait, in few steps: nobody asks for five seconds at most. Looked at once for each step.
    waves, wave, filler = 5, 8, "x" * 16_000
    alice, bob = await world.users(2)
    conversation = await world.group(alice, bob)
    await client.connect(alice.token)
    await client.subscribe(topic(conversation))
    listener = await world.connect(bob)
    await listener.subscribe(topic(conversation))
    for _ in range(waves):
        receipts = [await listener.send(conversation, filler) for _ in range(wave)]
        await listener.take(a("RECEIPT", receipt_id=receipts[-1]))
    await eventually(lambda: len(listener.messages()) == waves * wave)
    await client.take(an_event("gap"))
    gap = client.frames[-1].json()
    seqs = [frame.seq for frame in client.frames if frame.command == "MESSAGE" and "x-seq" in frame.headers]
    shown = [seq for seq in seqs if seq < gap["fromSeq"]]
    assert shown == list(range(1, gap["fromSeq"]))
    assert gap["toSeq"] == waves * wave
    assert len(shown) * len(filler) <= SLOW_READER_BYTES + wave * len(filler)
    await listener.sent(conversation, "caught up")
    assert (await client.take(an_event("message"))).seq == waves * wave + 1


# ---- the end


async def test_leaving_edge_tells_polled_clients_and_counts_them_with_the_others(
    session_directory: Path, http: aiohttp.ClientSession, closing: AsyncExitStack
) -> None:
    settings = {"PARLEY_RUNTIME_DRAIN_S": f"{DRAIN_S:g}", "PARLEY_EDGE_MAX_CONNECTIONS": "4"}
    edge = Embedded(session_directory / "embedded-sockjs-leaving", settings)
    edge.start()
    closing.callback(edge.stop)
    world = World(edge, http, closing)
    alice = await world.user("alice")
    connected = await world.connect(alice)
    waiting, between = (PolledClient(http, world.edge()) for _ in range(2))
    streamed = PolledClient(http, world.edge())
    await waiting.connect(alice.token)
    await between.connect(alice.token)
    async with stream(streamed, "xhr_streaming", http) as opened:
        assert await opened.frame() == "o"
        assert (await PolledClient(http, world.edge()).post("xhr")).status == 503
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await http.ws_connect(f"{world.edge()}/ws")
        assert refused.value.status == 503

        poll = asyncio.create_task(waiting.poll())
        pid = edge.process.pid
        edge.terminate()
        assert await opened.frame() == RESTARTING
        assert await opened.frame() == ""
        assert await poll == RESTARTING
        assert await between.poll() == RESTARTING
        assert await connected.client.closed() == 1012
    await eventually(lambda: find_exit_code(pid) is not None, timeout_s=DRAIN_S + 5, what="the process leaves")
    assert find_exit_code(pid) == 0, edge.process.log_tail()
    assert bad_lines(edge.log("services")) == []
