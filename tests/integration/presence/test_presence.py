"""Edges and presence replicas over real gRPC: who is seen by whom, and how soon."""

import asyncio
import random
import time
from collections.abc import Iterable, Sequence

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
    DEFAULT_TIMES,
    GRACE_S,
    OFFLINE,
    ONLINE,
    TICK_S,
    TTL_S,
    UNKNOWN,
    Edge,
    Watcher,
    World,
    never,
)


async def test_a_session_is_seen_through_another_replica_from_another_edge(redis_world: World) -> None:
    one, two = await redis_world.start_service(), await redis_world.start_service()
    here, there = await redis_world.start_edge(one), await redis_world.start_edge(two)
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


async def test_a_user_with_three_connections_on_two_edges_is_there_until_the_last_one_ends(
    redis_world: World,
) -> None:
    await redis_world.start_service()
    here, there = await redis_world.start_edge(), await redis_world.start_edge()
    watcher = there.watch(BOB, ALICE)
    await watcher.comes_to_see(ALICE, OFFLINE)
    here.open("phone", ALICE)
    here.open("tablet", ALICE)
    there.open("desk", ALICE)
    here.presence.set_status("phone", BUSY)
    await watcher.comes_to_see(ALICE, BUSY)
    there.presence.set_status("desk", AWAY)
    here.close("phone")
    await watcher.comes_to_see(ALICE, ONLINE)
    here.close("tablet")
    await watcher.comes_to_see(ALICE, AWAY)
    await never(lambda: watcher.sees(ALICE, OFFLINE), for_s=GRACE_S + 0.3)
    there.close("desk")
    await watcher.comes_to_see(ALICE, OFFLINE)
    assert watcher.of(ALICE).count(OFFLINE) == 2


async def test_a_reconnect_at_another_edge_makes_no_flap(redis_world: World) -> None:
    one, two = await redis_world.start_service(), await redis_world.start_service()
    here, there = await redis_world.start_edge(one), await redis_world.start_edge(two)
    watcher = here.watch(BOB, ALICE)
    edges = (here, there)
    here.open("s0", ALICE)
    await watcher.comes_to_see(ALICE, ONLINE)
    already = len(watcher.told)
    for number in range(3):
        edges[number % 2].close(f"s{number}")
        await asyncio.sleep(GRACE_S / 4)
        edges[(number + 1) % 2].open(f"s{number + 1}", ALICE)
        await asyncio.sleep(GRACE_S / 4)
    await never(lambda: len(watcher.told) > already, for_s=GRACE_S + 0.3)


async def test_a_drained_edge_hands_over_and_whoever_does_not_come_back_goes_after_the_grace(
    redis_world: World,
) -> None:
    await redis_world.start_service()
    leaving, staying = await redis_world.start_edge(), await redis_world.start_edge()
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
    await never(lambda: watcher.saw_leave(ALICE), for_s=0.3)


async def test_an_idle_edge_keeps_its_lease_at_the_cost_of_a_few_commands(redis_world: World) -> None:
    service = await redis_world.start_service()
    edge = await redis_world.start_edge()
    watcher = edge.watch(BOB, ALICE)
    edge.open("s1", ALICE)
    await watcher.comes_to_see(ALICE, ONLINE)
    # The activity that an open is goes along with the next report.
    await eventually(lambda: edge.reports("renewal"))

    def cost() -> tuple[float, ...]:
        metrics = [service.sum_of("reports_total")]
        for operation in ("admit", "record_activity", "load", "commit"):
            metrics.append(service.metric("redis_commands_total", operation=operation))
        return tuple(metrics)

    before = cost()
    began = time.monotonic()
    await never(lambda: not watcher.sees(ALICE, ONLINE), for_s=1.2 * TTL_S)
    took_s = time.monotonic() - began
    reports, admissions, *others = (after - once for after, once in zip(cost(), before, strict=True))
    assert 2 <= reports <= took_s / (TTL_S / 3) + 2
    assert admissions == reports
    assert not any(others)
    assert edge.reports("full") == 1


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
        assert not watcher.saw_leave(ALICE)


async def test_presence_that_was_never_there_costs_sessions_nothing(redis_world: World) -> None:
    service = await redis_world.start_service()
    await service.stop()
    edge = await redis_world.start_edge()
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


async def test_an_edge_that_leaves_while_presence_is_away_leaves_quickly(redis_world: World) -> None:
    service = await redis_world.start_service()
    edge = await redis_world.start_edge()
    edge.open("s1", ALICE)
    await eventually(lambda: edge.reports("full") or edge.reports("changes"))
    await service.stop()
    began = time.monotonic()
    await edge.leave()
    assert time.monotonic() - began < 2 + A_MOMENT_S


async def test_a_user_who_changes_all_the_time_is_told_a_few_times_a_second_and_rightly_at_last(
    redis_world: World,
) -> None:
    await redis_world.start_service(coalesce_ms=250)
    edge, other = await redis_world.start_edge(), await redis_world.start_edge()
    watcher = other.watch(BOB, ALICE)
    edge.open("s1", ALICE)
    await watcher.comes_to_see(ALICE, ONLINE)
    already = len(watcher.told)
    began = time.monotonic()
    while time.monotonic() - began < 1:
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


class Confidant(Watcher):
    """Whose contacts a test changes, and notes then."""

    def __init__(self, edge: Edge, user_id: UserId, contacts: Iterable[UserId]) -> None:
        super().__init__()
        self._edge = edge
        self._user_id = user_id
        self.contacts = set(contacts)
        self.told_of_others: list[Presence] = []
        edge.presence.subscribe(user_id, self.contacts, self)

    def presence(self, presences: Sequence[Presence]) -> None:
        super().presence(presences)
        self.told_of_others += [each for each in presences if each.user_id not in self.contacts]

    def change_contacts(self, contacts: Iterable[UserId]) -> None:
        self.contacts = set(contacts)
        self._edge.presence.contacts_changed(self._user_id, self.contacts)


async def test_nobody_is_ever_told_of_users_outside_their_contacts(world: World) -> None:
    """While everybody comes, changes, goes and comes back, and contacts are added and removed."""
    await world.start_service()
    edges = [await world.start_edge() for _ in range(2)]
    chance = random.Random(20_261_124)
    users = [UserId(f"user-{number}") for number in range(24)]
    outsider = UserId("outsider")
    watchers = [Confidant(edges[number % 2], user_id, ()) for number, user_id in enumerate(users)]
    for round_number in range(15):
        for number, user_id in enumerate([*users, outsider]):
            session_id = f"of {user_id}, {round_number // 5}"
            edges[number % 2].open(session_id, user_id)
            edges[number % 2].presence.set_status(session_id, chance.choice((ONLINE, AWAY, BUSY)))
            if round_number % 5 == 4:
                edges[number % 2].close(session_id)
        for watcher in chance.sample(watchers, 8):
            watcher.change_contacts(chance.sample(users, chance.randrange(6)))
        await asyncio.sleep(0.03)
    for number, user_id in enumerate(users):
        edges[number % 2].open(f"of {user_id}, at last", user_id)
    for watcher in watchers:
        watcher.change_contacts(chance.sample(users, 5))
    for watcher in watchers:
        for user_id in watcher.contacts:
            await watcher.comes_to_see(user_id, ONLINE)
        assert not watcher.told_of_others
        assert not watcher.of(outsider)


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


async def test_more_changes_than_a_report_takes_and_more_than_are_remembered_arrive_all(redis_world: World) -> None:
    """12,000 sessions come and 9,000 go while presence is away: then everything is reported at once."""
    service = await redis_world.start_service(**DEFAULT_TIMES | {"settle_s": 0.0})
    edge = await redis_world.start_edge()
    await eventually(lambda: edge.reports("full"))
    await service.stop()
    for number in range(12_000):
        edge.open(f"s{number}", UserId(f"u{number}"))
        if number % 4:
            edge.close(f"s{number}")
    await service.start()
    sample = [UserId(f"u{number}") for number in (0, 1, 3, 4, 6_001, 11_996)]
    expected = [ONLINE, OFFLINE, OFFLINE, ONLINE, OFFLINE, ONLINE]

    async def as_expected() -> bool:
        return [each.status for each in await edge.presence.get(sample)] == expected

    await eventually(as_expected)
