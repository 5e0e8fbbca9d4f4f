"""A stream to each replica that is up, opened again for as long as it is there."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from edge import streams as module
from edge.streams import ReplicaStreams
from services.runtime.errors import Unavailable
from services.runtime.tasks import Tasks
from tests.e2e.waiting import eventually
from tests.unit.edge.fake_streams import FakeReplica, FakeReplicas, Open


class Call:
    """What goes up waits in `asked`; each time that it runs it is `open` once more."""

    def __init__(self, replica: FakeReplica) -> None:
        self.replica = replica
        self.asked: list[str] = []
        self.opened: list[Open] = []

    def forget(self) -> None:
        self.asked.clear()

    @property
    def open(self) -> Open:
        return self.opened[-1]


class World:
    def __init__(self) -> None:
        self.replicas = FakeReplicas("r1", "r2")
        self.tasks = Tasks()
        self.lost: list[tuple[str, list[str], int]] = []
        stands_in: Any = self.replicas
        self.streams: ReplicaStreams[Call] = ReplicaStreams(
            "test", stands_in, self.tasks, make=self._make, run=self._run, lost=self._lost
        )

    def _make(self, replica: Any) -> Call:
        return Call(replica)

    async def _run(self, call: Call) -> None:
        call.opened.append(Open())
        await call.open.follow()

    def _lost(self, replica: Any, call: Call) -> None:
        assert call.replica is replica
        self.lost.append((replica.address, list(call.asked), len(call.opened)))

    @property
    def first(self) -> Any:
        return self.replicas.all[0]

    async def open(self, replica: Any) -> Call:
        call = self.streams.open(replica)
        await eventually(lambda: call.opened)
        return call


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(module, "_REOPEN_S", (0.001, 0.01))
    world = World()
    yield world
    await world.streams.stop()
    assert world.tasks.failure is None
    await world.tasks.stop()


async def test_each_replica_that_is_up_has_one_stream(world: World) -> None:
    world.streams.open_all()
    world.streams.open_all()
    assert [call.replica.address for call in world.streams.calls] == ["r1", "r2"]
    await eventually(lambda: all(len(call.opened) == 1 for call in world.streams.calls))
    assert world.streams.open(world.first) is world.streams.find(world.first)
    assert world.streams.find(None) is None


async def test_a_replica_to_which_no_stream_was_asked_for_has_none(world: World) -> None:
    world.replicas.set_up(world.first, is_up=False)
    world.streams.open_all()
    assert world.streams.find(world.first) is None
    assert [call.replica.address for call in world.streams.calls] == ["r2"]


@pytest.mark.parametrize("error", [None, Unavailable()], ids=["ended", "broke"])
async def test_a_stream_that_is_over_is_told_and_opened_again(world: World, error: Unavailable | None) -> None:
    call = await world.open(world.first)
    call.open.end(error)
    await eventually(lambda: len(call.opened) == 2)
    assert world.lost == [("r1", [], 1)], "told once, before it is opened again"
    assert world.streams.find(world.first) is call


async def test_what_waited_for_a_stream_that_is_over_is_forgotten(world: World) -> None:
    call = await world.open(world.first)
    call.asked.append("of the old stream")
    call.open.end(Unavailable())
    await eventually(lambda: world.lost)
    assert world.lost == [("r1", [], 1)]


async def test_a_stream_that_cannot_be_opened_is_tried_on_and_on(world: World) -> None:
    call = await world.open(world.first)
    for times in range(1, 6):
        await eventually(lambda times=times: len(call.opened) == times)  # type: ignore[misc]  # bound at once
        call.open.end(Unavailable())
    await eventually(lambda: len(call.opened) == 6)
    assert len(world.lost) == 5


async def test_the_stream_to_a_replica_that_is_gone_is_closed_and_the_others_stay(world: World) -> None:
    world.streams.open_all()
    await eventually(lambda: all(call.opened for call in world.streams.calls))
    running = len(world.tasks)
    world.replicas.set_up(world.first, is_up=False)
    world.streams.close_gone()
    assert [call.replica.address for call in world.streams.calls] == ["r2"]
    await eventually(lambda: len(world.tasks) == running - 1)


async def test_a_replica_that_is_back_gets_a_new_stream(world: World) -> None:
    before = await world.open(world.first)
    world.replicas.set_up(world.first, is_up=False)
    world.streams.close_gone()
    world.replicas.set_up(world.first, is_up=True)
    assert await world.open(world.first) is not before


async def test_stopping_ends_every_stream_and_opens_none_again(world: World) -> None:
    world.streams.open_all()
    calls = list(world.streams.calls)
    await eventually(lambda: all(call.opened for call in calls))
    await world.streams.stop()
    await eventually(lambda: len(world.tasks) == 0)
    assert [len(call.opened) for call in calls] == [1, 1]
    assert world.lost == []
