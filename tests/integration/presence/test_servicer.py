"""presence.v1 as it is on the wire: what it answers and what it refuses."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from protos.presence.v1 import presence_pb2 as pb
from protos.presence.v1 import presence_pb2_grpc
from services.runtime.channel import open_channel
from tests.integration.presence.world import TTL_S, World

Stub = presence_pb2_grpc.PresenceServiceStub


@pytest.fixture
async def stub(world: World) -> AsyncIterator[Any]:
    service = await world.start_service()
    channel = open_channel(service.target)
    yield Stub(channel)
    await channel.close()


def report(seq: int, **fields: Any) -> pb.ReportSessionsRequest:
    return pb.ReportSessionsRequest(edge_id="edge", seq=seq, **fields)


def session(user_id: str, status: pb.Status.ValueType = pb.STATUS_ONLINE) -> pb.Session:
    return pb.Session(session_id=f"of {user_id}", user_id=user_id, status=status)


async def test_a_full_report_is_asked_for_then_taken(stub: Any) -> None:
    answer = await stub.ReportSessions(report(1, opened=[session("alice")]), timeout=5)
    assert (answer.full_report_needed, answer.lease_ttl_ms) == (True, TTL_S * 1000)
    answer = await stub.ReportSessions(report(2, full=True, opened=[session("alice", pb.STATUS_BUSY)]), timeout=5)
    assert not answer.full_report_needed
    asked = pb.GetPresenceRequest(user_ids=["bob", "alice", "bob"])
    found = (await stub.GetPresence(asked, timeout=5)).presences
    assert [(each.user_id, each.status) for each in found] == [
        ("bob", pb.STATUS_OFFLINE),
        ("alice", pb.STATUS_BUSY),
        ("bob", pb.STATUS_OFFLINE),
    ]


async def test_a_late_report_is_aborted_so_that_its_edge_reports_again(stub: Any) -> None:
    await stub.ReportSessions(report(5, full=True), timeout=5)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ReportSessions(report(4, opened=[session("alice")]), timeout=5)
    assert caught.value.code() is grpc.StatusCode.ABORTED


async def test_a_lease_is_released_once_and_again(stub: Any) -> None:
    await stub.ReportSessions(report(1, full=True), timeout=5)
    for _ in range(2):
        await stub.ReleaseLease(pb.ReleaseLeaseRequest(edge_id="edge"), timeout=5)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ReportSessions(report(2, full=True), timeout=5)
    assert caught.value.code() is grpc.StatusCode.ABORTED
    await stub.ReleaseLease(pb.ReleaseLeaseRequest(edge_id="never seen"), timeout=5)


async def test_activity_is_recorded_in_batches_and_the_latest_counts(stub: Any) -> None:
    activities = [pb.Activity(user_id="alice", at_ms=at_ms) for at_ms in (3_000, 7_000, 5_000)]
    await stub.RecordActivity(pb.RecordActivityRequest(activities=activities), timeout=5)
    await stub.RecordActivity(pb.RecordActivityRequest(), timeout=5)
    found = await stub.GetPresence(pb.GetPresenceRequest(user_ids=["alice"]), timeout=5)
    assert found.presences[0].last_active_at_ms == 7_000


async def test_a_watch_tells_a_snapshot_at_once_and_again_when_asked_again(stub: Any) -> None:
    call = stub.WatchPresence()
    await call.write(pb.WatchPresenceRequest(watch_user_ids=["alice"]))
    for _ in range(2):
        told = await call.read()
        assert [(each.user_id, each.status) for each in told.presences] == [("alice", pb.STATUS_OFFLINE)]
        await call.write(pb.WatchPresenceRequest(unwatch_user_ids=["bob"], watch_user_ids=["alice"]))
    await call.done_writing()
    while (told := await call.read()) is not grpc.aio.EOF:
        assert told.presences
    assert await call.code() is grpc.StatusCode.OK


async def test_a_watch_is_told_of_nobody_whom_it_does_not_watch(stub: Any) -> None:
    call = stub.WatchPresence()
    await call.write(pb.WatchPresenceRequest(watch_user_ids=["alice", "bob"]))
    told: list[str] = []
    while set(told) != {"alice", "bob"}:
        told += [each.user_id for each in (await call.read()).presences]
    await call.write(pb.WatchPresenceRequest(unwatch_user_ids=["bob"], watch_user_ids=["carol"]))
    while "carol" not in told:
        told += [each.user_id for each in (await call.read()).presences]
    await stub.ReportSessions(report(1, full=True, opened=[session("dave"), session("bob")]), timeout=5)
    await stub.ReportSessions(report(2, opened=[session("alice")]), timeout=5)
    assert [each.user_id for each in (await call.read()).presences] == ["alice"]
    call.cancel()


REFUSED: dict[str, Any] = {
    "no seq": ("ReportSessions", report(0)),
    "no edge": ("ReportSessions", pb.ReportSessionsRequest(seq=1)),
    "an edge's name that is too long": ("ReportSessions", pb.ReportSessionsRequest(edge_id="x" * 129, seq=1)),
    "no session id": ("ReportSessions", report(1, opened=[pb.Session(user_id="a", status=pb.STATUS_ONLINE)])),
    "no user": ("ReportSessions", report(1, opened=[pb.Session(session_id="s", status=pb.STATUS_ONLINE)])),
    "a session that is offline": ("ReportSessions", report(1, opened=[session("alice", pb.STATUS_OFFLINE)])),
    "a session without a status": ("ReportSessions", report(1, changed=[session("a", pb.STATUS_UNSPECIFIED)])),
    "too many sessions": ("ReportSessions", report(1, closed=[session("alice")] * 50_001)),
    "too many users": ("GetPresence", pb.GetPresenceRequest(user_ids=["alice"] * 1_001)),
    "a user id that is too long": ("GetPresence", pb.GetPresenceRequest(user_ids=["x" * 65])),
    "a negative time": ("RecordActivity", pb.RecordActivityRequest(activities=[pb.Activity(user_id="a", at_ms=-1)])),
    "no lease to release": ("ReleaseLease", pb.ReleaseLeaseRequest()),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_no_edge_sends_is_refused(stub: Any, what: str) -> None:
    method, request = REFUSED[what]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(stub, method)(request, timeout=5)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_watch_of_what_is_no_user_id_ends_the_stream(stub: Any) -> None:
    call = stub.WatchPresence()
    await call.write(pb.WatchPresenceRequest(watch_user_ids=[""]))
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
