"""Who may what: members alone hear and speak, strangers learn nothing, and a removed member hears nothing more."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from tests.e2e import tokens
from tests.e2e.api import ConversationId, Json, User
from tests.e2e.expect import assert_is_error, assert_is_refusal
from tests.e2e.frames import Frame, a, an_event
from tests.e2e.waiting import eventually
from tests.e2e.world import ERRORS, Connection, World, topic

POLICY = 1008
TIMED_CALLS = 40
REMOVAL_MESSAGES = 20


async def never_made(world: World) -> ConversationId:
    """An id of the form of real ones that names no conversation: a real one with its last characters changed."""
    somebody = await world.user("somebody")
    real = await world.group(somebody)
    tail = "0000" if not real.endswith("0000") else "1111"
    return ConversationId(real[:-4] + tail)


def without(value: Json, *ids: str) -> str:
    """The refusal with whatever the caller sent himself blotted out."""
    text = repr({name: field for name, field in sorted(value.items()) if name not in ("receiptId", "clientMessageId")})
    for sent in ids:
        text = text.replace(sent, "…")
    return text


# ---- strangers


async def test_stranger_can_neither_send_nor_subscribe_nor_read(world: World) -> None:
    alice, eve = await world.users(2)
    conversation = await world.group(alice)
    await world.api().send(alice, conversation, "private")
    stranger = await world.connect(eve, edge=1, errors=True)

    assert_is_error(await stranger.refused(conversation, "hello?"), "FORBIDDEN")
    for number, headers in enumerate(({}, {"x-after-seq": "0"})):
        receipt = f"s{number}"
        destination = topic(conversation)
        await stranger.client.send(
            "SUBSCRIBE", {"id": f"x{number}", "destination": destination, "receipt": receipt, **headers}
        )
        refusal = await stranger.error_about(receipt)
        assert_is_error(refusal, "FORBIDDEN")
    for method, path, body in (
        ("GET", "", None),
        ("GET", "/messages", None),
        ("POST", "/messages", {"content": "x", "type": "text"}),
        ("PUT", f"/members/{eve.user_id}", None),
        ("DELETE", f"/members/{alice.user_id}", None),
    ):
        answer = await world.api(1).call(method, f"/conversations/{conversation}{path}", token=eve.token, json=body)
        assert_is_refusal(answer, "FORBIDDEN")

    await world.api().send(alice, conversation, "still private")
    own = await world.group(eve)
    await stranger.subscribe(topic(own), "own")
    await stranger.sent(own, "talking to myself")
    await eventually(lambda: stranger.messages("own"))
    heard = [frame for frame in stranger.client.inbox.frames if "private" in frame.body]
    assert heard == []
    history = await world.api().history(alice, conversation)
    assert [message["content"] for message in history] == ["private", "still private"]
    assert await world.api().members(alice, conversation) == [alice.user_id]


async def test_stranger_cannot_tell_by_the_answer_whether_a_conversation_exists(world: World) -> None:
    alice, eve = await world.users(2)
    existing, missing = await world.group(alice), await never_made(world)
    stranger = await world.connect(eve, errors=True)

    async def ask(conversation: str, number: int) -> list[str]:
        answers = [await stranger.refused(conversation, "x", "same-id")]
        receipt = f"subscribe-{number}"
        await stranger.client.send("SUBSCRIBE", {"id": receipt, "destination": topic(conversation), "receipt": receipt})
        answers.append(await stranger.error_about(receipt))
        base = f"/conversations/{conversation}"
        for method, path, body in (
            ("GET", base, None),
            ("GET", f"{base}/messages", None),
            ("POST", f"{base}/messages", {"content": "x", "type": "text"}),
            ("PUT", f"{base}/members/{eve.user_id}", None),
            ("DELETE", f"{base}/members/{alice.user_id}", None),
            ("DELETE", f"{base}/members/{eve.user_id}", None),
        ):
            answer = await world.api().call(method, path, token=eve.token, json=body)
            answers.append({"status": answer.status, **answer.json()})
        return [without(answer, conversation) for answer in answers]

    assert await ask(existing, 1) == await ask(missing, 2)


async def test_stranger_without_the_queue_of_errors_gets_the_same_error_frame_either_way(world: World) -> None:
    alice, eve = await world.users(2)
    frames: list[Frame] = []
    conversations = [await world.group(alice), await never_made(world)]
    for conversation in conversations:
        for command in ("SEND", "SUBSCRIBE"):
            stranger = await world.connect(eve)
            if command == "SEND":
                await stranger.send(conversation, "x", "same-id", receipt="r")
            else:
                await stranger.client.send("SUBSCRIBE", {"id": "0", "destination": topic(conversation), "receipt": "r"})
            error = await stranger.take(a("ERROR"))
            assert error.headers["receipt-id"] == "r"
            assert error.headers["message"]
            assert await stranger.client.closed() == POLICY
            body = error.body.replace(conversation, "…")
            headers = {name: value.replace(conversation, "…") for name, value in error.headers.items()}
            headers.pop("content-length", None)
            frames.append(Frame(error.command, headers, body))
    assert frames[:2] == frames[2:]


async def test_stranger_cannot_tell_by_the_clock_whether_a_conversation_exists(world: World) -> None:
    alice, eve = await world.users(2)
    existing, missing = await world.group(alice), await never_made(world)
    stranger = await world.connect(eve, errors=True)

    async def timed(call: Callable[[str], Awaitable[object]], to: str) -> float:
        begun = time.perf_counter()
        await call(to)
        return time.perf_counter() - begun

    calls: dict[str, Callable[[str], Awaitable[object]]] = {
        "send": lambda conversation: stranger.refused(conversation, "x"),
        "read": lambda conversation: world.api().page(eve, conversation),
    }
    for name, call in calls.items():
        took: dict[str, list[float]] = {existing: [], missing: []}
        for _ in range(TIMED_CALLS):
            for conversation in (existing, missing):
                took[conversation].append(await timed(call, conversation))
        one, other = (statistics.median(took[conversation]) for conversation in (existing, missing))
        # Generous: machines are noisy. A look-up more or less on one of the two ways is 0.3 ms and more.
        assert abs(one - other) < max(0.002, 0.5 * min(one, other)), (name, one, other)


# ---- members who are no more


async def test_removed_member_hears_nothing_after_the_removal_was_acknowledged(world: World) -> None:
    alice, bob, carol = await world.users(3)
    conversation, other = await world.group(alice, bob, carol), await world.group(alice, bob)
    removed, remaining = await world.connect(bob, edge=1, errors=True), await world.connect(carol, edge=1)
    for listener in (removed, remaining):
        await listener.subscribe(topic(conversation))
    await removed.subscribe(topic(other), "other")
    talker = await world.connect(alice)
    await talker.sent(conversation, "before")
    await removed.take(an_event("message", content="before"))

    (await world.api().remove_member(alice, conversation, bob.user_id)).must_be(200, 204)
    for number in range(REMOVAL_MESSAGES):
        await talker.sent(conversation, f"after {number}")
    await eventually(lambda: len(remaining.messages()) == 1 + REMOVAL_MESSAGES)
    await talker.sent(other, "to both")
    await removed.take(an_event("message", content="to both"))
    assert [message["content"] for message in removed.messages()] == ["before"]

    assert_is_error(await removed.refused(conversation, "let me back"), "FORBIDDEN")
    answer = await world.api(1).page(bob, conversation)
    assert_is_refusal(answer, "FORBIDDEN")


async def test_removal_in_the_middle_of_a_conversation_cuts_cleanly(world: World) -> None:
    alice, bob, carol = await world.users(3)
    conversation = await world.group(alice, bob, carol)
    removed, remaining = await world.connect(bob, edge=1), await world.connect(carol, edge=1)
    for listener in (removed, remaining):
        await listener.subscribe(topic(conversation))
    talker = await world.connect(alice)
    stop, begun_after = asyncio.Event(), 0
    acknowledged = asyncio.Event()

    async def talk() -> None:
        nonlocal begun_after
        while not stop.is_set():
            late = acknowledged.is_set()
            seq = (await talker.sent(conversation, "on and on")).seq
            if late and not begun_after:
                begun_after = seq

    talking = asyncio.create_task(talk())
    await eventually(lambda: len(removed.messages()) > 10)
    (await world.api(1).remove_member(alice, conversation, bob.user_id)).must_be(200, 204)
    acknowledged.set()
    at_removal = len(remaining.messages())
    await eventually(lambda: begun_after > 0 and len(remaining.messages()) > at_removal + 30)
    stop.set()
    await talking
    heard = [message["seq"] for message in removed.messages()]
    assert heard == list(range(1, len(heard) + 1))
    assert heard[-1] < begun_after


async def test_member_who_was_taken_back_hears_again_and_reads_what_was_missed(world: World) -> None:
    alice, bob = await world.users(2)
    conversation = await world.group(alice, bob)
    connection = await world.connect(bob, edge=1, errors=True)
    await connection.subscribe(topic(conversation), "first")
    await world.api().remove_member(alice, conversation, bob.user_id)
    await world.api().send(alice, conversation, "missed")
    (await world.api().add_member(alice, conversation, bob.user_id)).must_be(200, 201, 204)
    await connection.subscribe(topic(conversation), "second", x_after_seq="0")
    await world.api().send(alice, conversation, "heard")
    await eventually(lambda: len(connection.messages("second")) == 2)
    assert [message["content"] for message in connection.messages("second")] == ["missed", "heard"]
    await connection.sent(conversation, "back")


async def test_new_member_may_send_and_hear_at_once_on_every_edge(world: World) -> None:
    alice, bob = await world.users(2)
    conversation = await world.group(alice)
    connection = await world.connect(bob, edge=1, errors=True)
    for _ in range(5):  # a refusal must not be remembered
        assert_is_error(await connection.refused(conversation, "too early"), "FORBIDDEN")
    (await world.api().add_member(alice, conversation, bob.user_id)).must_be(200, 201, 204)
    await connection.subscribe(topic(conversation))
    await connection.sent(conversation, "in time")
    await connection.take(an_event("message", content="in time"))


# ---- tokens


BAD_TOKENS: dict[str, Callable[[World, User], str]] = {
    "expired": lambda world, user: tokens.changed(world.deployment, user, exp=int(time.time()) - 120),
    "no end": lambda world, user: tokens.changed(world.deployment, user, exp=None),
    "no user": lambda world, user: tokens.changed(world.deployment, user, sub=None),
    "user is no user id": lambda world, user: tokens.changed(world.deployment, user, sub="two words"),
    "user id too long": lambda world, user: tokens.changed(world.deployment, user, sub="x" * 65),
    "not yet valid": lambda world, user: tokens.changed(world.deployment, user, nbf=int(time.time()) + 3600),
    "unsigned": lambda _, user: tokens.unsigned(user),
    "signature of zeros": lambda _, user: tokens.with_broken_signature(user),
    "another key": lambda _, user: tokens.signed_by(_other_key(), user),
    "public key as shared secret": lambda world, user: tokens.signed_with_shared_secret(
        _public_key(world.deployment.dev_key), user
    ),
    "garbage": lambda _, user: "garbage",
    "two parts": lambda _, user: user.token.rpartition(".")[0],
    "huge": lambda _, user: "x" * 3_500,
}


def _other_key() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _public_key(private: bytes) -> bytes:
    key = load_pem_private_key(private, None)
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("kind", BAD_TOKENS)
async def test_bad_token_opens_nothing_over_stomp_or_http(world: World, kind: str) -> None:
    alice = await world.user("alice")
    token = BAD_TOKENS[kind](world, alice)
    assert_is_refusal(await world.api().call("GET", "/conversations", token=token), "UNAUTHENTICATED")
    for headers in ({"Authorization": f"Bearer {token}"}, {"login": alice.user_id, "passcode": token}):
        client = await world.socket()
        await client.send("CONNECT", {"accept-version": "1.2", "host": "parley", **headers})
        error = await client.take(lambda _: True)
        assert error.command == "ERROR"
        assert error.headers["message"]
        assert token not in error.body
        assert await client.closed() == POLICY


@pytest.mark.parametrize(
    "headers",
    [{}, {"login": "alice"}, {"Authorization": ""}, {"Authorization": "Basic YTpi"}, {"passcode": ""}],
    ids=repr,
)
async def test_connect_without_a_token_is_refused(world: World, headers: dict[str, str]) -> None:
    client = await world.socket()
    await client.send("CONNECT", {"accept-version": "1.2", "host": "parley", **headers})
    assert (await client.take(lambda _: True)).command == "ERROR"
    assert await client.closed() == POLICY


async def test_good_token_with_other_claims_is_still_the_users(world: World) -> None:
    alice = await world.user("alice")
    token = tokens.changed(world.deployment, alice, name="Alice", sub="alice.2@example-1_x")
    conversation = (await world.api().create(User("alice.2@example-1_x", token), [])).must_be(201)
    assert conversation["memberIds"] == ["alice.2@example-1_x"]


async def test_connection_is_closed_when_its_token_ends(world: World) -> None:
    alice = await world.user("alice")
    ends_at = time.time() + 3
    # Issued by a clock that is behind by what the edge forgives does not matter here: the end is what it says.
    token = tokens.changed(world.deployment, alice, exp=int(ends_at))
    client = await world.socket()
    await client.connect(token)
    assert await client.closed(timeout_s=20) == POLICY
    assert time.time() >= int(ends_at)


# ---- where refusals go


async def test_refusal_goes_to_the_queue_of_errors_where_it_is_subscribed(world: World) -> None:
    alice = await world.user("alice")
    connection = await world.connect(alice, errors=True)
    refusal = await connection.refused("nonsense", "x", "c-1")
    assert_is_error(refusal, "FORBIDDEN")
    assert refusal["clientMessageId"] == "c-1"
    assert refusal["conversationId"] == "nonsense"
    conversation = await world.group(alice)
    await connection.sent(conversation, "still open")


async def test_refusal_without_a_receipt_is_told_too(world: World) -> None:
    alice = await world.user("alice")
    connection = await world.connect(alice, errors=True)
    await connection.client.send(
        "SEND",
        {"destination": "/app/chat.send", "content-type": "application/json"},
        '{"conversationId":"nonsense","content":"x","type":"text"}',
    )
    refusal = (await connection.take(a("MESSAGE", subscription="errors"))).json()
    assert_is_error(refusal, "FORBIDDEN")
    assert refusal.get("receiptId") is None


async def test_refusal_is_an_error_and_a_close_where_the_queue_is_not_subscribed(world: World) -> None:
    alice = await world.user("alice")
    connection = await world.connect(alice)
    await connection.send("nonsense", "x", receipt="r")
    error = await connection.take(a("ERROR"))
    assert error.headers["receipt-id"] == "r"
    assert error.headers["message"]
    assert error.body
    assert await connection.client.closed() == POLICY


async def test_refusal_goes_to_the_connection_that_asked_and_to_no_other(world: World) -> None:
    alice = await world.user("alice")
    asking, other = await world.connect(alice, errors=True), await world.connect(alice, errors=True)
    await asking.refused("nonsense", "x")
    conversation = await world.group(alice)
    await other.sent(conversation, "a frame after it")
    assert other.client.inbox.taken_all(a("MESSAGE")) == []


async def test_refusals_after_unsubscribing_from_the_queue_close_the_connection(world: World) -> None:
    alice = await world.user("alice")
    connection: Connection = await world.connect(alice)
    await connection.subscribe(ERRORS, "errors")
    await connection.client.send("UNSUBSCRIBE", {"id": "errors", "receipt": "u"})
    await connection.take(a("RECEIPT", receipt_id="u"))
    await connection.send("nonsense", "x")
    await connection.take(a("ERROR"))
    await connection.client.closed()
