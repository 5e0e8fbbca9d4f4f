"""What is held of leases and users, as one Protocol that both stores keep; tests/contract/presence runs over both.

Nothing in it has to last: the edges know their sessions and report them again when they are asked. What a store has to
be is honest about having forgotten (`Tick.era`, `Loaded.is_settled`).

Users are changed by compare-and-set: load, let `machine` decide, commit. Nobody has a lock and there is no leader; what
two replicas do at the same time, one of them does again. Every method but `start` and `close` may raise
`StoreUnavailable`, soon: until a first `tick` has succeeded, and while the last attempt failed, all others refuse at
once.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from services.presence.machine import UserState, Verdict
from services.presence.model import EdgeId, Presence, Seq, UserId
from services.runtime.clock import Clock
from services.runtime.metrics import Metrics


@dataclass(frozen=True, slots=True)
class StoreTimes:
    """The times that a store works with; see `PresenceSettings`."""

    lease_ttl: timedelta
    grace: timedelta
    settle: timedelta
    tick: timedelta
    activity_kept: timedelta

    @property
    def unattended(self) -> timedelta:
        """Without a tick for this long, edges may have missed a renewal that was due: a third of the TTL."""
        return max(self.lease_ttl / 3, 3 * self.tick)

    @property
    def take_within(self) -> timedelta:
        """A report takes effect within this of its admission, or not at all: so never after its lease has run out."""
        return self.lease_ttl / 2


@dataclass(frozen=True, slots=True)
class Lease:
    """As it stands at a tick. `seq` is that of the last report admitted; after a release `FINAL_SEQ`."""

    edge_id: EdgeId
    seq: Seq
    expires_ms: int
    is_alive: bool


@dataclass(frozen=True, slots=True)
class Tick:
    now_ms: int
    # Changes whenever what was stored may have been lost, or may have become untrue unnoticed.
    era: str
    # From then on what is stored is all there is.
    settles_ms: int
    # This replica is to do the sweeping this time. For thrift only: sweeping twice at once does no harm.
    is_claimed: bool
    # Every lease that began and was not forgotten.
    leases: Sequence[Lease]

    @property
    def is_settled(self) -> bool:
        return self.now_ms >= self.settles_ms


@dataclass(frozen=True, slots=True)
class Admission:
    """`take_by_ms` goes into the commits of the report."""

    verdict: Verdict
    take_by_ms: int


@dataclass(frozen=True, slots=True)
class Record:
    """A user as loaded. `token` is the store's own; by it a commit finds out that somebody was faster."""

    state: UserState
    token: object
    last_active_ms: int


@dataclass(frozen=True, slots=True)
class Loaded:
    now_ms: int
    is_settled: bool
    users: Mapping[UserId, Record]


@dataclass(frozen=True, slots=True)
class Origin:
    """The edge that a commit speaks for.

    What the edge reported before `seq` takes no effect any more for the users named in the commit. `take_by_ms` 0: at
    any time.
    """

    edge_id: EdgeId
    seq: Seq
    take_by_ms: int = 0
    # The lease has ended: what guards against its late reports need not be kept for long.
    is_ending: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """`before` is as loaded; `announced` goes to every listener if the change is made."""

    user_id: UserId
    before: Record
    after: UserState
    announced: Presence | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """`conflicts` were changed by somebody else meanwhile, or stood beside one that was: load them and try again.

    `superseded`: the edge has reported something later (or it was too late), and what remained takes no effect.
    """

    conflicts: Set[UserId] = field(default_factory=frozenset)
    superseded: bool = False


class StoreListener(Protocol):
    """Called on the event loop; must not block or raise."""

    def presence_changed(self, presences: Sequence[Presence]) -> None:
        """Committed here or on another replica; for each user in the order of the commits."""

    def changes_were_missed(self) -> None:
        """Any change may have been missed up to now; from here on all are heard again."""


class PresenceStore(Protocol):
    async def start(self, listener: StoreListener) -> None:
        """A server that is away does not fail the start."""

    async def close(self) -> None: ...

    async def tick(self) -> Tick:
        """Keeps the store attended, and reads every lease. Tries also where the last attempt failed."""

    async def admit(self, edge_id: EdgeId, seq: Seq, *, is_full: bool) -> Admission:
        """Judges a report (`machine.admit`); where it is taken, the lease runs for its TTL from now."""

    async def end_lease(self, edge_id: EdgeId) -> Lease:
        """Ends it now and for good: for longer than any report can be under way, also once it is forgotten, nothing is
        admitted under it. Idempotent."""

    async def forget_lease(self, lease: Lease) -> None:
        """Its users are cleared. Does nothing where the lease has begun again since it was read."""

    async def load(self, user_ids: Sequence[UserId]) -> Loaded:
        """Every one of them, also those of whom nothing is known."""

    async def load_edge(self, edge_id: EdgeId) -> Set[UserId]:
        """Who has sessions on that edge."""

    async def commit(self, changes: Sequence[Change], touched: Sequence[UserId], origin: Origin | None) -> Outcome:
        """Makes the changes, unless an origin's later report, its `take_by_ms` or a conflict forbids it.

        `touched` names those that the origin's report speaks of, changed or not. What is reported as neither
        conflicting nor superseded has been made, and announced.
        """

    async def supersede(self, origin: Origin) -> bool:
        """What the edge reported before takes no effect any more, for anybody; False: it has reported something later.

        Whoever is to end what the edge holds does this first, and then looks for whom there is: nobody can be added
        behind their back.
        """

    async def find_orphans(self) -> Sequence[Lease]:
        """Edges whose reports took effect and whose lease is not even remembered, as if it had ended now.

        It takes a loss of data between the admission of a report and its effect, and an edge that dies then.
        """

    async def find_due(self, *, limit: int) -> Sequence[UserId]:
        """Users whose grace is over, some `limit` of them; they stay due until a commit changes them."""

    async def record_activity(self, activities: Mapping[UserId, int]) -> None:
        """Moves each user's last activity forwards to that time (milliseconds), but not beyond now."""


def open_store(url: str, *, key_prefix: str, times: StoreTimes, clock: Clock, metrics: Metrics) -> PresenceStore:
    """The store that `url` names: `redis://…`, `rediss://…` or `memory://name` (all in one process that use the name).

    Raises:
        ValueError: no such kind of store, or a malformed URL.
    """
    if url.startswith(("redis://", "rediss://")):
        from services.presence.store.redis import RedisPresenceStore

        return RedisPresenceStore(url, key_prefix=key_prefix, times=times, metrics=metrics)
    if url.startswith("memory://"):
        from services.presence.store.memory import MemoryPresenceStore

        return MemoryPresenceStore(url.removeprefix("memory://"), times=times, clock=clock)
    raise ValueError(f"store URL {url.split(':', 1)[0]!r}: expected redis://… or memory://…")
