"""What follows from stored messages, after the answer and in batches: the conversation's last message and activity, the
sender's own read watermark and activity; then the notices, which end the outbox entry (`notices`).

Nobody waits for this. The outbox entry, written beside the messages, stays until all of it is done; the sweeper does
again what a dead replica (this one's predecessor, say) left. Every step is idempotent and only moves forwards.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence

from services.chat.activity import Activity
from services.chat.errors import JobsUnavailable, StoreUnavailable
from services.chat.jobs import JobQueue
from services.chat.lastread import LastRead, Member
from services.chat.messages import Commit
from services.chat.model import ConversationId, Message, Seq, WatermarkKind
from services.chat.notices import Notices
from services.chat.store import OutboxEntry, Store
from services.runtime.batching import Batcher, QueueFull
from services.runtime.clock import Clock
from services.runtime.log import logger
from services.runtime.metrics import Metrics

# Commits whose consequences are written together; they merge per conversation, so more is cheaper.
_MAX_BATCH = 200
# Beyond this the entries are left to the sweeper.
_MAX_WAITING = 5_000
# Nobody waits for it, and each write costs the database as much as a batch of messages: gather between two batches.
_PACE_S = 0.2
# With the queue's reconnection and the grace (2 s each) it leaves room for the work within the 10 s of failures.md.
_SWEEP_EVERY_S = 1.0
# After an outage of the queue the replicas that live tell what they hold themselves; only then is swept.
_ROUNDS_AFTER_OUTAGE = 2
# Old enough that whoever wrote the entry has had its chance.
_SWEEP_AGE_MS = 15_000
_SWEEP_LIMIT = 500
# Messages that are read together, at most 16 KiB each: entry by entry, what a second of load left takes seconds.
_SWEEP_TOGETHER = 100
_PAGE = 500

_log = logger(__name__)


class FollowUp:
    """Takes commits in order; a component with a task of its own (the sweeper)."""

    def __init__(
        self,
        store: Store,
        last_read: LastRead,
        notices: Notices,
        jobs: JobQueue,
        activity: Activity,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._last_read = last_read
        self._notices = notices
        self._jobs = jobs
        self._activity = activity
        self._clock = clock
        self._batcher: Batcher[Commit] = Batcher(
            self._settle, failed=self._failed, max_items=_MAX_BATCH, max_waiting=_MAX_WAITING
        )
        self._sweeper: asyncio.Task[None] | None = None
        self._left = metrics.counter("chat_followups_left", "Commits whose consequences were left to the sweeper.")
        self._swept = metrics.counter("chat_outbox_swept", "Outbox entries finished by the sweeper.")
        metrics.gauge("chat_followups_waiting", "Commits whose consequences are not written yet.").set_function(
            lambda: self._batcher.waiting
        )

    def committed(self, commit: Commit) -> None:
        try:
            self._batcher.submit(commit)
        except QueueFull:
            self._left.inc()

    async def start(self) -> None:
        self._sweeper = asyncio.create_task(self._sweep_for_ever())

    async def stop(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
        await self._batcher.close()

    async def _settle(self, commits: list[Commit]) -> None:
        await self._settle_now(commits)
        await asyncio.sleep(_PACE_S)

    async def _settle_now(self, commits: list[Commit]) -> None:
        messages = [message for commit in commits for message in commit.messages]
        self._activity.record(messages)
        try:
            await self._write(messages)
        except StoreUnavailable:
            self._left.inc(len(commits))  # the entries are still there
        else:
            self._notices.committed(commits)

    async def _write(self, messages: Sequence[Message]) -> None:
        latest: dict[ConversationId, Message] = {}
        own: defaultdict[Member, set[Seq]] = defaultdict(set)
        for message in messages:
            known = latest.get(message.conversation_id)
            if known is None or known.seq < message.seq:
                latest[message.conversation_id] = message
            own[Member(message.conversation_id, message.sender_id)].add(message.seq)
        if not latest:
            return
        before = await self._last_read.find(list(own))
        # Who writes has read what is there up to his own message (design.md, "Receipts are watermarks").
        moves = [(*member, WatermarkKind.SEEN, max(seqs)) for member, seqs in own.items()]
        _, marks = await asyncio.gather(
            self._store.record_activity(list(latest.values())), self._store.move_watermarks(moves)
        )
        reached = {member: mark.read_seq for member, mark in zip(own, marks, strict=True) if mark is not None}
        await self._last_read.record(reached)
        for member, seq in reached.items():
            if not _is_all_own(own[member], before.get(member)):
                conversation_id, user_id = member
                self._notices.read(conversation_id, user_id, seq, head=max(latest[conversation_id].seq, seq))

    def _failed(self, commits: Sequence[Commit], error: Exception) -> None:
        self._left.inc(len(commits))
        _log.error("followup_failed", commits=len(commits), exc_info=error)

    # ---- The sweeper.

    async def _sweep_for_ever(self) -> None:
        rounds = _ROUNDS_AFTER_OUTAGE
        while True:
            rounds = rounds + 1 if self._jobs.is_connected else 0
            try:
                while rounds >= _ROUNDS_AFTER_OUTAGE and await self._sweep():
                    pass
            except (StoreUnavailable, JobsUnavailable):
                pass  # tried again below
            except Exception:
                _log.exception("sweep_failed")
            await asyncio.sleep(_SWEEP_EVERY_S)

    async def _sweep(self) -> bool:
        """Whether there is more to find at once."""
        entries = await self._store.read_entries(
            created_before_ms=self._clock.time_ms() - _SWEEP_AGE_MS, limit=_SWEEP_LIMIT
        )
        swept = [entry for entry in entries if not self._notices.holds(entry.entry_id)]
        for portion in _portions(swept):
            await self._finish(portion)
        if swept:
            _log.info("outbox_swept", entries=len(swept))
        return bool(swept) and len(entries) == _SWEEP_LIMIT

    async def _finish(self, entries: Sequence[OutboxEntry]) -> None:
        named = await asyncio.gather(*map(self._read_named, entries))
        messages = [message for each in named for message in each]
        await self._write(messages)
        await self._notices.publish(messages)
        await self._store.delete_entries([entry.entry_id for entry in entries])
        self._swept.inc(len(entries))

    async def _read_named(self, entry: OutboxEntry) -> list[Message]:
        messages: list[Message] = []
        for conversation_id, first, last in entry.ranges:
            page = await self._store.read_after(conversation_id, Seq(first - 1), limit=min(_PAGE, last - first + 1))
            messages.extend(message for message in page if message.seq <= last)
        return messages


def _portions(entries: Iterable[OutboxEntry]) -> Iterator[Sequence[OutboxEntry]]:
    """Entries that name some `_SWEEP_TOGETHER` messages; the last of each may take it over that."""
    portion: list[OutboxEntry] = []
    messages = 0
    for entry in entries:
        portion.append(entry)
        messages += sum(last - first + 1 for _, first, last in entry.ranges)
        if messages >= _SWEEP_TOGETHER:
            yield portion
            portion, messages = [], 0
    if portion:
        yield portion


def _is_all_own(seqs: Collection[Seq], read_before: Seq | None) -> bool:
    """Whether a member who had read so far, and wrote these, has read nothing of anybody else's by that: nobody could
    have notified him of any of it."""
    first, last = min(seqs), max(seqs)
    return (read_before or 0) >= first - 1 and len(seqs) == last - first + 1
