"""Does `@stomp/stompjs` over `sockjs-client`, neither of them ours, get what wire.md promises over each transport?"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.api import User
from tests.e2e.clients import NO_HEARTBEAT, Heartbeat
from tests.e2e.deployments import DRAIN_S, Embedded, bad_lines, find_exit_code
from tests.e2e.expect import assert_is_message_frame
from tests.e2e.frames import a, an_event
from tests.e2e.stompjs import StompJs
from tests.e2e.waiting import eventually
from tests.e2e.world import World, send_frame, topic

TRANSPORTS = ("websocket", "xhr-streaming", "xhr-polling", "eventsource")
# What browsers mangle, what SockJS escapes, and what EventSource would take for a part of a URL.
CONTENT = 'äöü 👋🏽 \u2028\u2029\u200d\ufeff\uffff 100% %41 %zz "quoted" \\n \n <b>'
RESTARTING = 1012


@pytest.fixture
def world(embedded: Embedded, http: aiohttp.ClientSession, closing: AsyncExitStack) -> World:
    """One deployment: what is asked about here is in the edge, which both deployments share."""
    return World(embedded, http, closing)


@pytest.fixture
async def client() -> AsyncIterator[StompJs]:
    started = await StompJs.start()
    yield started
    await started.close()


async def connect(
    client: StompJs,
    world: World,
    user: User,
    transport: str,
    *,
    heartbeat: Heartbeat = NO_HEARTBEAT,
    reconnect_ms: int = 0,
) -> None:
    connected = await client.connect(
        world.edge(),
        version="1.2",
        headers={"passcode": user.token},
        heartbeat=heartbeat,
        sockjs=transport,
        reconnect_ms=reconnect_ms,
    )
    assert connected.command == "CONNECTED", connected


async def say(client: StompJs, conversation: str, content: str, receipt: str) -> None:
    _, headers, body = send_frame(conversation, content, receipt=receipt)
    destination = headers["destination"]
    await client.send(destination, body, {name: headers[name] for name in ("content-type", "receipt")})
    await client.inbox.take(a("RECEIPT", receipt_id=receipt))


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_messages_go_both_ways_over_each_transport(world: World, client: StompJs, transport: str) -> None:
    alice, bob = await world.users(2)
    conversation = await world.group(alice, bob)
    talker = await world.connect(bob)
    await connect(client, world, alice, transport)
    subscribed = await client.subscribe(topic(conversation), "mine")
    assert subscribed.headers["x-head-seq"] == "0"

    await say(client, conversation, CONTENT, "r-1")
    own = await client.inbox.take(an_event("message", seq=1))
    assert_is_message_frame(
        own, subscription="mine", conversation=conversation, sender=alice.user_id, content=CONTENT, seq=1
    )
    await talker.sent(conversation, CONTENT)
    heard = await client.inbox.take(an_event("message", seq=2))
    assert heard.json()["content"] == CONTENT

    await client.disconnect()
    assert await client.inbox.closed() == 1000
    assert not client.unhandled


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_many_messages_arrive_in_order_over_each_transport(world: World, client: StompJs, transport: str) -> None:
    # 180 KB: more than a stream holds, so that the client has to come again, and less than may wait for a slow reader.
    count, filler = 120, "x" * 1000
    alice, bob = await world.users(2)
    conversation = await world.group(alice, bob)
    talker = await world.connect(bob)
    await connect(client, world, alice, transport)
    await client.subscribe(topic(conversation), "mine")
    for number in range(count):
        await talker.send(conversation, f"{number} {filler}")
    heard = [json.loads((await client.inbox.take(an_event("message"))).body) for _ in range(count)]
    assert [message["seq"] for message in heard] == list(range(1, count + 1))


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_refused_client_is_told_why_and_closed_over_each_transport(
    world: World, client: StompJs, transport: str
) -> None:
    answer = await client.connect(world.edge(), version="1.2", headers={"passcode": "not.a.token"}, sockjs=transport)
    assert answer.command == "ERROR"
    assert json.loads(answer.body)["code"] == "UNAUTHENTICATED"
    assert await client.inbox.closed() == 1008


async def test_heart_beats_keep_a_silent_client_of_each_transport_alive(world: World, closing: AsyncExitStack) -> None:
    alice = await world.user("alice")
    conversation = await world.group(alice)

    async def sit_in_silence(transport: str) -> None:
        client = await StompJs.start()
        closing.push_async_callback(client.close)
        await connect(client, world, alice, transport, heartbeat=Heartbeat(500, 500))
        await eventually(lambda: client.heartbeats_received >= 3 and client.heartbeats_sent >= 3)
        await say(client, conversation, "alive", "r-1")

    async with asyncio.TaskGroup() as group:
        for transport in TRANSPORTS:
            group.create_task(sit_in_silence(transport))


@pytest.fixture
def own_embedded(session_directory: Path) -> Iterator[Embedded]:
    """An embedded server that only this test uses."""
    deployment = Embedded(session_directory / "embedded-sockjs", {"PARLEY_RUNTIME_DRAIN_S": f"{DRAIN_S:g}"})
    deployment.start()
    yield deployment
    deployment.stop()


async def test_clients_of_each_transport_are_told_of_a_restart_and_come_back_for_what_they_missed(
    own_embedded: Embedded, http: aiohttp.ClientSession, closing: AsyncExitStack
) -> None:
    world = World(own_embedded, http, closing)
    alice, bob = await world.users(2)
    conversation = await world.group(alice, bob)
    clients = {transport: await StompJs.start() for transport in TRANSPORTS}
    for transport, client in clients.items():
        closing.push_async_callback(client.close)
        await connect(client, world, alice, transport, reconnect_ms=200)
        await client.subscribe(topic(conversation), "first")
        await say(client, conversation, transport, "before")
    for client in clients.values():
        await client.inbox.take(an_event("message", seq=len(TRANSPORTS)))

    pid = own_embedded.process.pid
    own_embedded.terminate()
    await eventually(lambda: find_exit_code(pid) is not None, timeout_s=DRAIN_S + 5, what="the process leaves")
    assert find_exit_code(pid) == 0, own_embedded.process.log_tail()
    assert bad_lines(own_embedded.log("services")) == []
    for transport, client in clients.items():
        assert client.close_codes[:1] == [RESTARTING], transport

    await asyncio.to_thread(own_embedded.restart)
    talker = await world.connect(bob)
    await talker.sent(conversation, "while you were away")
    for transport, client in clients.items():
        assert (await client.inbox.take(a("CONNECTED"))).headers["version"] == "1.2"
        await client.subscribe(topic(conversation), "again", {"x-after-seq": f"{len(TRANSPORTS)}"})
        missed = await client.inbox.take(an_event("message", content="while you were away"))
        assert missed.headers["subscription"] == "again"
        await say(client, conversation, f"{transport} again", "after")
