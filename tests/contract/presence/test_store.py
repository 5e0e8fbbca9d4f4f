"""The contract of `services.presence.store.PresenceStore`: one suite, both stores."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import replace

import pytest

from services.presence.machine import ABSENT, FINAL_SEQ, Held, Lingering, UserState, Verdict
from services.presence.model import EdgeId, Presence, Seq, SessionId, Status, UserId
from services.presence.store import Change, Lease, Origin, Outcome, PresenceStore, Record, Tick
from tests.contract.presence.conftest import GRACE_S, SETTLE_S, TTL_S, Replica, World
from tests.e2e.waiting import eventually

ALICE, BOB, CAROL = UserId("alice"), UserId("bob"), UserId("carol")
EDGE, OTHER = EdgeId("edge-1"), EdgeId("edge-2")
MANY = [UserId(f"user-{number}") for number in range(200)]

# Of one who was absent.
NOBODY = Record(ABSENT, None, 0)


def on(edge_id: EdgeId, status: Status = Status.ONLINE, session: str = "s1") -> UserState:
    return UserState({SessionId(session): Held(edge_id, status)})


def lingering(until_ms: int) -> UserState:
    return UserState(lingers=Lingering(Status.ONLINE, until_ms))


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def put(
    store: PresenceStore,
    states: dict[UserId, UserState],
    origin: Origin | None = None,
    *,
    status: Status | None = None,
    touched: Iterable[UserId] = (),
) -> Outcome:
    """Commits on top of what is stored now, announcing `status` for each."""
    loaded = await store.load(list(states))
    changes = [
        Change(user_id, loaded.users[user_id], state, None if status is None else Presence(user_id, status, 7))
        for user_id, state in states.items()
    ]
    return await store.commit(changes, [*states, *touched], origin)


async def states_of(store: PresenceStore, *user_ids: UserId) -> list[UserState]:
    loaded = await store.load(user_ids)
    return [loaded.users[user_id].state for user_id in user_ids]


async def lease_of(store: PresenceStore, edge_id: EdgeId) -> Lease | None:
    tick = await store.tick()
    return next((lease for lease in tick.leases if lease.edge_id == edge_id), None)


# ---- Users.


async def test_what_was_committed_is_loaded_by_every_replica(world: World) -> None:
    one, two = await world.open_replica(), await world.open_replica()
    state = UserState(
        {SessionId("s1"): Held(EDGE, Status.AWAY), SessionId("s2"): Held(OTHER, Status.BUSY)},
    )
    waiting = lingering(now_ms() + 60_000)
    assert await put(one.store, {ALICE: state, BOB: waiting}) == Outcome()
    assert await states_of(two.store, ALICE, BOB, CAROL) == [state, waiting, ABSENT]


async def test_absent_users_are_loaded_too_and_each_once(store: PresenceStore) -> None:
    loaded = await store.load([ALICE, BOB, ALICE])
    assert set(loaded.users) == {ALICE, BOB}
    assert abs(loaded.now_ms - now_ms()) < 1_000
    assert (await store.load([])).users == {}


async def test_the_slower_of_two_changes_is_a_conflict_and_changes_nothing(world: World) -> None:
    one, two = await world.open_replica(), await world.open_replica()
    loaded_first = await one.store.load([ALICE])
    assert await put(two.store, {ALICE: on(OTHER)}) == Outcome()
    late = Change(ALICE, loaded_first.users[ALICE], on(EDGE), Presence(ALICE, Status.ONLINE))
    assert await one.store.commit([late], [ALICE], None) == Outcome(conflicts={ALICE})
    assert await states_of(one.store, ALICE) == [on(OTHER)]
    await put(one.store, {BOB: on(EDGE)}, status=Status.BUSY)
    await eventually(lambda: one.told)
    assert [each.user_id for each in one.told] == [BOB], "what was not made is not announced"


async def test_a_change_of_what_is_gone_is_a_conflict(store: PresenceStore) -> None:
    await put(store, {ALICE: on(EDGE)})
    held = (await store.load([ALICE])).users[ALICE]
    await put(store, {ALICE: ABSENT})
    assert (await store.commit([Change(ALICE, held, on(OTHER))], [ALICE], None)).conflicts == {ALICE}
    assert await states_of(store, ALICE) == [ABSENT]


async def test_a_large_batch_is_made_whole_or_its_conflicts_are_told(world: World) -> None:
    one, two = await world.open_replica(), await world.open_replica()
    loaded = await one.store.load(MANY)
    await put(two.store, {MANY[7]: on(OTHER)})
    outcome = await one.store.commit([Change(user, loaded.users[user], on(EDGE)) for user in MANY], MANY, None)
    assert MANY[7] in outcome.conflicts
    held = dict(zip(MANY, await states_of(one.store, *MANY), strict=True))
    assert held.pop(MANY[7]) == on(OTHER)
    made = {user for user, state in held.items() if state == on(EDGE)}
    assert made == set(MANY) - outcome.conflicts


# ---- Which edge.


async def test_an_edge_knows_its_users_until_they_left_it(store: PresenceStore) -> None:
    origin = Origin(EDGE, Seq(1))
    both = UserState({**on(EDGE).sessions, **on(OTHER, session="s2").sessions})
    await put(store, {ALICE: both, BOB: on(EDGE), CAROL: on(EDGE)}, origin)
    await put(store, {ALICE: both}, Origin(OTHER, Seq(1)))
    assert await store.load_edge(EDGE) == {ALICE, BOB, CAROL}
    await put(store, {ALICE: on(OTHER, session="s2"), BOB: lingering(now_ms())}, replace(origin, seq=Seq(2)))
    assert await store.load_edge(EDGE) == {CAROL}
    assert await store.load_edge(OTHER) == {ALICE}
    await put(store, {CAROL: ABSENT})  # nobody's report: whom the edge has is the edge's own matter
    assert await store.load_edge(EDGE) == {CAROL}
    assert await store.load_edge(EdgeId("never heard of")) == set()


# ---- Late reports.


async def test_a_late_report_takes_no_effect_where_a_later_one_did(store: PresenceStore) -> None:
    await put(store, {ALICE: on(EDGE)}, Origin(EDGE, Seq(5)))
    await put(store, {ALICE: lingering(now_ms() + 60_000)}, Origin(EDGE, Seq(6)))
    assert (await put(store, {ALICE: on(EDGE)}, Origin(EDGE, Seq(5)), status=Status.BUSY)).superseded
    (state,) = await states_of(store, ALICE)
    assert state.lingers is not None


async def test_a_report_may_be_tried_again_under_its_seq(store: PresenceStore) -> None:
    assert await put(store, {ALICE: on(EDGE)}, Origin(EDGE, Seq(5))) == Outcome()
    assert await put(store, {ALICE: on(EDGE), BOB: on(EDGE)}, Origin(EDGE, Seq(5))) == Outcome()
    assert await states_of(store, BOB) == [on(EDGE)]


async def test_reports_of_another_edge_are_not_late(store: PresenceStore) -> None:
    await put(store, {ALICE: on(EDGE)}, Origin(EDGE, Seq(5)))
    assert await put(store, {ALICE: on(OTHER)}, Origin(OTHER, Seq(1))) == Outcome()


async def test_a_report_that_changes_nothing_makes_earlier_ones_late_for_whom_it_names(store: PresenceStore) -> None:
    assert await store.commit([], [ALICE], Origin(EDGE, Seq(6))) == Outcome()
    assert (await put(store, {ALICE: on(EDGE)}, Origin(EDGE, Seq(5)))).superseded
    assert await states_of(store, ALICE) == [ABSENT]


async def test_superseding_makes_every_earlier_report_late_for_everybody(store: PresenceStore) -> None:
    assert await store.supersede(Origin(EDGE, Seq(6)))
    for user_id in MANY:
        assert (await put(store, {user_id: on(EDGE)}, Origin(EDGE, Seq(5)))).superseded
    assert not await store.supersede(Origin(EDGE, Seq(5)))
    assert not await store.supersede(Origin(EDGE, Seq(7), take_by_ms=now_ms() - 50))
    assert await put(store, dict.fromkeys(MANY, on(EDGE)), Origin(EDGE, Seq(6))) == Outcome()


async def test_a_report_takes_no_effect_after_its_time(store: PresenceStore) -> None:
    assert (await put(store, {ALICE: on(EDGE)}, Origin(EDGE, Seq(1), take_by_ms=now_ms() - 50))).superseded
    assert await states_of(store, ALICE) == [ABSENT]
    assert await put(store, {ALICE: on(EDGE)}, Origin(EDGE, Seq(1), take_by_ms=now_ms() + 5_000)) == Outcome()


# ---- Leases.


async def test_a_lease_begins_with_a_full_report_only(store: PresenceStore) -> None:
    assert (await store.admit(EDGE, Seq(1), is_full=False)).verdict is Verdict.NEEDS_FULL
    assert await lease_of(store, EDGE) is None
    assert (await store.admit(EDGE, Seq(2), is_full=True)).verdict is Verdict.TAKEN
    assert (await store.admit(EDGE, Seq(3), is_full=False)).verdict is Verdict.TAKEN
    lease = await lease_of(store, EDGE)
    assert lease is not None
    assert (lease.seq, lease.is_alive) == (3, True)
    assert abs(lease.expires_ms - now_ms() - TTL_S * 1000) < 300


async def test_a_lease_that_is_renewed_lives_and_one_that_is_not_ends(store: PresenceStore) -> None:
    await store.admit(EDGE, Seq(1), is_full=True)
    await store.admit(OTHER, Seq(1), is_full=True)
    seq = 1

    async def other_ended() -> bool:
        nonlocal seq
        seq += 1
        assert (await store.admit(EDGE, Seq(seq), is_full=False)).verdict is Verdict.TAKEN
        lease = await lease_of(store, OTHER)
        assert lease is not None
        assert lease.is_alive == (now_ms() < lease.expires_ms) or abs(now_ms() - lease.expires_ms) < 50
        return not lease.is_alive

    await eventually(other_ended)
    assert (await store.admit(OTHER, Seq(2), is_full=False)).verdict is Verdict.NEEDS_FULL
    assert (await store.admit(OTHER, Seq(3), is_full=True)).verdict is Verdict.TAKEN


async def test_a_report_is_admitted_to_take_effect_within_the_lease(store: PresenceStore) -> None:
    admission = await store.admit(EDGE, Seq(1), is_full=True)
    lease = await lease_of(store, EDGE)
    assert lease is not None
    assert now_ms() < admission.take_by_ms < lease.expires_ms


async def test_an_earlier_report_is_not_admitted(store: PresenceStore) -> None:
    await store.admit(EDGE, Seq(4), is_full=True)
    for is_full in (True, False):
        assert (await store.admit(EDGE, Seq(3), is_full=is_full)).verdict is Verdict.SUPERSEDED
        assert (await store.admit(EDGE, Seq(4), is_full=is_full)).verdict is Verdict.TAKEN


async def test_a_lease_given_back_takes_nothing_any_more(store: PresenceStore) -> None:
    await store.admit(EDGE, Seq(1), is_full=True)
    ended = await store.end_lease(EDGE)
    assert (ended.seq, ended.is_alive) == (FINAL_SEQ, False)
    assert await lease_of(store, EDGE) == ended
    assert (await store.admit(EDGE, Seq(2), is_full=True)).verdict is Verdict.SUPERSEDED
    await store.forget_lease(ended)
    assert await lease_of(store, EDGE) is None
    assert (await store.admit(EDGE, Seq(3), is_full=True)).verdict is Verdict.SUPERSEDED


async def test_a_lease_is_forgotten_only_as_it_was_read(store: PresenceStore) -> None:
    await store.admit(EDGE, Seq(1), is_full=True)
    read = await lease_of(store, EDGE)
    assert read is not None
    await asyncio.sleep(0.002)
    await store.admit(EDGE, Seq(2), is_full=True)
    await store.forget_lease(read)
    renewed = await lease_of(store, EDGE)
    assert renewed is not None
    assert renewed.is_alive
    await store.forget_lease(renewed)
    assert await lease_of(store, EDGE) is None


async def test_what_ends_a_lease_guards_against_its_late_reports(store: PresenceStore) -> None:
    await put(store, {ALICE: on(EDGE)}, Origin(EDGE, Seq(3)))
    ending = Origin(EDGE, Seq(3), is_ending=True)
    assert await store.supersede(ending)
    assert await put(store, {ALICE: lingering(now_ms() + 60_000)}, ending) == Outcome()
    assert (await put(store, {BOB: on(EDGE)}, Origin(EDGE, Seq(2)))).superseded
    # The edge that comes back, meanwhile, is heard; and the one that ends it again is too late.
    assert await put(store, {ALICE: on(EDGE)}, Origin(EDGE, Seq(4))) == Outcome()
    assert (await put(store, {ALICE: ABSENT}, ending)).superseded


async def test_users_of_an_edge_without_a_lease_are_found(world: World) -> None:
    one, two = await world.open_replica(), await world.open_replica()
    await one.store.admit(EDGE, Seq(4), is_full=True)
    await put(one.store, dict.fromkeys(MANY, on(EDGE)), Origin(EDGE, Seq(4)))
    assert await two.store.find_orphans() == []
    world.lose_everything()
    await one.store.admit(OTHER, Seq(1), is_full=True)
    await put(one.store, {ALICE: on(OTHER)}, Origin(OTHER, Seq(1)))
    await put(one.store, dict.fromkeys(MANY, on(EDGE)), Origin(EDGE, Seq(5)))
    (orphan,) = await two.store.find_orphans()
    assert (orphan.edge_id, orphan.seq, orphan.is_alive) == (EDGE, 5, False)
    await put(two.store, dict.fromkeys(MANY, ABSENT), Origin(EDGE, orphan.seq, is_ending=True))
    assert await two.store.find_orphans() == []


# ---- Graces.


async def test_those_whose_grace_is_over_are_found_by_everybody(world: World) -> None:
    one, two = await world.open_replica(), await world.open_replica()
    await put(one.store, {ALICE: lingering(now_ms() + 100), BOB: lingering(now_ms() + 290), CAROL: on(EDGE)})
    assert list(await two.store.find_due(limit=10)) == []
    await eventually(lambda: two.store.find_due(limit=10))
    assert list(await two.store.find_due(limit=10))[:1] == [ALICE]

    async def both() -> bool:
        return sorted(await two.store.find_due(limit=32)) == [ALICE, BOB]

    await eventually(both)
    await put(two.store, {ALICE: ABSENT, BOB: on(EDGE)})
    assert list(await one.store.find_due(limit=10)) == []


async def test_many_that_are_due_come_in_parts(store: PresenceStore) -> None:
    await put(store, dict.fromkeys(MANY, lingering(now_ms() - 1)))
    seen: set[UserId] = set()
    while due := await store.find_due(limit=32):
        assert len(due) <= 32
        assert not seen & set(due)
        seen |= set(due)
        await put(store, dict.fromkeys(due, ABSENT))
    assert seen == set(MANY)


async def test_a_grace_that_ends_later_than_any_can_is_due(store: PresenceStore) -> None:
    """The clock went back after it was written."""
    await put(store, {ALICE: lingering(now_ms() + 3_600_000), BOB: lingering(now_ms() + int(GRACE_S * 1000) - 1)})
    assert list(await store.find_due(limit=10)) == [ALICE]


# ---- Announcements.


async def test_what_is_announced_reaches_every_replica_in_order(world: World) -> None:
    one, two = await world.open_replica(), await world.open_replica()
    for status in (Status.ONLINE, Status.AWAY, Status.BUSY, Status.OFFLINE) * 10:
        await put(one.store, {ALICE: on(EDGE, session=f"{status}")}, status=status)
    await put(two.store, {ALICE: ABSENT}, status=Status.BUSY)
    await eventually(lambda: len(one.told) == len(two.told) == 41)
    for replica in (one, two):
        assert [each.status for each in replica.told[:4]] == ["online", "away", "busy", "offline"]
        assert replica.told[-1] == Presence(ALICE, Status.BUSY, 7)


async def test_a_batch_of_announcements_reaches_everybody(world: World) -> None:
    one, two = await world.open_replica(), await world.open_replica()
    await put(one.store, dict.fromkeys(MANY, on(EDGE)), Origin(EDGE, Seq(1)), status=Status.ONLINE)
    await eventually(lambda: len(two.told) >= len(MANY))
    assert {each.user_id for each in two.told} == set(MANY)
    assert len(two.told) == len(MANY)


# ---- Activity.


async def test_last_activity_only_moves_forwards_and_not_beyond_now(store: PresenceStore) -> None:
    async def last_active(user_id: UserId) -> int:
        return (await store.load([user_id])).users[user_id].last_active_ms

    assert await last_active(ALICE) == 0
    await store.record_activity({ALICE: 2_000, BOB: 5_000})
    await store.record_activity({ALICE: 1_000, BOB: 6_000})
    assert await last_active(ALICE) == 2_000
    assert await last_active(BOB) == 6_000
    await store.record_activity({ALICE: now_ms() + 3_600_000})
    assert abs(await last_active(ALICE) - now_ms()) < 1_000
    await store.record_activity({})


async def test_activity_is_no_presence(store: PresenceStore) -> None:
    await store.record_activity({ALICE: 2_000})
    assert await states_of(store, ALICE) == [ABSENT]


# ---- Honesty about what was lost.


async def settled(store: PresenceStore) -> Tick:
    async def tick() -> Tick | None:
        tick = await store.tick()
        return tick if tick.is_settled else None

    found = await eventually(tick)
    assert found is not None
    return found


async def test_a_new_store_settles_after_a_while(store: PresenceStore) -> None:
    began = time.monotonic()
    assert not (await store.tick()).is_settled
    assert not (await store.load([ALICE])).is_settled
    await settled(store)
    assert (await store.load([ALICE])).is_settled
    assert time.monotonic() - began > SETTLE_S - 0.1


async def test_losing_everything_begins_a_new_era_and_nothing_is_settled_meanwhile(world: World) -> None:
    one, two = await world.open_replica(), await world.open_replica()
    before = await settled(one.store)
    assert (await two.store.tick()).era == before.era
    await one.store.admit(EDGE, Seq(1), is_full=True)
    await put(one.store, {ALICE: on(EDGE)}, Origin(EDGE, Seq(1)))
    held = (await one.store.load([ALICE])).users[ALICE]
    world.lose_everything()
    assert not (await two.store.load([ALICE])).is_settled, "also before anybody has ticked"
    after = await two.store.tick()
    assert after.era != before.era
    assert not after.is_settled
    assert after.leases == []
    assert (await one.store.tick()).era == after.era
    assert (await one.store.admit(EDGE, Seq(2), is_full=False)).verdict is Verdict.NEEDS_FULL
    assert (await one.store.commit([Change(ALICE, held, ABSENT)], [ALICE], None)).conflicts == {ALICE}
    await settled(one.store)


async def test_a_store_left_unattended_begins_a_new_era(store: PresenceStore) -> None:
    before = await settled(store)
    await put(store, {ALICE: on(EDGE)})
    await asyncio.sleep(TTL_S / 3 + 0.1)  # what is measured is that nobody ticks
    after = await store.tick()
    assert after.era != before.era
    assert not after.is_settled
    assert await states_of(store, ALICE) == [on(EDGE)], "what is stored may still be true"


async def test_each_tick_is_claimed_by_one_replica(world: World) -> None:
    replicas: list[Replica] = [await world.open_replica() for _ in range(3)]
    await asyncio.sleep(0.06)  # the claims of their first ticks end
    claims = [(await replica.store.tick()).is_claimed for replica in replicas]
    assert claims.count(True) == 1

    async def claimed_again() -> bool:
        return (await replicas[2].store.tick()).is_claimed

    await eventually(claimed_again)


@pytest.mark.parametrize("url", ["mongodb://localhost", "redis", ""])
def test_an_unknown_kind_of_store_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="expected redis"):
        World(url, "").open_store()
