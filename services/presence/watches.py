"""Who is watched on this replica, by which streams, and what they were told last.

Announcements are passed on as they come; for one user they come in the order of the commits. Where any may have been
missed (the store's feed was deaf, the store lost its data), what was told is no longer sure: it is read again, and only
what differs is told. A read that an announcement overtook is dropped: of the two the announcement leads to the truth,
since every later one follows it.

UNKNOWN is told of users of whom nothing is known just now: to a stream that asks for them, and to all when the store
has gone away. It is no change of theirs; what an edge tells of it, and to whom, is the edge's matter.
"""

import asyncio
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from services.presence.errors import BadRequest
from services.presence.model import Presence, Status, UserId
from services.presence.reads import Reads
from services.presence.store import Tick
from services.presence.streams import WatchStream
from services.runtime.errors import Unavailable
from services.runtime.log import logger
from services.runtime.metrics import Metrics

_MAX_READ = 1_000
# Between two reads that are not full: what is asked for meanwhile goes together. A storm of subscriptions thus costs
# the store 30 reads a second, not 150.
_PACE_S = 0.03
_RETRY_S = (0.25, 1.0)
# Of one stream: ten times the connections of a large edge. Some 100 MB.
_MAX_WATCHED = 200_000

_log = logger(__name__)


@dataclass(slots=True)
class _Watched:
    user_id: UserId
    # As told to every stream, except those in `waiting` and, where `owes`, some that were told UNKNOWN.
    told: Presence | None = None
    is_sure: bool = False
    owes: bool = False
    # When it was last announced, by `Watches._now`.
    announced_at: int = 0
    streams: dict[WatchStream, None] = field(default_factory=dict)
    waiting: dict[WatchStream, None] = field(default_factory=dict)


class Watches:
    """A component with one task, which reads. It is the store's listener, and the sweeper's observer."""

    def __init__(self, reads: Reads, metrics: Metrics) -> None:
        self._reads = reads
        self._watched: dict[UserId, _Watched] = {}
        self._streams: dict[WatchStream, None] = {}
        self._to_read: dict[UserId, None] = {}
        self._has_to_read = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        # Counts announcements, to tell what came after what.
        self._now = 0
        self._era: str | None = None
        self._is_settled = False
        self._is_away = False
        self._told = metrics.counter("presence_updates", "Users told to watching edges.", labels=("kind",))
        self._rereads = metrics.counter("presence_rereads", "Watched users read again, as changes may be missed.")
        metrics.gauge("presence_watched_users", "Users watched on this replica.").set_function(
            lambda: len(self._watched)
        )
        metrics.gauge("presence_watch_streams", "Edges watching on this replica.").set_function(
            lambda: len(self._streams)
        )

    async def start(self) -> None:
        self._reading = asyncio.create_task(self._read_for_ever(), name="presence watches")

    async def stop(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait((self._reading,))

    # ---- What edges ask.

    def stream_began(self, stream: WatchStream) -> None:
        self._streams[stream] = None

    def watch(self, stream: WatchStream, user_ids: Iterable[UserId]) -> None:
        """Each is told, soon, and from then on whenever it changes.

        Raises:
            BadRequest: more than any edge needs.
        """
        if stream.is_closed:
            return
        for user_id in user_ids:
            if len(stream.watched) >= _MAX_WATCHED:
                raise BadRequest(problem=f"watch_user_ids: expected at most {_MAX_WATCHED} in all")
            stream.watched.add(user_id)
            watched = self._watched.get(user_id)
            if watched is None:
                watched = self._watched[user_id] = _Watched(user_id)
            watched.streams[stream] = None
            if watched.is_sure and watched.told is not None:
                stream.push_snapshot(watched.told)
                self._told.labels("snapshot").inc()
            else:
                watched.waiting[stream] = None
                self._read_soon((user_id,))

    def unwatch(self, stream: WatchStream, user_ids: Iterable[UserId]) -> None:
        for user_id in user_ids:
            stream.watched.discard(user_id)
            stream.forget(user_id)
            watched = self._watched.get(user_id)
            if watched is None:
                continue
            watched.streams.pop(stream, None)
            watched.waiting.pop(stream, None)
            if not watched.streams:
                del self._watched[user_id]
                self._to_read.pop(user_id, None)

    def stream_ended(self, stream: WatchStream) -> None:
        """Forgets every watch of that stream."""
        self._streams.pop(stream, None)
        self.unwatch(stream, list(stream.watched))

    # ---- StoreListener, TickObserver.

    def presence_changed(self, presences: Sequence[Presence]) -> None:
        self._now += 1
        for presence in presences:
            watched = self._watched.get(presence.user_id)
            if watched is not None:
                watched.announced_at = self._now
                self._tell(watched, presence)

    def changes_were_missed(self) -> None:
        self._doubt_all()

    def ticked(self, tick: Tick) -> None:
        has_settled = tick.is_settled and not self._is_settled
        self._is_settled = tick.is_settled
        is_new_era = self._era is not None and tick.era != self._era
        self._era = tick.era
        if is_new_era:
            for stream in self._streams:
                stream.ask_for_report()
        if self._is_away or is_new_era:
            self._is_away = False
            self._doubt_all()
        elif has_settled:
            self._read_soon(user_id for user_id, watched in self._watched.items() if not watched.is_sure)

    def store_went_away(self) -> None:
        self._is_away = True
        for user_id, watched in self._watched.items():
            watched.is_sure, watched.owes = False, True
            watched.waiting.clear()
            for stream in watched.streams:
                stream.push_change(Presence(user_id, Status.UNKNOWN))
        self._told.labels("unknown").inc(len(self._watched))

    # ---- Inside.

    def _doubt_all(self) -> None:
        for watched in self._watched.values():
            watched.is_sure = False
        self._rereads.inc(len(self._watched))
        self._read_soon(self._watched)

    def _read_soon(self, user_ids: Iterable[UserId]) -> None:
        self._to_read.update(dict.fromkeys(user_ids))
        if self._to_read:
            self._has_to_read.set()

    async def _read_for_ever(self) -> None:
        pause_s, max_pause_s = _RETRY_S
        while True:
            await self._has_to_read.wait()
            batch = list(islice(self._to_read, _MAX_READ))
            if not batch:
                self._has_to_read.clear()
                continue
            for user_id in batch:
                del self._to_read[user_id]
            issued_at = self._now
            try:
                found = await self._reads.read(batch)
            except Unavailable:
                self._tell_unknown(batch)
                self._tell_unknown(list(self._to_read))
                self._read_soon(batch)
                await asyncio.sleep(random.uniform(pause_s / 2, pause_s))
                pause_s = min(2 * pause_s, max_pause_s)
            except Exception:  # the edge of this task
                _log.exception("presence_watch_read_failed")
                await asyncio.sleep(max_pause_s)
                self._read_soon(batch)
            else:
                pause_s = _RETRY_S[0]
                self._found(batch, found, issued_at)
                if len(batch) < _MAX_READ:
                    await asyncio.sleep(_PACE_S)

    def _found(self, batch: Sequence[UserId], found: Mapping[UserId, Presence], issued_at: int) -> None:
        unknown: list[UserId] = []
        for user_id in batch:
            watched = self._watched.get(user_id)
            if watched is None:
                continue
            if watched.announced_at > issued_at and watched.told is not None:
                self._tell(watched, watched.told)
            elif found[user_id].status is Status.UNKNOWN:
                watched.is_sure = False
                unknown.append(user_id)
            else:
                self._tell(watched, found[user_id])
        if unknown:
            self._tell_unknown(unknown)
            if self._is_settled:  # it settled while this was read
                asyncio.get_running_loop().call_later(_RETRY_S[0], self._read_soon, unknown)

    def _tell(self, watched: _Watched, presence: Presence) -> None:
        """This is so: whoever does not know it yet is told."""
        is_news = watched.owes or watched.told is None or watched.told.status is not presence.status
        for stream in watched.streams:
            if stream in watched.waiting:
                stream.push_snapshot(presence)
            elif is_news:
                stream.push_change(presence)
        self._told.labels("snapshot").inc(len(watched.waiting))
        if is_news:
            self._told.labels("change").inc(len(watched.streams) - len(watched.waiting))
        watched.told, watched.is_sure, watched.owes = presence, True, False
        watched.waiting.clear()

    def _tell_unknown(self, user_ids: Iterable[UserId]) -> None:
        """Only to those who have been told nothing."""
        for user_id in user_ids:
            watched = self._watched.get(user_id)
            if watched is None or not watched.waiting:
                continue
            for stream in watched.waiting:
                stream.push_snapshot(Presence(user_id, Status.UNKNOWN))
            self._told.labels("unknown").inc(len(watched.waiting))
            watched.waiting.clear()
            watched.owes = True
