"""How far 200 people have read, said by all of them at once, over every way there is, while a chat replica dies; and
what becomes of it when Redis is away, or has forgotten everything."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, cast

import pytest
from pymongo import AsyncMongoClient
from redis.asyncio import Redis

from scripts.stack import Kind
from tests.e2e.api import ConversationId, Json, User
from tests.e2e.deployments import FullStack
from tests.e2e.waiting import eventually
from tests.e2e.world import Connection, World, topic
from tests.integration.chat.load import Lane, send_once
from tests.integration.chat.marks import read_at_chat, read_over_http, read_over_stomp, stubs_of
from tests.integration.chat.processes import read_figure, services_of

Mongo = AsyncMongoClient[dict[str, Any]]

READERS = 200
MESSAGES = 30
_MOVES_OF_A_DEVICE = 5
_LOOK_EVERY_S = 0.1
_LISTS_AT_ONCE = 20
_RANKS = {"sent": 0, "delivered": 1, "seen": 2}
_NOTES = "/user/queue/notifications"


@dataclass(frozen=True, slots=True)
class Room:
    """A group with messages of its owner; `ids` has their ids by seq."""

    owner: User
    readers: Sequence[User]
    conversation: ConversationId
    ids: Mapping[int, str]


@pytest.mark.timeout(180)
async def test_two_hundred_readers_end_at_their_maxima_and_nothing_goes_back_though_a_chat_replica_dies(
    world: World, stack: FullStack, mongo: Mongo
) -> None:
    """Each has two devices: one speaks STOMP to an edge; the other HTTP to the other edge, or past both to a chat."""
    room = await _make_room(world, readers=READERS, messages=MESSAGES)
    observers = [await _watch(world, room, edge) for edge in (0, 1, 0, 1)]
    connections = await asyncio.gather(*(_connect(world, user, edge) for edge, user in enumerate(room.readers)))
    chats = services_of(stack, Kind.CHAT)
    random = Random(7)
    answered: defaultdict[str, list[int]] = defaultdict(list)

    async def read_on(reader: User, say: Callable[[int], Awaitable[None]]) -> None:
        """In any order, with repeats; each until it is answered."""
        for seq in random.choices(range(1, MESSAGES + 1), k=_MOVES_OF_A_DEVICE):
            await eventually(partial(_said, say, seq))
            answered[reader.user_id].append(seq)

    async with stubs_of(chats) as stubs:

        def devices(number: int, reader: User) -> Sequence[Callable[[int], Awaitable[None]]]:
            conversation, ids, api = room.conversation, room.ids, world.api(number + 1)
            return (
                lambda seq: read_over_stomp(connections[number], conversation, ids[seq]),
                lambda seq: (
                    read_over_http(api, reader, conversation, ids[seq])
                    if random.random() < 0.5
                    else read_at_chat(random.choice(stubs), reader, conversation, seq)
                ),
            )

        async with asyncio.TaskGroup() as group:
            reading = [
                group.create_task(read_on(reader, say))
                for number, reader in enumerate(room.readers)
                for say in devices(number, reader)
            ]
            looking = [group.create_task(_look_while(reading, world, room, edge)) for edge in (0, 1)]
            await eventually(lambda: sum(map(len, answered.values())) > len(reading))
            moved = [await read_figure(world.http, chat, "parley_chat_watermarks_moved_total") for chat in chats]
            await asyncio.to_thread(chats[moved.index(max(moved))].kill)
            assert not all(task.done() for task in reading), "the replica outlived all of it"

    maxima = {user_id: max(seqs) for user_id, seqs in answered.items()}
    assert len(maxima) == READERS
    assert await _stored(mongo, room) == maxima
    await _assert_unread(world, room, maxima)
    for edge in (0, 1):
        expected = ["seen" if seq <= min(maxima.values()) else "sent" for seq in room.ids]
        assert await _statuses(world, room, edge) == expected
    assert min(task.result() for task in looking) > 1
    for observer in observers:
        assert _heard_ascending(observer, event="status", of="userId", seq="seq") > READERS // 2
    heard = [_heard_ascending(each, event="unread", of="conversationId", seq="readSeq") for each in connections]
    assert sum(heard) > READERS // 2


async def test_reading_needs_no_redis_and_a_redis_that_forgets_everything_changes_nothing(
    world: World, stack: FullStack, mongo: Mongo
) -> None:
    room = await _make_room(world, readers=4, messages=9)
    expected = {reader.user_id: 0 for reader in room.readers}

    async def read(seqs: Sequence[int]) -> None:
        for number, (reader, seq) in enumerate(zip(room.readers, seqs, strict=True)):
            await read_over_http(world.api(number), reader, room.conversation, room.ids[seq])
            expected[reader.user_id] = max(seq, expected[reader.user_id])

    async def assert_as_expected() -> None:
        assert await _stored(mongo, room) == expected
        await _assert_unread(world, room, expected)

    await read([2, 4, 6, 1])
    await assert_as_expected()

    await asyncio.to_thread(stack.stack.redis.kill)
    await read([3, 2, 7, 5])
    await assert_as_expected()

    await asyncio.to_thread(stack.stack.redis.start)
    await read([4, 1, 6, 5])
    await assert_as_expected()

    async with Redis.from_url(stack.stack.redis.url) as redis:
        await redis.flushall()
    await read([1, 5, 9, 2])
    await assert_as_expected()


# ---- The room, and who is in it.


async def _make_room(world: World, *, readers: int, messages: int) -> Room:
    owner = await world.user("owner")
    members = await asyncio.gather(*(world.user(f"reader{number}") for number in range(readers)))
    conversation = await world.group(owner, *members)
    lane = Lane(world.api(), owner, conversation)
    ids = [sent.message_id for _ in range(messages) for sent in await send_once([lane])]
    return Room(owner, members, conversation, dict(enumerate(ids, start=1)))


async def _watch(world: World, room: Room, edge: int) -> Connection:
    observer = await world.connect(room.owner, edge)
    await observer.subscribe(topic(room.conversation))
    return observer


async def _connect(world: World, reader: User, edge: int) -> Connection:
    connection = await world.connect(reader, edge, errors=True)
    await connection.subscribe(_NOTES, "notes")
    return connection


async def _said(say: Callable[[int], Awaitable[None]], seq: int) -> bool:
    await say(seq)
    return True


# ---- What can be seen of it.


async def _stored(mongo: Mongo, room: Room) -> Mapping[str, int]:
    """Each reader's watermark as it lies in MongoDB."""
    found = mongo.get_default_database()["memberships"].find({"conversationId": room.conversation})
    return {each["userId"]: each["readSeq"] async for each in found if each["userId"] != room.owner.user_id}


async def _assert_unread(world: World, room: Room, read: Mapping[str, int]) -> None:
    """As each reader's own list of conversations has it."""

    at_once = asyncio.Semaphore(_LISTS_AT_ONCE)

    async def live_list(number: int, reader: User) -> Json:
        answer = await world.api(number).call("GET", "/conversations", token=reader.token)
        assert "x-stale-ms" not in answer.headers
        (one,) = answer.must_be(200)["conversations"]
        return cast(Json, one)

    async def listed(number: int, reader: User) -> tuple[int, int]:
        async with at_once:  # again where the edge has not noticed yet that a replica is gone
            one = await eventually(lambda: live_list(number, reader))
        return one["readSeq"], one["unreadCount"]

    counts = await asyncio.gather(*(listed(number, reader) for number, reader in enumerate(room.readers)))
    assert counts == [(read[reader.user_id], len(room.ids) - read[reader.user_id]) for reader in room.readers]


async def _statuses(world: World, room: Room, edge: int) -> list[str]:
    """Of each message, as the owner is shown them."""
    page = (await world.api(edge).page(room.owner, room.conversation, limit=len(room.ids))).must_be(200)
    return [message["status"] for message in page["messages"]]


async def _look_while(reading: Collection[asyncio.Task[None]], world: World, room: Room, edge: int) -> int:
    """Reads the history over and over, and sees no status go back. Gives how often it was read."""
    looks, before = 0, [0] * len(room.ids)
    while not all(task.done() for task in reading):
        ranks = [_RANKS[status] for status in await eventually(lambda: _statuses(world, room, edge))]
        assert all(later >= earlier for earlier, later in zip(before, ranks, strict=True)), (before, ranks)
        looks, before = looks + 1, ranks
        await asyncio.sleep(_LOOK_EVERY_S)
    return looks


def _heard_ascending(connection: Connection, *, event: str, of: str, seq: str) -> int:
    """How many of these events there were; their seqs never go back, for each value of the field `of`."""
    last: defaultdict[str, int] = defaultdict(int)
    frames = [frame for frame in connection.client.inbox.frames if frame.command == "MESSAGE"]
    heard = [body for frame in frames if (body := frame.json())["event"] == event]
    for body in heard:
        assert body[seq] >= last[body[of]], f"{body} after {last[body[of]]}"
        last[body[of]] = body[seq]
    return len(heard)
