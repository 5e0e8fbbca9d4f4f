"""Messages that were written out to `ack:auto` subscriptions: told to chat as delivered, a few times a second."""

from collections.abc import Mapping
from typing import Protocol

from edge.model import ConversationId, Seq, UserId
from services.runtime.coalescing import Coalescer
from services.runtime.metrics import Metrics

# (user, conversation) pairs that wait, while chat is away too.
_MAX_WAITING = 100_000
_MAX_BATCH = 1_000
# A tick may be a quarter of a second late; a watermark for each message would cost the store as much as the message.
_PACE_S = 0.25
_RETRY_S = 1.0


class MarkDelivered(Protocol):
    async def mark_delivered(self, marks: Mapping[tuple[ConversationId, UserId], Seq]) -> None:
        """
        Raises:
            ServiceError: not all of them were taken: again.
        """


class Delivered:
    """A component with one task."""

    def __init__(self, chat: MarkDelivered, metrics: Metrics) -> None:
        self._waiting: Coalescer[tuple[ConversationId, UserId], Seq] = Coalescer(
            "delivered marks",
            chat.mark_delivered,
            merge=max,
            max_keys=_MAX_WAITING,
            max_batch=_MAX_BATCH,
            pace_s=_PACE_S,
            retry_s=_RETRY_S,
        )
        self._dropped = metrics.counter("edge_delivered_dropped", "Delivered marks for which there was no room.")
        metrics.gauge("edge_delivered_waiting", "Delivered marks that chat has not taken yet.").set_function(
            lambda: self._waiting.waiting
        )

    def written(self, conversation_id: ConversationId, user_id: UserId, seq: Seq) -> None:
        """Everything up to `seq` has been written to one of the user's connections."""
        if not self._waiting.put((conversation_id, user_id), seq):
            self._dropped.inc()

    async def start(self) -> None:
        await self._waiting.start()

    async def stop(self) -> None:
        await self._waiting.stop()
