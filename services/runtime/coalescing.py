"""Coalescing: one value for each key, merged while it waits, sent in batches at a bounded pace.

For what is worth telling late but not often: watermarks, activity. The first value goes at once; what comes meanwhile
is merged and goes after the pace. What could not be sent waits, merged with what is newer, until it can. Memory is
bounded by the keys; a new key beyond the bound is refused, and the caller decides what that means.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Hashable, Mapping
from itertools import islice
from typing import Generic, TypeVar

from services.runtime.errors import ServiceError
from services.runtime.log import logger
from services.runtime.tasks import is_being_cancelled

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

_log = logger(__name__)


class Coalescer(Generic[Key, Value]):
    """A component with one task, which flushes.

    Args:
        flush: sends one batch. A `ServiceError` means that some of it may not have arrived: all of it comes again.
        merge: of a value that waits and a later one.
        max_keys: keys that wait.
        max_batch: keys in one flush.
        pace_s: from the end of one flush to the next.
        retry_s: the same after one that failed; half of it or more, drawn by chance.
    """

    def __init__(
        self,
        name: str,
        flush: Callable[[Mapping[Key, Value]], Awaitable[None]],
        *,
        merge: Callable[[Value, Value], Value],
        max_keys: int,
        max_batch: int,
        pace_s: float,
        retry_s: float,
    ) -> None:
        self._name = name
        self._flush = flush
        self._merge = merge
        self._max_keys = max_keys
        self._max_batch = max_batch
        self._pace_s = pace_s
        self._retry_s = retry_s
        self._waiting: dict[Key, Value] = {}
        self._news = asyncio.Event()
        self._flushing: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Keys that wait."""
        return len(self._waiting)

    def put(self, key: Key, value: Value) -> bool:
        """False: there is no room for a further key, and nothing was taken."""
        known = self._waiting.get(key)
        if known is not None:
            self._waiting[key] = self._merge(known, value)
            return True
        if len(self._waiting) >= self._max_keys:
            return False
        self._waiting[key] = value
        self._news.set()
        return True

    async def start(self) -> None:
        self._flushing = asyncio.get_running_loop().create_task(self._flush_for_ever(), name=self._name)

    async def stop(self) -> None:
        """Sends what waits, once; what fails then is dropped."""
        if self._flushing is not None:
            self._flushing.cancel()
            await asyncio.wait((self._flushing,))
        while self._waiting:
            if not await self._flush_some():
                return

    async def _flush_for_ever(self) -> None:
        while True:
            self._news.clear()
            if not self._waiting:
                await self._news.wait()
            if await self._flush_some():
                await asyncio.sleep(self._pace_s)
            else:
                await asyncio.sleep(random.uniform(self._retry_s / 2, self._retry_s))

    async def _flush_some(self) -> bool:
        """Whether it arrived."""
        batch = dict(islice(self._waiting.items(), self._max_batch))
        for key in batch:
            del self._waiting[key]
        try:
            await self._flush(batch)
        except ServiceError:
            self._put_back(batch)
            return False
        except asyncio.CancelledError:  # whether it arrived is not known
            self._put_back(batch)
            if is_being_cancelled():
                raise
            return False
        except Exception:  # a bug: the same again would fail again
            _log.exception("coalesced_dropped", name=self._name, items=len(batch))
        return True

    def _put_back(self, batch: Mapping[Key, Value]) -> None:
        for key, value in batch.items():
            newer = self._waiting.get(key)
            self._waiting[key] = value if newer is None else self._merge(value, newer)
