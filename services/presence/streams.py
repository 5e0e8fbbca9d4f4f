"""One edge's watch stream on this replica: what waits to be told, at most one value for each watched user.

A snapshot goes at once. Changes are coalesced: they leave in rounds, the first at once and then one every `coalesce`,
and a user who changed several times in between is told once, as it is then. So an edge that does not keep up gets fewer
and later updates, and nothing piles up.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from services.presence.model import Presence, UserId

# One write; some 40 KB.
_MAX_PRESENCES = 1_000


@dataclass(frozen=True, slots=True)
class Update:
    presences: Sequence[Presence]
    report_needed: bool


class WatchStream:
    """One reader (`take`), many writers (`push_…`, which never wait). Hashable by identity."""

    def __init__(self, *, coalesce_s: float) -> None:
        self.is_closed = False
        # Whom it watches; `watches` keeps it.
        self.watched: set[UserId] = set()
        self._coalesce_s = coalesce_s
        # To be told now, and in the next round; a user is in one of them.
        self._ready: dict[UserId, Presence] = {}
        self._changes: dict[UserId, Presence] = {}
        self._next_round = 0.0
        self._report_needed = False
        self._news = asyncio.Event()

    def push_snapshot(self, presence: Presence) -> None:
        self._changes.pop(presence.user_id, None)
        self._ready[presence.user_id] = presence
        self._news.set()

    def push_change(self, presence: Presence) -> None:
        waiting = self._ready if presence.user_id in self._ready else self._changes
        waiting[presence.user_id] = presence
        self._news.set()

    def forget(self, user_id: UserId) -> None:
        self._ready.pop(user_id, None)
        self._changes.pop(user_id, None)

    def ask_for_report(self) -> None:
        self._report_needed = True
        self._news.set()

    async def take(self) -> Update | None:
        """What is to be told now, at most 1,000 users; waits for something. None: the stream is closed."""
        loop = asyncio.get_running_loop()
        while not self.is_closed:
            left_s = self._next_round - loop.time()
            if self._changes and left_s <= 0:
                self._ready |= self._changes
                self._changes.clear()
                self._next_round = loop.time() + self._coalesce_s
            if self._ready or self._report_needed:
                return self._take_ready()
            self._news.clear()
            try:
                async with asyncio.timeout(left_s if self._changes else None):
                    await self._news.wait()
            except TimeoutError:
                continue
        return None

    def close(self) -> None:
        """Idempotent."""
        self.is_closed = True
        self._ready.clear()
        self._changes.clear()
        self._news.set()

    def _take_ready(self) -> Update:
        users = list(islice(self._ready, _MAX_PRESENCES))
        update = Update([self._ready.pop(user_id) for user_id in users], self._report_needed)
        self._report_needed = False
        return update
