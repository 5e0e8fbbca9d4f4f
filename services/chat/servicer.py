"""chat.v1 over gRPC: unpacks a request, calls the use case, packs the answer. Rules live in the use cases."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from protos.chat.v1 import chat_pb2, chat_pb2_grpc
from services.chat import convert
from services.chat.attendance import Attendance
from services.chat.conversations import ConversationService
from services.chat.errors import BadRequest
from services.chat.followers import Followers
from services.chat.messages import Messages, Sent
from services.chat.model import ConversationId, Draft, Seq, UserId
from services.chat.receipts import Receipts
from services.chat.streams import TopicStream
from services.chat.topics import Topics
from services.runtime.errors import ServiceError

SERVICE_NAME = chat_pb2.DESCRIPTOR.services_by_name["ChatService"].full_name

# More in one call is an edge's bug; its own batches are smaller.
_MAX_BATCH = 1_000
# Watches of one stream that replay at the same time; the others wait their turn.
_MAX_REPLAYS = 64

_Context = grpc.aio.ServicerContext[Any, Any]


class ChatServicer(chat_pb2_grpc.ChatServiceServicer):
    """Everything but the topic stream, whose answers are ready-made bytes (`register`)."""

    def __init__(
        self,
        messages: Messages,
        conversations: ConversationService,
        receipts: Receipts,
        topics: Topics,
        attendance: Attendance,
        followers: Followers,
        draining: asyncio.Event,
    ) -> None:
        self._messages = messages
        self._conversations = conversations
        self._receipts = receipts
        self._topics = topics
        self._attendance = attendance
        self._followers = followers
        self._draining = draining

    async def SendMessages(
        self, request: chat_pb2.SendMessagesRequest, context: _Context
    ) -> chat_pb2.SendMessagesResponse:
        if len(request.messages) > _MAX_BATCH:
            raise BadRequest(problem=f"messages: expected at most {_MAX_BATCH}")
        read = [convert.draft_from(wire) for wire in request.messages]
        drafts = [draft for draft in read if isinstance(draft, Draft)]
        outcomes: list[Sent | ServiceError] = list(await self._messages.send(drafts)) if drafts else []
        if len(drafts) < len(read):
            answered = iter(outcomes)
            outcomes = [next(answered) if isinstance(draft, Draft) else draft for draft in read]
        return chat_pb2.SendMessagesResponse(results=map(convert.send_result, outcomes))

    async def ReadMessages(
        self, request: chat_pb2.ReadMessagesRequest, context: _Context
    ) -> chat_pb2.ReadMessagesResponse:
        page = await self._conversations.read_messages(
            ConversationId(request.conversation_id),
            convert.user_id_from(request.user_id),
            after=Seq(request.after_seq) if request.HasField("after_seq") else None,
            before=Seq(request.before_seq) if request.HasField("before_seq") else None,
            limit=request.limit,
        )
        return convert.page(page)

    async def CreateConversation(
        self, request: chat_pb2.CreateConversationRequest, context: _Context
    ) -> chat_pb2.CreateConversationResponse:
        conversation, created = await self._conversations.create(
            convert.user_id_from(request.creator_id),
            convert.type_from(request.type),
            [convert.user_id_from(user_id) for user_id in request.member_ids],
            convert.title_from(request.title),
            request_id=request.request_id,
        )
        return chat_pb2.CreateConversationResponse(conversation=convert.conversation(conversation), created=created)

    async def GetConversation(
        self, request: chat_pb2.GetConversationRequest, context: _Context
    ) -> chat_pb2.GetConversationResponse:
        view = await self._conversations.get_view(
            ConversationId(request.conversation_id), convert.user_id_from(request.user_id)
        )
        return chat_pb2.GetConversationResponse(view=convert.view(view))

    async def ListConversations(
        self, request: chat_pb2.ListConversationsRequest, context: _Context
    ) -> chat_pb2.ListConversationsResponse:
        views, next_cursor = await self._conversations.list_page(
            convert.user_id_from(request.user_id), cursor=request.cursor, limit=request.limit
        )
        return chat_pb2.ListConversationsResponse(conversations=map(convert.view, views), next_cursor=next_cursor)

    async def AddMember(self, request: chat_pb2.AddMemberRequest, context: _Context) -> chat_pb2.AddMemberResponse:
        conversation = await self._conversations.add_member(
            ConversationId(request.conversation_id),
            convert.user_id_from(request.actor_id),
            convert.user_id_from(request.user_id),
        )
        return chat_pb2.AddMemberResponse(conversation=convert.conversation(conversation))

    async def RemoveMember(
        self, request: chat_pb2.RemoveMemberRequest, context: _Context
    ) -> chat_pb2.RemoveMemberResponse:
        await self._conversations.remove_member(
            ConversationId(request.conversation_id),
            convert.user_id_from(request.actor_id),
            convert.user_id_from(request.user_id),
        )
        return chat_pb2.RemoveMemberResponse()

    async def SetMuted(self, request: chat_pb2.SetMutedRequest, context: _Context) -> chat_pb2.SetMutedResponse:
        await self._conversations.set_muted(
            ConversationId(request.conversation_id), convert.user_id_from(request.user_id), muted=request.muted
        )
        return chat_pb2.SetMutedResponse()

    async def ListContacts(
        self, request: chat_pb2.ListContactsRequest, context: _Context
    ) -> chat_pb2.ListContactsResponse:
        contacts = await self._conversations.list_contacts(convert.user_id_from(request.user_id))
        return chat_pb2.ListContactsResponse(user_ids=contacts)

    async def MoveWatermarks(
        self, request: chat_pb2.MoveWatermarksRequest, context: _Context
    ) -> chat_pb2.MoveWatermarksResponse:
        if len(request.moves) > _MAX_BATCH:
            raise BadRequest(problem=f"moves: expected at most {_MAX_BATCH}")
        outcomes = await self._receipts.move([convert.move_from(wire) for wire in request.moves])
        return chat_pb2.MoveWatermarksResponse(results=map(convert.move_result, outcomes))

    async def StreamTopics(
        self, requests: AsyncIterator[chat_pb2.StreamTopicsRequest], context: _Context
    ) -> AsyncIterator[chat_pb2.StreamTopicsResponse]:
        """As the generated interface has it; `register` serves `stream_topics` instead, without the detour."""
        async for raw in self.stream_topics(requests, context):
            yield chat_pb2.StreamTopicsResponse.FromString(raw)

    async def stream_topics(
        self, requests: AsyncIterator[chat_pb2.StreamTopicsRequest], context: _Context
    ) -> AsyncIterator[bytes]:
        """Each yield is a serialised `StreamTopicsResponse`. Ends when the edge goes or this replica drains."""
        stream = TopicStream()
        reading = asyncio.create_task(self._read_requests(stream, requests))
        closing = asyncio.create_task(self._close_on_drain(stream))
        try:
            while events := await stream.take():
                yield events
        finally:
            stream.close()
            for task in (reading, closing):
                task.cancel()
            await asyncio.wait((reading, closing))
            self._attendance.stream_ended(stream)
            self._topics.stream_ended(stream)
            self._followers.ended(stream)
            if not reading.cancelled() and (error := reading.exception()) is not None:
                raise error

    async def _close_on_drain(self, stream: TopicStream) -> None:
        await self._draining.wait()
        stream.close()

    async def _read_requests(self, stream: TopicStream, requests: AsyncIterator[chat_pb2.StreamTopicsRequest]) -> None:
        """Follows what the edge asks until it stops asking; owns the watches that are still replaying."""
        replays = asyncio.Semaphore(_MAX_REPLAYS)

        async def watch(wire: chat_pb2.Watch) -> None:
            async with replays:
                await self._topics.watch(stream, convert.watch_from(wire))

        try:
            async with asyncio.TaskGroup() as group:
                async for request in requests:
                    for conversation_id in map(ConversationId, request.unwatches):
                        self._attendance.unwatched(stream, conversation_id)
                        self._topics.unwatch(stream, conversation_id)
                    for wire in request.watches:
                        group.create_task(watch(wire))
                    for typing in request.typing:
                        self._topics.announce(convert.typing_from(typing))
                    for said in request.attendance:
                        self._note_attendance(stream, ConversationId(said.conversation_id), said)
                    self._followers.unfollow(stream, map(UserId, request.unfollow_user_ids))
                    self._followers.follow(stream, map(UserId, request.follow_user_ids))
        finally:
            stream.close()

    def _note_attendance(self, stream: TopicStream, conversation_id: ConversationId, said: chat_pb2.Attendance) -> None:
        head = self._topics.find_last(conversation_id)
        if not said.attends:
            self._attendance.went(stream, conversation_id, UserId(said.user_id))
        elif head is not None:  # else the edge does not watch it
            self._attendance.came(stream, conversation_id, UserId(said.user_id), head=head)


def register(servicer: ChatServicer, server: grpc.aio.Server) -> None:
    """Registers the service; the topic stream through a handler of its own, which passes bytes on as they are."""
    chat_pb2_grpc.add_ChatServiceServicer_to_server(servicer, server)
    stream: grpc.RpcMethodHandler[Any, bytes] = grpc.stream_stream_rpc_method_handler(
        servicer.stream_topics,
        request_deserializer=chat_pb2.StreamTopicsRequest.FromString,
        response_serializer=None,
    )
    server.add_registered_method_handlers(SERVICE_NAME, {"StreamTopics": stream})
