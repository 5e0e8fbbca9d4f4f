"""Background tasks that somebody owns: none is forgotten, none dies unheard."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from structlog.typing import FilteringBoundLogger

from services.runtime import log as runtime_log


def is_being_cancelled() -> bool:
    """Whether a CancelledError in this task means this task: libraries also raise it into what waits on them."""
    task = asyncio.current_task()
    return task is not None and bool(task.cancelling())


class Tasks:
    """A set of running tasks. One that ends by itself is done; one that raises is logged and is the
    `failure`.

    Whoever owns the set waits for `failed` (a `Process` does, and ends) and calls `stop`. A failure is also that
    of the `parent`, so that one waiter hears of all.
    """

    def __init__(self, *, parent: "Tasks | None" = None, logger: FilteringBoundLogger | None = None) -> None:
        self._log = logger or runtime_log.logger(__name__)
        self._parent = parent
        self._running: set[asyncio.Task[Any]] = set()
        self._stopping = False
        self.failed = asyncio.Event()
        self.failure: BaseException | None = None
        """The first exception that ended a task."""

    def __len__(self) -> int:
        return len(self._running)

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Start a task that this set owns.

        After `stop` began the coroutine is closed and RuntimeError raised.
        """
        if self._stopping:
            coro.close()
            raise RuntimeError(f"no task may start any more: {name}")
        task = asyncio.get_running_loop().create_task(coro, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def stop(self) -> None:
        """Cancel what runs and wait until it has ended. Unbounded: the owner bounds it."""
        self._stopping = True
        while self._running:
            running = tuple(self._running)
            for task in running:
                task.cancel()
            await asyncio.wait(running)
            await asyncio.sleep(0)  # lets the done callbacks run

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        self._log.error("task_failed", task=task.get_name(), exc_info=error)
        self._note(error)

    def _note(self, error: BaseException) -> None:
        if self.failure is None:
            self.failure = error
        self.failed.set()
        if self._parent is not None:
            self._parent._note(error)
