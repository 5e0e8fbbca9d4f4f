"""What an edge reports of its sessions, when, and what it makes of the answers."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from edge.clients.presence import PresenceStatus, SessionReport
from edge.lease import _ACTIVITY_S, _MAX_CHANGES, _MAX_PENDING, _PACE_S, Lease
from edge.model import UserId
from services.runtime.metrics import Metrics
from services.runtime.tasks import Tasks
from tests.e2e.waiting import eventually
from tests.support.clock import ManualClock
from tests.unit.presence.fake_presence import FakeClient, FakeReplicas

ALICE, BOB = UserId("alice"), UserId("bob")
ONLINE, AWAY = PresenceStatus.ONLINE, PresenceStatus.AWAY


class Reporting:
    def __init__(self, *, ttl_s: float = 60.0) -> None:
        self.client = FakeClient(ttl_s)
        self.replicas = FakeReplicas()
        self.clock = ManualClock()
        self._tasks = Tasks()
        client: Any = self.client
        replicas: Any = self.replicas
        self.lease = Lease(client, replicas, self.clock, self._tasks, Metrics(CollectorRegistry()))

    async def start(self) -> None:
        await self.lease.start()

    async def first_reported(self) -> None:
        await eventually(lambda: len(self.client.reports) == 1)
        assert self.client.reports[0].is_full

    async def report(self, number: int) -> SessionReport:
        """The one of that number, from 0."""
        await eventually(lambda: len(self.client.reports) > number)
        return self.client.reports[number]

    async def stop(self) -> None:
        await self.lease.stop()
        await self._tasks.stop()


@pytest.fixture
async def reporting() -> AsyncIterator[Reporting]:
    """Started, and its first report taken."""
    reporting = Reporting()
    await reporting.start()
    await reporting.first_reported()
    yield reporting
    await reporting.stop()


def put_of(report: SessionReport) -> dict[str, PresenceStatus]:
    return {session.session_id: session.status for session in report.put}


def closed_of(report: SessionReport) -> list[str]:
    return [session.session_id for session in report.closed]


async def test_the_first_change_goes_at_once_and_what_comes_meanwhile_together(reporting: Reporting) -> None:
    await asyncio.sleep(_PACE_S)
    began = time.monotonic()
    reporting.lease.opened("s1", ALICE)
    await reporting.report(1)
    assert time.monotonic() - began < _PACE_S / 2
    for number in range(2, 50):
        reporting.lease.opened(f"s{number}", BOB)
    reporting.lease.set_status("s2", AWAY)
    reporting.lease.closed("s1")
    reporting.lease.closed("s3")
    report = await reporting.report(2)
    assert time.monotonic() - began >= _PACE_S - 0.01
    assert len(report.put) == 47
    assert put_of(report)["s2"] is AWAY
    assert sorted(closed_of(report)) == ["s1", "s3"]
    assert [each.seq for each in reporting.client.reports] == [1, 2, 3]
    assert {each.edge_id for each in reporting.client.reports} == {reporting.lease.edge_id}


async def test_what_was_not_taken_goes_again_as_it_is_by_then(reporting: Reporting) -> None:
    reporting.client.fails = True
    reporting.lease.opened("s1", ALICE)
    reporting.lease.opened("s2", ALICE)
    reporting.lease.opened("s3", ALICE)
    failed = await reporting.report(1)
    assert put_of(failed) == {"s1": ONLINE, "s2": ONLINE, "s3": ONLINE}
    reporting.lease.closed("s1")
    reporting.lease.set_status("s2", AWAY)
    reporting.client.fails = False
    again = await reporting.report(len(reporting.client.reports))
    assert (put_of(again), closed_of(again)) == ({"s2": AWAY, "s3": ONLINE}, ["s1"])
    assert not again.is_full
    assert again.seq > failed.seq
    assert ALICE in (again.activities or {})


async def test_everything_is_reported_when_presence_asks_for_it_and_at_once(reporting: Reporting) -> None:
    reporting.lease.opened("s1", ALICE)
    await reporting.report(1)
    reporting.client.needs_full = True
    began = time.monotonic()
    reporting.lease.opened("s2", BOB)
    asked, full = await reporting.report(2), await reporting.report(3)
    assert time.monotonic() - began < 1.9 * _PACE_S
    assert (asked.is_full, full.is_full) == (False, True)
    assert put_of(full) == {"s1": ONLINE, "s2": ONLINE}
    assert set(full.activities or {}) == {ALICE, BOB}


async def test_a_full_report_that_was_not_taken_is_made_again() -> None:
    reporting = Reporting()
    reporting.client.fails = True
    reporting.lease.opened("s1", ALICE)
    await reporting.start()
    await reporting.first_reported()
    reporting.lease.closed("s1")
    reporting.lease.opened("s2", ALICE)
    reporting.client.fails = False
    full = await reporting.report(len(reporting.client.reports))
    assert full.is_full
    assert (put_of(full), full.closed) == ({"s2": ONLINE}, ())
    await reporting.stop()


async def test_more_changes_than_are_remembered_become_a_full_report(reporting: Reporting) -> None:
    reporting.replicas.set_up(is_up=False)
    for number in range(_MAX_PENDING + 1):
        reporting.lease.opened(f"s{number}", ALICE)
        reporting.lease.closed(f"s{number}")
    reporting.lease.opened("last", BOB)
    assert len(reporting.lease._pending) <= _MAX_PENDING
    reporting.replicas.set_up(is_up=True)
    report = await reporting.report(1)
    assert report.is_full
    assert put_of(report) == {"last": ONLINE}


async def test_many_changes_go_in_parts(reporting: Reporting) -> None:
    for number in range(_MAX_CHANGES + 10):
        reporting.lease.opened(f"s{number}", ALICE)
    assert [len((await reporting.report(number)).put) for number in (1, 2)] == [_MAX_CHANGES, 10]


async def test_nothing_is_tried_while_no_replica_is_up_and_at_once_when_one_is(reporting: Reporting) -> None:
    reporting.client.fails = True
    reporting.lease.opened("s1", ALICE)
    await eventually(lambda: len(reporting.client.reports) >= 4)
    reporting.replicas.set_up(is_up=False)
    tried = len(reporting.client.reports)
    await asyncio.sleep(1.2)  # what is measured is that nothing happens
    assert len(reporting.client.reports) <= tried + 1
    reporting.client.fails = False
    reporting.replicas.set_up(is_up=True)
    began = time.monotonic()
    await eventually(lambda: not reporting.lease._pending)
    assert time.monotonic() - began < 0.1


async def test_activity_alone_goes_within_a_second_and_takes_no_report_of_its_own_meanwhile(
    reporting: Reporting,
) -> None:
    reporting.lease.opened("s1", ALICE)
    await reporting.report(1)
    await asyncio.sleep(2 * _PACE_S)
    reporting.clock.advance(5)
    began = time.monotonic()
    reporting.lease.active(ALICE)
    reporting.lease.active(BOB)  # has no session here
    report = await reporting.report(2)
    assert 0.8 * _ACTIVITY_S <= time.monotonic() - began <= _ACTIVITY_S + 0.5
    assert dict(report.activities or {}) == {ALICE: reporting.clock.time_ms()}
    assert (report.put, report.closed, report.is_full) == ([], [], False)


async def test_an_idle_edge_renews_three_times_in_a_ttl() -> None:
    reporting = Reporting(ttl_s=0.6)
    await reporting.start()
    await reporting.first_reported()
    began = time.monotonic()
    await reporting.report(5)
    assert 0.8 <= time.monotonic() - began <= 1.8
    assert all(not (each.put or each.closed or each.is_full) for each in reporting.client.reports[1:])
    await reporting.stop()


async def test_a_request_to_report_is_followed_at_once(reporting: Reporting) -> None:
    await asyncio.sleep(_PACE_S)
    reporting.lease.report_soon()
    began = time.monotonic()
    await reporting.report(1)
    assert time.monotonic() - began < 0.1


async def test_a_request_to_report_ends_the_pause_after_failures(reporting: Reporting) -> None:
    reporting.client.fails = True
    reporting.lease.opened("s1", ALICE)
    await eventually(lambda: reporting.lease._failures >= 5)
    reporting.client.fails = False
    already = len(reporting.client.reports)
    began = time.monotonic()
    reporting.lease.report_soon()
    assert put_of(await reporting.report(already)) == {"s1": ONLINE}
    assert time.monotonic() - began < 0.45, "the pause is half a second or more by now"


async def test_a_session_that_is_closed_twice_or_was_never_there_is_nothing(reporting: Reporting) -> None:
    reporting.lease.closed("never")
    reporting.lease.set_status("never", AWAY)
    reporting.lease.opened("s1", ALICE)
    reporting.lease.closed("s1")
    reporting.lease.closed("s1")
    assert reporting.lease._users == {}
    report = await reporting.report(1)
    assert (report.put, closed_of(report)) == ([], ["s1"])


@pytest.mark.parametrize("status", [PresenceStatus.OFFLINE, PresenceStatus.UNKNOWN])
async def test_a_session_cannot_be_what_no_session_is(reporting: Reporting, status: PresenceStatus) -> None:
    with pytest.raises(ValueError, match=status):
        reporting.lease.set_status("s1", status)


async def test_the_lease_is_given_back_once_and_presence_may_be_away(reporting: Reporting) -> None:
    other = Reporting()
    await other.start()
    await other.first_reported()
    other.client.fails = True
    await other.stop()
    assert other.client.released == [other.lease.edge_id]
    assert other.lease.edge_id != reporting.lease.edge_id
    assert not other.replicas.changed
