"""How many connections an edge takes, and how it gets rid of them."""

import asyncio

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from edge.connections import Connections
from services.runtime.metrics import Metrics
from services.runtime.tasks import Tasks
from tests.support.clock import ManualClock


class FakeConnection:
    def __init__(self) -> None:
        self.drained = 0

    def tick(self, now: float) -> None: ...

    def drain(self) -> None:
        self.drained += 1

    def bug(self, error: Exception) -> None: ...


def connections(limit: int) -> Connections:
    return Connections(limit=limit, clock=ManualClock(), tasks=Tasks(), metrics=Metrics(CollectorRegistry()))


def test_one_too_many_is_refused_and_one_that_left_makes_room() -> None:
    all_of_them = connections(limit=1)
    first = FakeConnection()
    all_of_them.check_room()
    all_of_them.add(first)
    with pytest.raises(web.HTTPServiceUnavailable):
        all_of_them.check_room()
    all_of_them.remove(first)
    all_of_them.check_room()


async def test_leaving_waits_for_the_last_one_and_takes_no_more() -> None:
    all_of_them = connections(limit=10)
    first, last, late = FakeConnection(), FakeConnection(), FakeConnection()
    all_of_them.add(first)
    all_of_them.add(last)
    leaving = asyncio.create_task(all_of_them.drain(0))
    await asyncio.sleep(0)
    assert (first.drained, last.drained) == (1, 1)
    with pytest.raises(web.HTTPServiceUnavailable):
        all_of_them.check_room()
    all_of_them.add(late)  # its handshake was answered before
    assert late.drained == 1
    for each in (first, late, last):
        assert not leaving.done()
        all_of_them.remove(each)
    await leaving
