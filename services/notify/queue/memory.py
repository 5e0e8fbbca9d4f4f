"""The queue inside one process: the embedded default, and what tests use. Everything in it ends with the process.

Bounded: beyond `_MAX_WAITING` jobs it refuses new ones, as a broker does that is full. Not for threads.
"""

import asyncio
from collections import deque
from collections.abc import Collection, Sequence

from services.notify.errors import QueueUnavailable
from services.notify.queue import (
    DEFAULT_OPTIONS,
    MAX_DEAD,
    NO_DELAY,
    Arrived,
    DeadLetter,
    Handler,
    Outgoing,
    QueueOptions,
    settle,
)
from services.notify.queue.handling import judge
from services.runtime.clock import Clock, SystemClock

# Some 100 MB of the largest jobs that are usual.
_MAX_WAITING = 100_000
_RETRY_AFTER_MS = 500


class MemoryQueue:
    """See `services.notify.queue.Queue`."""

    def __init__(
        self, options: QueueOptions = DEFAULT_OPTIONS, *, clock: Clock | None = None, max_waiting: int = _MAX_WAITING
    ) -> None:
        self._options = options
        self._clock = clock or SystemClock()
        self._max_waiting = max_waiting
        self._ready: deque[Outgoing] = deque()
        self._delayed: set[asyncio.TimerHandle] = set()
        self._dead: deque[DeadLetter] = deque(maxlen=MAX_DEAD)
        self._handling: set[asyncio.Task[None]] = set()
        self._handler: Handler | None = None
        self._is_open = False

    @property
    def is_connected(self) -> bool:
        return self._is_open

    async def start(self) -> None:
        self._is_open = True

    async def close(self) -> None:
        self._is_open = False
        for timer in self._delayed:
            timer.cancel()
        self._delayed.clear()
        if self._handling:
            _, late = await asyncio.wait(self._handling, timeout=self._options.stop_grace.total_seconds())
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    async def consume(self, handler: Handler) -> None:
        self._handler = handler
        self._start_more()

    async def publish(self, jobs: Sequence[Outgoing]) -> None:
        if not self._is_open or len(self._ready) + len(self._delayed) + len(jobs) > self._max_waiting:
            raise QueueUnavailable(retry_after_ms=_RETRY_AFTER_MS)
        for job in jobs:
            self._put(job)

    async def list_dead(self, *, limit: int) -> Sequence[DeadLetter]:
        return list(self._dead)[:limit]

    async def replay_dead(self, job_ids: Collection[str]) -> int:
        chosen = [letter for letter in self._dead if not job_ids or letter.job_id in job_ids]
        await self.publish([Outgoing(letter.job_id, letter.body) for letter in chosen])
        for letter in chosen:
            self._dead.remove(letter)
        return len(chosen)

    def _put(self, job: Outgoing) -> None:
        """Past the bound of `publish`: what was taken once is not refused for its further tries."""
        if job.delay <= NO_DELAY:
            self._ready.append(job)
            self._start_more()
            return

        def due() -> None:
            self._delayed.discard(timer)
            self._ready.append(job)
            self._start_more()

        seconds = self._options.level(job.delay).total_seconds()
        timer = asyncio.get_running_loop().call_later(seconds, due)
        self._delayed.add(timer)

    def _start_more(self) -> None:
        while self._is_open and self._handler and self._ready and len(self._handling) < self._options.prefetch:
            task = asyncio.get_running_loop().create_task(self._handle(self._handler, self._ready.popleft()))
            self._handling.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._handling.discard(task)
        self._start_more()

    async def _handle(self, handler: Handler, job: Outgoing) -> None:
        arrived = Arrived(job.job_id, job.body, job.tries)
        follows = settle(arrived, await judge(handler, arrived), self._options, now_ms=self._clock.time_ms())
        if isinstance(follows, DeadLetter):
            self._dead.append(follows)
        elif follows is not None and self._is_open:
            self._put(follows)
