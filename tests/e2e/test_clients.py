"""Do clients that nobody here wrote get what wire.md promises, in every version of the protocol?"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack

import pytest

from tests.e2e.api import Json, User
from tests.e2e.clients import VERSIONS, Heartbeat, StompClient
from tests.e2e.expect import assert_is_error, assert_is_message_frame
from tests.e2e.frames import Frame, a, an_event
from tests.e2e.stompjs import StompJs
from tests.e2e.stomppy import StompPy
from tests.e2e.waiting import PATIENCE_S, eventually
from tests.e2e.world import ERRORS, World, topic

LIBRARIES: Mapping[str, type[StompJs] | type[StompPy]] = {"stompjs": StompJs, "stomppy": StompPy}
CONTENT = 'äöü – 👋🏽 \u202e "quoted" <b>not bold</b> \\n {"$gt":""}'


@pytest.fixture(params=LIBRARIES)
async def client(request: pytest.FixtureRequest) -> AsyncIterator[StompClient]:
    started: StompClient = await LIBRARIES[request.param].start()
    yield started
    await started.close()


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


def authorization(user: User) -> dict[str, str]:
    return {"host": "parley", "Authorization": f"Bearer {user.token}"}


def chat_send(conversation: str, content: str, **more: str) -> str:
    body: Json = {"conversationId": conversation, "content": content, "type": "text", **more}
    return json.dumps(body, ensure_ascii=False)


def asking_for(receipt: str) -> dict[str, str]:
    return {"content-type": "application/json", "receipt": receipt}


async def test_one_message_goes_end_to_end_with_every_header_and_field(
    world: World, client: StompClient, version: str
) -> None:
    alice, bob = await world.users(2)
    conversation = await world.group(alice, bob)
    listener = await world.connect(bob, edge=1)
    await listener.subscribe(topic(conversation))

    connected = await client.connect(world.edge(), version=version, headers=authorization(alice))
    assert connected.command == "CONNECTED"
    assert connected.headers["version"] == version
    subscribed = await client.subscribe(topic(conversation), "mine")
    assert subscribed.headers["x-head-seq"] == "0"

    await client.send("/app/chat.send", chat_send(conversation, CONTENT, clientMessageId="c:1"), asking_for("r-1"))
    receipt = await client.inbox.take(a("RECEIPT", receipt_id="r-1"))
    message = await client.inbox.take(a("MESSAGE"))
    assert_is_message_frame(
        message, subscription="mine", conversation=conversation, sender=alice.user_id, content=CONTENT, seq=1
    )
    assert message.json()["clientMessageId"] == "c:1"
    assert receipt.headers["message-id"] == message.json()["messageId"]
    assert receipt.headers["x-seq"] == "1"
    assert receipt.body == ""

    heard = await listener.take(a("MESSAGE"))
    assert_is_message_frame(
        heard, subscription="0", conversation=conversation, sender=alice.user_id, content=CONTENT, seq=1
    )
    assert heard.json() == message.json()

    goodbye = await client.disconnect()
    assert goodbye.headers["receipt-id"] == "goodbye"
    await client.inbox.closed()


async def test_passcode_names_the_user_and_login_is_ignored(world: World, client: StompClient, version: str) -> None:
    alice, mallory = await world.users(2)
    conversation = await world.group(alice)
    connected = await client.connect(
        world.edge(), version=version, headers={"host": "parley", "login": mallory.user_id, "passcode": alice.token}
    )
    assert connected.headers["version"] == version
    await client.subscribe(topic(conversation), "mine")
    await client.send("/app/chat.send", chat_send(conversation, "it is me"), asking_for("r-1"))
    message = await client.inbox.take(an_event("message"))
    assert message.json()["senderId"] == alice.user_id
    assert message.json()["clientMessageId"], "the edge makes an id where the client gives none"


async def test_bad_token_gets_an_error_that_the_library_shows_and_a_close(
    world: World, client: StompClient, version: str
) -> None:
    answer = await client.connect(world.edge(), version=version, headers={"passcode": "not.a.token"})
    assert answer.command == "ERROR"
    assert answer.headers["message"]
    assert answer.body
    await client.inbox.closed()
    assert not [frame for frame in client.inbox.frames if frame.command == "CONNECTED"]


async def test_refusal_reaches_the_queue_of_errors_and_the_connection_goes_on(
    world: World, client: StompClient, version: str
) -> None:
    alice, bob = await world.users(2)
    hers, his = await world.group(alice), await world.group(bob)
    await client.connect(world.edge(), version=version, headers=authorization(alice))
    await client.subscribe(ERRORS, "errors")
    await client.send("/app/chat.send", chat_send(his, "let me in", clientMessageId="c-1"), asking_for("r-1"))
    refusal = await client.inbox.take(a("MESSAGE", subscription="errors"))
    assert refusal.headers["destination"] == ERRORS
    assert refusal.headers["message-id"]
    assert refusal.headers["content-type"].partition(";")[0] == "application/json"
    assert refusal.headers["content-length"] == str(len(refusal.body.encode()))
    assert_is_error(refusal.json(), "FORBIDDEN")
    assert refusal.json()["receiptId"] == "r-1"
    assert refusal.json()["clientMessageId"] == "c-1"
    assert refusal.json()["conversationId"] == his
    await client.send("/app/chat.send", chat_send(hers, "still here"), asking_for("r-2"))
    await client.inbox.take(a("RECEIPT", receipt_id="r-2"))


async def test_unsubscribed_client_hears_no_more_and_can_subscribe_again_from_where_it_was(
    world: World, client: StompClient, version: str
) -> None:
    alice, bob = await world.users(2)
    conversation = await world.group(alice, bob)
    talker = await world.connect(bob, edge=1)
    await client.connect(world.edge(), version=version, headers=authorization(alice))
    await client.subscribe(topic(conversation), "first")
    await talker.sent(conversation, "one")
    await client.inbox.take(an_event("message", seq=1))
    await client.unsubscribe("first")
    await talker.sent(conversation, "two")
    await client.subscribe(topic(conversation), "second", {"x-after-seq": "1"})
    missed = await client.inbox.take(an_event("message"))
    assert missed.headers["subscription"] == "second"
    assert missed.seq == 2


@pytest.mark.parametrize("ack", ["client", "client-individual"])
async def test_acknowledged_message_is_answered_with_a_receipt(
    world: World, client: StompClient, version: str, ack: str
) -> None:
    if (version, ack) == ("1.0", "client-individual"):
        ack = "client"  # 1.0 knows no other; the pair is still run so that nothing is skipped
    alice, bob = await world.users(2)
    conversation = await world.group(alice, bob)
    talker = await world.connect(bob, edge=1)
    await client.connect(world.edge(), version=version, headers=authorization(alice))
    await client.subscribe(topic(conversation), "mine", ack=ack)
    await talker.sent(conversation, "one")
    message = await client.inbox.take(an_event("message", seq=1))
    assert ("ack" in message.headers) == (version == "1.2")
    await client.acknowledge(message)


@pytest.mark.parametrize("library", ["stompjs-1.2", "stomppy-1.1", "stomppy-1.2"])
async def test_header_values_with_colon_newline_and_backslash_come_back_to_the_letter(
    world: World, closing: AsyncExitStack, library: str
) -> None:
    # stompjs itself writes no escapes in 1.1, and no client can in 1.0.
    name, version = library.split("-")
    client = await LIBRARIES[name].start()
    closing.push_async_callback(client.close)
    alice = await world.user("alice")
    conversation = await world.group(alice)
    await client.connect(world.edge(), version=version, headers=authorization(alice))
    strange = "a:b\nand \\ too"
    await client.subscribe(topic(conversation), strange)
    await client.send("/app/chat.send", chat_send(conversation, "hello"), asking_for(strange))
    await client.inbox.take(a("RECEIPT", receipt_id=strange))
    message = await client.inbox.take(a("MESSAGE"))
    assert message.headers["subscription"] == strange


async def test_client_that_names_no_host_is_served(world: World, client: StompClient, version: str) -> None:
    # The standards ask for `host` from 1.1 on, but stompjs never sends one by itself, nor does stomp.py in 1.1.
    alice = await world.user("alice")
    conversation = await world.group(alice)
    connected = await client.connect(world.edge(), version=version, headers={"passcode": alice.token})
    assert connected.command == "CONNECTED", connected
    await client.send("/app/chat.send", chat_send(conversation, "hello"), asking_for("r-1"))
    await client.inbox.take(a("RECEIPT", receipt_id="r-1"))


async def test_stompjs_as_it_is_configured_by_default_speaks_version_1_2(world: World, closing: AsyncExitStack) -> None:
    client = await StompJs.start()
    closing.push_async_callback(client.close)
    alice = await world.user("alice")
    connected = await client.connect(
        world.edge(), version=None, headers={"passcode": alice.token}, heartbeat=Heartbeat(10_000, 10_000)
    )
    assert connected.headers["version"] == "1.2", connected
    await client.disconnect()
    assert not client.unhandled


async def test_heart_beats_flow_both_ways_and_keep_a_silent_connection_alive(
    world: World, closing: AsyncExitStack
) -> None:
    alice = await world.user("alice")
    conversation = await world.group(alice)

    async def sit_in_silence(library: type[StompJs] | type[StompPy], version: str) -> None:
        client: StompClient = await library.start()
        closing.push_async_callback(client.close)
        connected = await client.connect(
            world.edge(), version=version, headers=authorization(alice), heartbeat=Heartbeat(500, 500)
        )
        interval_s = max(500, *_offered_ms(connected)) / 1000
        begun = time.monotonic()
        await eventually(
            lambda: client.heartbeats_received >= 3 and client.heartbeats_sent >= 3,
            timeout_s=5 * interval_s + PATIENCE_S,
            what=f"heart-beats of {library.__name__} {version}",
        )
        assert time.monotonic() - begun > 2 * interval_s
        await client.send("/app/chat.send", chat_send(conversation, "alive"), asking_for("r-1"))
        await client.inbox.take(a("RECEIPT", receipt_id="r-1"))

    await _all_libraries(sit_in_silence)


async def test_client_that_promised_heart_beats_and_freezes_is_closed(world: World, closing: AsyncExitStack) -> None:
    alice, bob = await world.users(2)
    silent = await world.connect(bob)

    async def freeze(library: type[StompJs] | type[StompPy], version: str) -> None:
        client: StompClient = await library.start()
        closing.push_async_callback(client.close)
        # It wants none itself, so that it cannot be the one who gives up.
        await client.connect(world.edge(), version=version, headers=authorization(alice), heartbeat=Heartbeat(500, 0))
        await eventually(lambda: client.heartbeats_sent >= 1)
        client.freeze()
        # The same promise over a connection made later: once that one is closed, the time of both is over.
        clock = await world.socket()
        connected = await clock.connect(alice.token, heart_beat="500,0")
        interval_s = max(500, _offered_ms(connected)[1]) / 1000
        begun = time.monotonic()
        await clock.closed(timeout_s=4 * interval_s + PATIENCE_S)
        assert time.monotonic() - begun > interval_s
        client.thaw()
        await client.inbox.closed(timeout_s=interval_s + PATIENCE_S)

    await _all_libraries(freeze)
    conversation = await world.group(bob)
    await silent.sent(conversation, "who promised none may be silent")


async def _all_libraries(part: object) -> None:
    """The heart-beat tests sit and wait: all libraries and versions do it at once. 1.0 has no heart-beats."""
    assert callable(part)
    async with asyncio.TaskGroup() as group:
        for library in LIBRARIES.values():
            for version in ("1.1", "1.2"):
                group.create_task(part(library, version))


def _offered_ms(connected: Frame) -> tuple[int, int]:
    sends, wants = connected.headers["heart-beat"].split(",")
    return int(sends), int(wants)
