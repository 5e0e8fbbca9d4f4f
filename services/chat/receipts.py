"""Receipts: how far each member has come, as watermarks that only move forwards.

Moves are merged per member and written in batches; whoever moves sees the answer only when it is durable, and the
conversation's watchers hear of what really moved. What a member is known to have read already (`lastread`) costs the
store nothing. Source: design.md, "Receipts are watermarks".

In a group of n each message is delivered n - 1 times, and telling each of n watchers costs n² events: above
`MAX_TOLD_MEMBERS` deliveries are stored and shown in history, but not told live. Reading is a person's act, and is.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.chat.errors import BadRequest, NotAMember
from services.chat.events import StatusMoved
from services.chat.lastread import LastRead, Member
from services.chat.members import Members
from services.chat.model import ConversationId, Seq, UserId, WatermarkKind
from services.chat.store import Store
from services.runtime.batching import Batcher, QueueFull
from services.runtime.clock import Clock
from services.runtime.errors import Internal, ServiceError
from services.runtime.log import logger
from services.runtime.metrics import Metrics

_MAX_BATCH = 1_000
_MAX_WAITING = 50_000
# A thousand events for a message that reaches everybody.
MAX_TOLD_MEMBERS = 32

_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Move:
    """Everything up to `seq` is delivered to, or seen by, the user."""

    conversation_id: ConversationId
    user_id: UserId
    kind: WatermarkKind
    seq: Seq


@dataclass(slots=True)
class _Pending:
    move: Move
    done: asyncio.Future[ServiceError | None]

    def settle(self, outcome: ServiceError | None) -> None:
        if not self.done.done():
            self.done.set_result(outcome)


class TellOfReading(Protocol):
    def read(self, conversation_id: ConversationId, user_id: UserId, seq: Seq, *, head: Seq) -> None:
        """The member has read up to `seq`, durably. Does not block and does not raise."""


class Receipts:
    """The writer of watermarks in this replica. `announce` tells the watchers of a topic."""

    def __init__(
        self,
        store: Store,
        members: Members,
        last_read: LastRead,
        notices: TellOfReading,
        announce: Callable[[StatusMoved], None],
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._members = members
        self._last_read = last_read
        self._notices = notices
        self._announce = announce
        self._clock = clock
        self._batcher: Batcher[_Pending] = Batcher(
            self._write, failed=self._failed, max_items=_MAX_BATCH, max_waiting=_MAX_WAITING
        )
        self._moved = metrics.counter("chat_watermarks_moved", "Watermarks that moved.", labels=("kind",))
        self._known = metrics.counter("chat_watermarks_known", "Moves that cost nothing: that was read before.")
        metrics.gauge("chat_watermarks_waiting", "Moves that wait to be written.").set_function(
            lambda: self._batcher.waiting
        )

    async def move(self, moves: Sequence[Move]) -> Sequence[ServiceError | None]:
        """One outcome for each, at its place; None: durable (or it was there already)."""
        loop = asyncio.get_running_loop()
        pending = [_Pending(move, loop.create_future()) for move in moves]
        for each in pending:
            try:
                self._batcher.submit(each)
            except QueueFull as full:
                each.settle(full)
        return await asyncio.gather(*(each.done for each in pending))

    async def close(self) -> None:
        await self._batcher.close()

    async def _write(self, batch: list[_Pending]) -> None:
        try:
            await self._write_merged(batch)
        except ServiceError as error:
            for each in batch:
                each.settle(error)

    async def _write_merged(self, batch: list[_Pending]) -> None:
        batch = await self._settle_known(batch)
        if not batch:
            return
        heads = await self._store.find_heads(list({each.move.conversation_id for each in batch}))
        merged: dict[tuple[ConversationId, UserId, WatermarkKind], Move] = {}
        for each in batch:
            move = each.move
            if not 1 <= move.seq <= heads[move.conversation_id]:
                continue
            key = (move.conversation_id, move.user_id, move.kind)
            known = merged.get(key)
            if known is None or known.seq < move.seq:
                merged[key] = move
        moves = list(merged.values())
        results = await self._store.move_watermarks([(m.conversation_id, m.user_id, m.kind, m.seq) for m in moves])
        after = dict(zip(merged, results, strict=True))
        now = self._clock.time_ms()
        read: dict[Member, Seq] = {}
        for move, watermarks in zip(moves, results, strict=True):
            if watermarks is None:
                continue
            is_read = move.kind is WatermarkKind.SEEN
            if (watermarks.read_seq if is_read else watermarks.delivered_seq) != move.seq:
                continue  # further on already: that has been told
            self._moved.labels(move.kind.value).inc()
            if is_read:
                read[Member(move.conversation_id, move.user_id)] = move.seq
                self._notices.read(move.conversation_id, move.user_id, move.seq, head=heads[move.conversation_id])
            # What he has seen is not told to be merely delivered: nobody is shown a status that goes back.
            if is_read or (move.seq > watermarks.read_seq and await self._is_told(move.conversation_id)):
                self._announce(StatusMoved(move.conversation_id, move.user_id, move.kind, move.seq, now))
        await self._last_read.record(read)
        for each in batch:
            move = each.move
            key = (move.conversation_id, move.user_id, move.kind)
            # Not a member comes first: a stranger must not learn the head.
            if key in after:
                each.settle(None if after[key] is not None else NotAMember())
            else:
                is_member = await self._store.find_membership(move.conversation_id, move.user_id) is not None
                each.settle(BadRequest(problem="there is no such message yet") if is_member else NotAMember())

    async def _settle_known(self, batch: list[_Pending]) -> list[_Pending]:
        """Answers those who have read that far before; the rest comes back."""
        members = {
            Member(each.move.conversation_id, each.move.user_id)
            for each in batch
            if each.move.kind is WatermarkKind.SEEN
        }
        known = await self._last_read.find(list(members)) if members else {}
        rest = []
        for each in batch:
            move = each.move
            reached = known.get(Member(move.conversation_id, move.user_id), 0)
            if not 1 <= move.seq <= reached or not self._members.find_cached(move.conversation_id, move.user_id):
                rest.append(each)
            else:
                self._known.inc()
                each.settle(None)
        return rest

    async def _is_told(self, conversation_id: ConversationId) -> bool:
        return len(await self._members.read(conversation_id)) <= MAX_TOLD_MEMBERS

    def _failed(self, batch: Sequence[_Pending], error: Exception) -> None:
        _log.error("watermarks_failed", moves=len(batch), exc_info=error)
        for each in batch:
            each.settle(Internal())
