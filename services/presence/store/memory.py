"""The store of replicas that live in one process: the embedded default, and what tests use.

All stores of one name share their data, and lose it with the last of them. It decides by `machine`, as Redis does by
its scripts. One event loop: it is not for threads.
"""

import asyncio
import secrets
from collections.abc import Mapping, Sequence, Set
from itertools import islice

from services.presence import machine
from services.presence.machine import ABSENT, FINAL_SEQ, UserState, Verdict
from services.presence.model import EdgeId, Presence, Seq, UserId
from services.presence.store import (
    Admission,
    Change,
    Lease,
    Loaded,
    Origin,
    Outcome,
    Record,
    StoreListener,
    StoreTimes,
    Tick,
)
from services.runtime.clock import Clock
from services.runtime.wire import milliseconds


class _Data:
    """What the stores of one name share."""

    def __init__(self) -> None:
        self.stores: list[MemoryPresenceStore] = []
        self.forget()

    def forget(self) -> None:
        self.era = ""
        self.settles_ms = 0
        self.last_tick_ms: int | None = None
        self.claimed_until_ms = 0
        self.leases: dict[EdgeId, tuple[Seq, int]] = {}
        # Leases that were given back, and until when that is remembered.
        self.ended: dict[EdgeId, int] = {}
        # The latest report that took effect, and until when that is remembered (None: while the lease runs).
        self.fences: dict[EdgeId, tuple[Seq, int | None]] = {}
        self.users: dict[UserId, UserState] = {}
        self.on_edge: dict[EdgeId, set[UserId]] = {}
        self.due: dict[UserId, int] = {}
        # Oldest record first.
        self.activity: dict[UserId, tuple[int, int]] = {}


# Only a place known to the whole process can let those meet that were opened apart; an entry goes with its last store.
_shared: dict[str, _Data] = {}


class MemoryPresenceStore:
    """See `services.presence.store.PresenceStore`."""

    def __init__(self, name: str, *, times: StoreTimes, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        self._ttl_ms = milliseconds(times.lease_ttl)
        self._grace_ms = milliseconds(times.grace)
        self._settle_ms = milliseconds(times.settle)
        self._gap_ms = milliseconds(times.unattended)
        self._take_within_ms = milliseconds(times.take_within)
        self._claim_ms = milliseconds(times.tick * 0.9)
        self._activity_kept_ms = milliseconds(times.activity_kept)
        self._data = _Data()
        self._listener: StoreListener | None = None

    async def start(self, listener: StoreListener) -> None:
        self._data = _shared.setdefault(self._name, self._data)
        self._data.stores.append(self)
        self._listener = listener
        asyncio.get_running_loop().call_soon(listener.changes_were_missed)

    async def close(self) -> None:
        if self._listener is None:
            return
        self._listener = None
        self._data.stores.remove(self)
        if not self._data.stores:
            del _shared[self._name]

    def lose_everything(self) -> None:
        """As FLUSHALL does."""
        self._data.forget()

    # ---- Leases.

    async def tick(self) -> Tick:
        data, now_ms = self._data, self._clock.time_ms()
        if not data.era or machine.has_been_unattended(data.last_tick_ms, now_ms, gap_ms=self._gap_ms):
            data.era = secrets.token_hex(8)
            data.settles_ms = now_ms + self._settle_ms
        data.last_tick_ms = now_ms
        is_claimed = not now_ms < data.claimed_until_ms <= now_ms + self._claim_ms
        if is_claimed:
            data.claimed_until_ms = now_ms + self._claim_ms
        self._forget_old(now_ms)
        leases = [
            Lease(edge_id, seq, expires_ms, self._is_alive(expires_ms, now_ms))
            for edge_id, (seq, expires_ms) in data.leases.items()
        ]
        return Tick(now_ms, data.era, data.settles_ms, is_claimed, leases)

    async def admit(self, edge_id: EdgeId, seq: Seq, *, is_full: bool) -> Admission:
        now_ms = self._clock.time_ms()
        last_seq, expires_ms = self._data.leases.get(edge_id, (None, 0))
        if self._data.ended.get(edge_id, 0) > now_ms:
            last_seq = FINAL_SEQ
        verdict = machine.admit(last_seq, seq, is_alive=self._is_alive(expires_ms, now_ms), is_full=is_full)
        if verdict is Verdict.TAKEN:
            self._data.leases[edge_id] = (seq, now_ms + self._ttl_ms)
        return Admission(verdict, now_ms + self._take_within_ms)

    async def end_lease(self, edge_id: EdgeId) -> Lease:
        now_ms = self._clock.time_ms()
        self._data.leases[edge_id] = (FINAL_SEQ, now_ms)
        self._data.ended[edge_id] = now_ms + 4 * self._ttl_ms
        return Lease(edge_id, FINAL_SEQ, now_ms, is_alive=False)

    async def forget_lease(self, lease: Lease) -> None:
        if self._data.leases.get(lease.edge_id) == (lease.seq, lease.expires_ms):
            del self._data.leases[lease.edge_id]

    def _is_alive(self, expires_ms: int, now_ms: int) -> bool:
        """Not where the end is further away than any TTL either: then the clock went back."""
        return now_ms < expires_ms <= now_ms + self._ttl_ms

    # ---- Users.

    async def load(self, user_ids: Sequence[UserId]) -> Loaded:
        data, now_ms = self._data, self._clock.time_ms()
        users = {}
        for user_id in user_ids:
            state = data.users.get(user_id)
            users[user_id] = Record(state or ABSENT, state, data.activity.get(user_id, (0, 0))[0])
        return Loaded(now_ms, bool(data.era) and now_ms >= data.settles_ms, users)

    async def load_edge(self, edge_id: EdgeId) -> Set[UserId]:
        return frozenset(self._data.on_edge.get(edge_id, ()))

    async def commit(self, changes: Sequence[Change], touched: Sequence[UserId], origin: Origin | None) -> Outcome:
        data = self._data
        if origin is not None and self._is_superseded(origin):
            return Outcome(superseded=True)
        conflicts = {change.user_id for change in changes if data.users.get(change.user_id) is not change.before.token}
        if conflicts:
            return Outcome(conflicts={change.user_id for change in changes})
        if origin is not None:
            self._set_fence(origin)
        for change in changes:
            self._make(change, origin)
        announced = [change.announced for change in changes if change.announced is not None]
        if announced:
            for store in data.stores:
                asyncio.get_running_loop().call_soon(store._tell, announced)
        return Outcome()

    async def supersede(self, origin: Origin) -> bool:
        if self._is_superseded(origin):
            return False
        self._set_fence(origin)
        return True

    async def find_orphans(self) -> Sequence[Lease]:
        now_ms = self._clock.time_ms()
        return [
            Lease(edge_id, seq, now_ms, is_alive=False)
            for edge_id, (seq, until_ms) in self._data.fences.items()
            if until_ms is None and edge_id not in self._data.leases
        ]

    def _is_superseded(self, origin: Origin) -> bool:
        fence, _ = self._data.fences.get(origin.edge_id, (Seq(0), None))
        return machine.is_superseded(fence, origin.seq) or 0 < origin.take_by_ms < self._clock.time_ms()

    def _set_fence(self, origin: Origin) -> None:
        until_ms = self._clock.time_ms() + 4 * self._ttl_ms if origin.is_ending else None
        self._data.fences[origin.edge_id] = (origin.seq, until_ms)

    async def find_due(self, *, limit: int) -> Sequence[UserId]:
        now_ms = self._clock.time_ms()
        due = (
            user_id for user_id, until_ms in self._data.due.items() if not now_ms < until_ms <= now_ms + self._grace_ms
        )
        return list(islice(due, limit))

    async def record_activity(self, activities: Mapping[UserId, int]) -> None:
        now_ms = self._clock.time_ms()
        for user_id, at_ms in activities.items():
            known_ms, _ = self._data.activity.pop(user_id, (0, 0))
            latest_ms = max(known_ms, min(at_ms, now_ms))
            self._data.activity[user_id] = (latest_ms, now_ms + self._activity_kept_ms)

    def _make(self, change: Change, origin: Origin | None) -> None:
        data, user_id, after = self._data, change.user_id, change.after
        if after == ABSENT:
            data.users.pop(user_id, None)
        else:
            data.users[user_id] = after
        if after.lingers is not None:
            data.due[user_id] = after.lingers.until_ms
        else:
            data.due.pop(user_id, None)
        if origin is None:
            return
        members = data.on_edge.setdefault(origin.edge_id, set())
        if after.is_on(origin.edge_id):
            members.add(user_id)
        else:
            members.discard(user_id)
            if not members:
                del data.on_edge[origin.edge_id]

    def _tell(self, presences: Sequence[Presence]) -> None:
        if self._listener is not None:
            self._listener.presence_changed(presences)

    def _forget_old(self, now_ms: int) -> None:
        for edge_id, (_, until_ms) in list(self._data.fences.items()):
            if until_ms is not None and until_ms < now_ms:
                del self._data.fences[edge_id]
        for edge_id, until_ms in list(self._data.ended.items()):
            if until_ms < now_ms:
                del self._data.ended[edge_id]
        while self._data.activity:
            oldest = next(iter(self._data.activity))
            if self._data.activity[oldest][1] > now_ms:
                return
            del self._data.activity[oldest]
