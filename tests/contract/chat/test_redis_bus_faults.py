"""What the Redis bus promises while its broker freezes, dies, hangs up or was never there.

Each test has a broker of its own. In all of them the bus has to recover by itself.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from redis import Redis

from scripts.servers import RedisServer
from services.chat.bus.redis import RedisBus
from services.chat.model import ConversationId
from tests.e2e.waiting import eventually

TOPIC = ConversationId("topic")

# `subscribe` promises a second, `close` a bound; the rest is a busy machine.
A_MOMENT_S = 0.7


class Replica:
    """A Redis bus and what it was told."""

    def __init__(self, url: str, replica_id: str) -> None:
        self.bus = RedisBus(url, replica_id=replica_id)
        self.events: list[bytes] = []
        self.deaf = 0
        self.was_connected_when_told: list[bool] = []

    def bus_event(self, conversation_id: ConversationId, event: bytes) -> None:
        self.events.append(event)
        if event == b"poison":
            raise LookupError("a listener's bug")

    def bus_was_deaf(self) -> None:
        self.deaf += 1
        self.was_connected_when_told.append(self.bus.is_connected)

    def publish(self, event: bytes) -> None:
        self.bus.publish(TOPIC, event)


Open = Callable[[str], Awaitable[Replica]]


@pytest.fixture
async def open_replica(own_redis: RedisServer) -> AsyncIterator[Open]:
    before = asyncio.all_tasks()
    replicas: list[Replica] = []

    async def open_one(replica_id: str) -> Replica:
        replica = Replica(own_redis.url, replica_id)
        replicas.append(replica)
        await replica.bus.start(replica)
        await replica.bus.subscribe(TOPIC)
        return replica

    yield open_one
    for replica in replicas:
        await replica.bus.close()
        assert all(replica.was_connected_when_told)
    assert asyncio.all_tasks() <= before | {asyncio.current_task()}


def order(server: RedisServer, *command: str | int) -> object:
    """What an operator does to the broker."""
    with Redis.from_url(server.url, protocol=2) as client:
        answer: object = client.execute_command(*command)
    return answer


def hang_up_on_publisher_of(server: RedisServer, replica: Replica) -> None:
    """Of that replica only: both listen on, and nobody but the publisher knows that something is lost."""
    with Redis.from_url(server.url) as client:
        newest = max(
            (entry for entry in client.client_list() if entry["name"] == "parley-bus-publisher"),
            key=lambda entry: int(entry["id"]),
        )
    assert order(server, "CLIENT", "KILL", "ID", newest["id"]) == 1


async def assert_hears(listener: Replica, speaker: Replica) -> None:
    """Events pass again: the first ones after a fault may still be lost, the bus is allowed that."""

    def said_and_heard() -> bool:
        speaker.publish(b"are you there?")
        return b"are you there?" in listener.events

    listener.events.clear()
    await eventually(said_and_heard)


async def test_broker_that_was_never_there_is_found_when_it_comes(own_redis: RedisServer, open_replica: Open) -> None:
    own_redis.kill()
    began = time.monotonic()
    one, two = await open_replica("one"), await open_replica("two")
    assert time.monotonic() - began < 2 * (1 + A_MOMENT_S)
    assert not one.bus.is_connected
    for _ in range(100):
        one.publish(b"into the void")
    await eventually(lambda: one.bus.dropped == 100)
    assert one.deaf == two.deaf == 0
    own_redis.start()
    await eventually(lambda: one.deaf and two.deaf)
    await assert_hears(two, one)


async def test_replica_of_a_broker_that_was_killed_and_restarted_is_deaf_then_hears(
    own_redis: RedisServer, open_replica: Open
) -> None:
    one, two = await open_replica("one"), await open_replica("two")
    own_redis.kill()
    await eventually(lambda: not one.bus.is_connected and not two.bus.is_connected)
    began = time.monotonic()
    await one.bus.subscribe(ConversationId("subscribed while it was away"))
    assert time.monotonic() - began < A_MOMENT_S
    one.publish(b"lost")
    await eventually(lambda: one.bus.dropped == 1)
    assert one.deaf == two.deaf == 0
    own_redis.start()
    await eventually(lambda: one.deaf and two.deaf)
    await assert_hears(two, one)
    two.bus.publish(ConversationId("subscribed while it was away"), b"made good")
    await eventually(lambda: b"made good" in one.events)


async def test_frozen_broker_blocks_nobody_and_is_noticed(own_redis: RedisServer, open_replica: Open) -> None:
    one, two = await open_replica("one"), await open_replica("two")
    own_redis.pause()
    began = time.monotonic()
    await one.bus.subscribe(ConversationId("another"))
    assert time.monotonic() - began < 1 + A_MOMENT_S
    began = time.monotonic()
    for _ in range(60_000):
        one.publish(b"x" * 300)
    assert time.monotonic() - began < 5, "publishing waits for nobody"
    assert one.bus.dropped > 45_000, "and keeps little"
    await eventually(lambda: not one.bus.is_connected and not two.bus.is_connected)
    assert one.deaf == two.deaf == 0
    own_redis.resume()
    await eventually(lambda: one.deaf and two.deaf)
    await assert_hears(two, one)
    two.bus.publish(ConversationId("another"), b"heard")
    await eventually(lambda: b"heard" in one.events)


async def test_subscription_confirmed_too_late_is_reported_as_deafness(
    own_redis: RedisServer, open_replica: Open
) -> None:
    one = await open_replica("one")
    own_redis.pause()
    await one.bus.subscribe(ConversationId("another"))
    assert one.deaf == 0
    own_redis.resume()
    await eventually(lambda: one.deaf == 1)
    assert one.bus.reconnects == 0


async def test_closing_during_a_freeze_is_quick(own_redis: RedisServer, open_replica: Open) -> None:
    one = await open_replica("one")
    own_redis.pause()
    for _ in range(5_000):
        one.publish(b"x" * 300)
    began = time.monotonic()
    await one.bus.close()
    assert time.monotonic() - began < 1 + A_MOMENT_S
    assert one.bus.dropped == 5_000


async def test_closing_while_the_broker_is_away_is_quick(own_redis: RedisServer, open_replica: Open) -> None:
    one = await open_replica("one")
    own_redis.kill()
    one.publish(b"lost")
    began = time.monotonic()
    await one.bus.close()
    assert time.monotonic() - began < 1 + A_MOMENT_S
    assert one.bus.dropped == 1


async def test_hung_up_listeners_come_back_to_all_their_topics(own_redis: RedisServer, open_replica: Open) -> None:
    one, two = await open_replica("one"), await open_replica("two")
    topics = [ConversationId(f"topic-{number}") for number in range(3500)]
    await asyncio.gather(*map(two.bus.subscribe, topics))
    assert order(own_redis, "CLIENT", "KILL", "TYPE", "pubsub") == 2
    await eventually(lambda: one.deaf and two.deaf)
    for topic in topics:
        one.bus.publish(topic, topic.encode())
    await eventually(lambda: len(two.events) >= len(topics))
    assert set(two.events) == {topic.encode() for topic in topics}


async def test_unsubscribing_while_away_is_remembered(own_redis: RedisServer, open_replica: Open) -> None:
    one, two = await open_replica("one"), await open_replica("two")
    own_redis.kill()
    await eventually(lambda: not two.bus.is_connected)
    two.bus.unsubscribe(TOPIC)
    own_redis.start()
    await eventually(lambda: one.deaf and two.deaf)
    assert order(own_redis, "PUBSUB", "NUMSUB", f"parley:topic:{TOPIC}") == [f"parley:topic:{TOPIC}".encode(), 1]


async def test_what_one_replica_could_not_publish_the_others_are_told_of(
    own_redis: RedisServer, open_replica: Open
) -> None:
    one, two = await open_replica("one"), await open_replica("two")
    two.publish(b"so that it has a connection")
    await eventually(lambda: one.events)
    hang_up_on_publisher_of(own_redis, two)
    two.publish(b"lost")
    await eventually(lambda: one.deaf)
    assert (two.bus.dropped, two.deaf) == (1, 0)
    assert one.bus.reconnects == 0
    await assert_hears(one, two)


async def test_losing_all_its_data_costs_the_broker_nothing(own_redis: RedisServer, open_replica: Open) -> None:
    one, two = await open_replica("one"), await open_replica("two")
    order(own_redis, "FLUSHALL")
    one.publish(b"still here")
    await eventually(lambda: two.events)
    assert (one.bus.reconnects, two.bus.reconnects, two.deaf) == (0, 0, 0)


async def test_broker_that_refuses_subscriptions_is_asked_again(own_redis: RedisServer, open_replica: Open) -> None:
    order(own_redis, "ACL", "SETUSER", "default", "-subscribe")
    one = await open_replica("one")
    assert not one.bus.is_connected
    order(own_redis, "ACL", "SETUSER", "default", "+subscribe")
    await eventually(lambda: one.deaf == 1)


async def test_listener_that_raises_goes_on_hearing(own_redis: RedisServer, open_replica: Open) -> None:
    one, two = await open_replica("one"), await open_replica("two")
    one.publish(b"poison")
    one.publish(b"antidote")
    await eventually(lambda: two.events == [b"poison", b"antidote"])
    assert two.bus.reconnects == 0


async def test_strangers_on_our_channels_are_ignored(own_redis: RedisServer, open_replica: Open) -> None:
    one, two = await open_replica("one"), await open_replica("two")
    order(own_redis, "PUBLISH", f"parley:topic:{TOPIC}", "no tag")
    one.publish(b"ours")
    await eventually(lambda: two.events)
    assert two.events == [b"ours"]


async def test_password_in_the_url_is_used(own_redis: RedisServer) -> None:
    order(own_redis, "CONFIG", "SET", "requirepass", "open sesame")
    replica = Replica(own_redis.url.replace("redis://", "redis://:open%20sesame@"), "one")
    await replica.bus.start(replica)
    assert replica.bus.is_connected
    await replica.bus.close()
