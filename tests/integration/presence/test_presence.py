"""Edges and presence replicas over real gRPC: who is seen by whom, and how soon. Both stores."""

import asyncio
import time

from edge.clients.presence import Presence
from edge.model import UserId
from services.runtime.clock import SystemClock
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
    TICK_S,
    TTL_S,
    UNKNOWN,
    Watcher,
    World,
    never,
)


async def test_a_session_is_seen_through_another_replica_from_another_edge(world: World) -> None:
    one, two = await world.start_service(), await world.start_service()
    here, there = await world.start_edge(one), await world.start_edge(two)
    await world.settled()
    await eventually(lambda: there.presence.get([ALICE]))
    watcher = there.watch(BOB, ALICE)
    await watcher.comes_to_see(ALICE, OFFLINE)
    here.open("s1", ALICE)
    await watcher.comes_to_see(ALICE, ONLINE)
    here.presence.set_status("s1", BUSY)
    await watcher.comes_to_see(ALICE, BUSY)
    assert await there.get(ALICE) is BUSY
    here.close("s1")
    closed_at = time.monotonic()
    gone_at = await watcher.comes_to_see(ALICE, OFFLINE)
    assert GRACE_S - 0.1 <= gone_at - closed_at <= GRACE_S + 2 * TICK_S + A_MOMENT_S
    shown = watcher.of(ALICE)
    assert shown[shown.index(OFFLINE) :] == [OFFLINE, ONLINE, BUSY, OFFLINE]


async def test_a_user_with_sessions_on_several_edges_is_there_until_the_last_one_ends(world: World) -> None:
    await world.start_service()
    here, there = await world.start_edge(), await world.start_edge()
    watcher = there.watch(BOB, ALICE)
    here.open("phone", ALICE)
    there.open("desk", ALICE)
    await watcher.comes_to_see(ALICE, ONLINE)
    here.presence.set_status("phone", BUSY)
    await watcher.comes_to_see(ALICE, BUSY)
    there.presence.set_status("desk", AWAY)
    here.close("phone")
    await watcher.comes_to_see(ALICE, AWAY)
    await never(lambda: watcher.sees(ALICE, OFFLINE), for_s=GRACE_S + 0.3)
    there.close("desk")
    await watcher.comes_to_see(ALICE, OFFLINE)


async def test_a_reconnect_at_another_edge_makes_no_flap(world: World) -> None:
    one, two = await world.start_service(), await world.start_service()
    here, there = await world.start_edge(one), await world.start_edge(two)
    await world.settled()
    watcher = here.watch(BOB, ALICE)
    edges = (here, there)
    here.open("s0", ALICE)
    await watcher.comes_to_see(ALICE, ONLINE)
    already = len(watcher.told)
    for number in range(4):
        edges[number % 2].close(f"s{number}")
        await asyncio.sleep(GRACE_S / 3)
        edges[(number + 1) % 2].open(f"s{number + 1}", ALICE)
        await asyncio.sleep(GRACE_S / 3)
    await never(lambda: len(watcher.told) > already, for_s=GRACE_S + 0.3)


async def test_a_drained_edge_hands_over_and_whoever_does_not_come_back_goes_after_the_grace(world: World) -> None:
    await world.start_service()
    leaving, staying = await world.start_edge(), await world.start_edge()
    await world.settled()
    watcher = staying.watch(CAROL, ALICE, BOB)
    leaving.open("a1", ALICE)
    leaving.open("b1", BOB)
    await watcher.comes_to_see(ALICE, ONLINE)
    await watcher.comes_to_see(BOB, ONLINE)
    await leaving.leave()
    left_at = time.monotonic()
    staying.open("a2", ALICE)
    gone_at = await watcher.comes_to_see(BOB, OFFLINE)
    assert GRACE_S - 0.2 <= gone_at - left_at <= GRACE_S + 2 * TICK_S + A_MOMENT_S
    await never(lambda: OFFLINE in watcher.of(ALICE)[1:], for_s=0.3)


async def test_a_dead_edges_users_are_gone_within_the_ttl_and_the_grace(world: World) -> None:
    await world.start_service()
    dying, staying = await world.start_edge(), await world.start_edge()
    users = [UserId(f"user-{number}") for number in range(30)]
    await world.settled()
    watcher = staying.watch(CAROL, ALICE, *users)
    for user_id in users:
        dying.open(f"of {user_id}", user_id)
    dying.open("a1", ALICE)
    staying.open("a2", ALICE)
    for user_id in (ALICE, *users):
        await watcher.comes_to_see(user_id, ONLINE)
    await dying.die()
    died_at = time.monotonic()
    gone_at = [await watcher.comes_to_see(user_id, OFFLINE) for user_id in users]
    assert max(gone_at) - died_at <= TTL_S + GRACE_S + 2 * TICK_S + A_MOMENT_S
    assert min(gone_at) - died_at >= GRACE_S
    assert watcher.sees(ALICE, ONLINE)


async def test_an_idle_edge_keeps_its_lease_at_the_cost_of_a_few_commands(world: World) -> None:
    service = await world.start_service()
    edge = await world.start_edge()
    watcher = edge.watch(BOB, ALICE)
    edge.open("s1", ALICE)
    await watcher.comes_to_see(ALICE, ONLINE)
    before = service.metric("redis_commands_total", operation="admit"), service.sum_of("reports_total")
    await never(lambda: not watcher.sees(ALICE, ONLINE), for_s=2.5 * TTL_S)
    assert edge.reports("full") == 1
    reports = service.sum_of("reports_total") - before[1]
    assert 5 <= reports <= 10
    if "redis" in world._store_url:
        assert service.metric("redis_commands_total", operation="admit") - before[0] == reports


async def test_a_replica_that_leaves_is_replaced_by_another_without_a_flap(world: World) -> None:
    one, _ = await world.start_service(), await world.start_service()
    here, there = await world.start_edge(), await world.start_edge()
    watchers = [edge.watch(CAROL, ALICE, BOB) for edge in (here, there)]
    here.open("s1", ALICE)
    for watcher in watchers:
        await watcher.comes_to_see(ALICE, ONLINE)
    await one.stop()
    world.services.remove(one)
    there.open("s2", BOB)
    for watcher in watchers:
        await watcher.comes_to_see(BOB, ONLINE)
    there.presence.set_status("s2", AWAY)
    for watcher in watchers:
        await watcher.comes_to_see(BOB, AWAY)
        assert OFFLINE not in watcher.of(ALICE)[1:]


async def test_presence_that_was_never_there_costs_sessions_nothing(world: World) -> None:
    service = await world.start_service()
    await service.stop()
    edge = await world.start_edge()
    began = time.monotonic()
    edge.open("s1", ALICE)
    watcher = edge.watch(BOB, ALICE, CAROL)
    edge.presence.set_status("s1", BUSY)
    assert await edge.get(ALICE) is UNKNOWN
    assert watcher.of(ALICE) == watcher.of(CAROL) == [UNKNOWN]
    assert time.monotonic() - began < A_MOMENT_S
    await service.start()
    await watcher.comes_to_see(ALICE, BUSY)
    await watcher.comes_to_see(CAROL, OFFLINE)


async def test_an_edge_that_leaves_while_presence_is_away_leaves_quickly(world: World) -> None:
    service = await world.start_service()
    edge = await world.start_edge()
    edge.open("s1", ALICE)
    await eventually(lambda: edge.reports("full") or edge.reports("changes"))
    await service.stop()
    began = time.monotonic()
    await edge.leave()
    assert time.monotonic() - began < 2 + A_MOMENT_S


async def test_a_user_who_changes_all_the_time_is_told_a_few_times_a_second_and_rightly_at_last(world: World) -> None:
    await world.start_service(coalesce_ms=250)
    edge, other = await world.start_edge(), await world.start_edge()
    watcher = other.watch(BOB, ALICE)
    edge.open("s1", ALICE)
    await watcher.comes_to_see(ALICE, ONLINE)
    already = len(watcher.told)
    began = time.monotonic()
    while time.monotonic() - began < 1.5:
        for status in (AWAY, ONLINE, BUSY, ONLINE):
            edge.presence.set_status("s1", status)
            await asyncio.sleep(0.003)
    edge.presence.set_status("s1", AWAY)
    await watcher.comes_to_see(ALICE, AWAY)
    assert len(watcher.told) - already <= 4 * (time.monotonic() - began) + 2


async def test_activity_reaches_those_who_ask_and_only_moves_forwards(world: World) -> None:
    await world.start_service()
    edge = await world.start_edge()

    async def presence_of(user_id: UserId) -> Presence:
        (presence,) = await edge.presence.get([user_id])
        return presence

    before_ms = SystemClock().time_ms()
    edge.open("s1", ALICE)

    async def opened() -> Presence | None:
        found = await presence_of(ALICE)
        return found if found.status is ONLINE else None

    first = await eventually(opened)
    assert first is not None
    assert before_ms <= first.last_active_at_ms <= SystemClock().time_ms()
    edge.presence.active(ALICE)
    edge.presence.active(CAROL)  # has no session here

    async def moved() -> bool:
        return (await presence_of(ALICE)).last_active_at_ms > first.last_active_at_ms

    await eventually(moved)
    assert (await presence_of(CAROL)).last_active_at_ms == 0


async def test_contacts_that_are_added_are_told_and_removed_ones_no_longer(world: World) -> None:
    await world.start_service()
    edge, other = await world.start_edge(), await world.start_edge()
    other.open("a", ALICE)
    other.open("b", BOB)
    first, second = edge.watch(CAROL, ALICE), edge.watch(CAROL, ALICE)
    for watcher in (first, second):
        await watcher.comes_to_see(ALICE, ONLINE)
    edge.presence.contacts_changed(CAROL, [BOB])
    for watcher in (first, second):
        await watcher.comes_to_see(BOB, ONLINE)
    other.presence.set_status("a", BUSY)
    edge.presence.unsubscribe(second)
    edge.presence.unsubscribe(second)
    other.presence.set_status("b", AWAY)
    await first.comes_to_see(BOB, AWAY)
    assert first.of(ALICE)[-1] is ONLINE
    assert second.of(BOB) == [ONLINE]
    # Wanted again at once after it was not: a value comes all the same.
    seen = len(first.of(BOB))
    edge.presence.contacts_changed(CAROL, [])
    edge.presence.contacts_changed(CAROL, [BOB, ALICE])
    await first.comes_to_see(ALICE, BUSY)
    await eventually(lambda: len(first.of(BOB)) > seen)
    assert edge.presence.is_listening(CAROL)
    edge.presence.unsubscribe(first)
    assert not edge.presence.is_listening(CAROL)
    await eventually(lambda: edge.metrics.registry.get_sample_value("parley_edge_presence_watched") == 0)
    service = world.services[0]
    await eventually(lambda: service.metric("watched_users") == 0)


async def test_somebody_elses_watch_of_the_same_contact_gets_the_value_at_once(world: World) -> None:
    await world.start_service()
    edge = await world.start_edge()
    edge.open("a", ALICE)
    await edge.watch(BOB, ALICE).comes_to_see(ALICE, ONLINE)
    late = Watcher()
    edge.presence.subscribe(CAROL, [ALICE], late)
    assert late.of(ALICE) == [ONLINE], "without a round trip"


async def test_a_listener_that_raises_harms_nobody_else(world: World) -> None:
    class Broken:
        def presence(self, presences: object) -> None:
            raise LookupError("a listener's bug")

    await world.start_service()
    edge = await world.start_edge()
    edge.presence.subscribe(BOB, [ALICE], Broken())
    watcher = edge.watch(CAROL, ALICE)
    edge.open("a", ALICE)
    await watcher.comes_to_see(ALICE, ONLINE)


async def test_more_changes_than_a_report_takes_and_more_than_are_remembered_arrive_all(world: World) -> None:
    """12,000 sessions come while presence is away: then everything is reported at once."""
    service = await world.start_service(lease_ttl_s=5, settle_s=0)
    edge = await world.start_edge()
    await eventually(lambda: edge.reports("full"))
    await service.stop()
    for number in range(12_000):
        edge.open(f"s{number}", UserId(f"u{number}"))
        if number % 3 == 0:
            edge.close(f"s{number}")
    await service.start()
    sample = [UserId(f"u{number}") for number in (0, 1, 2, 3, 6_001, 11_999)]
    expected = [OFFLINE, ONLINE, ONLINE, OFFLINE, ONLINE, ONLINE]

    async def as_expected() -> bool:
        return [each.status for each in await edge.presence.get(sample)] == expected

    await eventually(as_expected)
