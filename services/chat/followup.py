"""What follows from stored messages, after the answer and in batches: the conversation's last message and activity, the
sender's own read watermark, and then the end of the outbox entry.

Nobody waits for this. The outbox entry, written beside the messages, stays until it is done; the sweeper does again
what a dead replica (this one's predecessor, say) left. Every step is idempotent and only moves forwards.
"""

import asyncio
import contextlib
from collections.abc import Sequence

from services.chat.errors import StoreUnavailable
from services.chat.messages import Commit
from services.chat.model import ConversationId, Message, Seq, UserId, WatermarkKind
from services.chat.store import OutboxEntry, Store
from services.runtime.batching import Batcher, QueueFull
from services.runtime.clock import Clock
from services.runtime.log import logger
from services.runtime.metrics import Metrics

# Commits whose consequences are written together; they merge per conversation, so more is cheaper.
_MAX_BATCH = 500
# Beyond this the entries are left to the sweeper.
_MAX_WAITING = 5_000
# Nobody waits for it, and each write costs the database as much as a batch of messages: gather between two batches.
_PACE_S = 0.2
_SWEEP_EVERY_S = 10.0
# Old enough that whoever wrote the entry has had its chance.
_SWEEP_AGE_MS = 15_000
_SWEEP_LIMIT = 500
_PAGE = 500

_log = logger(__name__)


class FollowUp:
    """Takes commits in order; a component with a task of its own (the sweeper)."""

    def __init__(self, store: Store, clock: Clock, metrics: Metrics) -> None:
        self._store = store
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
        try:
            await self._write([message for commit in commits for message in commit.messages])
            await self._store.delete_entries([c.entry_id for c in commits if c.entry_id is not None])
        except StoreUnavailable:
            self._left.inc(len(commits))  # the entries are still there

    async def _write(self, messages: Sequence[Message]) -> None:
        latest: dict[ConversationId, Message] = {}
        read: dict[tuple[ConversationId, UserId], Seq] = {}
        for message in messages:
            known = latest.get(message.conversation_id)
            if known is None or known.seq < message.seq:
                latest[message.conversation_id] = message
            member = (message.conversation_id, message.sender_id)
            read[member] = max(read.get(member, Seq(0)), message.seq)
        if not latest:
            return
        await asyncio.gather(
            self._store.record_activity(list(latest.values())),
            # Who writes has read what is there up to his own message (design.md, "Receipts are watermarks").
            self._store.move_watermarks(
                [(conversation, user, WatermarkKind.SEEN, seq) for (conversation, user), seq in read.items()]
            ),
        )

    def _failed(self, commits: Sequence[Commit], error: Exception) -> None:
        self._left.inc(len(commits))
        _log.error("followup_failed", commits=len(commits), exc_info=error)

    # ---- The sweeper.

    async def _sweep_for_ever(self) -> None:
        while True:
            try:
                while await self._sweep() == _SWEEP_LIMIT:
                    pass
            except StoreUnavailable:
                pass  # tried again below
            except Exception:
                _log.exception("sweep_failed")
            await asyncio.sleep(_SWEEP_EVERY_S)

    async def _sweep(self) -> int:
        entries = await self._store.read_entries(
            created_before_ms=self._clock.time_ms() - _SWEEP_AGE_MS, limit=_SWEEP_LIMIT
        )
        for entry in entries:
            await self._write(await self._read_named(entry))
        if entries:
            await self._store.delete_entries([entry.entry_id for entry in entries])
            self._swept.inc(len(entries))
            _log.info("outbox_swept", entries=len(entries))
        return len(entries)

    async def _read_named(self, entry: OutboxEntry) -> list[Message]:
        messages: list[Message] = []
        for conversation_id, first, last in entry.ranges:
            page = await self._store.read_after(conversation_id, Seq(first - 1), limit=min(_PAGE, last - first + 1))
            messages.extend(message for message in page if message.seq <= last)
        return messages
