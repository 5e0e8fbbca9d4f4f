"""The life of a process: start in order, serve, leave in the opposite order, and leave nothing behind.

    starting ──▶ serving ──▶ leaving ──▶ gone
        │            │           ▲
        └────────────┴───────────┘   SIGTERM, SIGINT, a failed start, a background task that died

It exits 0 after a signal, and 1 when something failed to start, died, did not stop in its time, or left a
task running. The same code runs one service per process and all of them in one: a `Process` is a list of
components.
"""

import asyncio
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

import uvloop
from prometheus_client import CollectorRegistry

from services.runtime import log as runtime_log
from services.runtime.admin import AdminServer, Readiness
from services.runtime.clock import Clock, SystemClock
from services.runtime.config import RuntimeSettings
from services.runtime.loop_lag import LoopLag
from services.runtime.metrics import Metrics
from services.runtime.server import GrpcServer
from services.runtime.tasks import Tasks

# What each component gets beyond drain_s: enough to cut what did not end by then, and to close a socket.
CLOSE_S: Final = 1.0

# Tasks that are just ending (a closed connection's reader) get this long before they count as left behind.
SETTLE_S: Final = 0.25

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

_log = runtime_log.logger(__name__)


class Component(Protocol):
    """Something with a life. `stop` is called once, and only after `start` succeeded."""

    async def start(self) -> object: ...

    async def stop(self) -> object: ...


@dataclass(slots=True)
class _Part:
    name: str
    component: Component
    live: bool = False
    """There is something to stop."""


class StartFailed(Exception):
    """A component did not start; the text is for the operator and names the component."""


class Process:
    """Holds the components, the background tasks, the readiness and the metrics of one process.

    `build` functions add components in the order in which they start. Everything started is stopped, in the
    opposite order, whatever happens in between.
    """

    def __init__(self, name: str, settings: RuntimeSettings, *, clock: Clock | None = None) -> None:
        self.name = name
        self.settings = settings
        self.clock = clock or SystemClock()
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        self.readiness = Readiness()
        self.tasks = Tasks()
        self._parts: list[_Part] = []
        self._leave = asyncio.Event()
        self._broken = False
        self._drain_ends: float | None = None
        self._not_ours: set[asyncio.Task[Any]] = set()

    def add(self, component: Component, name: str) -> None:
        self._parts.append(_Part(name, component))

    def on_stop(self, stop: Callable[[], Awaitable[object]], name: str) -> None:
        """A component that is there already: `process.on_stop(channel.close, "channel")`.

        It is stopped in its turn, also when something before or after it does not start.
        """
        self._parts.append(_Part(name, _OnStop(stop), live=True))

    def add_server(self, server: GrpcServer, name: str) -> None:
        """A gRPC server: when its turn comes, running calls get what is left of the drain time."""
        self._parts.append(_Part(name, _Server(server, self.drain_left_s)))

    def add_tasks(self, name: str) -> Tasks:
        """Background tasks that are stopped in their turn (`self.tasks` end last, when everything is closed).

        One that dies ends the process, as with `self.tasks`.
        """
        group = Tasks(parent=self.tasks)
        self.on_stop(group.stop, name)
        return group

    def drain_left_s(self) -> float:
        """What is left of `drain_s`; all of it until the process begins to leave."""
        if self._drain_ends is None:
            return self.settings.drain_s
        return max(0.0, self._drain_ends - time.monotonic())

    def add_admin(self) -> AdminServer:
        """The admin port as the settings say, with the metrics of the process and of its event loop."""
        self.metrics.process_metrics()
        self.add(LoopLag(self.metrics), "loop_lag")
        admin = AdminServer(self.settings.admin_host, self.settings.admin_port, self.registry, self.readiness)
        self.add(admin, "admin")
        return admin

    def leave(self, reason: str) -> None:
        """Begin to leave, as a signal does. Further calls change nothing."""
        if not self._leave.is_set():
            _log.info("process_leaving", reason=reason)
            self._leave.set()

    async def run(self) -> int:
        """Live, and return the exit code. Signals are listened to where the loop is that of the main thread."""
        loop = asyncio.get_running_loop()
        self._not_ours = asyncio.all_tasks()
        former = loop.get_exception_handler()
        loop.set_exception_handler(self._loop_error)
        signals = SIGNALS if threading.current_thread() is threading.main_thread() else ()
        for number in signals:
            loop.add_signal_handler(number, self.leave, number.name)
        try:
            await self._live()
        finally:
            for number in signals:
                loop.remove_signal_handler(number)
            loop.set_exception_handler(former)
        _log.info("process_ended", exit_code=int(self._broken))
        return int(self._broken)

    async def _live(self) -> None:
        leaving = asyncio.ensure_future(self._leave.wait())
        failed = asyncio.ensure_future(self.tasks.failed.wait())
        starting = asyncio.ensure_future(self._start_all())
        try:
            await asyncio.wait({starting, leaving, failed}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                if not self._leave.is_set():
                    self.readiness.set(True)
                    _log.info("process_ready", components=[part.name for part in self._parts])
                await asyncio.wait({leaving, failed}, return_when=asyncio.FIRST_COMPLETED)
        except StartFailed as error:
            self._broken = True
            _log.error("start_failed", message=str(error))
        finally:
            if self.tasks.failed.is_set():
                self._broken = True
                _log.error("process_failed", message=f"a background task died: {self.tasks.failure!r}")
            await _cancelled(starting, leaving, failed)
            await self._stop_all()

    async def _start_all(self) -> None:
        for part in self._parts:
            began = time.monotonic()
            try:
                async with asyncio.timeout(self.settings.start_timeout_s):
                    await part.component.start()
            except TimeoutError as error:
                if time.monotonic() - began < self.settings.start_timeout_s:
                    raise StartFailed(f"{part.name} did not start: {_line(error)}") from error
                limit_s = self.settings.start_timeout_s
                raise StartFailed(f"{part.name} did not start within {limit_s:g} s") from error
            except Exception as error:
                raise StartFailed(f"{part.name} did not start: {_line(error)}") from error
            part.live = True

    async def _stop_all(self) -> None:
        self.readiness.set(False)
        self._drain_ends = time.monotonic() + self.settings.drain_s
        if not self._broken:
            await asyncio.sleep(min(self.settings.drain_notice_s, self.settings.drain_s))
        for part in reversed(self._parts):
            if part.live:
                part.live = False
                await self._stop(part.name, part.component.stop)
        await self._stop("tasks", self.tasks.stop)
        self._broken = self._broken or self.tasks.failed.is_set()
        await self._sweep()

    async def _stop(self, name: str, stop: Callable[[], Awaitable[object]]) -> None:
        allowed_s = self.drain_left_s() + CLOSE_S
        try:
            async with asyncio.timeout(allowed_s):
                await stop()
        except TimeoutError:
            self._broken = True
            _log.error("stop_timed_out", component=name, allowed_s=round(allowed_s, 1))
        except Exception:
            self._broken = True
            _log.exception("stop_failed", component=name)

    async def _sweep(self) -> None:
        """Nothing may be left running: what is, is a bug, and is named."""
        left = await self._left_over()
        for task in left:
            self._broken = True
            _log.error("task_left_running", task=task.get_name(), coroutine=_qualified_name(task))
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=CLOSE_S)

    async def _left_over(self) -> set[asyncio.Task[Any]]:
        """What still runs after `SETTLE_S` and did not run before us."""
        ends = time.monotonic() + SETTLE_S
        while True:
            left = {task for task in asyncio.all_tasks() - self._not_ours if task is not asyncio.current_task()}
            if not left or time.monotonic() > ends:
                return left
            await asyncio.sleep(0.01)

    def _loop_error(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What nobody awaited or caught. Heard, but a stray callback is no reason to end."""
        _log.error("loop_error", message=context.get("message", ""), exc_info=context.get("exception"))


class _OnStop:
    def __init__(self, stop: Callable[[], Awaitable[object]]) -> None:
        self._stop = stop

    async def start(self) -> None:
        return None

    async def stop(self) -> None:
        await self._stop()


class _Server:
    def __init__(self, server: GrpcServer, grace_s: Callable[[], float]) -> None:
        self._server = server
        self._grace_s = grace_s

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        await self._server.drain(self._grace_s())


def install_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    """The loop factory of every process: `asyncio.Runner(loop_factory=install_loop())`."""
    return uvloop.new_event_loop


def run(
    name: str,
    settings: RuntimeSettings,
    build: Callable[[Process], Awaitable[None]],
    *,
    clock: Clock | None = None,
) -> int:
    """Configure the logs, build the process, live until told to leave; returns the exit code.

    `build` adds the components (of one service, or of all) and may await; it runs inside the event loop. An
    exception of `build` is a failed start.
    """
    runtime_log.configure(settings, name)

    async def live() -> int:
        process = Process(name, settings, clock=clock)
        process.add(_Build(build, process), "build")
        return await process.run()

    with asyncio.Runner(loop_factory=install_loop()) as runner:
        return runner.run(live())


class _Build:
    """The first part of every process: it adds the others. Those are appended while the list is walked."""

    def __init__(self, build: Callable[[Process], Awaitable[None]], process: Process) -> None:
        self._build = build
        self._process = process

    async def start(self) -> None:
        await self._build(self._process)

    async def stop(self) -> None:
        return None


def _line(error: BaseException) -> str:
    """The error in one line."""
    text = " ".join(str(error).split())
    return text or type(error).__name__


def _qualified_name(task: asyncio.Task[Any]) -> str:
    return getattr(task.get_coro(), "__qualname__", repr(task))


async def _cancelled(*futures: "asyncio.Future[Any]") -> None:
    for future in futures:
        future.cancel()
    for future in futures:
        with suppress(asyncio.CancelledError, Exception):
            await future
