"""Batch while busy (group commit): one reusable piece for each costly hop.

Nothing waits on a timer. The first item goes at once; what arrives while it is under way leaves together in the next
batch. An idle system thus adds no latency, and a busy one makes its batches as large as they need to be.

`Batcher` is one queue. `LaneBatcher` keeps lanes: items of one lane (say, one log) never stand in two batches under
way and never overtake each other, whatever happens to their target in between; lanes are grouped by where they go (a
replica), so that one slow target holds up nobody else's.

Both are bounded: by waiting items (`submit` refuses beyond), by items and by weight for each batch, and by batches
under way. Flushing runs in tasks that the batcher owns; whoever submitted may go away. `close` waits for all of it.

Source: design.md, "Batch while busy", with the measurements that led to it.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence
from functools import partial
from typing import Generic, TypeVar

from services.runtime.errors import Unavailable
from services.runtime.log import logger

Item = TypeVar("Item")
Group = TypeVar("Group", bound=Hashable)

# What a refused caller is told: long enough for a few batches, short enough not to idle.
_FULL_RETRY_MS = 250

_log = logger(__name__)


class QueueFull(Unavailable):
    """More waits than this process is willing to remember: try again shortly."""

    template = "too much is waiting here: try again shortly"


class FlushCancelled(Unavailable):
    """What a flush waited for was cancelled under it (a channel that was closed, say): the outcome is unknown."""

    template = "cut short: the outcome is unknown"


def _weightless(_item: object) -> int:
    return 0


class _Workers:
    """The tasks that flush, and the waiting for them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self.closed = False

    def start(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        self.closed = True
        while self._tasks:
            await asyncio.wait(self._tasks)


async def _run(
    flush: Callable[[list[Item]], Awaitable[None]],
    batch: list[Item],
    failed: Callable[[Sequence[Item], Exception], None],
) -> None:
    """One flush. Raises nothing (but the worker's own cancellation): what waits behind must go on in any case."""
    try:
        await flush(batch)
    except asyncio.CancelledError:
        _tell(failed, batch, FlushCancelled(retry_after_ms=_FULL_RETRY_MS))
        worker = asyncio.current_task()
        if worker is not None and worker.cancelling():
            raise
    except Exception as error:
        _tell(failed, batch, error)


def _tell(failed: Callable[[Sequence[Item], Exception], None], batch: list[Item], error: Exception) -> None:
    try:
        failed(batch, error)
    except Exception:
        _log.exception("batch_left_unsettled", items=len(batch))


class Batcher(Generic[Item]):
    """One queue, in order; with `max_in_flight` 1 (the default) batches do not overtake each other either.

    Args:
        flush: sends one batch. It settles every item of the batch itself (an answer or a refusal) and does not
            raise; if it does raise, that is a bug, and `failed` settles the batch.
        failed: settles the items of a batch whose `flush` raised or was cancelled (`FlushCancelled`).
        max_items: items in one batch.
        max_weight: the sum of `weigh` over one batch stays within it, unless a single item is heavier.
        max_waiting: items not yet in a batch.
        max_in_flight: batches under way.
    """

    def __init__(
        self,
        flush: Callable[[list[Item]], Awaitable[None]],
        *,
        failed: Callable[[Sequence[Item], Exception], None],
        max_items: int,
        max_waiting: int,
        max_in_flight: int = 1,
        max_weight: int = 1 << 62,
        weigh: Callable[[Item], int] = _weightless,
    ) -> None:
        self._flush = flush
        self._failed = failed
        self._max_items = max_items
        self._max_waiting = max_waiting
        self._max_in_flight = max_in_flight
        self._max_weight = max_weight
        self._weigh = weigh
        self._queue: deque[Item] = deque()
        self._under_way = 0
        self._workers = _Workers()

    @property
    def waiting(self) -> int:
        """Items that are not yet in a batch."""
        return len(self._queue)

    def submit(self, item: Item) -> None:
        """Takes responsibility for `item`; it will be in exactly one call of `flush`.

        Raises:
            QueueFull: `max_waiting` items wait already, or the batcher is closed; the item was not taken.
        """
        if len(self._queue) >= self._max_waiting or self._workers.closed:
            raise QueueFull(retry_after_ms=_FULL_RETRY_MS)
        self._queue.append(item)
        if self._under_way < self._max_in_flight:
            self._under_way += 1
            self._workers.start(self._work())

    async def close(self) -> None:
        """Takes nothing more and waits until everything taken has been settled."""
        await self._workers.close()

    async def _work(self) -> None:
        try:
            while self._queue:
                await _run(self._flush, self._take(), self._failed)
        finally:
            self._under_way -= 1

    def _take(self) -> list[Item]:
        batch: list[Item] = []
        weight_room = self._max_weight
        while self._queue and len(batch) < self._max_items:
            weight_room -= self._weigh(self._queue[0])
            if batch and weight_room < 0:
                break
            batch.append(self._queue.popleft())
        return batch


class LaneBatcher(Generic[Item, Group]):
    """Items in lanes, lanes in groups.

    Arguments as for `Batcher`, but:
        flush: gets the group and the batch.
        lane_of: an item's lane. Order holds within a lane.
        group_of: where an item's lane goes just now; asked each time that the lane becomes ready. Does not raise.
        max_waiting: over all lanes.
        max_in_flight: for each group.
    """

    def __init__(
        self,
        flush: Callable[[Group, list[Item]], Awaitable[None]],
        *,
        failed: Callable[[Sequence[Item], Exception], None],
        lane_of: Callable[[Item], Hashable],
        group_of: Callable[[Item], Group],
        max_items: int,
        max_waiting: int,
        max_in_flight: int = 1,
        max_weight: int = 1 << 62,
        weigh: Callable[[Item], int] = _weightless,
    ) -> None:
        self._flush = flush
        self._failed = failed
        self._lane_of = lane_of
        self._group_of = group_of
        self._max_items = max_items
        self._max_weight = max_weight
        self._max_waiting = max_waiting
        self._max_in_flight = max_in_flight
        self._weigh = weigh
        # A lane is here while it has items or is under way, and in `_ready` only while it has items and is not.
        self._lanes: dict[Hashable, deque[Item]] = {}
        self._ready: dict[Group, deque[Hashable]] = {}
        self._under_way: dict[Group, int] = {}
        self._waiting = 0
        self._workers = _Workers()

    @property
    def waiting(self) -> int:
        """Items that are not yet in a batch."""
        return self._waiting

    def submit(self, item: Item) -> None:
        """Takes responsibility for `item`; it will be in exactly one call of `flush`.

        Raises:
            QueueFull: `max_waiting` items wait already, or the batcher is closed; the item was not taken.
        """
        if self._waiting >= self._max_waiting or self._workers.closed:
            raise QueueFull(retry_after_ms=_FULL_RETRY_MS)
        key = self._lane_of(item)
        lane = self._lanes.get(key)
        if lane is None:
            self._make_ready(key, self._group_of(item))
            self._lanes[key] = deque((item,))
        else:
            lane.append(item)  # ready or under way already: a worker will come to it
        self._waiting += 1

    async def close(self) -> None:
        """Takes nothing more and waits until everything taken has been settled."""
        await self._workers.close()

    def _make_ready(self, key: Hashable, group: Group) -> None:
        self._ready.setdefault(group, deque()).append(key)
        under_way = self._under_way.get(group, 0)
        if under_way < self._max_in_flight:
            self._under_way[group] = under_way + 1
            self._workers.start(self._work(group))

    async def _work(self, group: Group) -> None:
        try:
            while self._ready.get(group):
                keys, batch = self._take(self._ready[group])
                await _run(partial(self._flush, group), batch, self._failed)
                self._release(keys)
        finally:
            self._under_way[group] -= 1
            if not self._under_way[group]:  # groups come and go (replicas do): leave nothing behind
                del self._under_way[group]
                self._ready.pop(group, None)

    def _take(self, ready: deque[Hashable]) -> tuple[list[Hashable], list[Item]]:
        keys: list[Hashable] = []
        batch: list[Item] = []
        weight_room = self._max_weight
        while ready and len(batch) < self._max_items:
            lane = self._lanes[ready[0]]
            weight_room -= self._weigh(lane[0])
            if batch and weight_room < 0:
                break
            keys.append(ready.popleft())
            batch.append(lane.popleft())
            while lane and len(batch) < self._max_items:
                weight_room -= self._weigh(lane[0])
                if weight_room < 0:
                    break
                batch.append(lane.popleft())
        self._waiting -= len(batch)
        return keys, batch

    def _release(self, keys: list[Hashable]) -> None:
        for key in keys:
            lane = self._lanes[key]
            if lane:
                self._make_ready(key, self._group_of(lane[0]))
            else:
                del self._lanes[key]
