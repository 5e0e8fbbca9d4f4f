"""The same `clientMessageId` again, however and wherever: one message, one seq, one answer."""

import asyncio
from itertools import pairwise

from tests.e2e.expect import assert_is_error
from tests.e2e.frames import Frame, a, an_answer_to
from tests.e2e.waiting import eventually
from tests.e2e.world import Connection, World, topic

RACES = 50


def answer_of(receipt: Frame) -> tuple[str, int]:
    return receipt.headers["message-id"], receipt.seq


async def test_repeat_at_once_gets_the_answer_of_the_first(world: World) -> None:
    alice = await world.user("alice")
    conversation = await world.group(alice)
    connection = await world.connect(alice)
    await connection.subscribe(topic(conversation))
    first = answer_of(await connection.sent(conversation, "hello", "c-1"))
    assert first[1] == 1
    for _ in range(3):
        assert answer_of(await connection.sent(conversation, "hello", "c-1")) == first
    assert answer_of(await connection.sent(conversation, "the next", "c-2"))[1] == 2
    await _heard(connection, ["hello", "the next"])
    history = await world.api().history(alice, conversation)
    assert [message["content"] for message in history] == ["hello", "the next"]


async def test_repeats_that_are_pipelined_are_one_message(world: World) -> None:
    alice = await world.user("alice")
    conversation = await world.group(alice)
    connection = await world.connect(alice)
    receipts = [await connection.send(conversation, "hello", "c-1") for _ in range(20)]
    answers = {answer_of(await connection.take(a("RECEIPT", receipt_id=receipt))) for receipt in receipts}
    assert {seq for _, seq in answers} == {1}
    assert len(answers) == 1
    assert len(await world.api().history(alice, conversation)) == 1


async def test_repeat_later_and_from_the_other_edge_gets_the_answer_of_the_first(world: World) -> None:
    alice, bob = await world.users(2)
    conversation = await world.group(alice, bob)
    connection = await world.connect(alice)
    first = answer_of(await connection.sent(conversation, "hello", "c-1"))
    chatter = await world.connect(bob, edge=1)
    for number in range(300):  # more than any cache of recent messages would keep in a hurry
        await chatter.send(conversation, f"chatter {number}")
    await chatter.sent(conversation, "the last")
    again = await world.connect(alice, edge=1)
    assert answer_of(await again.sent(conversation, "hello", "c-1")) == first
    over_http = (await world.api(1).send(alice, conversation, "hello", "c-1")).must_be(200)
    assert (over_http["messageId"], over_http["seq"]) == first
    assert len(await world.api().history(alice, conversation)) == 302


async def test_same_message_through_two_edges_at_the_same_moment_is_stored_once(world: World) -> None:
    alice = await world.user("alice")
    conversation = await world.group(alice)
    one, other = await world.connect(alice, edge=0), await world.connect(alice, edge=1)
    listener = await world.connect(alice, edge=1)
    await listener.subscribe(topic(conversation))
    seqs = []
    for race in range(RACES):
        answers = await asyncio.gather(
            one.sent(conversation, f"race {race}", f"c-{race}"),
            other.sent(conversation, f"race {race}", f"c-{race}"),
        )
        assert answer_of(answers[0]) == answer_of(answers[1])
        seqs.append(answers[0].seq)
    assert seqs == list(range(1, RACES + 1))
    await _heard(listener, [f"race {race}" for race in range(RACES)])
    history = await world.api().history(alice, conversation)
    assert [message["content"] for message in history] == [f"race {race}" for race in range(RACES)]


async def test_many_of_the_same_raced_over_stomp_and_http_have_one_answer(world: World) -> None:
    alice = await world.user("alice")
    conversation = await world.group(alice)
    connections = [await world.connect(alice, edge=number) for number in range(4)]
    for race in range(10):
        receipts, answers = await asyncio.gather(
            asyncio.gather(*(one.sent(conversation, f"race {race}", f"c-{race}") for one in connections)),
            asyncio.gather(
                *(world.api(edge).send(alice, conversation, f"race {race}", f"c-{race}") for edge in range(4))
            ),
        )
        told = {answer_of(receipt) for receipt in receipts}
        told |= {(answer.json()["messageId"], answer.json()["seq"]) for answer in answers}
        assert len(told) == 1
        assert sorted(answer.status for answer in answers)[:3] == [200, 200, 200]
    history = await world.api().history(alice, conversation)
    assert all(later["seq"] == earlier["seq"] + 1 for earlier, later in pairwise(history))
    assert len(history) == 10


async def test_same_id_with_another_body_is_a_conflict_and_the_original_stays(world: World) -> None:
    alice, bob = await world.users(2)
    conversation = await world.group(alice, bob)
    connection = await world.connect(alice, errors=True)
    listener = await world.connect(bob, edge=1)
    await listener.subscribe(topic(conversation))
    first = answer_of(await connection.sent(conversation, "original", "c-1"))
    other_edge = await world.connect(alice, edge=1, errors=True)
    for forger in (connection, other_edge):
        refusal = await forger.refused(conversation, "forged", "c-1")
        assert_is_error(refusal, "CONFLICT")
        assert refusal["clientMessageId"] == "c-1"
        assert refusal["conversationId"] == conversation
    assert answer_of(await connection.sent(conversation, "original", "c-1")) == first
    assert answer_of(await connection.sent(conversation, "the next", "c-2"))[1] == 2
    await _heard(listener, ["original", "the next"])
    history = await world.api().history(bob, conversation)
    assert [message["content"] for message in history] == ["original", "the next"]


async def test_two_bodies_raced_under_one_id_leave_one_message_and_one_conflict(world: World) -> None:
    alice = await world.user("alice")
    conversation = await world.group(alice)
    connections = [await world.connect(alice, edge=edge, errors=True) for edge in (0, 1)]
    for race in range(10):
        receipts = [
            await connection.send(conversation, f"race {race} of {number}", f"c-{race}")
            for number, connection in enumerate(connections)
        ]
        frames = [
            await connection.take(an_answer_to(receipt))
            for connection, receipt in zip(connections, receipts, strict=True)
        ]
        assert sorted(frame.command for frame in frames) == ["MESSAGE", "RECEIPT"]
        refusal = next(frame for frame in frames if frame.command == "MESSAGE")
        assert_is_error(refusal.json(), "CONFLICT")
        winner = next(number for number, frame in enumerate(frames) if frame.command == "RECEIPT")
        history = await world.api().history(alice, conversation, after=race)
        assert [message["content"] for message in history] == [f"race {race} of {winner}"]


async def test_same_id_of_another_user_and_in_another_conversation_is_independent(world: World) -> None:
    alice, bob = await world.users(2)
    conversation, elsewhere = await world.group(alice, bob), await world.group(alice, bob)
    hers, his = await world.connect(alice), await world.connect(bob, edge=1)
    answers = [
        answer_of(await hers.sent(conversation, "mine", "same")),
        answer_of(await his.sent(conversation, "his own", "same")),
        answer_of(await hers.sent(elsewhere, "there", "same")),
    ]
    assert [seq for _, seq in answers] == [1, 2, 1]
    assert len({message_id for message_id, _ in answers}) == 3
    history = await world.api().history(alice, conversation)
    assert [message["content"] for message in history] == ["mine", "his own"]


async def _heard(listener: Connection, contents: list[str]) -> None:
    """The listener hears exactly these, in this order, and none twice."""
    await eventually(lambda: len(listener.messages()) >= len(contents))
    assert [message["content"] for message in listener.messages()] == contents
