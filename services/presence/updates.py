"""Changing users: load, let `machine` decide, commit; again for those that somebody else changed meanwhile."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from itertools import islice

from services.presence import machine
from services.presence.errors import Contended, Superseded
from services.presence.machine import Event, TimePassed
from services.presence.model import Presence, UserId
from services.presence.store import Change, Loaded, Origin, PresenceStore
from services.runtime.metrics import Metrics

# Users in one round: some 10 ms of this process's time and 2 ms of the store's.
_MAX_USERS = 500
# A conflict needs somebody else who changes the same user within the milliseconds between load and commit. Each round
# somebody succeeds.
_MAX_ROUNDS = 10
_PAUSE_S = 0.02


class Updates:
    def __init__(self, store: PresenceStore, *, grace_ms: int, metrics: Metrics) -> None:
        self._store = store
        self._grace_ms = grace_ms
        self._conflicts = metrics.counter("presence_conflicts", "Users loaded again because somebody else was faster.")
        self._announced = metrics.counter("presence_announcements", "Changes announced.", labels=("status",))

    async def let_time_pass(self, user_ids: Sequence[UserId]) -> None:
        """Ends the grace of those that are due; of nobody is it due afterwards, unless something happened to them.

        Raises:
            Contended, StoreUnavailable: see `apply`.
        """
        await self._apply_part(dict.fromkeys(user_ids, (TimePassed(),)), None, even_unchanged=True)

    async def apply(self, events: Mapping[UserId, Sequence[Event]], origin: Origin) -> None:
        """Applies each user's events in order. Announces what others see differently afterwards.

        Raises:
            Superseded: the origin has reported something later; a part may have been applied.
            Contended: a part may have been applied.
            StoreUnavailable: likewise.
        """
        left = iter(events.items())
        while part := dict(islice(left, _MAX_USERS)):
            # What ends an edge is made of everybody whom it is said to have, also where the user knows nothing of it.
            await self._apply_part(part, origin, even_unchanged=origin.is_ending)

    async def _apply_part(
        self, events: Mapping[UserId, Sequence[Event]], origin: Origin | None, *, even_unchanged: bool = False
    ) -> None:
        for _ in range(_MAX_ROUNDS):
            loaded = await self._store.load(list(events))
            changes = self._changes(events, loaded, even_unchanged=even_unchanged)
            outcome = await self._store.commit(changes, list(events), origin)
            for change in changes:
                if change.announced is not None and change.user_id not in outcome.conflicts:
                    self._announced.labels(change.announced.status).inc()
            if outcome.superseded:
                raise Superseded
            if not outcome.conflicts:
                return
            self._conflicts.inc(len(outcome.conflicts))
            events = {user_id: of_user for user_id, of_user in events.items() if user_id in outcome.conflicts}
            await asyncio.sleep(random.uniform(0, _PAUSE_S))
        raise Contended(retry_after_ms=0)

    def _changes(
        self, events: Mapping[UserId, Sequence[Event]], loaded: Loaded, *, even_unchanged: bool
    ) -> Sequence[Change]:
        changes: list[Change] = []
        for user_id, of_user in events.items():
            before = loaded.users[user_id]
            after = machine.run(before.state, of_user, loaded.now_ms, grace_ms=self._grace_ms)
            if after is before.state and not even_unchanged:
                continue
            standing = machine.standing(after)
            announced = None
            if standing is not machine.standing(before.state):
                announced = Presence(user_id, standing, before.last_active_ms)
            changes.append(Change(user_id, before, after, announced))
        return changes
