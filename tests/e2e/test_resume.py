"""`x-after-seq`: exactly what came after, then live, with no gap and no repeat, over any edge."""

import pytest

from tests.e2e.expect import assert_is_message_frame
from tests.e2e.follower import Sender, finish
from tests.e2e.frames import a, an_event
from tests.e2e.waiting import eventually
from tests.e2e.world import Connection, World, topic

HEAD = 30
ROUNDS = 8


async def spoken(world: World, *, messages: int = HEAD) -> tuple[Connection, Connection, str]:
    """A talker and a listener (not subscribed yet) in a conversation with that many messages."""
    alice, bob = await world.users(2)
    conversation = await world.group(alice, bob)
    talker = await world.connect(alice)
    for number in range(1, messages):
        await talker.send(conversation, f"m{number}")
    await talker.sent(conversation, f"m{messages}")
    return talker, await world.connect(bob, edge=1), conversation


def seqs(listener: Connection, subscription: str = "0") -> list[int]:
    return [message["seq"] for message in listener.messages(subscription)]


async def reaches(listener: Connection, seq: int, subscription: str = "0") -> None:
    await eventually(lambda: seqs(listener, subscription)[-1:] >= [seq], what=f"message {seq} arrives")


@pytest.mark.parametrize("position", [0, 1, 13, HEAD - 1, HEAD])
async def test_subscription_with_a_position_gets_exactly_what_came_after_and_then_live(
    world: World, position: int
) -> None:
    talker, listener, conversation = await spoken(world)
    receipt = await listener.subscribe(topic(conversation), x_after_seq=str(position))
    assert receipt.headers["x-head-seq"] == str(HEAD)
    await talker.sent(conversation, "live")
    await reaches(listener, HEAD + 1)
    assert seqs(listener) == list(range(position + 1, HEAD + 2))


async def test_replayed_message_looks_like_a_live_one(world: World) -> None:
    talker, listener, conversation = await spoken(world, messages=1)
    await listener.subscribe(topic(conversation), x_after_seq="0")
    replayed = await listener.take(an_event("message", seq=1))
    assert_is_message_frame(
        replayed,
        subscription="0",
        conversation=conversation,
        sender=talker.user.user_id,
        content="m1",
        seq=1,
    )


async def test_receipt_of_a_resumed_subscription_comes_after_what_it_missed(world: World) -> None:
    _, listener, conversation = await spoken(world)
    await listener.subscribe(topic(conversation), "late", x_after_seq="0")
    frames = listener.client.inbox.frames
    receipt = next(index for index, frame in enumerate(frames) if frame.command == "RECEIPT")
    assert [frame.seq for frame in frames[:receipt] if frame.command == "MESSAGE"] == list(range(1, HEAD + 1))


async def test_subscription_without_a_position_begins_at_the_head(world: World) -> None:
    talker, listener, conversation = await spoken(world)
    receipt = await listener.subscribe(topic(conversation))
    assert receipt.headers["x-head-seq"] == str(HEAD)
    await talker.sent(conversation, "live")
    await eventually(lambda: len(seqs(listener)) > 0)
    assert seqs(listener) == [HEAD + 1]


async def test_position_beyond_the_head_is_refused_or_taken_as_the_head_but_never_silence(world: World) -> None:
    talker, listener, conversation = await spoken(world)
    await listener.subscribe("/user/queue/errors", "errors")
    await listener.client.send(
        "SUBSCRIBE",
        {"id": "0", "destination": topic(conversation), "x-after-seq": str(HEAD + 1000), "receipt": "r"},
    )
    answer = await listener.take(
        lambda frame: frame.headers.get("receipt-id") == "r" or frame.headers.get("subscription") == "errors"
    )
    if answer.command == "MESSAGE":
        assert answer.json()["code"] == "INVALID_ARGUMENT"
        assert answer.json()["receiptId"] == "r"
        return
    assert answer.headers["x-head-seq"] == str(HEAD)
    await talker.sent(conversation, "live")
    await listener.take(an_event("message", seq=HEAD + 1))
    assert seqs(listener) == [HEAD + 1]


@pytest.mark.parametrize("position", ["-1", "x", "", "1.5", "1e3", "0x10", "9" * 40, " 1"])
async def test_position_that_is_no_seq_is_refused(world: World, position: str) -> None:
    _, listener, conversation = await spoken(world, messages=1)
    await listener.subscribe("/user/queue/errors", "errors")
    await listener.client.send(
        "SUBSCRIBE", {"id": "0", "destination": topic(conversation), "x-after-seq": position, "receipt": "r"}
    )
    refusal = await listener.error_about("r")
    assert refusal["code"] == "INVALID_ARGUMENT"
    assert seqs(listener) == []


async def test_two_subscriptions_of_one_connection_have_positions_of_their_own(world: World) -> None:
    talker, listener, conversation = await spoken(world)
    await listener.subscribe(topic(conversation), "from-20", x_after_seq="20")
    await listener.subscribe(topic(conversation), "from-25", x_after_seq="25")
    await listener.subscribe(topic(conversation), "live")
    await talker.sent(conversation, "live")
    for subscription, first in (("from-20", 21), ("from-25", 26), ("live", HEAD + 1)):
        await reaches(listener, HEAD + 1, subscription)
        assert seqs(listener, subscription) == list(range(first, HEAD + 2))


async def test_resuming_again_and_again_while_others_send_shows_no_gap_and_no_repeat(world: World) -> None:
    users = await world.users(4)
    conversation = await world.group(*users)
    edges = world.deployment.edges
    senders = [Sender(world.http, edges, user, conversation, edge=number) for number, user in enumerate(users)]
    try:
        for sender in senders:
            await sender.connect()
            sender.start()
        seen: list[int] = []
        for round_number in range(ROUNDS):
            listener = await world.connect(users[0], edge=round_number)
            position = seen[-1] if seen else 0
            receipt = await listener.subscribe(topic(conversation), x_after_seq=str(position))
            head = int(receipt.headers["x-head-seq"])
            assert head >= position
            await reaches(listener, head + 20)
            # Vanish with half of it unread, as a client does whose network is gone.
            listener.client.cut()
            await listener.client.closed()
            part = seqs(listener)
            assert part == list(range(position + 1, position + 1 + len(part)))
            seen += part[: max(1, len(part) // 2)]
        assert seen == list(range(1, len(seen) + 1))
        assert len(seen) > ROUNDS
        await finish(senders)
    finally:
        for sender in senders:
            await sender.close()


async def test_replay_longer_than_a_page_of_history_arrives_whole(world: World) -> None:
    talker, listener, conversation = await spoken(world, messages=650)
    receipt = await listener.subscribe(topic(conversation), x_after_seq="0")
    assert receipt.headers["x-head-seq"] == "650"
    await talker.sent(conversation, "live")
    await reaches(listener, 651)
    assert seqs(listener) == list(range(1, 652))


async def test_resuming_at_the_other_edge_continues_where_the_first_ended(stack_world: World) -> None:
    talker, first, conversation = await spoken(stack_world)
    await first.subscribe(topic(conversation), x_after_seq="0")
    await talker.sent(conversation, "the last at the first edge")
    await reaches(first, HEAD + 1)
    first.client.cut()
    await talker.sent(conversation, "missed")
    second = await stack_world.connect(first.user, edge=0)
    receipt = await second.subscribe(topic(conversation), x_after_seq=str(HEAD + 1))
    assert receipt.headers["x-head-seq"] == str(HEAD + 2)
    await talker.sent(conversation, "live again")
    await eventually(lambda: len(seqs(second)) >= 2)
    assert seqs(second) == [HEAD + 2, HEAD + 3]


async def test_version_1_0_without_subscription_ids_is_served_too(world: World) -> None:
    alice = await world.user("alice")
    conversation = await world.group(alice)
    old = await world.socket(version="1.0")
    await old.connect(alice.token)
    await old.send("SUBSCRIBE", {"destination": topic(conversation), "receipt": "r"})
    await old.take(a("RECEIPT", receipt_id="r"))
    await world.api().send(alice, conversation, "hello")
    message = await old.take(an_event("message"))
    assert message.headers["destination"] == topic(conversation)
    await old.send("UNSUBSCRIBE", {"destination": topic(conversation), "receipt": "u"})
    await old.take(a("RECEIPT", receipt_id="u"))
