"""One replica's connection to the truth: every call takes its time, some fail, and a write may land after its caller
has given up or died.

Keeps what `services.chat.store` promises and no more: what was acknowledged is seen by every later read; a batch is
inserted in order and stops where an index refuses; a crash keeps a prefix; `StoreUnavailable` means nothing.
"""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from services.chat.errors import StoreUnavailable
from services.chat.model import ConversationId, Message, Seq, UserId, WatermarkKind, Watermarks
from services.chat.store import AppendConflict, Appended, IdempotencyKey, Membership, OutboxEntry
from tests.simulation.loop import SimProcess
from tests.simulation.trouble import Trouble
from tests.simulation.truth import Truth

# One way, on a quiet day.
_TRIP_S = 0.003
# The store's own bound on writes: nothing lands later than this after its caller was told `StoreUnavailable`.
_MAX_LATE_S = 2.0

T = TypeVar("T")


class SimStore:
    """What the writer, the topics, the members and the receipts of one replica ask of a `Store`."""

    def __init__(self, truth: Truth, process: SimProcess, trouble: Trouble, seed: int) -> None:
        self.trouble = trouble
        self.appends = 0
        self._truth = truth
        self._process = process
        # One stream of chance for each conversation: in which order two are asked for at the same moment (an order that
        # may come from a set of strings) then changes nothing.
        self._seed = seed
        self._chances: dict[str, random.Random] = {}
        self._loop = asyncio.get_running_loop()

    # ---- The message log.

    async def append(self, messages: Sequence[Message], outbox: OutboxEntry | None) -> Appended:
        rng, trouble = self._chance(min(message.conversation_id for message in messages)), self.trouble
        answer: asyncio.Future[Appended] = self._loop.create_future()
        self.appends += 1
        trip_s = self._trip_s(rng)
        if rng.random() < trouble.refused_odds:
            self._loop.call_later(trip_s, self._fail, answer)
        elif rng.random() < trouble.uncertain_odds:
            self._loop.call_later(trip_s, self._fail, answer)
            if rng.random() < 0.8:
                lands_s = trip_s * rng.random() if rng.random() < 0.5 else rng.random() * _MAX_LATE_S
                self._loop.call_later(lands_s, self._insert, list(messages), 0, answer, rng)
        else:
            self._loop.call_later(trip_s, self._insert, list(messages), 0, answer, rng)
        return await answer

    def _insert(
        self, messages: Sequence[Message], first: int, answer: "asyncio.Future[Appended]", rng: random.Random
    ) -> None:
        """Inserts in order from `first` on, perhaps only some of them now."""
        until = len(messages)
        if until - first > 1 and rng.random() < self.trouble.torn_odds:
            until = rng.randrange(first + 1, until)
        if not self._process.is_alive and rng.random() < 0.5:
            return  # it had not left the dead replica yet; or only its first part had
        for index in range(first, until):
            conflict = self._truth.insert(messages[index])
            if conflict is not None:
                self._refuse(messages, index, conflict, answer, rng)
                return
        if until < len(messages):
            self._loop.call_later(_TRIP_S * rng.random(), self._insert, messages, until, answer, rng)
        else:
            self._answer(answer, Appended(len(messages)), rng)

    def _refuse(
        self,
        messages: Sequence[Message],
        index: int,
        conflict: AppendConflict,
        answer: "asyncio.Future[Appended]",
        rng: random.Random,
    ) -> None:
        self._answer(answer, Appended(index, conflict), rng)

    async def find_head(self, conversation_id: ConversationId) -> Seq:
        return await self._ask(conversation_id, lambda: self._truth.head(conversation_id))

    async def find_heads(self, conversation_ids: Sequence[ConversationId]) -> Mapping[ConversationId, Seq]:
        asked = sorted(conversation_ids)
        return await self._ask(asked[0] if asked else "", lambda: {each: self._truth.head(each) for each in asked})

    async def find_by_keys(self, keys: Sequence[IdempotencyKey]) -> Mapping[IdempotencyKey, Message]:
        known = self._truth.keys
        return await self._ask(
            min(key.conversation_id for key in keys), lambda: {key: known[key] for key in keys if key in known}
        )

    async def read_after(self, conversation_id: ConversationId, seq: Seq, *, limit: int) -> Sequence[Message]:
        return await self._ask(conversation_id, lambda: self._truth.read_after(conversation_id, seq, limit))

    # ---- Conversations.

    async def read_memberships(self, conversation_id: ConversationId) -> Sequence[Membership]:
        return await self._ask(conversation_id, lambda: self._truth.read_memberships(conversation_id))

    async def find_membership(self, conversation_id: ConversationId, user_id: UserId) -> Membership | None:
        memberships = await self.read_memberships(conversation_id)
        return next((each for each in memberships if each.user_id == user_id), None)

    async def move_watermarks(
        self, moves: Sequence[tuple[ConversationId, UserId, WatermarkKind, Seq]]
    ) -> Sequence[Watermarks | None]:
        def move() -> Sequence[Watermarks | None]:
            for each in moves:
                self._truth.move(*each)
            return [self._truth.watermarks.get((conversation, user)) for conversation, user, _, _ in moves]

        return await self._ask(min((each[0] for each in moves), default=""), move)

    # ---- Time and failure.

    async def _ask(self, conversation_id: str, look: Callable[[], T]) -> T:
        """`look` happens at one moment between the call and its answer."""
        rng = self._chance(conversation_id)
        answer: asyncio.Future[T] = self._loop.create_future()
        if rng.random() < self.trouble.refused_odds:
            self._loop.call_later(self._trip_s(rng), self._fail, answer)
        else:
            self._loop.call_later(self._trip_s(rng), self._look, look, answer, rng)
        return await answer

    def _look(self, look: Callable[[], T], answer: "asyncio.Future[T]", rng: random.Random) -> None:
        self._answer(answer, look(), rng)

    def _answer(self, answer: "asyncio.Future[T]", value: T, rng: random.Random) -> None:
        """Now or a trip later. A dead replica hears nothing any more."""
        if rng.random() < 0.5:
            self._tell(answer, value)
        else:
            self._loop.call_later(self._trip_s(rng), self._tell, answer, value)

    def _tell(self, answer: "asyncio.Future[T]", value: T) -> None:
        if self._process.is_alive and not answer.done():
            answer.set_result(value)

    def _fail(self, answer: "asyncio.Future[T]") -> None:
        if self._process.is_alive and not answer.done():
            answer.set_exception(StoreUnavailable(retry_after_ms=500))

    def _trip_s(self, rng: random.Random) -> float:
        trouble = self.trouble
        if trouble.slow_odds and rng.random() < trouble.slow_odds:
            return rng.random() * trouble.slow_s
        return rng.random() * _TRIP_S

    def _chance(self, conversation_id: str) -> random.Random:
        rng = self._chances.get(conversation_id)
        if rng is None:
            rng = self._chances[conversation_id] = random.Random(self._seed * 31 + sum(conversation_id.encode()))
        return rng
