"""What a crowd costs Redis, by what Redis itself counts, and how soon everybody sees everybody.

Operations are all that Redis did, also inside scripts; calls are those that came over the wire to make it do that. An
edge reports at most ten times a second and a replica reads at most 33 times, whatever the number of users: a batch
is one call for each shard. So calls have a bound that knows nothing of the crowd, and operations little more than what
has to be written of each user.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from redis import Redis

from edge.model import UserId
from protos.presence.v1 import presence_pb2 as pb
from protos.presence.v1 import presence_pb2_grpc
from scripts.servers import RedisServer
from services.presence.store.redis_keys import SHARDS
from services.runtime.channel import open_channel
from services.runtime.clock import SystemClock
from services.runtime.log import logger
from tests.e2e.waiting import eventually
from tests.integration.presence.world import DEFAULT_TIMES, ONLINE, Watcher, World

USERS = [UserId(f"user-{number}") for number in range(2_000)]
CONTACTS = 20
EDGES = 2
REPLICAS = 2

# A report: its admission; and the activity, the load and the commit of each shard.
CALLS_A_SECOND = EDGES * 10 * (1 + 3 * SHARDS) + REPLICAS * 33 * SHARDS
# In a call, whatever the number of users in it: the call itself, the time, the fence, the announcement.
OPERATIONS_A_CALL = 4
# Compared, set, no longer due, on that edge; and the activity, compared and set.
OPERATIONS_A_USER = 6
# Only clients send these: what is called in scripts is none of them.
_CALLS = ("cmdstat_evalsha", "cmdstat_mget", "cmdstat_smembers")

_log = logger(__name__)


class Meter:
    """What Redis has done since this was made."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._before = self._read()
        self._operations: list[tuple[float, int]] = []
        self.sample()

    def sample(self) -> None:
        """To be called often, for `most_in_a_second`."""
        stats: dict[str, Any] = self._redis.info("stats")
        self._operations.append((time.monotonic(), stats["total_commands_processed"]))

    @property
    def operations(self) -> int:
        return self._operations[-1][1] - self._operations[0][1]

    @property
    def most_in_a_second(self) -> int:
        """Operations in the busiest one."""
        return max(
            later - now
            for number, (at, now) in enumerate(self._operations)
            for until, later in self._operations[number:]
            if until - at <= 1
        )

    @property
    def calls(self) -> int:
        return self._read()[0] - self._before[0]

    @property
    def cpu_s(self) -> float:
        return self._read()[1] - self._before[1]

    def _read(self) -> tuple[int, float]:
        info: dict[str, Any] = self._redis.info("all")
        calls = sum(info[name]["calls"] for name in _CALLS if name in info)
        return calls, info["used_cpu_user"] + info["used_cpu_sys"]


@pytest.fixture
def redis(own_redis: RedisServer) -> Iterator[Redis]:
    with Redis.from_url(own_redis.url, protocol=2) as client:
        yield client


@pytest.mark.parametrize("over_s", [0, 2])
async def test_two_thousand_users_who_come_together_cost_redis_a_bounded_number_of_operations_a_second(
    fragile: World, redis: Redis, over_s: int
) -> None:
    services = [await fragile.start_service(**DEFAULT_TIMES) for _ in range(REPLICAS)]
    edges = [await fragile.start_edge(service) for service in services]
    await eventually(lambda: all(edge.reports("full") for edge in edges))
    meter = Meter(redis)
    began = time.monotonic()
    watchers: list[Watcher] = []
    for number, user_id in enumerate(USERS):
        edge = edges[number % EDGES]
        edge.open(f"of {user_id}", user_id)
        watchers.append(edge.watch(user_id, *USERS[number - number % CONTACTS :][:CONTACTS]))
        if number % CONTACTS == CONTACTS - 1:
            meter.sample()
            await asyncio.sleep(over_s * CONTACTS / len(USERS))
    still_looking = list(watchers)

    def all_see_all() -> bool:
        meter.sample()
        while still_looking and sees_all(still_looking[-1]):
            still_looking.pop()
        return not still_looking

    def sees_all(watcher: Watcher) -> bool:
        return len({presence.user_id for _, presence in watcher.told if presence.status is ONLINE}) == CONTACTS

    await eventually(all_see_all)
    took_s = time.monotonic() - began
    measured = {
        "took_s": took_s,
        "operations": meter.operations,
        "operations_in_the_busiest_second": meter.most_in_a_second,
        "calls": meter.calls,
        "redis_cpu_s": meter.cpu_s,
    }
    _log.info("presence_load", over_s=over_s, **measured)
    # A second more: every pace begins with one that is free, and replicas tick.
    assert meter.calls <= CALLS_A_SECOND * (took_s + 1), measured
    repeated = sum(edge.reports("changes", "failed") for edge in edges)
    of_users = OPERATIONS_A_USER * len(USERS) * (1 + repeated)
    assert meter.operations <= of_users + OPERATIONS_A_CALL * (meter.calls + 100), measured
    assert meter.most_in_a_second <= of_users + OPERATIONS_A_CALL * 2 * CALLS_A_SECOND, measured


async def test_what_chats_tell_of_activity_costs_redis_a_call_for_each_shard_and_two_operations_a_user(
    fragile: World, redis: Redis
) -> None:
    """Two seconds of four busy chats, as fast as it goes; then the largest batch that one ever sends, in its time."""
    service = await fragile.start_service(**DEFAULT_TIMES)
    batches = [USERS[300 * number % 1_500 :][:300] for number in range(40)]
    async with open_channel(service.target) as channel:
        stub = presence_pb2_grpc.PresenceServiceStub(channel)

        async def tell(user_ids: Sequence[UserId]) -> None:
            at_ms = SystemClock().time_ms()
            activities = [pb.Activity(user_id=user_id, at_ms=at_ms) for user_id in user_ids]
            await stub.RecordActivity(pb.RecordActivityRequest(activities=activities), timeout=1)

        meter = Meter(redis)
        began = time.monotonic()
        for first in range(0, len(batches), 4):
            await asyncio.gather(*map(tell, batches[first : first + 4]))
        meter.sample()
        measured = {
            "took_s": time.monotonic() - began,
            "operations": meter.operations,
            "calls": meter.calls,
            "redis_cpu_s": meter.cpu_s,
        }
        _log.info("presence_activity", **measured)
        await tell([UserId(f"other-{number}") for number in range(5_000)])
    assert meter.operations <= 2 * sum(map(len, batches)) + OPERATIONS_A_CALL * (SHARDS * len(batches) + 100), measured
    assert redis.exists(*(redis.keys("*a:other-*"))) == 5_000
