"""Reading presence: whoever asks at the same time shares a round trip."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.presence import machine
from services.presence.errors import StoreUnavailable
from services.presence.model import Presence, Status, UserId
from services.presence.store import PresenceStore
from services.runtime.batching import Batcher
from services.runtime.errors import Unavailable
from services.runtime.metrics import Metrics

# Users of one round trip, unless a single query has more; and queries that wait.
_MAX_USERS = 2_000
_MAX_WAITING = 5_000
_MAX_IN_FLIGHT = 2

_Answer = asyncio.Future[Mapping[UserId, Presence]]


@dataclass(frozen=True, slots=True)
class _Query:
    user_ids: Sequence[UserId]
    answer: _Answer


class Reads:
    def __init__(self, store: PresenceStore, *, grace_ms: int, metrics: Metrics) -> None:
        self._store = store
        self._grace_ms = grace_ms
        self._queries = Batcher[_Query](
            self._flush,
            failed=_fail,
            max_items=_MAX_USERS,
            max_waiting=_MAX_WAITING,
            max_in_flight=_MAX_IN_FLIGHT,
            max_weight=_MAX_USERS,
            weigh=lambda query: len(query.user_ids),
        )
        self._read = metrics.counter("presence_users_read", "Users read for a caller.", labels=("outcome",))

    async def close(self) -> None:
        await self._queries.close()

    async def read(self, user_ids: Sequence[UserId]) -> Mapping[UserId, Presence]:
        """
        Raises:
            Unavailable: the store is away, or too much waits for it; nothing is known.
        """
        answer: _Answer = asyncio.get_running_loop().create_future()
        self._queries.submit(_Query(user_ids, answer))
        return await answer

    async def get(self, user_ids: Sequence[UserId]) -> Sequence[Presence]:
        """In that order; all UNKNOWN where the store is away."""
        try:
            found = await self.read(user_ids)
        except Unavailable:
            self._read.labels("unknown").inc(len(user_ids))
            return [Presence(user_id, Status.UNKNOWN) for user_id in user_ids]
        self._read.labels("found").inc(len(user_ids))
        return [found[user_id] for user_id in user_ids]

    async def _flush(self, queries: list[_Query]) -> None:
        wanted = dict.fromkeys(user_id for query in queries for user_id in query.user_ids)
        try:
            loaded = await self._store.load(list(wanted))
        except StoreUnavailable as error:
            _fail(queries, error)
            return
        found: dict[UserId, Presence] = {}
        for user_id, record in loaded.users.items():
            status = machine.shown(record.state, loaded.now_ms, is_settled=loaded.is_settled, grace_ms=self._grace_ms)
            found[user_id] = Presence(user_id, status, record.last_active_ms)
        for query in queries:
            if not query.answer.done():
                query.answer.set_result(found)


def _fail(queries: Sequence[_Query], error: Exception) -> None:
    for query in queries:
        if not query.answer.done():
            query.answer.set_exception(error)
