"""The contract of `services.chat.lastread.LastRead`: one suite, in memory and in Redis; and what Redis makes hard."""

import asyncio
import time
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from redis import Redis

from scripts.servers import RedisServer
from services.chat.lastread import LastRead, Member, open_last_read
from services.chat.lastread import memory as memory_module
from services.chat.lastread.memory import MemoryLastRead
from services.chat.lastread.redis import _KEPT_S, KEY_PREFIX, RedisLastRead
from services.chat.model import ConversationId, Seq
from tests.contract.chat.samples import ANN, BOB
from tests.e2e.waiting import eventually

# What the contract promises, and a busy machine.
QUICKLY_S = 0.25 + 0.5


@pytest.fixture(params=["memory", "redis"])
async def last_read(request: pytest.FixtureRequest) -> AsyncIterator[LastRead]:
    url: str = "memory://test" if request.param == "memory" else request.getfixturevalue("redis_url")
    last_read = open_last_read(url)
    await last_read.start()
    yield last_read
    await last_read.close()


@pytest.fixture
def room() -> ConversationId:
    """One that only this test uses: the server is everybody's."""
    return ConversationId(f"g{uuid4().hex}")


# ---- Both.


async def test_what_was_recorded_is_found_and_nothing_is_known_of_others(
    last_read: LastRead, room: ConversationId
) -> None:
    other = ConversationId(f"{room}other")
    await last_read.record({Member(room, ANN): Seq(3), Member(other, BOB): Seq(9_999_999_999)})
    asked = [Member(of, user) for of in (room, other) for user in (ANN, BOB)]
    assert await last_read.find(asked) == {Member(room, ANN): 3, Member(other, BOB): 9_999_999_999}


async def test_it_moves_forwards_and_never_back(last_read: LastRead, room: ConversationId) -> None:
    for seq, expected in ((5, 5), (3, 5), (5, 5), (8, 8)):
        await last_read.record({Member(room, ANN): Seq(seq)})
        assert await last_read.find([Member(room, ANN)]) == {Member(room, ANN): expected}


async def test_nothing_asked_or_recorded_is_no_work(last_read: LastRead) -> None:
    await last_read.record({})
    assert await last_read.find([]) == {}


async def test_a_thousand_are_recorded_and_found_at_once(last_read: LastRead, room: ConversationId) -> None:
    reads = {Member(ConversationId(f"{room}{n % 50}"), type(ANN)(f"u{n}")): Seq(n + 1) for n in range(1_000)}
    await last_read.record(reads)
    assert await last_read.find(list(reads)) == reads


async def test_recorded_in_any_order_at_once_the_furthest_stays(last_read: LastRead, room: ConversationId) -> None:
    # Each opens a connection, and what a busy machine does not open in time is not recorded: no more than these.
    await asyncio.gather(*(last_read.record({Member(room, ANN): Seq(n * 7 % 11)}) for n in range(1, 11)))
    assert await last_read.find([Member(room, ANN)]) == {Member(room, ANN): 10}


def test_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="expected redis://") as refusal:
        open_last_read("memcached://user:secret@host")
    assert "secret" not in str(refusal.value)


# ---- In memory.


async def test_in_memory_those_that_moved_longest_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "_MAX_KNOWN", 2)
    last_read, members = MemoryLastRead(), [Member(ConversationId(f"g{n}"), ANN) for n in range(3)]
    for place in (0, 1, 0, 2):
        await last_read.record({members[place]: Seq(1)})
    assert await last_read.find(members) == {members[0]: 1, members[2]: 1}


# ---- In Redis.


@pytest.fixture
async def own(own_redis: RedisServer) -> AsyncIterator[RedisLastRead]:
    last_read = RedisLastRead(own_redis.url)
    await last_read.start()
    yield last_read
    await last_read.close()


async def recorded(last_read: LastRead, member: Member, seq: int) -> bool:
    await last_read.record({member: Seq(seq)})
    return await last_read.find([member]) == {member: seq}


async def test_replicas_find_what_the_others_recorded(redis_url: str, room: ConversationId) -> None:
    one, other = RedisLastRead(redis_url), RedisLastRead(redis_url)
    await one.record({Member(room, ANN): Seq(7)})
    await other.record({Member(room, ANN): Seq(4)})
    assert await other.find([Member(room, ANN)]) == {Member(room, ANN): 7}
    await one.close()
    await other.close()


async def test_a_conversation_is_forgotten_a_week_after_somebody_read_in_it(
    redis_url: str, room: ConversationId
) -> None:
    last_read = RedisLastRead(redis_url)
    await last_read.record({Member(room, ANN): Seq(7)})
    with Redis.from_url(redis_url) as client:
        assert _KEPT_S - 60 < client.ttl(KEY_PREFIX + room) <= _KEPT_S
    await last_read.close()


async def test_what_was_flushed_is_not_known_and_is_recorded_anew(
    own_redis: RedisServer, own: RedisLastRead, room: ConversationId
) -> None:
    assert await recorded(own, Member(room, ANN), 7)
    with Redis.from_url(own_redis.url) as client:
        client.flushall()
    assert await own.find([Member(room, ANN)]) == {}
    assert await recorded(own, Member(room, ANN), 2)


@pytest.mark.parametrize("how", ["dead", "frozen"])
async def test_where_redis_does_not_answer_nobody_waits_and_nothing_is_raised(
    own_redis: RedisServer, own: RedisLastRead, room: ConversationId, how: str
) -> None:
    assert await recorded(own, Member(room, ANN), 7)
    if how == "dead":
        await asyncio.to_thread(own_redis.kill)
    else:
        own_redis.pause()
    for _ in range(2):
        started = time.monotonic()
        assert await own.find([Member(room, ANN)]) == {}
        await own.record({Member(room, ANN): Seq(9)})
        assert time.monotonic() - started < QUICKLY_S
    if how == "dead":
        await asyncio.to_thread(own_redis.restart)
    else:
        own_redis.resume()
    await eventually(lambda: recorded(own, Member(room, ANN), 10))


async def test_after_a_pause_every_answer_is_that_of_its_own_question(
    own_redis: RedisServer, own: RedisLastRead, room: ConversationId
) -> None:
    members = [Member(ConversationId(f"{room}{n}"), ANN) for n in range(20)]
    await own.record({member: Seq(n + 1) for n, member in enumerate(members)})
    own_redis.pause()
    await asyncio.gather(*(own.find([member]) for member in members))
    own_redis.resume()
    await eventually(lambda: own.find(members[:1]))
    for n, member in enumerate(members):
        assert await own.find([member]) == {member: n + 1}


async def test_where_redis_was_never_there_nobody_waits(room: ConversationId) -> None:
    last_read = RedisLastRead("redis://127.0.0.1:1/0")
    started = time.monotonic()
    assert await last_read.find([Member(room, ANN)]) == {}
    await last_read.record({Member(room, ANN): Seq(9)})
    assert time.monotonic() - started < QUICKLY_S
    await last_read.close()


async def test_a_key_of_another_kind_is_no_answer_and_no_failure(redis_url: str, room: ConversationId) -> None:
    last_read = RedisLastRead(redis_url)
    with Redis.from_url(redis_url) as client:
        client.set(KEY_PREFIX + room, "not a sorted set")
    assert await last_read.find([Member(room, ANN)]) == {}
    await last_read.close()
