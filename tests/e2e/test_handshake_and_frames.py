"""Bad handshakes, bad WebSocket frames and bad STOMP: each gets its answer, and nobody else notices.

Source: RFC 6455, STOMP 1.2. After every case the process is the same, another client is served, and neither a token
nor a body is in the log.
"""

import asyncio
import json
import struct
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress

import aiohttp
import pytest

from tests.e2e.bare import BINARY, CLOSE, PING, PONG, TEXT, BareConnection, frame_bytes
from tests.e2e.deployments import CONNECT_LIMIT_S, Embedded
from tests.e2e.frames import Frame, a, an_event, encode
from tests.e2e.raw import RawClient
from tests.e2e.waiting import eventually
from tests.e2e.world import ERRORS, Connection, World, send_frame, topic

PROTOCOL_ERROR, BAD_DATA, POLICY, TOO_LARGE = 1002, 1007, 1008, 1009
FRAME_LIMIT = 64 * 1024
DRIP_S = 0.2
MARK = "mark-of-a-body-that-no-log-may-hold"


@pytest.fixture
def world(embedded: Embedded, http: aiohttp.ClientSession, closing: AsyncExitStack) -> World:
    """One deployment for so many cases: all of them end in code of the edge that both deployments share."""
    return World(embedded, http, closing)


@pytest.fixture(autouse=True)
async def bystander(world: World) -> AsyncIterator[Connection]:
    """Another client, connected before and served after; and the processes live and have told no secrets."""
    deployment = world.deployment
    before = {name: deployment.pid(name) for name in deployment.processes}
    user = await world.user("bystander")
    conversation = await world.group(user)
    connection = await world.connect(user)
    await connection.subscribe(topic(conversation))
    yield connection
    await connection.sent(conversation, MARK)
    await eventually(lambda: [message["content"] for message in connection.messages()] == [MARK])
    assert {name: deployment.pid(name) for name in deployment.processes} == before
    for name in deployment.processes:
        log = deployment.log(name)
        assert MARK not in log
        assert user.token not in log
        assert user.token.rpartition(".")[2] not in log


@pytest.fixture
async def bare(world: World, closing: AsyncExitStack) -> BareConnection:
    connection = await BareConnection.open(world.edge())
    closing.push_async_callback(connection.close)
    return connection


@pytest.fixture
async def connected(world: World) -> Connection:
    return await world.connect(await world.user("rude"))


async def dies(client: RawClient, *, receipt: str | None = None, code: int | None = None) -> Frame:
    """ERROR with something for people, then the close."""
    error = await client.take(lambda frame: frame.command in ("ERROR", "RECEIPT", "MESSAGE"))
    assert error.command == "ERROR"
    assert error.headers["message"]
    assert error.headers.get("receipt-id") == receipt
    assert error.body
    closed_with = await client.closed()
    assert closed_with == code if code is not None else closed_with in (PROTOCOL_ERROR, POLICY, TOO_LARGE, 1000)
    return error


# ---- the handshake


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ("v12.stomp", "v12.stomp"),
        ("v11.stomp", "v11.stomp"),
        ("v10.stomp", "v10.stomp"),
        ("chat, v12.stomp", "v12.stomp"),
        ("chat, superchat", None),
        ("V12.STOMP", None),
        (None, None),
    ],
)
async def test_subprotocol_is_echoed_only_where_it_is_spoken(
    bare: BareConnection, offered: str | None, chosen: str | None
) -> None:
    response = await bare.upgrade({"Sec-WebSocket-Protocol": offered})
    assert response.headers.get("sec-websocket-protocol") == chosen


async def test_compression_is_declined(bare: BareConnection) -> None:
    response = await bare.upgrade({"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"})
    assert "sec-websocket-extensions" not in response.headers


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://{authority}.evil.example", "http://evil.example/{authority}"]
)
async def test_foreign_origin_is_refused(bare: BareConnection, origin: str) -> None:
    await bare.write(bare.request({"Origin": origin.format(authority=bare.authority)}))
    assert (await bare.response()).status == 403


async def test_own_origin_and_none_are_welcome(world: World, closing: AsyncExitStack) -> None:
    for origin in (None, world.edge()):
        connection = await BareConnection.open(world.edge())
        closing.push_async_callback(connection.close)
        await connection.upgrade({"Origin": origin})


@pytest.mark.parametrize(
    ("changes", "line", "statuses"),
    [
        ({"Sec-WebSocket-Version": "8"}, "GET /ws HTTP/1.1", {426}),
        ({"Sec-WebSocket-Version": None}, "GET /ws HTTP/1.1", {400, 426}),
        ({"Sec-WebSocket-Key": "short"}, "GET /ws HTTP/1.1", {400}),
        ({"Sec-WebSocket-Key": None}, "GET /ws HTTP/1.1", {400}),
        ({"Upgrade": None}, "GET /ws HTTP/1.1", {400, 426}),
        ({"Upgrade": "h2c"}, "GET /ws HTTP/1.1", {400, 426}),
        ({}, "POST /ws HTTP/1.1", {400, 405}),
        ({}, "GET /ws HTTP/1.0", {400, 405, 426, 505}),
        ({}, "GET /ws/../ws HTTP/1.1", {400, 404}),
    ],
    ids=str,
)
async def test_bad_handshake_is_refused(
    bare: BareConnection, changes: dict[str, str | None], line: str, statuses: set[int]
) -> None:
    await bare.write(bare.request(changes, line=line))
    assert (await bare.response()).status in statuses


async def test_handshake_with_too_many_headers_is_refused(bare: BareConnection) -> None:
    await bare.write(bare.request(more="".join(f"X-{number}: 1\r\n" for number in range(101))))
    assert (await bare.response()).status in (400, 431)


@pytest.mark.parametrize("piece", [16 * 1024, 1])
async def test_handshake_with_a_header_line_of_16_kib_is_refused(bare: BareConnection, piece: int) -> None:
    request = bare.request(more=f"X-Long: {'x' * 16 * 1024}\r\n")
    writing = asyncio.create_task(_in_pieces(bare, request, piece))
    # Refused and closed while we are still talking: the answer may get lost on the way.
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        assert (await bare.response()).status in (400, 431)
    writing.cancel()


async def _in_pieces(bare: BareConnection, data: bytes, size: int) -> None:
    for start in range(0, len(data), size):
        await bare.write(data[start : start + size])
        await asyncio.sleep(0)  # so that an answer in the middle of it is read


async def test_sockets_without_a_whole_connect_are_closed_at_the_limit(world: World) -> None:
    begun = time.monotonic()
    silent, half, beating = [await world.socket() for _ in range(3)]
    await half.write(b"CONNECT\naccept-version:1.2\n")
    await beating.write(b"\n")
    for client in (silent, half, beating):
        assert await client.closed(timeout_s=CONNECT_LIMIT_S + 5) == POLICY
    assert CONNECT_LIMIT_S - 1 < time.monotonic() - begun < CONNECT_LIMIT_S + 5


@pytest.mark.parametrize("said", [0, 30], ids=["nothing", "half a request"])
async def test_connection_without_a_whole_request_is_closed_at_the_limit(bare: BareConnection, said: int) -> None:
    await bare.write(bare.request()[:said])
    await bare.ended(timeout_s=CONNECT_LIMIT_S + 5)


async def test_request_that_comes_one_byte_at_a_time_is_closed_at_the_limit(bare: BareConnection) -> None:
    async def drip() -> None:
        for byte in bare.request():
            await bare.write(bytes([byte]))
            await asyncio.sleep(DRIP_S)  # the point of the case

    dripping = asyncio.create_task(drip())
    await bare.ended(timeout_s=CONNECT_LIMIT_S + 5)
    dripping.cancel()


# ---- WebSocket frames


@pytest.mark.parametrize(
    ("opcode", "payload", "first_byte", "masked", "code"),
    [
        (TEXT, b"\n", 0xC1, True, PROTOCOL_ERROR),
        (TEXT, b"\n", 0xA1, True, PROTOCOL_ERROR),
        (TEXT, b"\n", 0x91, True, PROTOCOL_ERROR),
        (0x3, b"\n", None, True, PROTOCOL_ERROR),
        (0xB, b"", None, True, PROTOCOL_ERROR),
        (PING, b"", 0x09, True, PROTOCOL_ERROR),
        (PING, b"x" * 126, None, True, PROTOCOL_ERROR),
        (0x0, b"\n", 0x80, True, PROTOCOL_ERROR),
        (TEXT, b"\xff\xfe\n", None, True, BAD_DATA),
        (CLOSE, struct.pack("!H", 1005), None, True, PROTOCOL_ERROR),
        (CLOSE, struct.pack("!H", 1006), None, True, PROTOCOL_ERROR),
        (CLOSE, struct.pack("!H", 999), None, True, PROTOCOL_ERROR),
        (CLOSE, b"\x03", None, True, PROTOCOL_ERROR),
    ],
    ids=[
        "reserved bit 1",
        "reserved bit 2",
        "reserved bit 3",
        "reserved opcode",
        "reserved control opcode",
        "fragmented ping",
        "ping of 126 bytes",
        "continuation of nothing",
        "text that is not UTF-8",
        "close 1005",
        "close 1006",
        "close 999",
        "close with half a code",
    ],
)
async def test_frame_against_rfc_6455_is_closed_with_its_code(
    bare: BareConnection, opcode: int, payload: bytes, first_byte: int | None, masked: bool, code: int
) -> None:
    await bare.upgrade()
    await bare.send(opcode, payload, first_byte=first_byte, masked=masked)
    assert await bare.closed() == code


async def test_normal_close_is_answered_with_its_code(bare: BareConnection) -> None:
    await bare.upgrade()
    await bare.send(CLOSE, struct.pack("!H", 1000))
    assert await bare.closed() == 1000
    await bare.ended()


async def test_ping_is_answered_with_its_payload(bare: BareConnection) -> None:
    await bare.upgrade()
    await bare.send(PING, b"are you there")
    answer = await bare.receive()
    assert (answer.opcode, answer.payload) == (PONG, b"are you there")


async def test_announced_length_of_2_to_the_63_is_refused_at_once(bare: BareConnection) -> None:
    await bare.upgrade()
    await bare.write(bytes([0x82, 0xFF]) + struct.pack("!Q", (1 << 63) - 1) + b"mask" + b"x" * 10)
    assert await bare.closed() == TOO_LARGE


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
async def test_websocket_message_above_the_limit_is_refused(bare: BareConnection, opcode: int) -> None:
    await bare.upgrade()
    await bare.send(opcode, b"\n" * (FRAME_LIMIT + 1))
    assert await bare.closed() == TOO_LARGE


async def test_flood_of_one_byte_continuations_is_bounded(bare: BareConnection) -> None:
    await bare.upgrade()
    await bare.send(TEXT, b"C", first_byte=0x01)

    flood = frame_bytes(0x0, b"x", first_byte=0x00) * (FRAME_LIMIT + 2)
    writing = asyncio.create_task(bare.write(flood))
    assert await bare.closed() in (TOO_LARGE, PROTOCOL_ERROR, POLICY)
    writing.cancel()


# ---- before CONNECT


@pytest.mark.parametrize(
    ("command", "headers"),
    [
        ("SEND", {"destination": "/app/chat.send", "content-type": "application/json"}),
        ("SUBSCRIBE", {"id": "0", "destination": ERRORS}),
        ("UNSUBSCRIBE", {"id": "0"}),
        ("ACK", {"id": "0"}),
        ("NACK", {"id": "0"}),
        ("BEGIN", {"transaction": "t"}),
        ("DISCONNECT", {}),
    ],
)
async def test_frame_before_connect_gets_an_error_and_a_close_and_has_no_effect(
    world: World, command: str, headers: dict[str, str]
) -> None:
    alice = await world.user("alice")
    conversation = await world.group(alice)
    client = await world.socket()
    body = send_frame(conversation, "too early")[2] if command == "SEND" else ""
    await client.send(command, {**headers, "receipt": "r"}, body)
    await dies(client, receipt="r")
    assert await world.api().history(alice, conversation) == []


async def test_second_frame_behind_a_refused_connect_has_no_effect(world: World) -> None:
    alice = await world.user("alice")
    conversation = await world.group(alice)
    client = await world.socket()
    await client.write(
        encode("CONNECT", {"accept-version": "1.2", "host": "parley", "passcode": "wrong"})
        + encode(*send_frame(conversation, "stowaway"))
    )
    await dies(client)
    assert await world.api().history(alice, conversation) == []


@pytest.mark.parametrize("versions", ["9.9", "", "1.3,2.0", "one"])
async def test_connect_without_a_common_version_is_told_which_there_are(world: World, versions: str) -> None:
    alice = await world.user("alice")
    client = await world.socket(subprotocols=())
    await client.send(
        "CONNECT", {"accept-version": versions, "host": "parley", "Authorization": f"Bearer {alice.token}"}
    )
    error = await dies(client)
    assert set(error.headers["version"].split(",")) == {"1.0", "1.1", "1.2"}


async def test_highest_common_version_is_chosen_and_1_0_where_none_is_named(world: World) -> None:
    alice = await world.user("alice")
    for versions, chosen in (("1.0,1.1,1.2", "1.2"), ("1.1,1.0", "1.1"), ("1.2,2.7", "1.2"), (None, "1.0")):
        client = await world.socket(subprotocols=(), version="1.0")
        headers = {"host": "parley", "passcode": alice.token}
        if versions is not None:
            headers["accept-version"] = versions
        await client.send("CONNECT", headers)
        assert (await client.take(a("CONNECTED"))).headers["version"] == chosen


@pytest.mark.parametrize("value", ["-1,0", "a,b", "1", "1,2,3", "", ",", "0x1,0", "1.5,0"])
async def test_heart_beat_that_is_no_pair_of_numbers_gets_an_error(world: World, value: str) -> None:
    alice = await world.user("alice")
    client = await world.socket()
    await client.send(
        "CONNECT",
        {"accept-version": "1.2", "host": "parley", "passcode": alice.token, "heart-beat": value},
    )
    await dies(client)


@pytest.mark.parametrize("value", ["1,1", "0,0", "99999999999999999999,99999999999999999999"])
async def test_heart_beat_too_short_or_too_long_is_clamped(world: World, value: str) -> None:
    alice = await world.user("alice")
    client = await world.socket()
    connected = await client.connect(alice.token, heart_beat=value)
    assert all(0 <= int(offer) <= 3_600_000 for offer in connected.headers["heart-beat"].split(","))
    assert client.inbox.close_code is None


async def test_stomp_opens_a_connection_as_connect_does(world: World) -> None:
    alice = await world.user("alice")
    client = await world.socket()
    await client.send("STOMP", {"accept-version": "1.2", "host": "parley", "passcode": alice.token})
    await client.take(a("CONNECTED"))


# ---- STOMP frames


async def test_second_connect_gets_an_error_and_a_close(connected: Connection) -> None:
    await connected.client.send(
        "CONNECT", {"accept-version": "1.2", "host": "parley", "passcode": connected.user.token}
    )
    await dies(connected.client)


BROKEN = {
    "unknown command": b"SHOUT\nreceipt:r\n\n\0",
    "server command": b"MESSAGE\ndestination:/x\nmessage-id:1\nsubscription:0\n\n\0",
    "lower case": b"send\ndestination:/app/chat.send\n\n{}\0",
    "no command": b"destination:/app/chat.send\n\n{}\0",
    "header without a colon": b"SEND\ndestination\n\n{}\0",
    "header with an empty name": b"SEND\n:x\ndestination:/app/chat.send\n\n{}\0",
    "undefined escape": b"SEND\ndestination:/app/chat.send\nx:a\\tb\n\n{}\0",
    "escape at the end": b"SEND\ndestination:/app/chat.send\nx:a\\\n\n{}\0",
    "NUL in a header": b"SEND\ndestination:/app/ch\0at.send\n\n{}\0",
    "content-length -1": b"SEND\ndestination:/app/chat.send\ncontent-length:-1\n\n{}\0",
    "content-length abc": b"SEND\ndestination:/app/chat.send\ncontent-length:abc\n\n{}\0",
    "content-length +2": b"SEND\ndestination:/app/chat.send\ncontent-length:+2\n\n{}\0",
    "content-length 2^63": b"SEND\ndestination:/app/chat.send\ncontent-length:9223372036854775808\n\n{}\0",
    "content-length of 300 digits": b"SEND\ndestination:/app/chat.send\ncontent-length:" + b"9" * 300 + b"\n\n{}\0",
    "content-length too short": b"SEND\ndestination:/app/chat.send\ncontent-length:1\n\n{}\0",
    "body on SUBSCRIBE": b"SUBSCRIBE\nid:0\ndestination:/user/queue/errors\n\nbody\0",
    "no destination": b"SEND\n\n{}\0",
    "SUBSCRIBE without an id": b"SUBSCRIBE\ndestination:/user/queue/errors\n\n\0",
    "selector": b"SUBSCRIBE\nid:0\ndestination:/user/queue/errors\nselector:x > 1\n\n\0",
    "unknown ack mode": b"SUBSCRIBE\nid:0\ndestination:/user/queue/errors\nack:maybe\n\n\0",
    "BEGIN": b"BEGIN\ntransaction:t\n\n\0",
    "COMMIT": b"COMMIT\ntransaction:t\n\n\0",
    "ABORT": b"ABORT\ntransaction:t\n\n\0",
    "SEND in a transaction": b"SEND\ndestination:/app/chat.send\ntransaction:t\n\n{}\0",
    "33 headers": b"SEND\ndestination:/app/chat.send\n" + b"".join(b"h%d:1\n" % n for n in range(32)) + b"\n{}\0",
    "header of more than 4 KiB": b"SEND\ndestination:/app/chat.send\nx:" + b"x" * 4096 + b"\n\n{}\0",
    "endless command": b"S" * 5_000,
}


@pytest.mark.parametrize("kind", BROKEN)
async def test_broken_frame_gets_an_error_and_a_close(connected: Connection, kind: str) -> None:
    await connected.client.write(BROKEN[kind])
    error = await connected.take(lambda _: True)
    assert error.command == "ERROR"
    assert error.headers["message"]
    assert error.body
    assert await connected.client.closed() != 1006


@pytest.mark.parametrize("command", ["BEGIN", "COMMIT", "ABORT"])
async def test_error_about_a_transaction_says_that_there_are_none(connected: Connection, command: str) -> None:
    await connected.client.send(command, {"transaction": "t", "receipt": "r"})
    error = await dies(connected.client, receipt="r")
    assert "transaction" in (error.headers["message"] + error.body).lower()


async def test_content_length_longer_than_the_body_waits_for_the_rest_and_is_bounded(
    world: World, connected: Connection
) -> None:
    conversation = await world.group(connected.user)
    _, headers, body = send_frame(conversation, "whole", receipt="r")
    frame = encode("SEND", {**headers, "content-length": str(len(body.encode()))}, body)
    await connected.client.write(frame[:-20])
    await connected.client.write(frame[-20:])
    await connected.take(a("RECEIPT", receipt_id="r"))
    await connected.client.write(b"SEND\ndestination:/app/chat.send\ncontent-length:60000\n\n{}\0")
    for _ in range(3):
        await connected.client.write(b"x" * 30_000)
    await connected.take(a("ERROR"))
    await connected.client.closed()
    assert len(await world.api().history(connected.user, conversation)) == 1


async def test_announced_content_length_above_the_limit_is_refused_before_the_body_comes(
    connected: Connection,
) -> None:
    await connected.client.write(b"SEND\ndestination:/app/chat.send\ncontent-length:70000\n\n")
    error = await connected.take(lambda _: True)
    assert error.command == "ERROR"
    assert await connected.client.closed() == TOO_LARGE


@pytest.mark.parametrize("size", [FRAME_LIMIT + 1, 4 * FRAME_LIMIT])
async def test_frame_above_the_limit_is_closed_as_too_large(connected: Connection, size: int) -> None:
    head = b"SEND\ndestination:/app/chat.send\n\n"
    await connected.client.write(head + b"x" * (size - len(head) - 1) + b"\0")
    assert await connected.client.closed() == TOO_LARGE


async def test_frame_above_the_limit_in_many_messages_is_closed_as_too_large(connected: Connection) -> None:
    await connected.client.write(b"SEND\ndestination:/app/chat.send\n\n")
    for _ in range(9):
        if connected.client.inbox.close_code is not None:
            break
        await connected.client.write(b"x" * 8_000)
    assert await connected.client.closed() == TOO_LARGE


async def test_32_headers_are_not_too_many(world: World, connected: Connection) -> None:
    conversation = await world.group(connected.user)
    _, headers, body = send_frame(conversation, "decorated", receipt="r")
    more = {f"h{number}": "1" for number in range(32 - len(headers))}
    await connected.client.send("SEND", {**headers, **more}, body)
    await connected.take(a("RECEIPT", receipt_id="r"))


async def test_frames_are_found_however_they_are_cut_into_messages(world: World, connected: Connection) -> None:
    conversation = await world.group(connected.user)
    frames = [encode(*send_frame(conversation, f"m{number}", receipt=f"r{number}")) for number in range(5)]
    await connected.client.write(b"\n\r\n\n" + frames[0] + b"\n\n" + frames[1])
    for number in (0, 1):
        await connected.take(a("RECEIPT", receipt_id=f"r{number}"))
    for start in range(len(frames[2])):
        await connected.client.write(frames[2][start : start + 1])
    await connected.take(a("RECEIPT", receipt_id="r2"))
    head, body = frames[3].split(b"\n\n", 1)
    await connected.client.write(head.replace(b"\n", b"\r\n") + b"\r\n\r\n" + body)
    await connected.take(a("RECEIPT", receipt_id="r3"))
    await connected.client._socket.send_bytes(frames[4])
    await connected.take(a("RECEIPT", receipt_id="r4"))
    history = await world.api().history(connected.user, conversation)
    assert [message["content"] for message in history] == [f"m{number}" for number in range(5)]


async def test_first_of_repeated_headers_wins(world: World, connected: Connection) -> None:
    conversation = await world.group(connected.user)
    body = send_frame(conversation, "once")[2]
    await connected.client.write(
        f"SEND\ndestination:/app/chat.send\ndestination:/app/nothing\nreceipt:one\nreceipt:two\n\n{body}\0"
    )
    await connected.take(a("RECEIPT", receipt_id="one"))


async def test_forged_headers_and_fields_change_nothing(world: World, connected: Connection) -> None:
    mallory, victim = connected, await world.user("victim")
    conversation = await world.group(mallory.user, victim)
    await mallory.subscribe(topic(conversation))
    forged = {
        "user": victim.user_id,
        "login": victim.user_id,
        "message-id": "forged",
        "x-seq": "99",
        "x-head-seq": "99",
        "subscription": "forged",
        "destination": "/app/chat.send",
        "receipt": "r",
    }
    body = {
        "conversationId": conversation,
        "content": "hello",
        "type": "text",
        "senderId": victim.user_id,
        "seq": 99,
        "messageId": "forged",
        "sentAt": "2000-01-01T00:00:00.000Z",
        "status": "seen",
        "__proto__": {"senderId": victim.user_id},
    }
    await mallory.client.send("SEND", forged, json.dumps(body))
    receipt = await mallory.take(a("RECEIPT", receipt_id="r"))
    message = (await mallory.take(an_event("message"))).json()
    assert receipt.seq == message["seq"] == 1
    assert message["senderId"] == mallory.user.user_id
    assert message["messageId"] != "forged"
    assert message["status"] == "sent"
    assert not message["sentAt"].startswith("2000")


@pytest.mark.parametrize(
    "destination",
    ["/topic/conversation.{id}", "/topic/presence", "/user/queue/errors", "/app/nothing", "/app/chat.send/", "/", "x"],
)
async def test_send_to_where_nobody_may_send_is_refused(world: World, connected: Connection, destination: str) -> None:
    conversation = await world.group(connected.user)
    await connected.subscribe(ERRORS, "errors")
    await connected.subscribe(topic(conversation))
    body = send_frame(conversation, "straight in")[2]
    await connected.client.send("SEND", {"destination": destination.format(id=conversation), "receipt": "r"}, body)
    refusal = await connected.error_about("r")
    assert refusal["code"] in ("FORBIDDEN", "INVALID_ARGUMENT")
    await connected.sent(conversation, "properly")
    await eventually(lambda: connected.messages())
    assert [message["content"] for message in connected.messages()] == ["properly"]


@pytest.mark.parametrize(
    "destination",
    [
        "/topic/*",
        "/topic/#",
        "/topic/>",
        "/topic/conversation.*",
        "/topic/conversation.#",
        "/topic/conversation.>",
        "/topic/conversation.",
        "/topic/conversation.{id}/",
        "/topic/conversation.{id}.x",
        "/topic/conversation.{id} ",
        "/topic/conversation.{id},/topic/presence",
        "/topic/../topic/conversation.{id}",
        "/topic/conversation%2e{id}",
        "/TOPIC/conversation.{id}",
        "//topic/conversation.{id}",
        "/user/queue/..",
        "/user/other/queue/errors",
        "/queue/errors",
        "/app/chat.send",
        "",
        "/",
        "*",
        "x" * 4_000,
    ],
    ids=lambda destination: destination[:40],
)
async def test_destination_that_is_no_destination_is_refused_and_never_a_match(
    world: World, connected: Connection, destination: str
) -> None:
    conversation = await world.group(connected.user)
    await connected.subscribe(ERRORS, "errors")
    await connected.client.send(
        "SUBSCRIBE", {"id": "wild", "destination": destination.format(id=conversation), "receipt": "r"}
    )
    refusal = await connected.error_about("r")
    assert refusal["code"] in ("FORBIDDEN", "INVALID_ARGUMENT")
    await connected.subscribe(topic(conversation), "proper")
    await connected.sent(conversation, "hello")
    await eventually(lambda: connected.messages("proper"))
    assert connected.messages("wild") == []


async def test_destination_of_10_kib_is_refused(connected: Connection) -> None:
    await connected.client.send("SUBSCRIBE", {"id": "0", "destination": "/topic/" + "x" * 10_240})
    await connected.take(a("ERROR"))
    await connected.client.closed()


async def test_duplicate_subscription_id_is_refused_and_the_first_goes_on(world: World, connected: Connection) -> None:
    first, second = await world.group(connected.user), await world.group(connected.user)
    await connected.subscribe(ERRORS, "errors")
    await connected.subscribe(topic(first), "same")
    await connected.client.send("SUBSCRIBE", {"id": "same", "destination": topic(second), "receipt": "r"})
    refusal = await connected.error_about("r")
    assert refusal["code"] in ("INVALID_ARGUMENT", "CONFLICT")
    await connected.sent(second, "unheard")
    await connected.sent(first, "heard")
    await eventually(lambda: connected.messages("same"))
    assert [message["content"] for message in connected.messages("same")] == ["heard"]


async def test_one_subscription_too_many_is_refused(world: World, connected: Connection) -> None:
    conversation = await world.group(connected.user)
    await connected.subscribe(ERRORS, "errors")
    for number in range(255):
        await connected.client.send("SUBSCRIBE", {"id": f"s{number}", "destination": topic(conversation)})
    await connected.client.send("SUBSCRIBE", {"id": "one-too-many", "destination": topic(conversation), "receipt": "r"})
    refusal = await connected.error_about("r")
    assert refusal["code"] in ("RATE_LIMITED", "TOO_LARGE", "INVALID_ARGUMENT")
    await connected.client.send("UNSUBSCRIBE", {"id": "s0", "receipt": "u"})
    await connected.take(a("RECEIPT", receipt_id="u"))
    await connected.subscribe(topic(conversation), "again")


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[]",
        "null",
        '"text"',
        '{"content":"x","type":"text"}',
        '{"conversationId":7,"content":"x","type":"text"}',
        '{"conversationId":{"$gt":""},"content":"x","type":"text"}',
        '{"conversationId":"CONVERSATION","type":"text"}',
        '{"conversationId":"CONVERSATION","content":null,"type":"text"}',
        '{"conversationId":"CONVERSATION","content":{"$gt":""},"type":"text"}',
        '{"conversationId":"CONVERSATION","content":NaN,"type":"text"}',
        '{"conversationId":"CONVERSATION","content":"\\ud800","type":"text"}',
        '{"conversationId":"CONVERSATION","content":"x","type":"image"}',
        '{"conversationId":"CONVERSATION","content":"x","type":"text","clientMessageId":""}',
        '{"conversationId":"CONVERSATION","content":"x","type":"text","clientMessageId":7}',
        "[" * 30_000,
    ],
    ids=lambda body: body[:70],
)
async def test_body_that_makes_no_sense_is_refused_as_invalid(world: World, connected: Connection, body: str) -> None:
    conversation = await world.group(connected.user)
    await connected.subscribe(ERRORS, "errors")
    headers = {"destination": "/app/chat.send", "content-type": "application/json", "receipt": "r"}
    await connected.client.send("SEND", headers, body.replace("CONVERSATION", conversation))
    refusal = await connected.error_about("r")
    assert refusal["code"] == "INVALID_ARGUMENT"
    assert await world.api().history(connected.user, conversation) == []


async def test_content_above_16_kib_is_refused_as_too_large(world: World, connected: Connection) -> None:
    conversation = await world.group(connected.user)
    await connected.subscribe(ERRORS, "errors")
    assert (await connected.refused(conversation, "x" * (16 * 1024 + 1)))["code"] == "TOO_LARGE"
    await connected.sent(conversation, "x" * 16 * 1024)


async def test_unsubscribe_from_what_is_not_subscribed_is_answered(connected: Connection) -> None:
    await connected.subscribe(ERRORS, "errors")
    await connected.client.send("UNSUBSCRIBE", {"id": "nothing", "receipt": "r"})
    await connected.take(
        lambda frame: (
            frame.headers.get("receipt-id") == "r"
            or (frame.command == "MESSAGE" and frame.json().get("receiptId") == "r")
        )
    )


async def test_disconnect_is_answered_after_everything_before_it(world: World, connected: Connection) -> None:
    conversation = await world.group(connected.user)
    receipts = [await connected.send(conversation, f"m{number}") for number in range(20)]
    await connected.client.send("DISCONNECT", {"receipt": "bye"})
    await connected.take(a("RECEIPT", receipt_id="bye"))
    assert await connected.client.closed() == 1000
    answered = [frame.headers["receipt-id"] for frame in connected.client.inbox.frames if frame.command == "RECEIPT"]
    assert answered == [*receipts, "bye"]
    assert len(await world.api().history(connected.user, conversation)) == 20
