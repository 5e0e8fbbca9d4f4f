"""An event loop whose clock jumps to the next timer: hours pass in milliseconds, and always in the same way.

Owns virtual time and the grouping of tasks into processes that can be killed. Has no sockets, threads or signals of its
own: whatever waits for the outside world waits for ever, and is reported as a deadlock.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

from structlog import DropEvent
from structlog.typing import EventDict, WrappedLogger

# Cancelled tasks may need a few rounds (a task that waits for another one, which is cancelled too). More is a task that
# will not die.
_MAX_KILL_ROUNDS = 50

T = TypeVar("T")


class Deadlock(Exception):
    """Everybody waits and no timer is set: nothing will ever happen again."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` stands still while callbacks run, and jumps when there are none."""

    def __init__(self) -> None:
        self._now_s = 0.0
        super().__init__(_NoWaiting(self._pass_time))
        self.set_task_factory(_make_task)

    def time(self) -> float:
        return self._now_s

    def _pass_time(self, seconds: float) -> None:
        self._now_s += seconds


class _NoWaiting(selectors.BaseSelector):
    """Instead of waiting for a file, tells how long nobody needs to be woken."""

    def __init__(self, pass_time: Callable[[float], None]) -> None:
        self._pass_time = pass_time
        self._keys: dict[int, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        key = self._keys[fd] = selectors.SelectorKey(fileobj, fd, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj if isinstance(fileobj, int) else fileobj.fileno())

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Deadlock("everybody waits and no timer is set")
        if timeout > 0:
            self._pass_time(timeout)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


class SimProcess:
    """Tasks that die together. A task belongs to the process in whose context it was made."""

    def __init__(self) -> None:
        self.is_alive = True
        self.tasks: list[asyncio.Task[Any]] = []
        self.context: Context = copy_context()
        self.context.run(_process.set, self)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Starts a task inside the process, from outside."""
        loop = asyncio.get_running_loop()
        task: asyncio.Task[None] = self.context.run(loop.create_task, work)
        return task

    async def bury(self) -> None:
        """Ends what is left of a killed process. `is_alive` is False already, so nothing of what its tasks still do
        on their way out is heard by anybody."""
        assert not self.is_alive
        for _ in range(_MAX_KILL_ROUNDS):
            left = [task for task in self.tasks if not task.done()]
            if not left:
                self.find_unheard()
                return
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=1.0)
        raise AssertionError(f"tasks of a killed process do not end: {left}")

    def find_unheard(self) -> list[BaseException]:
        """What ended tasks and was looked at by nobody. asyncio tells of such only when it collects the task."""
        unheard = []
        for task in self.tasks:
            # Set while an exception has not been retrieved; there is no public way to ask.
            if task.done() and getattr(task, "_log_traceback"):  # noqa: B009
                error = task.exception()
                if error is not None:
                    unheard.append(error)
        return unheard


_process: ContextVar[SimProcess] = ContextVar("process")


def drop_from_the_dead(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """A processor of structlog: what a killed process would say on its way out is heard by nobody."""
    process = _process.get(None)
    if process is not None and not process.is_alive:
        raise DropEvent
    return event


def _make_task(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, T] | Generator[Any, None, T], **options: Any
) -> asyncio.Task[T]:
    task = asyncio.Task(coro, loop=loop, **options)
    process = _process.get(None)
    if process is not None:
        process.tasks.append(task)
    return task
