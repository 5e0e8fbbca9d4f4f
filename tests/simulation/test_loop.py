"""Virtual time and processes that die: what the simulation stands on."""

import asyncio
import time
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from tests.simulation.loop import Deadlock, SimProcess, VirtualLoop

T = TypeVar("T")


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    yield loop
    loop.close()


def _run(loop: VirtualLoop, work: Coroutine[Any, Any, T]) -> T:
    return loop.run_until_complete(work)


def test_a_day_passes_in_no_time(loop: VirtualLoop) -> None:
    began_s = time.perf_counter()
    _run(loop, asyncio.sleep(86_400))
    assert loop.time() == pytest.approx(86_400)
    assert time.perf_counter() - began_s < 5


def test_timers_fire_in_the_order_of_their_times(loop: VirtualLoop) -> None:
    fired: list[tuple[str, float]] = []

    async def sleep(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        fired.append((name, round(loop.time(), 6)))

    async def run() -> None:
        await asyncio.gather(sleep("c", 3), sleep("a", 0.001), sleep("b", 2.5))

    _run(loop, run())
    assert fired == [("a", 0.001), ("b", 2.5), ("c", 3)]


def test_waiting_for_what_nobody_will_do_is_a_deadlock(loop: VirtualLoop) -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    waiting = loop.create_task(wait())
    with pytest.raises(Deadlock):
        loop.run_until_complete(waiting)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(waiting)


def test_a_process_dies_with_everything_that_its_tasks_have_started(loop: VirtualLoop) -> None:
    done: list[str] = []

    async def child() -> None:
        await asyncio.sleep(1)
        done.append("child")

    async def parent() -> None:
        background = asyncio.create_task(child())
        await asyncio.sleep(2)
        await background

    async def run() -> None:
        process, other = SimProcess(), SimProcess()
        process.spawn(parent())
        other.spawn(child())
        await asyncio.sleep(0.5)
        process.is_alive = False
        await process.bury()
        await asyncio.sleep(5)
        assert len(process.tasks) == 2
        assert all(task.cancelled() for task in process.tasks)

    _run(loop, run())
    assert done == ["child"]  # the other process's


def test_a_failure_that_nobody_looks_at_is_found(loop: VirtualLoop) -> None:
    async def fail() -> None:
        raise ValueError("nobody hears this")

    async def run() -> list[BaseException]:
        process = SimProcess()
        process.spawn(fail())
        heard = process.spawn(fail())
        await asyncio.wait((heard,))
        assert isinstance(heard.exception(), ValueError)
        await asyncio.sleep(0)
        return process.find_unheard()

    assert [str(error) for error in _run(loop, run())] == ["nobody hears this"]
