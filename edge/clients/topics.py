"""One topic stream to one chat replica: watches go up in batches, events come down into a listener."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import grpc

from edge.clients.convert import kind_from, message_from, refusal_from
from edge.clients.writing import take_first, was_written
from edge.model import ConversationId, Message, Seq, UserId, WatermarkKind
from protos.chat.v1 import chat_pb2, chat_pb2_grpc
from services.runtime.channel import outgoing_metadata
from services.runtime.errors import ServiceError, from_rpc_error
from services.runtime.log import logger

# Of each kind in one message up; and typing signals that may wait.
_MAX_UP = 1_000
# Events handled before other work gets its turn: about 2 ms.
_TURN_EVENTS = 50

_log = logger(__name__)
_Call = grpc.aio.StreamStreamCall[chat_pb2.StreamTopicsRequest, chat_pb2.StreamTopicsResponse]


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """To join a topic on behalf of users, with a replay of what is later than `after` (None: from the head)."""

    watch_id: int
    conversation_id: ConversationId
    user_ids: Sequence[UserId]
    after: Seq | None


class TopicListener(Protocol):
    """What a stream brings, in its order. Called on the event loop; does not block and does not raise."""

    def messages(self, conversation_id: ConversationId, messages: Sequence[Message]) -> None: ...
    def replay(self, watch_id: int, messages: Sequence[Message]) -> None: ...
    def joined(self, watch_id: int, head: Seq, denied: Sequence[UserId]) -> None: ...
    def refused(self, watch_id: int, error: ServiceError) -> None: ...
    def member_removed(self, conversation_id: ConversationId, user_id: UserId) -> None: ...
    def status(
        self, conversation_id: ConversationId, user_id: UserId, kind: WatermarkKind, seq: Seq, at_ms: int
    ) -> None: ...
    def typing(self, conversation_id: ConversationId, user_id: UserId, *, typing: bool) -> None: ...


# Whose contacts may be others now; none named: perhaps everybody's.
ContactsChanged = Callable[[Sequence[UserId]], None]


class TopicCall:
    """What waits to go up, and the stream itself (`run`).

    What waits is bounded by what is watched and who is connected: a conversation has one unwatch, each watch is a
    subscription that was counted where it was made, and of attendance and following the last word holds.
    """

    def __init__(self, stub: chat_pb2_grpc.ChatServiceStub) -> None:
        self._stub = stub
        self._watches: list[chat_pb2.Watch] = []
        self._unwatches: list[str] = []
        self._typing: list[chat_pb2.Typing] = []
        self._attendance: dict[tuple[ConversationId, UserId], bool] = {}
        self._follows: dict[UserId, bool] = {}
        self._news = asyncio.Event()

    def watch(self, request: WatchRequest) -> None:
        self._watches.append(
            chat_pb2.Watch(
                watch_id=request.watch_id,
                conversation_id=request.conversation_id,
                user_ids=request.user_ids,
                after_seq=request.after,
            )
        )
        self._news.set()

    def unwatch(self, conversation_id: ConversationId) -> None:
        self._unwatches.append(conversation_id)
        self._news.set()

    def send_typing(self, conversation_id: ConversationId, user_id: UserId, *, typing: bool) -> None:
        if len(self._typing) < _MAX_UP:
            self._typing.append(chat_pb2.Typing(conversation_id=conversation_id, user_id=user_id, typing=typing))
            self._news.set()

    def say_attendance(self, conversation_id: ConversationId, user_id: UserId, *, attends: bool) -> None:
        key = (conversation_id, user_id)
        self._attendance.pop(key, None)  # the last word, in its place
        self._attendance[key] = attends
        self._news.set()

    def follow(self, user_ids: Iterable[UserId], *, follows: bool) -> None:
        self._follows.update((user_id, follows) for user_id in user_ids)
        self._news.set()

    def forget(self) -> None:
        """Drops what waits: the stream that it was for is gone."""
        self._watches.clear()
        self._unwatches.clear()
        self._typing.clear()
        self._attendance.clear()
        self._follows.clear()

    async def run(self, listener: TopicListener, contacts_changed: ContactsChanged) -> None:
        """Opens the stream and follows it to its end.

        Raises:
            ServiceError: it broke.
        """
        call = self._stub.StreamTopics(metadata=outgoing_metadata(), wait_for_ready=True)
        writing = asyncio.create_task(self._write(call))
        try:
            async for response in call:
                for count, event in enumerate(response.events, 1):
                    if event.HasField("contacts_changed"):
                        contacts_changed([UserId(user_id) for user_id in event.contacts_changed.user_ids])
                    else:
                        _handle(event, listener)
                    if count % _TURN_EVENTS == 0:
                        await asyncio.sleep(0)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, package="edge") from error
        finally:
            writing.cancel()
            await asyncio.wait((writing,))
            call.cancel()

    async def _write(self, call: _Call) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._unwatches or self._watches or self._typing or self._attendance or self._follows:
                if not await was_written(call.write(self._next_request())):
                    return

    def _next_request(self) -> chat_pb2.StreamTopicsRequest:
        # Unwatches come first, here as at chat: a conversation is unwatched only when none of its watches is under way,
        # so a watch that waits beside an unwatch of the same conversation is the later one.
        attendance = take_first(self._attendance, _MAX_UP)
        follows = take_first(self._follows, _MAX_UP)
        request = chat_pb2.StreamTopicsRequest(
            unwatches=self._unwatches[:_MAX_UP],
            watches=self._watches[:_MAX_UP],
            typing=self._typing,
            attendance=[
                chat_pb2.Attendance(conversation_id=conversation_id, user_id=user_id, attends=attends)
                for (conversation_id, user_id), attends in attendance.items()
            ],
            follow_user_ids=[user_id for user_id, follows_ in follows.items() if follows_],
            unfollow_user_ids=[user_id for user_id, follows_ in follows.items() if not follows_],
        )
        del self._unwatches[:_MAX_UP]
        del self._watches[:_MAX_UP]
        self._typing.clear()
        return request


def _handle(event: chat_pb2.TopicEvent, listener: TopicListener) -> None:
    match event.WhichOneof("event"):
        case "messages":
            batch = event.messages
            listener.messages(ConversationId(batch.conversation_id), [message_from(wire) for wire in batch.messages])
        case "replay":
            listener.replay(event.replay.watch_id, [message_from(wire) for wire in event.replay.messages])
        case "joined":
            joined = event.joined
            listener.joined(joined.watch_id, Seq(joined.head_seq), [UserId(user) for user in joined.denied_user_ids])
        case "refused":
            listener.refused(event.refused.watch_id, refusal_from(event.refused.refusal))
        case "member_removed":
            removed = event.member_removed
            listener.member_removed(ConversationId(removed.conversation_id), UserId(removed.user_id))
        case "status":
            moved = event.status
            listener.status(
                ConversationId(moved.conversation_id),
                UserId(moved.user_id),
                kind_from(moved.kind),
                Seq(moved.seq),
                moved.at_ms,
            )
        case "typing":
            typing = event.typing
            listener.typing(ConversationId(typing.conversation_id), UserId(typing.user_id), typing=typing.typing)
        case unknown:  # a newer chat than this edge
            _log.debug("topic_event_unknown", kind=unknown)
