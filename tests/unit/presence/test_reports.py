"""Reports of edges: the rare orders, each by itself (test_any_order.py draws them by chance)."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence

import pytest

from services.presence.errors import Contended, Superseded
from services.presence.model import EdgeId, Presence, Seq, Session, SessionId, Status, UserId
from services.presence.reports import Report
from tests.unit.presence.gated import GRACE_S, SETTLE_S, TTL_S, GatedService

ALICE, BOB = UserId("alice"), UserId("bob")
EDGE, OTHER = EdgeId("edge"), EdgeId("other")


class Service(GatedService):
    """With a record of what was announced."""

    def __init__(self) -> None:
        super().__init__()
        self.announced: list[tuple[UserId, Status]] = []

    def presence_changed(self, presences: Sequence[Presence]) -> None:
        self.announced.extend((each.user_id, each.status) for each in presences)

    def changes_were_missed(self) -> None: ...

    async def status_of(self, user_id: UserId) -> Status:
        (presence,) = await self.reads.get([user_id])
        return presence.status

    def call(self, report: Report) -> "asyncio.Task[bool]":
        return asyncio.create_task(self.reports.take(report))

    async def take(self, report: Report) -> bool:
        was_open, self.gate.is_open = self.gate.is_open, True
        try:
            return await self.reports.take(report)
        finally:
            self.gate.is_open = was_open

    async def expire(self, edge_id: EdgeId) -> None:
        """Its lease runs out, and is swept."""
        await self.let_time_pass(TTL_S)
        await self.sweep()
        leases = (await self.store.tick()).leases
        assert edge_id not in {lease.edge_id for lease in leases}


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    """Settled, with both edges known and nobody there."""
    service = Service()
    await service.store.start(service)
    await service.let_time_pass(SETTLE_S + 1)
    for edge_id in (EDGE, OTHER):
        assert await service.take(report(1, edge_id=edge_id, is_full=True))
    yield service
    await service.close()


def session(user_id: UserId, name: str = "s1", status: Status = Status.ONLINE) -> Session:
    return Session(SessionId(name), user_id, status)


def report(
    seq: int,
    *,
    edge_id: EdgeId = EDGE,
    is_full: bool = False,
    put: Iterable[Session] = (),
    closed: Iterable[Session] = (),
) -> Report:
    return Report(edge_id, Seq(seq), is_full, list(put), list(closed), {})


async def test_an_open_that_comes_after_the_close_opens_nothing(service: Service) -> None:
    opens = service.call(report(2, put=[session(ALICE)]))
    await service.run_some(opens, 2)  # admitted and loaded, not committed
    assert await service.take(report(3, closed=[session(ALICE)]))
    await service.run_through(opens)
    with pytest.raises(Superseded):
        opens.result()
    assert await service.status_of(ALICE) is Status.OFFLINE


async def test_an_open_that_was_not_even_admitted_before_the_close_opens_nothing(service: Service) -> None:
    opens = service.call(report(2, put=[session(ALICE)]))
    await service.take(report(3, closed=[session(ALICE)]))
    await service.run_through(opens)
    with pytest.raises(Superseded):
        opens.result()
    assert await service.status_of(ALICE) is Status.OFFLINE


async def test_an_open_that_comes_after_a_full_report_without_it_opens_nothing(service: Service) -> None:
    opens = service.call(report(2, put=[session(ALICE)]))
    await service.run_some(opens, 2)
    full = service.call(report(3, is_full=True))
    await service.run_some(full, 3)  # has looked for whom the edge has
    await service.run_through(opens)
    await service.run_through(full)
    assert full.result()
    assert await service.status_of(ALICE) is Status.OFFLINE


async def test_two_edges_that_change_one_user_at_once_both_take_effect(service: Service) -> None:
    first = service.call(report(2, put=[session(ALICE, "here", Status.AWAY)]))
    second = service.call(report(2, edge_id=OTHER, put=[session(ALICE, "there", Status.BUSY)]))
    for call in (first, second):
        await service.run_some(call, 2)
    await service.run_through(first)
    await service.run_through(second)
    assert (first.result(), second.result()) == (True, True)
    assert await service.status_of(ALICE) is Status.BUSY
    await service.take(report(3, edge_id=OTHER, closed=[session(ALICE, "there")]))
    assert await service.status_of(ALICE) is Status.AWAY


async def test_a_user_whom_others_never_leave_alone_is_given_up_as_contended(service: Service) -> None:
    call = service.call(report(2, put=[session(ALICE, "here")]))
    seq = 1
    await service.run_some(call, 1)
    while not call.done():
        await service.run_some(call, 1)  # loads
        seq += 1
        await service.take(report(seq, edge_id=OTHER, put=[session(ALICE, f"there-{seq}")]))
        await service.run_some(call, 1)  # tries to commit
        await asyncio.sleep(0.03)
    with pytest.raises(Contended):
        call.result()
    assert 5 < seq < 30


async def test_a_report_under_way_when_its_edge_leaves_leaves_nobody_behind(service: Service) -> None:
    opens = service.call(report(2, put=[session(ALICE)]))
    await service.run_some(opens, 2)
    release = asyncio.create_task(service.reports.release(EDGE))
    await service.run_some(release, 3)  # has looked for whom the edge has
    await service.run_through(opens)
    await service.run_through(release)
    await service.let_time_pass(GRACE_S)
    await service.sweep()
    assert await service.status_of(ALICE) is Status.OFFLINE


async def test_a_full_report_that_comes_after_its_edge_has_left_begins_no_lease(service: Service) -> None:
    full = service.call(report(2, is_full=True, put=[session(ALICE)]))
    await service.run_some(full, 0)
    await service.run_through(asyncio.create_task(service.reports.release(EDGE)))
    await service.run_through(full)
    with pytest.raises(Superseded):
        full.result()
    assert {lease.edge_id for lease in (await service.store.tick()).leases} == {OTHER}


async def test_a_report_that_is_still_under_way_when_its_lease_has_run_out_takes_no_effect(service: Service) -> None:
    full = service.call(report(2, is_full=True, put=[session(ALICE)]))
    await service.run_some(full, 4)  # all but the commit; and the edge dies
    await service.expire(EDGE)
    await service.let_time_pass(5 * TTL_S)
    await service.run_through(full)
    with pytest.raises(Superseded):
        full.result()
    assert await service.status_of(ALICE) is Status.OFFLINE


async def test_an_edge_that_comes_back_while_it_is_swept_keeps_its_users(service: Service) -> None:
    await service.take(report(2, put=[session(ALICE), session(BOB, "s2")]))
    await service.let_time_pass(TTL_S)
    tick = await service.store.tick()
    sweep = asyncio.create_task(service.sweeper.sweep(tick))
    await service.run_some(sweep, 4)  # about to commit that they are gone
    await service.take(report(3, is_full=True, put=[session(ALICE), session(BOB, "s2")]))
    await service.run_through(sweep)
    sweep.result()
    await service.let_time_pass(GRACE_S)
    await service.sweep()
    assert await service.status_of(ALICE) is Status.ONLINE
    assert service.announced == [(ALICE, Status.ONLINE), (BOB, Status.ONLINE)]


async def test_what_takes_effect_after_a_loss_of_data_for_an_edge_that_died_is_cleared(service: Service) -> None:
    full = service.call(report(2, is_full=True, put=[session(ALICE)]))
    await service.run_some(full, 1)
    service.store.lose_everything()
    await service.run_through(full)
    assert full.result()
    assert await service.status_of(ALICE) is Status.ONLINE
    await service.let_time_pass(SETTLE_S + 1)
    await service.sweep()
    await service.let_time_pass(GRACE_S)
    await service.sweep()
    assert await service.status_of(ALICE) is Status.OFFLINE


async def test_a_report_without_a_lease_takes_nothing(service: Service) -> None:
    await service.expire(EDGE)
    assert not await service.take(report(9, put=[session(ALICE)]))
    assert await service.status_of(ALICE) is Status.OFFLINE
    assert await service.take(report(10, is_full=True, put=[session(ALICE)]))
    assert await service.status_of(ALICE) is Status.ONLINE


async def test_a_full_report_ends_what_it_does_not_name(service: Service) -> None:
    await service.take(report(2, put=[session(ALICE), session(ALICE, "s2", Status.BUSY), session(BOB, "s3")]))
    await service.take(report(2, edge_id=OTHER, put=[session(BOB, "s4", Status.AWAY)]))
    await service.take(report(3, is_full=True, put=[session(ALICE)]))
    assert await service.status_of(ALICE) is Status.ONLINE
    assert await service.status_of(BOB) is Status.AWAY


async def test_a_user_who_comes_back_within_the_grace_was_never_gone(service: Service) -> None:
    await service.take(report(2, put=[session(ALICE)]))
    await service.run_through(asyncio.create_task(service.reports.release(EDGE)))
    await service.let_time_pass(GRACE_S - 1)
    await service.sweep()
    await service.take(report(2, edge_id=OTHER, put=[session(ALICE, "s2")]))
    await service.let_time_pass(GRACE_S)
    await service.sweep()
    assert await service.status_of(ALICE) is Status.ONLINE
    assert service.announced == [(ALICE, Status.ONLINE)]


async def test_a_dead_edges_users_go_offline_when_its_ttl_is_over(service: Service) -> None:
    """Its last renewal is longer ago than the grace: nobody waits for that as well."""
    await service.take(report(2, put=[session(ALICE)]))
    for _ in range(TTL_S):
        assert await service.status_of(ALICE) is Status.ONLINE
        await service.let_time_pass(1)
        await service.sweep()
    await asyncio.sleep(0)
    assert service.announced == [(ALICE, Status.ONLINE), (ALICE, Status.OFFLINE)]


async def test_nobody_goes_offline_while_no_replica_was_there_to_take_renewals(service: Service) -> None:
    await service.take(report(2, put=[session(ALICE)]))
    service.clock.advance(60)
    await service.sweep()
    assert await service.status_of(BOB) is Status.UNKNOWN
    await service.let_time_pass(SETTLE_S - 1)
    await service.sweep()
    assert await service.status_of(ALICE) is Status.ONLINE
    assert await service.take(report(3, is_full=True, put=[session(ALICE)]))
    await service.let_time_pass(GRACE_S + 2)
    await service.sweep()
    assert service.announced == [(ALICE, Status.ONLINE)]
    assert await service.status_of(BOB) is Status.OFFLINE


@pytest.mark.parametrize("jump_s", [3_600, -3_600])
async def test_a_clock_that_jumps_makes_nobody_flap_and_holds_nobody_up(service: Service, jump_s: int) -> None:
    await service.take(report(2, put=[session(ALICE), session(BOB, "s2")]))
    await service.take(report(3, closed=[session(BOB, "s2")]))
    service.clock.jump_wall_ms(jump_s * 1000)
    seq = 3
    for second in range(SETTLE_S + GRACE_S):
        await service.let_time_pass(1)
        await service.sweep()
        if second % 5 == 4:
            seq += 1
            if not await service.take(report(seq)):
                seq += 1
                assert await service.take(report(seq, is_full=True, put=[session(ALICE)]))
    await asyncio.sleep(0)
    assert await service.status_of(ALICE) is Status.ONLINE
    assert service.announced == [(ALICE, Status.ONLINE), (BOB, Status.ONLINE), (BOB, Status.OFFLINE)]
    await service.expire(EDGE)
    await service.let_time_pass(GRACE_S)
    await service.sweep()
    assert await service.status_of(ALICE) is Status.OFFLINE
