"""The edge's way to chat: stubs → the edge's values, gRPC failures → our errors, policy as data for each method.

Sends are batched while busy, in one lane for each conversation: a later message never overtakes an earlier one of the
same conversation, whichever replica each goes to and however often one is tried again.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import tenacity
import uuid_utils

from edge.clients.convert import KINDS, STATUSES, TYPES, conversation_from, message_from, refusal_from, view_from
from edge.errors import NoReplica
from edge.model import (
    Conversation,
    ConversationId,
    ConversationView,
    HistoryPage,
    Seq,
    Stored,
    UserId,
    WatermarkKind,
)
from edge.replicas import Replica, Replicas
from protos.chat.v1 import chat_pb2, chat_pb2_grpc
from services.runtime import errors
from services.runtime.batching import Batcher, LaneBatcher
from services.runtime.clock import Clock
from services.runtime.errors import DeadlineExceeded, Internal, ServiceError, Unavailable
from services.runtime.log import logger
from services.runtime.metrics import Metrics
from services.runtime.resilience import CallPolicy

SERVICE_NAME = chat_pb2.DESCRIPTOR.services_by_name["ChatService"].full_name

# One attempt of a batch. A commit takes milliseconds; a replica that has not answered by then is frozen, and the health
# watch has noticed.
_SEND_ATTEMPT = CallPolicy(deadline=timedelta(seconds=3))
# All attempts together: enough to find another replica twice over.
_SEND_BUDGET_S = 6.0
_SEND_PAUSES_S = (0.02, 0.5)
_READ = CallPolicy(deadline=timedelta(seconds=3), attempts=3, idempotent=True)
# Idempotent by its request id, by the pair, or because doing it twice changes nothing.
_WRITE = CallPolicy(deadline=timedelta(seconds=5), attempts=3, idempotent=True)

_MAX_BATCH = 300
_MAX_BATCH_BYTES = 2 << 20
_MAX_WAITING = 20_000
_MAX_IN_FLIGHT = 4

_log = logger(__name__)
_A = TypeVar("_A")
_B = TypeVar("_B")


class SendDone(Protocol):
    """Called once with the outcome of a send, on the event loop; does not raise."""

    def __call__(self, outcome: Stored | ServiceError, /) -> None: ...


@dataclass(slots=True)
class Outgoing:
    """A message on its way to chat."""

    conversation_id: ConversationId
    sender_id: UserId
    client_message_id: str
    content: str
    type: str
    done: SendDone


@dataclass(slots=True)
class _Mark:
    conversation_id: ConversationId
    user_id: UserId
    kind: WatermarkKind
    seq: Seq
    done: Callable[[ServiceError | None], None]


class ChatClient:
    """Everything that the edge asks of chat, except the topic streams (`topics`)."""

    def __init__(self, replicas: Replicas, clock: Clock, metrics: Metrics) -> None:
        self._replicas = replicas
        self._clock = clock
        self._stubs: dict[Replica, chat_pb2_grpc.ChatServiceStub] = {}
        self._sends: LaneBatcher[Outgoing, Replica | None] = LaneBatcher(
            self._flush_sends,
            failed=self._sends_failed,
            lane_of=lambda outgoing: outgoing.conversation_id,
            group_of=self._find_route,
            max_items=_MAX_BATCH,
            max_weight=_MAX_BATCH_BYTES,
            weigh=lambda outgoing: len(outgoing.content),
            max_waiting=_MAX_WAITING,
            max_in_flight=_MAX_IN_FLIGHT,
        )
        self._marks: Batcher[_Mark] = Batcher(
            self._flush_marks, failed=self._marks_failed, max_items=500, max_waiting=_MAX_WAITING
        )
        self._batch_sizes = metrics.histogram(
            "edge_send_messages", "Messages in one call to chat.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 300)
        )
        metrics.gauge("edge_sends_waiting", "Messages that wait for a call to chat.").set_function(
            lambda: self._sends.waiting
        )

    async def close(self) -> None:
        """Finishes what was accepted."""
        await self._sends.close()
        await self._marks.close()

    # ---- Sends.

    def send(self, outgoing: Outgoing) -> None:
        """Takes the message; `outgoing.done` is told the outcome, in order within a conversation.

        Raises:
            QueueFull: too much waits already.
        """
        self._sends.submit(outgoing)

    async def send_one(
        self, conversation_id: ConversationId, sender: UserId, client_message_id: str, content: str, type_: str
    ) -> Stored:
        answer: asyncio.Future[Stored | ServiceError] = asyncio.get_running_loop().create_future()

        def done(outcome: Stored | ServiceError, /) -> None:
            if not answer.done():
                answer.set_result(outcome)

        self.send(Outgoing(conversation_id, sender, client_message_id, content, type_, done))
        outcome = await answer
        if isinstance(outcome, ServiceError):
            raise outcome
        return outcome

    def mark(
        self,
        conversation_id: ConversationId,
        user_id: UserId,
        kind: WatermarkKind,
        seq: Seq,
        done: Callable[[ServiceError | None], None],
    ) -> None:
        """Moves a watermark forwards; `done` is told when that is durable, or why not."""
        self._marks.submit(_Mark(conversation_id, user_id, kind, seq, done))

    # ---- Calls.

    async def create_conversation(
        self, creator: UserId, type_: str, member_ids: Sequence[str], title: str | None, *, request_id: str
    ) -> tuple[Conversation, bool]:
        request = chat_pb2.CreateConversationRequest(
            request_id=request_id, creator_id=creator, type=TYPES[type_], member_ids=member_ids, title=title or ""
        )
        answer = await self._call(self._replicas.any(), "CreateConversation", request, _WRITE)
        return conversation_from(answer.conversation), answer.created

    async def get_conversation(self, conversation_id: ConversationId, user: UserId) -> ConversationView:
        request = chat_pb2.GetConversationRequest(conversation_id=conversation_id, user_id=user)
        answer = await self._call(self._replicas.route(conversation_id), "GetConversation", request, _READ)
        return view_from(answer.view)

    async def list_conversations(
        self, user: UserId, *, cursor: str, limit: int
    ) -> tuple[Sequence[ConversationView], str | None]:
        """A page, newest activity first, and the cursor of the next, if any."""
        request = chat_pb2.ListConversationsRequest(user_id=user, cursor=cursor, limit=limit)
        answer = await self._call(self._replicas.any(), "ListConversations", request, _READ)
        return [view_from(view) for view in answer.conversations], answer.next_cursor or None

    async def read_messages(
        self, conversation_id: ConversationId, user: UserId, *, after: int | None, before: int | None, limit: int
    ) -> HistoryPage:
        request = chat_pb2.ReadMessagesRequest(
            conversation_id=conversation_id, user_id=user, after_seq=after, before_seq=before, limit=limit
        )
        answer = await self._call(self._replicas.route(conversation_id), "ReadMessages", request, _READ)
        return HistoryPage(
            messages=[message_from(message) for message in answer.messages],
            head_seq=Seq(answer.head_seq),
            statuses=[STATUSES[status] for status in answer.statuses],
        )

    async def add_member(self, conversation_id: ConversationId, actor: UserId, user: UserId) -> Conversation:
        request = chat_pb2.AddMemberRequest(
            request_id=_request_id(), conversation_id=conversation_id, actor_id=actor, user_id=user
        )
        answer = await self._call(self._replicas.route(conversation_id), "AddMember", request, _WRITE)
        return conversation_from(answer.conversation)

    async def remove_member(self, conversation_id: ConversationId, actor: UserId, user: UserId) -> None:
        request = chat_pb2.RemoveMemberRequest(
            request_id=_request_id(), conversation_id=conversation_id, actor_id=actor, user_id=user
        )
        await self._call(self._replicas.route(conversation_id), "RemoveMember", request, _WRITE)

    async def set_muted(self, conversation_id: ConversationId, user: UserId, *, muted: bool) -> None:
        request = chat_pb2.SetMutedRequest(
            request_id=_request_id(), conversation_id=conversation_id, user_id=user, muted=muted
        )
        await self._call(self._replicas.route(conversation_id), "SetMuted", request, _WRITE)

    async def list_contacts(self, user: UserId) -> Sequence[UserId]:
        """Everybody who shares a conversation with the user, sorted."""
        answer = await self._call(
            self._replicas.any(), "ListContacts", chat_pb2.ListContactsRequest(user_id=user), _READ
        )
        return [UserId(user_id) for user_id in answer.user_ids]

    async def mark_delivered(self, marks: Mapping[tuple[ConversationId, UserId], Seq]) -> None:
        """Moves delivered watermarks. What is refused (of who is no member any more) is no loss.

        Raises:
            Unavailable, DeadlineExceeded: not all of them were taken.
        """
        routed: defaultdict[Replica, list[_Mark]] = defaultdict(list)
        failures: list[ServiceError] = []

        def done(error: ServiceError | None) -> None:
            if isinstance(error, Unavailable | DeadlineExceeded):
                failures.append(error)

        for (conversation_id, user_id), seq in marks.items():
            mark = _Mark(conversation_id, user_id, WatermarkKind.DELIVERED, seq, done)
            routed[self._replicas.route(conversation_id)].append(mark)
        await asyncio.gather(*(self._send_marks(replica, part) for replica, part in routed.items()))
        if failures:
            raise failures[0]

    def stub(self, replica: Replica) -> chat_pb2_grpc.ChatServiceStub:
        stub = self._stubs.get(replica)
        if stub is None:
            stub = self._stubs[replica] = chat_pb2_grpc.ChatServiceStub(replica.channel)
        return stub

    async def _call(self, replica: Replica, method: str, request: Any, policy: CallPolicy) -> Any:
        return await replica.caller.call(getattr(self.stub(replica), method), request, policy=policy, method=method)

    # ---- Batches.

    def _find_route(self, outgoing: Outgoing) -> Replica | None:
        """None: nobody is up; such batches wait for a replica within their budget."""
        try:
            return self._replicas.route(outgoing.conversation_id)
        except NoReplica:
            return None

    async def _flush_sends(self, _: Replica | None, batch: list[Outgoing]) -> None:
        """Sends until every message has its answer or the budget is spent; the lanes stay taken meanwhile."""
        self._batch_sizes.observe(len(batch))
        rest: Sequence[tuple[Outgoing, ServiceError]] = ()
        waiting: Sequence[Outgoing] = batch
        try:
            async for attempt in tenacity.AsyncRetrying(
                stop=tenacity.stop_before_delay(_SEND_BUDGET_S),
                wait=tenacity.wait_random_exponential(multiplier=_SEND_PAUSES_S[0], max=_SEND_PAUSES_S[1]),
                retry=tenacity.retry_if_exception_type(_NotYet),
                reraise=True,
            ):
                with attempt:
                    rest = await self._try_sends(waiting)
                    if rest:
                        waiting = [outgoing for outgoing, _ in rest]
                        raise _NotYet
        except _NotYet:
            for outgoing, error in rest:
                outgoing.done(error)

    async def _try_sends(self, batch: Sequence[Outgoing]) -> list[tuple[Outgoing, ServiceError]]:
        """One attempt at each replica concerned; what may be tried again comes back with the reason."""
        routed: defaultdict[Replica | None, list[Outgoing]] = defaultdict(list)
        for outgoing in batch:
            routed[self._find_route(outgoing)].append(outgoing)
        if len(routed) == 1:
            ((replica, only),) = routed.items()
            return await self._send_to(replica, only)
        parts = await asyncio.gather(*(self._send_to(replica, part) for replica, part in routed.items()))
        return [again for part in parts for again in part]

    async def _send_to(self, replica: Replica | None, batch: Sequence[Outgoing]) -> list[tuple[Outgoing, ServiceError]]:
        if replica is None:
            none_up = NoReplica(service="chat", retry_after_ms=1_000)
            return [(outgoing, none_up) for outgoing in batch]
        request = chat_pb2.SendMessagesRequest(
            request_id=_request_id(),
            messages=[
                chat_pb2.OutgoingMessage(
                    conversation_id=outgoing.conversation_id,
                    sender_id=outgoing.sender_id,
                    client_message_id=outgoing.client_message_id,
                    content=outgoing.content,
                    type=outgoing.type,
                )
                for outgoing in batch
            ],
        )
        try:
            answer = await self._call(replica, "SendMessages", request, _SEND_ATTEMPT)
        except (Unavailable, DeadlineExceeded, errors.Aborted) as error:
            return [(outgoing, error) for outgoing in batch]
        except ServiceError as error:
            for outgoing in batch:
                outgoing.done(error)
            return []
        again: list[tuple[Outgoing, ServiceError]] = []
        for outgoing, result in zip(batch, answer.results, strict=True):
            if result.HasField("stored"):
                stored = result.stored
                outgoing.done(Stored(stored.message_id, Seq(stored.seq), stored.sent_at_ms, stored.repeat))
                continue
            refusal = refusal_from(result.refusal)
            if isinstance(refusal, Unavailable):
                again.append((outgoing, refusal))
            else:
                outgoing.done(refusal)
        return again

    def _sends_failed(self, batch: Sequence[Outgoing], error: Exception) -> None:
        _log.error("send_batch_failed", messages=len(batch), exc_info=error)
        for outgoing in batch:
            outgoing.done(error if isinstance(error, ServiceError) else Internal())

    async def _flush_marks(self, batch: list[_Mark]) -> None:
        routed: defaultdict[Replica, list[_Mark]] = defaultdict(list)
        for mark in batch:
            try:
                routed[self._replicas.route(mark.conversation_id)].append(mark)
            except NoReplica as error:
                mark.done(error)
        await asyncio.gather(*(self._send_marks(replica, part) for replica, part in routed.items()))

    async def _send_marks(self, replica: Replica, marks: Sequence[_Mark]) -> None:
        request = chat_pb2.MoveWatermarksRequest(
            request_id=_request_id(),
            moves=[
                chat_pb2.WatermarkMove(
                    conversation_id=mark.conversation_id, user_id=mark.user_id, kind=KINDS[mark.kind], seq=mark.seq
                )
                for mark in marks
            ],
        )
        try:
            answer = await self._call(replica, "MoveWatermarks", request, _WRITE)
        except ServiceError as error:
            for mark in marks:
                mark.done(error)
            return
        for mark, result in zip(marks, answer.results, strict=True):
            mark.done(refusal_from(result.refusal) if result.HasField("refusal") else None)

    def _marks_failed(self, marks: Sequence[_Mark], error: Exception) -> None:
        _log.error("mark_batch_failed", marks=len(marks), exc_info=error)
        for mark in marks:
            mark.done(error if isinstance(error, ServiceError) else Internal())


class _NotYet(Exception):
    """Some of a batch may be tried again."""


def _request_id() -> str:
    return str(uuid_utils.uuid7())
