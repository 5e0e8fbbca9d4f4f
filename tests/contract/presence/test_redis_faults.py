"""What the Redis store promises while its server freezes, dies, hangs up or was never there.

Each test has a server of its own. In all of them the store has to recover by itself.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry
from redis import Redis

from scripts.servers import RedisServer
from services.presence.errors import StoreUnavailable
from services.presence.machine import Held, UserState
from services.presence.model import EdgeId, Presence, Seq, SessionId, Status, UserId
from services.presence.store import Change, Origin, PresenceStore, StoreTimes, open_store
from services.runtime.clock import SystemClock
from services.runtime.metrics import Metrics
from tests.contract.presence.conftest import TIMES, Replica
from tests.e2e.waiting import eventually

ALICE = UserId("alice")
EDGE = EdgeId("edge")
# The store waits a second for an answer; the rest is a busy machine.
ANSWER_S = 1.0
A_MOMENT_S = 0.5


class Opened(Replica):
    def __init__(self, server: RedisServer, times: StoreTimes) -> None:
        self.metrics = Metrics(CollectorRegistry())
        super().__init__(
            open_store(server.url, key_prefix="test:", times=times, clock=SystemClock(), metrics=self.metrics)
        )

    async def is_up(self) -> bool:
        try:
            await self.store.tick()
        except StoreUnavailable:
            return False
        return True

    @property
    def is_hearing(self) -> bool:
        return self.metrics.registry.get_sample_value("parley_presence_feed_up") == 1

    def connections(self, server: RedisServer) -> int:
        with Redis.from_url(server.url) as client:
            return sum(each["name"] == "parley-presence" for each in client.client_list())


@pytest.fixture
async def replica(own_redis: RedisServer) -> AsyncIterator[Opened]:
    """Not ticked yet. Nobody has to keep the store attended here."""
    before = asyncio.all_tasks()
    replica = Opened(own_redis, replace(TIMES, tick=timedelta(seconds=60), settle=timedelta(0)))
    await replica.store.start(replica)
    yield replica
    await replica.store.close()
    assert asyncio.all_tasks() <= before | {asyncio.current_task()}


async def put_alice(store: PresenceStore) -> None:
    loaded = await store.load([ALICE])
    state = UserState({SessionId("s1"): Held(EDGE, Status.ONLINE)})
    change = Change(ALICE, loaded.users[ALICE], state, Presence(ALICE, Status.ONLINE))
    assert not (await store.commit([change], [ALICE], Origin(EDGE, Seq(1)))).conflicts


async def fails_within(store: PresenceStore, seconds: float) -> None:
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await store.load([ALICE])
    assert time.monotonic() - began < seconds


async def test_nothing_is_read_before_the_first_tick(replica: Opened) -> None:
    """How old the data are has to be known first."""
    await fails_within(replica.store, A_MOMENT_S)
    assert await replica.is_up()
    assert (await replica.store.load([ALICE])).is_settled


async def test_a_server_that_was_never_there_is_found_when_it_comes(own_redis: RedisServer) -> None:
    own_redis.kill()
    replica = Opened(own_redis, TIMES)
    await replica.store.start(replica)
    assert not await replica.is_up()
    own_redis.start()
    await eventually(replica.is_up)
    await eventually(lambda: replica.missed)
    await put_alice(replica.store)
    await eventually(lambda: replica.told)
    await replica.store.close()


async def test_a_frozen_server_costs_one_wait_and_then_nobody_waits(own_redis: RedisServer, replica: Opened) -> None:
    assert await replica.is_up()
    own_redis.pause()
    began = time.monotonic()
    outcomes = await asyncio.gather(*(replica.store.load([ALICE]) for _ in range(50)), return_exceptions=True)
    assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
    assert time.monotonic() - began < ANSWER_S + A_MOMENT_S
    for _ in range(100):
        await fails_within(replica.store, A_MOMENT_S)
    assert not await replica.is_up()
    own_redis.resume()
    await eventually(replica.is_up)
    await replica.store.load([ALICE])


async def test_a_freeze_during_which_changes_may_be_missed_is_told(own_redis: RedisServer, replica: Opened) -> None:
    assert await replica.is_up()
    await eventually(lambda: replica.missed == 1)
    own_redis.pause()
    await eventually(lambda: not replica.is_hearing)
    own_redis.resume()
    await eventually(replica.is_up)
    await eventually(lambda: replica.missed == 2)
    await put_alice(replica.store)
    await eventually(lambda: [each.user_id for each in replica.told] == [ALICE])


async def test_a_server_that_was_killed_and_restarted_has_a_new_era_and_scripts(
    own_redis: RedisServer, replica: Opened
) -> None:
    assert await replica.is_up()
    era = (await replica.store.tick()).era
    await put_alice(replica.store)
    own_redis.kill()
    await fails_within(replica.store, ANSWER_S)
    await fails_within(replica.store, A_MOMENT_S)
    own_redis.start()
    await eventually(replica.is_up)
    assert (await replica.store.tick()).era != era
    await put_alice(replica.store)
    await eventually(lambda: replica.missed == 2)
    await put_alice(replica.store)


async def test_a_feed_that_is_hung_up_on_comes_back_and_says_so(own_redis: RedisServer, replica: Opened) -> None:
    assert await replica.is_up()
    await eventually(lambda: replica.missed == 1)
    with Redis.from_url(own_redis.url, protocol=2) as client:
        assert client.execute_command("CLIENT", "KILL", "TYPE", "pubsub") == 1
    await eventually(lambda: replica.missed == 2)
    await put_alice(replica.store)
    await eventually(lambda: replica.told)


async def test_what_others_publish_there_is_no_reason_to_fall_over(own_redis: RedisServer, replica: Opened) -> None:
    assert await replica.is_up()
    await eventually(lambda: replica.missed == 1)
    with Redis.from_url(own_redis.url) as client:
        for garbage in (b"", b"[]", b"nonsense", b'[["x"]]', b'[["x", "nosuch", 1]]', b"7"):
            client.publish("test:{0}:changes", garbage)
    await put_alice(replica.store)
    await eventually(lambda: [each.user_id for each in replica.told] == [ALICE])
    assert replica.missed == 1


async def test_a_record_that_cannot_be_read_counts_as_absent_and_is_replaced(
    own_redis: RedisServer, replica: Opened
) -> None:
    assert await replica.is_up()
    await put_alice(replica.store)
    with Redis.from_url(own_redis.url) as client:
        (key,) = client.keys("test:*u:alice")
        client.set(key, b"nonsense")
    assert not (await replica.store.load([ALICE])).users[ALICE].state.sessions
    await put_alice(replica.store)
    assert (await replica.store.load([ALICE])).users[ALICE].state.sessions


async def test_callers_that_go_away_leave_no_connection_behind_or_answers_for_others(
    own_redis: RedisServer, replica: Opened
) -> None:
    assert await replica.is_up()
    await put_alice(replica.store)
    for number in range(150):
        calls = [asyncio.ensure_future(replica.store.load([ALICE])) for _ in range(12)]
        await asyncio.sleep(number % 10 / 2_000)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    assert await replica.is_up()
    loaded = await asyncio.gather(*(replica.store.load([ALICE]) for _ in range(50)))
    assert all(each.users[ALICE].state.sessions for each in loaded)
    await eventually(lambda: replica.connections(own_redis) <= 9)


async def test_a_server_that_refuses_to_write_is_away(own_redis: RedisServer, replica: Opened) -> None:
    assert await replica.is_up()
    with Redis.from_url(own_redis.url) as client:
        client.config_set("maxmemory", "1")
        await fails_within_write(replica.store)
        assert not await replica.is_up()
        await fails_within(replica.store, A_MOMENT_S)
        client.config_set("maxmemory", "0")
    await eventually(replica.is_up)


async def fails_within_write(store: PresenceStore) -> None:
    with pytest.raises(StoreUnavailable):
        await store.record_activity({ALICE: 1})


async def test_closing_during_a_freeze_is_quick(own_redis: RedisServer, replica: Opened) -> None:
    assert await replica.is_up()
    own_redis.pause()
    calls = [asyncio.ensure_future(replica.store.load([ALICE])) for _ in range(5)]
    await asyncio.sleep(0)
    began = time.monotonic()
    await replica.store.close()
    assert time.monotonic() - began < A_MOMENT_S
    await asyncio.gather(*calls, return_exceptions=True)
