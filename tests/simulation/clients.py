"""Those who use the replicas: an edge's lane of one conversation, and watchers who resume and mark."""

import asyncio
import random
from collections.abc import Sequence

from protos.chat.v1 import chat_pb2
from services.chat.errors import ClientMessageIdReused, NotAMember
from services.chat.messages import Sent
from services.chat.model import ConversationId, Draft, Message, Seq, UserId, WatermarkKind
from services.chat.receipts import Move
from services.chat.streams import TopicStream
from services.chat.topics import Watch
from services.runtime.errors import ServiceError, Unavailable
from tests.simulation.fleet import Fleet
from tests.simulation.record import Ack, Mark, Record
from tests.simulation.replica import SimReplica

_MAX_BATCH = 4
_AGAIN_S = 0.05
# How often a watcher marks what it has seen.
_MARK_ODDS = 0.25


class Lane:
    """An edge's sends to one conversation: one batch under way, and what was not stored goes again before the rest.

    That is the promise of `edge/clients/chat.py`; with it one client's messages are stored in the order they were sent.
    """

    def __init__(
        self, fleet: Fleet, record: Record, drafts: Sequence[Draft], rng: random.Random, *, pause_s: float
    ) -> None:
        self._fleet = fleet
        self._record = record
        self._todo = list(drafts)
        self._rng = rng
        self._pause_s = pause_s
        self._loop = asyncio.get_running_loop()
        self._asked_s: dict[Draft, float] = {}

    async def run(self) -> None:
        rng = self._rng
        while self._todo:
            size = rng.randint(1, _MAX_BATCH)
            batch, self._todo = self._todo[:size], self._todo[size:]
            while batch:
                batch = await self._send(batch)
                if batch:
                    await asyncio.sleep(_AGAIN_S * rng.random())
            if rng.random() < 0.5:
                await asyncio.sleep(self._pause_s * rng.random())

    async def _send(self, batch: list[Draft]) -> list[Draft]:
        """Answers with what has to go again, in order."""
        trouble, rng = self._fleet.trouble, self._rng
        for draft in batch:
            self._asked_s.setdefault(draft, self._loop.time())
        replica = self._fleet.route(batch[0].conversation_id, rng)
        if replica is None:
            return batch
        lost = rng.random() < trouble.lost_answer_odds
        if rng.random() < trouble.doubled_call_odds and (twin := self._fleet.route_any(rng)) is not None:
            first, _ = await asyncio.gather(replica.send(batch, lost=lost), twin.send(batch, lost=False))
        else:
            first = await replica.send(batch, lost=lost)
        if first is None:
            self._record.note(self._loop.time(), "unknown", batch[0].client_message_id)
            return batch
        return [draft for draft, outcome in zip(batch, first, strict=True) if self._must_go_again(draft, outcome)]

    def _must_go_again(self, draft: Draft, outcome: Sent | ServiceError) -> bool:
        record, now_s = self._record, self._loop.time()
        match outcome:
            case Sent(message, repeat):
                record.note(now_s, "repeat" if repeat else "acked", f"{draft.client_message_id} is {message.seq}")
                record.acks.append(Ack(draft, message, self._asked_s[draft], now_s))
                return False
            case Unavailable():
                record.note(now_s, "unavailable", draft.client_message_id)
                return True
            case NotAMember() | ClientMessageIdReused():
                record.note(now_s, "refused", f"{draft.client_message_id}: {outcome}")
                return False
        record.problem(now_s, f"{draft.client_message_id} was refused with {outcome!r}")
        return False


class Watcher:
    """A user who watches a conversation from a position on, loses the stream now and then, and resumes."""

    def __init__(
        self,
        fleet: Fleet,
        record: Record,
        name: str,
        user_id: UserId,
        conversation_id: ConversationId,
        rng: random.Random,
    ) -> None:
        self._fleet = fleet
        self._record = record
        self._name = name
        self._user_id = user_id
        self._conversation_id = conversation_id
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._last: int | None = None if rng.random() < 0.3 else 0
        self._is_live = False
        self._watch_id = 0
        self._seen: list[Message] = []
        self._told: dict[tuple[str, int], int] = {}
        self._marking: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Until it is cancelled."""
        try:
            while True:
                replica = self._fleet.route(self._conversation_id, self._rng)
                if replica is not None:
                    await self._follow(replica)
                await asyncio.sleep(_AGAIN_S * self._rng.random())
        finally:
            await asyncio.gather(*self._marking)

    async def _follow(self, replica: SimReplica) -> None:
        """Until the stream ends, by whichever end."""
        stream = TopicStream()
        self._is_live = False
        self._told.clear()
        self._watch_id += 1
        after = None if self._last is None else Seq(self._last)
        replica.watch(stream, Watch(self._watch_id, self._conversation_id, (self._user_id,), after))
        if self._last:
            self._record.note(self._loop.time(), "resumed", f"{self._name} after {self._last}")
        try:
            while raw := await stream.take():
                for event in chat_pb2.StreamTopicsResponse.FromString(raw).events:
                    if not self._take(event) or self._rng.random() < self._fleet.trouble.lost_stream_odds:
                        return
        finally:
            replica.unwatch(stream)

    def _take(self, event: chat_pb2.TopicEvent) -> bool:
        """False: it was refused, and must be asked for again."""
        match event.WhichOneof("event"):
            case "replay":
                if self._is_live or event.replay.watch_id != self._watch_id:
                    self._problem("was replayed something after it had joined")
                for message in event.replay.messages:
                    self._see(message)
            case "joined":
                self._is_live = True
                if self._last is None:
                    self._last = event.joined.head_seq
                    self._record.seen[self._name] = (self._conversation_id, self._last, self._seen)
                elif self._last != event.joined.head_seq:
                    self._problem(f"joined at {event.joined.head_seq} and had been given up to {self._last}")
            case "messages":
                if not self._is_live:
                    self._problem("was given live messages before it had joined")
                for message in event.messages.messages:
                    self._see(message)
            case "status":
                moved = event.status
                known = self._told.get((moved.user_id, moved.kind), 0)
                if moved.seq < known:
                    self._problem(f"was told that {moved.user_id} is at {moved.seq}, after {known}")
                self._told[moved.user_id, moved.kind] = moved.seq
            case "refused":
                return False
        return True

    def _see(self, wire: chat_pb2.Message) -> None:
        if self._last is None or wire.seq != self._last + 1:
            self._problem(f"was given {wire.seq} after {self._last}")
            return
        self._last = wire.seq
        self._seen.append(
            Message(
                ConversationId(wire.conversation_id),
                Seq(wire.seq),
                UserId(wire.sender_id),
                wire.client_message_id,
                wire.content,
                wire.type,
                wire.sent_at_ms,
            )
        )
        self._record.seen.setdefault(self._name, (self._conversation_id, wire.seq - 1, self._seen))
        if self._rng.random() < _MARK_ODDS:
            kind = self._rng.choice((WatermarkKind.DELIVERED, WatermarkKind.SEEN))
            self._marking.append(self._loop.create_task(self._mark(kind, Seq(wire.seq))))

    async def _mark(self, kind: WatermarkKind, seq: Seq) -> None:
        replica = self._fleet.route(self._conversation_id, self._rng)
        if replica is None:
            return
        move = Move(self._conversation_id, self._user_id, kind, seq)
        outcomes = await replica.move([move], lost=self._rng.random() < self._fleet.trouble.lost_answer_odds)
        if outcomes == [None]:
            self._record.note(self._loop.time(), "marked", f"{self._name} {kind} {seq}")
            self._record.marks.append(Mark(self._conversation_id, self._user_id, kind, seq))
        elif outcomes is not None and not isinstance(outcomes[0], Unavailable):
            self._problem(f"could not mark {seq} {kind}: {outcomes[0]!r}")

    def _problem(self, text: str) -> None:
        self._record.problem(self._loop.time(), f"{self._name} {text}")
