"""A process starts in order, leaves in the opposite order, and leaves nothing behind."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from services.runtime.config import RuntimeSettings
from services.runtime.process import Process


class Part:
    """Writes what happens to it into a shared list."""

    def __init__(
        self,
        name: str,
        seen: list[str],
        *,
        on_start: Callable[[], Awaitable[object]] | None = None,
        on_stop: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self.name = name
        self.seen = seen
        self.on_start = on_start
        self.on_stop = on_stop

    async def start(self) -> None:
        if self.on_start is not None:
            await self.on_start()
        self.seen.append(f"{self.name} started")

    async def stop(self) -> None:
        if self.on_stop is not None:
            await self.on_stop()
        self.seen.append(f"{self.name} stopped")


class Bench:
    """A process, what was seen of it, and its logs once it has ended."""

    def __init__(self, **settings: Any) -> None:
        self.process = Process("sample", RuntimeSettings(**({"drain_s": 5.0} | settings)))
        self.seen: list[str] = []
        self.lines: list[Any] = []

    def part(self, name: str, **behaviour: Callable[[], Awaitable[object]]) -> None:
        self.process.add(Part(name, self.seen, **behaviour), name)

    async def run(self, *, leave: bool = True) -> int:
        """Run, and begin to leave as soon as everything has started."""
        if leave:

            async def leave_now() -> None:
                self.process.leave("the test says so")

            self.process.add(Part("trigger", [], on_start=leave_now), "trigger")
        with capture_logs() as self.lines:
            async with asyncio.timeout(10):
                return await self.process.run()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not holds():  # noqa: ASYNC110 - the process tells nobody else
                await asyncio.sleep(0.001)

    def logged(self, event: str) -> bool:
        return any(line["event"] == event for line in self.lines)

    def event(self, name: str) -> dict[str, Any]:
        (line,) = [line for line in self.lines if line["event"] == name]
        return dict(line)


async def fail() -> None:
    raise OSError("no\nroute")


async def hang() -> None:
    await asyncio.Event().wait()


async def test_components_start_in_order_and_stop_in_the_opposite_one() -> None:
    bench = Bench()
    for name in ("store", "bus", "server"):
        bench.part(name)
    assert await bench.run() == 0
    assert bench.seen == [
        "store started",
        "bus started",
        "server started",
        "server stopped",
        "bus stopped",
        "store stopped",
    ]


async def test_readiness_is_true_only_between_the_start_and_the_first_stop() -> None:
    bench = Bench()
    readiness = bench.process.readiness
    at: dict[str, bool] = {}

    async def note_start() -> None:
        at["starting"] = readiness.ready

    async def note_stop() -> None:
        at["stopping"] = readiness.ready

    bench.part("part", on_start=note_start, on_stop=note_stop)
    running = asyncio.ensure_future(bench.run(leave=False))
    await bench.until(lambda: readiness.ready)
    bench.process.leave("now")
    assert await running == 0
    assert at == {"starting": False, "stopping": False}


async def test_a_failed_start_is_one_line_and_stops_what_had_started() -> None:
    bench = Bench()
    bench.part("store")
    bench.part("server", on_start=fail)
    bench.part("never")
    assert await bench.run(leave=False) == 1
    assert bench.seen == ["store started", "store stopped"]
    line = bench.event("start_failed")
    assert line["message"] == "server did not start: no route"
    assert "exc_info" not in line


async def test_a_start_that_takes_too_long_is_a_failed_start() -> None:
    bench = Bench(start_timeout_s=0.02)
    bench.part("slow", on_start=hang)
    assert await bench.run(leave=False) == 1
    assert bench.event("start_failed")["message"] == "slow did not start within 0.02 s"


async def test_a_timeout_of_the_components_own_is_told_as_its_own() -> None:
    async def own_timeout() -> None:
        raise TimeoutError("the store did not answer")

    bench = Bench()
    bench.part("store", on_start=own_timeout)
    assert await bench.run(leave=False) == 1
    assert bench.event("start_failed")["message"] == "store did not start: the store did not answer"


async def test_leaving_while_starting_ends_the_start() -> None:
    bench = Bench()
    bench.part("store")

    async def told_to_leave() -> None:
        bench.process.leave("early")
        await hang()

    bench.part("slow", on_start=told_to_leave)
    assert await bench.run(leave=False) == 0
    assert bench.seen == ["store started", "store stopped"]


async def test_a_background_task_that_dies_ends_the_process_with_an_error() -> None:
    bench = Bench()
    bench.part("store")

    async def spawn() -> None:
        bench.process.tasks.spawn(fail(), "pump")

    bench.part("pump", on_start=spawn)
    assert await bench.run(leave=False) == 1
    assert "no\\nroute" in bench.event("process_failed")["message"]
    assert bench.seen[-2:] == ["pump stopped", "store stopped"]


async def test_background_tasks_outlive_the_components_and_are_then_stopped() -> None:
    bench = Bench()

    async def pump() -> None:
        try:
            await hang()
        finally:
            bench.seen.append("pump ended")

    async def spawn() -> None:
        bench.process.tasks.spawn(pump(), "pump")
        await asyncio.sleep(0)

    bench.part("server", on_start=spawn)
    assert await bench.run() == 0
    assert bench.seen == ["server started", "server stopped", "pump ended"]


async def test_a_group_of_tasks_is_stopped_in_its_turn() -> None:
    bench = Bench()

    async def pump() -> None:
        try:
            await hang()
        finally:
            bench.seen.append("pump ended")

    async def spawn() -> None:
        pumps.spawn(pump(), "pump")
        await asyncio.sleep(0)

    bench.part("store")
    pumps = bench.process.add_tasks("pumps")
    bench.part("server", on_start=spawn)
    assert await bench.run() == 0
    assert bench.seen[2:] == ["server stopped", "pump ended", "store stopped"]


async def test_a_task_of_a_group_that_dies_ends_the_process_with_an_error() -> None:
    bench = Bench()
    pumps = bench.process.add_tasks("pumps")

    async def spawn() -> None:
        pumps.spawn(fail(), "pump")

    bench.part("server", on_start=spawn)
    assert await bench.run(leave=False) == 1
    assert bench.logged("process_failed")


async def test_a_task_that_dies_while_the_process_leaves_is_an_error() -> None:
    bench = Bench()

    async def trip() -> None:
        try:
            await hang()
        finally:
            raise ValueError("on the way out")

    async def spawn() -> None:
        bench.process.tasks.spawn(trip(), "clumsy")
        await asyncio.sleep(0)

    bench.part("server", on_start=spawn)
    assert await bench.run() == 1
    assert bench.event("task_failed")["task"] == "clumsy"


async def test_a_stop_that_hangs_is_cut_and_does_not_keep_the_others_from_stopping() -> None:
    bench = Bench(drain_s=0.0)
    bench.part("store")
    bench.part("server", on_stop=hang)
    assert await bench.run() == 1
    assert bench.event("stop_timed_out")["component"] == "server"
    assert bench.seen[-1] == "store stopped"


async def test_each_stop_sees_what_is_left_of_the_drain_time() -> None:
    bench = Bench(drain_s=5.0)
    left: list[float] = []

    async def take_time() -> None:
        left.append(bench.process.drain_left_s())
        await asyncio.sleep(0.05)

    bench.part("store", on_stop=take_time)
    bench.part("server", on_stop=take_time)
    assert bench.process.drain_left_s() == 5.0
    assert await bench.run() == 0
    assert 4.5 < left[1] < left[0] - 0.04 < 5.0


async def test_a_stop_that_fails_is_logged_and_the_others_still_stop() -> None:
    bench = Bench()
    bench.part("store")
    bench.part("server", on_stop=fail)
    assert await bench.run() == 1
    assert bench.event("stop_failed")["component"] == "server"
    assert bench.seen[-1] == "store stopped"


async def test_a_task_that_nobody_owns_is_named_cancelled_and_an_error() -> None:
    bench = Bench()
    left: list[asyncio.Task[None]] = []

    async def leak() -> None:
        left.append(asyncio.get_running_loop().create_task(hang(), name="forgotten"))

    bench.part("leaky", on_start=leak)
    assert await bench.run() == 1
    line = bench.event("task_left_running")
    assert (line["task"], line["coroutine"]) == ("forgotten", "hang")
    assert left[0].cancelled()


async def test_what_is_there_already_is_stopped_even_when_the_start_fails() -> None:
    bench = Bench()

    async def close() -> None:
        bench.seen.append("channel closed")

    bench.part("server", on_start=fail)
    bench.process.on_stop(close, "channel")
    assert await bench.run(leave=False) == 1
    assert bench.seen == ["channel closed"]


async def test_the_notice_before_leaving_keeps_everything_up_but_unready() -> None:
    bench = Bench(drain_notice_s=0.05)
    bench.part("server")
    running = asyncio.ensure_future(bench.run())
    loop = asyncio.get_running_loop()
    await bench.until(lambda: bench.logged("process_leaving"))
    began = loop.time()
    assert bench.seen == ["server started"]
    assert not bench.process.readiness.ready
    assert await running == 0
    assert loop.time() - began >= 0.04
    assert bench.seen == ["server started", "server stopped"]


@pytest.mark.parametrize("reason", ["first", "second"])
async def test_telling_it_to_leave_twice_is_leaving_once(reason: str) -> None:
    bench = Bench()
    bench.part("server")

    async def twice() -> None:
        bench.process.leave(reason)
        bench.process.leave("again")

    bench.part("trigger", on_start=twice)
    assert await bench.run(leave=False) == 0
    assert bench.event("process_leaving")["reason"] == reason
