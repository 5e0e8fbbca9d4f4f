"""Receipts: how far each member has come, as watermarks that only move forwards.

Moves are merged per member and written in batches; whoever moves sees the answer only when it is durable, and the
conversation's watchers hear of what really moved. Source: design.md, "Receipts are watermarks".
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.chat.errors import BadRequest, NotAMember
from services.chat.events import StatusMoved
from services.chat.model import ConversationId, Seq, UserId, WatermarkKind
from services.chat.store import Store
from services.runtime.batching import Batcher, QueueFull
from services.runtime.clock import Clock
from services.runtime.errors import Internal, ServiceError
from services.runtime.log import logger
from services.runtime.metrics import Metrics

_MAX_BATCH = 1_000
_MAX_WAITING = 50_000

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


class Receipts:
    """The writer of watermarks in this replica. `announce` tells the watchers of a topic."""

    def __init__(self, store: Store, announce: Callable[[StatusMoved], None], clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._announce = announce
        self._clock = clock
        self._batcher: Batcher[_Pending] = Batcher(
            self._write, failed=self._failed, max_items=_MAX_BATCH, max_waiting=_MAX_WAITING
        )
        self._moved = metrics.counter("chat_watermarks_moved", "Watermarks that moved.", labels=("kind",))
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
        for move, watermarks in zip(moves, results, strict=True):
            if watermarks is None:
                continue
            reached = watermarks.read_seq if move.kind is WatermarkKind.SEEN else watermarks.delivered_seq
            if reached == move.seq:  # further on already: that has been told
                self._moved.labels(move.kind.value).inc()
                self._announce(StatusMoved(move.conversation_id, move.user_id, move.kind, move.seq, now))
        for each in batch:
            move = each.move
            key = (move.conversation_id, move.user_id, move.kind)
            # Not a member comes first: a stranger must not learn the head.
            if key in after:
                each.settle(None if after[key] is not None else NotAMember())
            else:
                is_member = await self._store.find_membership(move.conversation_id, move.user_id) is not None
                each.settle(BadRequest(problem="there is no such message yet") if is_member else NotAMember())

    def _failed(self, batch: Sequence[_Pending], error: Exception) -> None:
        _log.error("watermarks_failed", moves=len(batch), exc_info=error)
        for each in batch:
            each.settle(Internal())
