"""Redis, replicas and edges that freeze, die and lose everything: what edges and watchers see of it."""

import asyncio
import time

import grpc
import pytest
from redis import Redis

from edge.clients.presence import PresenceStatus
from edge.model import UserId
from protos.presence.v1 import presence_pb2 as pb
from protos.presence.v1 import presence_pb2_grpc
from scripts.servers import RedisServer
from services.runtime.channel import open_channel
from tests.e2e.waiting import eventually
from tests.integration.presence.world import (
    A_MOMENT_S,
    ALICE,
    AWAY,
    BOB,
    BUSY,
    CAROL,
    GRACE_S,
    OFFLINE,
    ONLINE,
    SETTLE_S,
    TICK_S,
    TTL_S,
    UNKNOWN,
    Edge,
    Service,
    Watcher,
    World,
    never,
)

USERS = [UserId(f"user-{number}") for number in range(40)]
RENEWAL_S = TTL_S / 3
# The store's patience, and that of a caller on top of it.
ANSWER_S = 1.0


class Party:
    """Two replicas, two edges with the USERS between them, and BOB on each edge watching them all."""

    def __init__(self, world: World, services: list[Service], edges: list[Edge]) -> None:
        self.world = world
        self.services = services
        self.edges = edges
        self.watchers: list[Watcher] = []

    async def gather(self) -> None:
        for number, user_id in enumerate(USERS):
            self.edges[number % 2].open(f"of {user_id}", user_id)
        for edge in self.edges:
            self.watchers.append(edge.watch(BOB, *USERS, CAROL))
        await self.all_see(*USERS, status=ONLINE)
        await self.all_see(CAROL, status=OFFLINE)

    async def all_see(self, *user_ids: UserId, status: PresenceStatus) -> None:
        for watcher in self.watchers:
            for user_id in user_ids:
                await watcher.comes_to_see(user_id, status)

    def has_flapped(self) -> bool:
        """Somebody was told that one of the USERS had gone."""
        return any(watcher.saw_leave(user_id) for watcher in self.watchers for user_id in USERS)

    async def statuses(self) -> set[PresenceStatus]:
        return {each.status for each in await self.edges[0].presence.get(USERS)}

    async def all_read(self, status: PresenceStatus) -> None:
        async def do() -> bool:
            return await self.statuses() == {status}

        await eventually(do)

    async def is_alive(self) -> None:
        """A change passes, at last, from each edge to each watcher; nobody has flapped."""
        for number, edge in enumerate(self.edges):
            edge.presence.set_status(f"of {USERS[number]}", BUSY)
        await self.all_see(*USERS[: len(self.edges)], status=BUSY)
        assert not self.has_flapped()


@pytest.fixture
async def party(fragile: World) -> Party:
    services = [await fragile.start_service() for _ in range(2)]
    edges = [await fragile.start_edge(services[0]), await fragile.start_edge(services[1])]
    party = Party(fragile, services, edges)
    await party.gather()
    return party


def order(server: RedisServer, *command: str) -> object:
    with Redis.from_url(server.url, protocol=2) as client:
        answer: object = client.execute_command(*command)
    return answer


async def test_losing_all_data_is_seen_by_nobody(own_redis: RedisServer, party: Party) -> None:
    order(own_redis, "FLUSHALL")
    assert OFFLINE not in await party.statuses()
    await party.all_read(ONLINE)
    await never(party.has_flapped, for_s=SETTLE_S + 0.5)
    assert all(edge.reports("full") >= 2 for edge in party.edges)
    await party.is_alive()


async def test_a_loss_of_data_is_made_good_at_once_and_not_at_the_next_renewal(
    own_redis: RedisServer, fragile: World
) -> None:
    """The edges renew every 30 seconds: longer than this test waits for anything."""
    services = [await fragile.start_service(lease_ttl_s=90.0, settle_s=90.0) for _ in range(2)]
    party = Party(fragile, services, [await fragile.start_edge() for _ in range(2)])
    await party.gather()
    order(own_redis, "FLUSHALL")
    await party.all_read(ONLINE)
    assert not party.has_flapped()


async def test_whoever_left_when_the_data_were_lost_is_gone_once_they_have_settled(
    own_redis: RedisServer, party: Party
) -> None:
    order(own_redis, "FLUSHALL")
    lost_at = time.monotonic()
    await party.edges[1].die()
    mine, theirs = USERS[0], USERS[1]
    assert await party.edges[0].get(theirs) is not OFFLINE
    gone_at = await party.watchers[0].comes_to_see(theirs, OFFLINE)
    assert gone_at - lost_at <= SETTLE_S + TTL_S + GRACE_S + 4 * TICK_S + A_MOMENT_S
    assert party.watchers[0].sees(mine, ONLINE)


async def test_a_redis_that_dies_and_comes_back_empty_is_seen_by_nobody(own_redis: RedisServer, party: Party) -> None:
    own_redis.kill()
    await party.all_read(UNKNOWN)
    began = time.monotonic()
    for _ in range(5):
        assert await party.statuses() == {UNKNOWN}
    late = party.edges[0].watch(CAROL, USERS[0])
    party.edges[0].open("late", ALICE)
    assert time.monotonic() - began < A_MOMENT_S, "nobody waits for it"
    await never(party.has_flapped, for_s=5 * TICK_S)
    own_redis.start()
    back_at = time.monotonic()
    await party.all_read(ONLINE)
    assert time.monotonic() - back_at < 3 + A_MOMENT_S
    await late.comes_to_see(USERS[0], ONLINE)
    assert await party.edges[1].get(ALICE) is ONLINE
    await never(party.has_flapped, for_s=SETTLE_S + 0.5)
    await party.is_alive()


async def test_a_redis_that_freezes_for_longer_than_the_leases_is_seen_by_nobody(
    own_redis: RedisServer, party: Party
) -> None:
    """Every lease has run out when it wakes, and everything is still stored."""
    own_redis.pause()
    began = time.monotonic()
    assert await party.statuses() <= {UNKNOWN}
    assert time.monotonic() - began < ANSWER_S + A_MOMENT_S

    def late() -> Watcher | None:
        watcher = party.edges[0].watch(CAROL, USERS[0], USERS[1])
        return watcher if watcher.sees(USERS[0], UNKNOWN) else None

    new = await eventually(late, what="whoever subscribes now is told that nobody can say")
    assert new is not None
    assert time.monotonic() - began > TTL_S
    assert not party.has_flapped()
    own_redis.resume()
    await party.all_read(ONLINE)
    await new.comes_to_see(USERS[1], ONLINE)
    await never(party.has_flapped, for_s=SETTLE_S + 0.5)
    await party.is_alive()


async def test_activity_is_refused_within_a_second_and_then_at_once_while_redis_is_frozen(
    own_redis: RedisServer, fragile: World
) -> None:
    service = await fragile.start_service()
    request = pb.RecordActivityRequest(activities=[pb.Activity(user_id=user_id, at_ms=1_000) for user_id in USERS])
    async with open_channel(service.target) as channel:
        stub = presence_pb2_grpc.PresenceServiceStub(channel)

        async def tell() -> grpc.StatusCode:
            return await stub.RecordActivity(request, timeout=5).code()

        async def is_taken() -> bool:
            return await tell() is grpc.StatusCode.OK

        own_redis.pause()
        began = time.monotonic()
        answers = await asyncio.gather(*(tell() for _ in range(50)))
        assert time.monotonic() - began < ANSWER_S + A_MOMENT_S
        began = time.monotonic()
        answers += [await tell() for _ in range(10)]
        assert time.monotonic() - began < A_MOMENT_S
        assert set(answers) == {grpc.StatusCode.UNAVAILABLE}
        own_redis.resume()
        await eventually(is_taken)


async def test_changes_that_a_deaf_replica_missed_are_told_when_it_hears_again(
    own_redis: RedisServer, party: Party
) -> None:
    order(own_redis, "ACL", "SETUSER", "default", "-subscribe")
    order(own_redis, "CLIENT", "KILL", "TYPE", "pubsub")
    await eventually(lambda: not any(service.metric("feed_up") for service in party.services))
    party.edges[0].presence.set_status(f"of {USERS[0]}", AWAY)

    async def is_stored() -> bool:
        return await party.edges[1].get(USERS[0]) is AWAY

    await eventually(is_stored)
    assert not party.watchers[1].sees(USERS[0], AWAY)
    order(own_redis, "ACL", "SETUSER", "default", "+subscribe")
    await party.all_see(USERS[0], status=AWAY)
    assert not party.has_flapped()


async def test_all_replicas_away_for_longer_than_the_leases_are_missed_by_nobody(party: Party) -> None:
    for service in party.services:
        await service.stop()
    assert await party.statuses() == {UNKNOWN}
    party.edges[0].presence.set_status(f"of {USERS[0]}", AWAY)
    await never(party.has_flapped, for_s=TTL_S + 0.2)
    for service in party.services:
        await service.start()
    await party.all_see(USERS[0], status=AWAY)
    await never(party.has_flapped, for_s=SETTLE_S + 0.5)
    await party.is_alive()


async def test_a_rolling_restart_of_the_replicas_shows_no_flap(fragile: World) -> None:
    services = [await fragile.start_service() for _ in range(2)]
    party = Party(fragile, services, [await fragile.start_edge() for _ in range(2)])
    await party.gather()
    for service in services:
        await service.stop()
        await never(party.has_flapped, for_s=RENEWAL_S)
        await service.start()
        await never(party.has_flapped, for_s=RENEWAL_S)
    await party.is_alive()
    await never(party.has_flapped, for_s=GRACE_S)


async def test_edges_that_restart_one_after_the_other_show_no_flap(party: Party) -> None:
    """Each hands over, and its users turn up at the next within the grace."""
    for number in range(2):
        leaving = party.edges[number]
        successor = await party.world.start_edge()
        watcher = successor.watch(BOB, *USERS)
        for user_id in USERS:
            await watcher.comes_to_see(user_id, ONLINE)
        for user_id in USERS[number::2]:
            leaving.close(f"of {user_id}")
        leaving_task = asyncio.create_task(leaving.leave())
        await asyncio.sleep(GRACE_S / 4)
        for user_id in USERS[number::2]:
            successor.open(f"of {user_id}, again", user_id)
        await leaving_task
        party.edges[number] = successor
        party.watchers.append(watcher)
    await never(party.has_flapped, for_s=GRACE_S + 0.5)
    assert await party.statuses() == {ONLINE}
