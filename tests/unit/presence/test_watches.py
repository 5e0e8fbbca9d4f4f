"""Who is told what: snapshots, changes, and what is no longer sure."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import pytest

from services.presence.errors import BadRequest
from services.presence.model import EdgeId, Presence, Seq, Session, SessionId, Status, UserId
from services.presence.reports import Report
from services.presence.store import Loaded
from services.presence.streams import WatchStream
from services.presence.watches import _MAX_WATCHED, _PACE_S
from tests.e2e.waiting import eventually
from tests.unit.presence.gated import GRACE_S, SETTLE_S, TTL_S, GatedService

ALICE, BOB, CAROL = UserId("alice"), UserId("bob"), UserId("carol")
EDGE = EdgeId("edge")


class Watching(GatedService):
    """With the watches as the store's listener, as the service has them."""

    def __init__(self) -> None:
        super().__init__()
        self.gate.is_open = True
        self.seq = 0
        self.times = 0

    async def set(self, user_id: UserId, status: Status, *, is_full: bool = False) -> bool:
        """The edge has one session of the user, in that status."""
        self.seq += 1
        session = Session(SessionId(f"of {user_id}"), user_id, status)
        return await self.reports.take(Report(EDGE, Seq(self.seq), is_full, [session], [], {user_id: 1}))

    async def tick(self) -> None:
        self.watches.ticked(await self.store.tick())

    async def sweep_after(self, seconds: int) -> None:
        await self.let_time_pass(seconds)
        await self.sweep()

    def open(self) -> "Reader":
        stream = WatchStream(coalesce_s=0)
        self.watches.stream_began(stream)
        return Reader(stream)

    def watch(self, reader: "Reader", *user_ids: UserId) -> None:
        self.watches.watch(reader.stream, user_ids)


class Reader:
    """An edge's end: everything that it was told, in order."""

    def __init__(self, stream: WatchStream) -> None:
        self.stream = stream
        self._told: list[tuple[UserId, Status]] = []
        self._reports_needed = 0

    async def hear(self) -> None:
        while self.stream._ready or self.stream._changes or self.stream._report_needed:
            update = await self.stream.take()
            assert update is not None
            self._told += [(each.user_id, each.status) for each in update.presences]
            self._reports_needed += update.report_needed

    async def told(self, count: int) -> list[tuple[UserId, Status]]:
        """The first `count`; waits for them."""

        async def has_them() -> bool:
            await self.hear()
            return len(self._told) >= count

        await eventually(has_them)
        return self._told

    async def was_asked_to_report(self) -> bool:
        await self.hear()
        return self._reports_needed > 0


@pytest.fixture
async def service() -> AsyncIterator[Watching]:
    """Settled; the edge has ALICE online."""
    service = Watching()
    await service.store.start(service.watches)
    await service.watches.start()
    await service.let_time_pass(SETTLE_S + 1)
    await service.tick()
    await service.set(ALICE, Status.ONLINE, is_full=True)
    yield service
    await service.watches.stop()
    await service.close()


async def test_a_watch_gets_a_snapshot_first_and_changes_afterwards(service: Watching) -> None:
    reader = service.open()
    service.watch(reader, ALICE, BOB)
    assert sorted(await reader.told(2)) == [(ALICE, Status.ONLINE), (BOB, Status.OFFLINE)]
    await service.set(BOB, Status.BUSY)
    await service.set(CAROL, Status.ONLINE)
    await service.set(ALICE, Status.AWAY)
    assert (await reader.told(4))[2:] == [(BOB, Status.BUSY), (ALICE, Status.AWAY)]


async def test_who_watches_again_gets_the_snapshot_again(service: Watching) -> None:
    first, second = service.open(), service.open()
    service.watch(first, ALICE)
    await first.told(1)
    service.watch(first, ALICE)
    service.watch(second, ALICE)
    assert await first.told(2) == [(ALICE, Status.ONLINE)] * 2
    assert await second.told(1) == [(ALICE, Status.ONLINE)]


async def test_watches_that_come_one_after_the_other_are_read_together(
    service: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0
    load = service.store.load

    async def counted(user_ids: Sequence[UserId]) -> Loaded:
        nonlocal reads
        reads += 1
        return await load(user_ids)

    monkeypatch.setattr(service.store, "load", counted)
    reader = service.open()
    began = time.monotonic()
    for number in range(100):
        service.watch(reader, UserId(f"u{number}"))
        await asyncio.sleep(0.002)
    await reader.told(100)
    assert reads <= (time.monotonic() - began) / _PACE_S + 1


async def test_nobody_is_told_of_whom_they_no_longer_watch(service: Watching) -> None:
    reader, other = service.open(), service.open()
    for each in (reader, other):
        service.watch(each, ALICE, BOB)
        await each.told(2)
    service.watches.unwatch(reader.stream, [ALICE, CAROL])
    service.watches.stream_ended(other.stream)
    await service.set(ALICE, Status.BUSY)
    await service.set(BOB, Status.BUSY)
    assert (await reader.told(3))[2:] == [(BOB, Status.BUSY)]
    service.watches.stream_ended(reader.stream)
    assert not service.watches._watched


async def test_a_change_while_the_snapshot_is_read_is_not_lost(service: Watching) -> None:
    """The read is answered late, with what was before the change."""
    reader = service.open()
    service.watch(reader, ALICE)
    stale = {ALICE: Presence(ALICE, Status.ONLINE)}
    issued_at = service.watches._now
    service.watches.presence_changed([Presence(ALICE, Status.BUSY)])
    service.watches._found([ALICE], stale, issued_at)
    assert (await reader.told(1))[-1] == (ALICE, Status.BUSY)


async def test_what_was_missed_is_read_again_and_only_what_differs_is_told(service: Watching) -> None:
    reader = service.open()
    service.watch(reader, ALICE, BOB)
    await reader.told(2)
    service.store._listener = None  # deaf
    await service.set(BOB, Status.AWAY)
    await service.set(BOB, Status.BUSY)
    await reader.hear()
    service.store._listener = service.watches
    service.watches.changes_were_missed()
    assert (await reader.told(3))[2:] == [(BOB, Status.BUSY)]


async def test_a_loss_of_data_is_no_change_and_asks_the_edges(service: Watching) -> None:
    reader = service.open()
    service.watch(reader, ALICE, BOB)
    await reader.told(2)
    service.store.lose_everything()
    await service.tick()
    assert await reader.was_asked_to_report()
    late = service.open()
    service.watch(late, ALICE, BOB)
    assert sorted(await late.told(2)) == [(ALICE, Status.UNKNOWN), (BOB, Status.UNKNOWN)]
    assert not await service.set(ALICE, Status.ONLINE)
    assert await service.set(ALICE, Status.ONLINE, is_full=True)
    assert (await late.told(3))[2:] == [(ALICE, Status.ONLINE)]
    await service.let_time_pass(SETTLE_S)
    await service.tick()
    assert (await late.told(4))[3:] == [(BOB, Status.OFFLINE)]
    known = await reader.told(2)
    assert (ALICE, Status.OFFLINE) not in known
    assert (ALICE, Status.UNKNOWN) not in known


async def test_whoever_did_not_come_back_after_a_loss_is_offline_when_it_has_settled(service: Watching) -> None:
    reader = service.open()
    service.watch(reader, ALICE)
    await reader.told(1)
    service.store.lose_everything()
    for _ in range(SETTLE_S + 1):
        assert await reader.told(1) == [(ALICE, Status.ONLINE)]
        await service.tick()
        service.clock.advance(1)
    await service.tick()
    assert await reader.told(2) == [(ALICE, Status.ONLINE), (ALICE, Status.OFFLINE)]


async def test_a_dead_edge_is_told_once(service: Watching) -> None:
    reader = service.open()
    service.watch(reader, ALICE)
    await reader.told(1)
    await service.sweep_after(TTL_S)
    await service.sweep_after(GRACE_S)
    assert await reader.told(2) == [(ALICE, Status.ONLINE), (ALICE, Status.OFFLINE)]
    await service.sweep_after(GRACE_S)
    assert len(await reader.told(2)) == 2


async def test_a_stream_that_watches_more_than_any_edge_needs_is_refused(service: Watching) -> None:
    reader = service.open()
    reader.stream.watched.update(UserId(f"u{number}") for number in range(_MAX_WATCHED))
    with pytest.raises(BadRequest):
        service.watch(reader, ALICE)


async def test_a_read_from_before_a_loss_that_is_answered_after_it_is_not_believed_for_ever(service: Watching) -> None:
    reader = service.open()
    service.watch(reader, ALICE)
    await reader.told(1)
    service.store.lose_everything()
    await service.tick()
    service.watches._found([ALICE], {ALICE: Presence(ALICE, Status.ONLINE)}, service.watches._now)
    late = service.open()
    await eventually(lambda: not service.watches._to_read)
    await service.reads.get([ALICE])  # and the one under way is answered
    await service.let_time_pass(SETTLE_S)
    await service.tick()
    assert (await reader.told(2))[1:] == [(ALICE, Status.OFFLINE)]
    service.watch(late, ALICE)
    assert await late.told(1) == [(ALICE, Status.OFFLINE)]


async def test_a_store_that_went_away_makes_everybody_unknown_until_it_is_back(service: Watching) -> None:
    reader = service.open()
    service.watch(reader, ALICE, BOB)
    await reader.told(2)
    service.watches.store_went_away()
    assert sorted((await reader.told(4))[2:]) == [(ALICE, Status.UNKNOWN), (BOB, Status.UNKNOWN)]
    await service.tick()
    assert sorted((await reader.told(6))[4:]) == [(ALICE, Status.ONLINE), (BOB, Status.OFFLINE)]
