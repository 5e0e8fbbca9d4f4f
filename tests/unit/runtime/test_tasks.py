"""Background tasks are owned: none is forgotten, none dies unheard."""

import asyncio

import pytest
from structlog.testing import capture_logs

from services.runtime.tasks import Tasks


async def test_a_task_that_ends_by_itself_is_no_failure() -> None:
    tasks = Tasks()
    done = tasks.spawn(asyncio.sleep(0), "short")
    await done
    await asyncio.sleep(0)
    assert (len(tasks), tasks.failed.is_set()) == (0, False)


async def test_a_task_that_dies_is_logged_once_and_is_the_failure() -> None:
    async def die() -> None:
        raise KeyError("gone")

    tasks = Tasks()
    with capture_logs() as lines:
        tasks.spawn(die(), "fragile")
        await asyncio.wait_for(tasks.failed.wait(), 1)
    assert [(line["event"], line["task"]) for line in lines] == [("task_failed", "fragile")]
    assert isinstance(tasks.failure, KeyError)


async def test_stop_cancels_and_waits_until_everything_has_ended() -> None:
    ended: list[str] = []

    async def linger(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            ended.append(name)

    tasks = Tasks()
    for name in ("one", "two"):
        tasks.spawn(linger(name), name)
    await asyncio.sleep(0)
    await tasks.stop()
    assert sorted(ended) == ["one", "two"]
    assert (len(tasks), tasks.failed.is_set()) == (0, False)


async def test_a_task_that_dies_while_it_is_stopped_is_heard() -> None:
    async def trip() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("on the way out")

    tasks = Tasks()
    tasks.spawn(trip(), "clumsy")
    await asyncio.sleep(0)
    with capture_logs() as lines:
        await tasks.stop()
    assert [line["event"] for line in lines] == ["task_failed"]


async def test_a_failure_is_also_that_of_the_parent() -> None:
    async def die() -> None:
        raise KeyError("gone")

    parent = Tasks()
    Tasks(parent=parent).spawn(die(), "fragile")
    await asyncio.wait_for(parent.failed.wait(), 1)
    assert isinstance(parent.failure, KeyError)


async def test_nothing_starts_after_the_stop() -> None:
    tasks = Tasks()
    await tasks.stop()
    with pytest.raises(RuntimeError, match="late"):
        tasks.spawn(asyncio.sleep(0), "late")
