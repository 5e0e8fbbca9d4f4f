"""One order for everybody: 1…N without a hole, at every subscriber and in the history, also when a replica dies."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from tests.e2e.api import Api, Json, User
from tests.e2e.deployments import FullStack
from tests.e2e.expect import same_message
from tests.e2e.follower import Follower, Sender, finish
from tests.e2e.waiting import eventually
from tests.e2e.world import World

SENDERS = 50
MESSAGES_EACH = 200
BOUND_S = 90.0
"""For 10,000 messages; two quiet cores need a tenth of it."""

SENDERS_WHILE_KILLING = 10
MESSAGES_BETWEEN_KILLS = 400


class Crowd:
    """Senders and followers of one conversation, spread over all edges."""

    def __init__(self, world: World, senders: Sequence[Sender], followers: Sequence[Follower]) -> None:
        self.world = world
        self.senders = senders
        self.followers = followers

    @property
    def promised(self) -> int:
        return sum(len(sender.promises) for sender in self.senders)

    async def promised_more(self, more: int) -> None:
        """Wait until so many more messages have their RECEIPT."""
        wanted = self.promised + more
        await eventually(lambda: self.promised >= wanted, timeout_s=60, what=f"{more} more receipts")


@pytest.fixture
async def close_all() -> AsyncIterator[list[Sender | Follower]]:
    """What is in the list is closed after the test."""
    members: list[Sender | Follower] = []
    yield members
    for member in members:
        await (member.stop() if isinstance(member, Follower) else member.close())


async def gather_crowd(
    world: World, users: Sequence[User], conversation: str, followers: int, close_all: list[Sender | Follower]
) -> Crowd:
    edges = world.deployment.edges
    senders = [Sender(world.http, edges, user, conversation, edge=number) for number, user in enumerate(users)]
    close_all += senders
    for sender in senders:
        await sender.connect()
    crowd = Crowd(
        world,
        senders,
        [
            Follower(world.http, edges, users[number % len(users)], conversation, edge=number)
            for number in range(followers)
        ],
    )
    close_all += crowd.followers
    for follower in crowd.followers:
        await follower.live()
    return crowd


@pytest.mark.timeout(BOUND_S + 60)
async def test_ten_thousand_messages_of_fifty_senders_have_one_order_everywhere(
    stack_world: World, close_all: list[Sender | Follower]
) -> None:
    users = await stack_world.users(SENDERS)
    conversation = await stack_world.group(*users)
    crowd = await gather_crowd(stack_world, users, conversation, 4, close_all)
    total = SENDERS * MESSAGES_EACH
    async with asyncio.timeout(BOUND_S):
        await asyncio.gather(*(sender.send(MESSAGES_EACH) for sender in crowd.senders))
        for follower in crowd.followers:
            await follower.reaches(total, timeout_s=BOUND_S)
    history = await assert_one_order(crowd, conversation, total)
    for sender in crowd.senders:
        own = [message["content"] for message in history if message["senderId"] == sender.user.user_id]
        assert own == [f"{sender.user.user_id} {number}" for number in range(MESSAGES_EACH)], (
            "what one client sends one after the other keeps its order"
        )
        assert sender.refusals == []
    assert [follower.resumed for follower in crowd.followers] == [0] * len(crowd.followers)


@pytest.mark.timeout(180)
async def test_messages_with_a_receipt_survive_the_death_of_each_chat_replica(
    faulty_world: World, faulty_stack: FullStack, close_all: list[Sender | Follower]
) -> None:
    users = await faulty_world.users(SENDERS_WHILE_KILLING)
    conversation = await faulty_world.group(*users)
    crowd = await gather_crowd(faulty_world, users, conversation, 4, close_all)
    for sender in crowd.senders:
        sender.start()
    for replica in ("chat-1", "chat-2"):
        await crowd.promised_more(MESSAGES_BETWEEN_KILLS)
        await asyncio.to_thread(faulty_stack.stack.kill, replica)
        await crowd.promised_more(MESSAGES_BETWEEN_KILLS)
        await asyncio.to_thread(faulty_stack.stack.restart, replica)
    await crowd.promised_more(MESSAGES_BETWEEN_KILLS)
    await finish(crowd.senders)
    total = crowd.promised
    for follower in crowd.followers:
        await follower.reaches(total, timeout_s=60)
    await assert_one_order(crowd, conversation, total)


async def assert_one_order(crowd: Crowd, conversation: str, total: int) -> list[Json]:
    """1…total in the history of every edge and at every follower, and each promise kept. Gives the history."""
    histories = [
        await Api(crowd.world.http, edge).history(crowd.senders[0].user, conversation)
        for edge in crowd.world.deployment.edges
    ]
    history = histories[0]
    assert [message["seq"] for message in history] == list(range(1, total + 1))
    assert len({message["messageId"] for message in history}) == total
    assert len({(message["senderId"], message["clientMessageId"]) for message in history}) == total
    for other in [*histories[1:], *(follower.messages for follower in crowd.followers)]:
        assert len(other) == total
        assert all(same_message(one, two) for one, two in zip(history, other, strict=True))
    for sender in crowd.senders:
        for promise in sender.promises:
            message = history[promise.seq - 1]
            assert message["messageId"] == promise.message_id
            assert message["content"] == promise.content
            assert message["clientMessageId"] == promise.client_message_id
            assert message["senderId"] == sender.user.user_id
    return history
