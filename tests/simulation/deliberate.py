"""Deliberate bugs: each takes one mechanism out of the product, so that a test can see the simulation find it."""

import asyncio
import random
from collections.abc import Sequence

from services.chat.messages import Messages, _Pending
from services.chat.model import Message, Seq, UserId, WatermarkKind, Watermarks
from services.chat.store import AppendConflict, Appended, IdempotencyKey
from services.chat.streams import TopicStream
from services.chat.topics import Topics, Watch, _Topic
from tests.simulation.replica import Parts
from tests.simulation.store import SimStore
from tests.simulation.truth import Truth


class _PassesOnWhateverComes(Topics):
    """No gap check: a hint further ahead goes out as it is."""

    def _pass_on(self, topic: _Topic, messages: Sequence[Message], event: bytes) -> None:
        if topic.last is not None and messages[0].seq > topic.last:
            topic.last = Seq(messages[0].seq - 1)
        super()._pass_on(topic, messages, event)


class _JoinsBeforeItHasReplayed(Topics):
    """A resume that begins at the head of the topic, wherever its client is."""

    async def _replay(self, stream: TopicStream, topic: _Topic, watch: Watch) -> Seq:
        assert topic.last is not None
        return topic.last


class _AnswersBeforeTheCommit(Messages):
    """Ack before commit: numbers are handed out, and the answers with them, before the store has them."""

    async def _append(self, rest: list[_Pending]) -> list[_Pending]:
        if rest:
            for pending, message in zip(rest, await self._number(rest), strict=True):
                self._settle(pending, message, repeat=False)
        return await super()._append(rest)


class _GoesOnBehindARefusal(SimStore):
    """Unordered batch: what stands behind a refused message is stored all the same."""

    def _refuse(
        self,
        messages: Sequence[Message],
        index: int,
        conflict: AppendConflict,
        answer: "asyncio.Future[Appended]",
        rng: random.Random,
    ) -> None:
        for message in messages[index + 1 :]:
            self._truth.insert(message)
        super()._refuse(messages, index, conflict, answer, rng)


class _ForgetsKeys(Truth):
    """Forgotten dedupe: no index of keys, so that a repeat is stored again."""

    def refuses_key(self, key: IdempotencyKey) -> bool:
        return False


class _SendsOnBehindAGivenUpDraft(Messages):
    """The second batch of a request overtakes its first, which was given up."""

    def _give_up_behind(self, batch: Sequence[_Pending]) -> list[_Pending]:
        return list(batch)


class _TrustsItsHead(Messages):
    """A head that was guessed is kept when the index has refused it, and counted on from."""

    async def _number(self, rest: Sequence[_Pending]) -> list[Message]:
        messages = await super()._number(rest)
        for message in messages:
            self._heads[message.conversation_id] = message.seq
        return messages


class _SetsWatermarks(Truth):
    """Watermarks that are set instead of moved forwards."""

    def moved(self, known: Watermarks, kind: WatermarkKind, seq: Seq) -> Watermarks:
        return Watermarks(seq, seq if kind is WatermarkKind.SEEN else known.read_seq)


class _ForgetsMoves(Truth):
    """A move that is acknowledged and not kept."""

    def move(self, conversation_id: str, user_id: UserId, kind: WatermarkKind, seq: Seq) -> Watermarks | None:
        return Watermarks(seq, seq)


BUGS = {
    "no gap check": Parts(topics=_PassesOnWhateverComes),
    "resume without a replay": Parts(topics=_JoinsBeforeItHasReplayed),
    "ack before commit": Parts(messages=_AnswersBeforeTheCommit),
    "unordered batch": Parts(store=_GoesOnBehindARefusal),
    "forgotten dedupe": Parts(truth=_ForgetsKeys),
    "a batch overtakes one that was given up": Parts(messages=_SendsOnBehindAGivenUpDraft),
    "a guessed head is trusted": Parts(messages=_TrustsItsHead),
    "watermarks are set": Parts(truth=_SetsWatermarks),
    "moves are forgotten": Parts(truth=_ForgetsMoves),
}
