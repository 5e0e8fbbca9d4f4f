"""The calls of the HTTP API and what each does. Knows nothing of HTTP beyond statuses."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import uuid_utils

from edge.auth import DevTokens
from edge.bodies import MessageBody, message_view
from edge.config import EdgeSettings
from edge.errors import BadRequest, ContentTooLarge
from edge.gateway.devices import Devices, device_routes
from edge.gateway.openapi import describe
from edge.gateway.presence import ReadPresence, presence_route
from edge.gateway.routing import Answer, Call, Reply, Route
from edge.gateway.shapes import (
    ConversationBody,
    ConversationsBody,
    ConversationsQuery,
    ConversationViewBody,
    DevToken,
    DevTokenRequest,
    HistoryBody,
    HistoryQuery,
    NewConversation,
    NewMessage,
    Nothing,
    ReadUpTo,
    conversation_body,
    conversation_view_body,
    history_body,
)
from edge.limits import TokenBuckets
from edge.model import (
    Conversation,
    ConversationId,
    ConversationView,
    HistoryPage,
    Message,
    Seq,
    Stored,
    UserId,
    WatermarkKind,
    parse_message_id,
)
from edge.times import rfc3339
from services.runtime.errors import ServiceError

# A thousand members with ids of 64 characters are 67 KB.
_MAX_NEW_CONVERSATION_BYTES: Final = 128 << 10


class Chat(Protocol):
    """What the API asks of chat (`clients.ChatClient`). Everything raises `ServiceError`."""

    async def create_conversation(
        self, creator: UserId, type_: str, member_ids: Sequence[str], title: str | None, *, request_id: str
    ) -> tuple[Conversation, bool]: ...

    async def get_conversation(self, conversation_id: ConversationId, user: UserId) -> ConversationView: ...

    async def list_conversations(
        self, user: UserId, *, cursor: str, limit: int
    ) -> tuple[Sequence[ConversationView], str | None]: ...

    async def read_messages(
        self, conversation_id: ConversationId, user: UserId, *, after: int | None, before: int | None, limit: int
    ) -> HistoryPage: ...

    async def add_member(self, conversation_id: ConversationId, actor: UserId, user: UserId) -> Conversation: ...

    async def remove_member(self, conversation_id: ConversationId, actor: UserId, user: UserId) -> None: ...

    async def set_muted(self, conversation_id: ConversationId, user: UserId, *, muted: bool) -> None: ...

    async def list_contacts(self, user: UserId) -> Sequence[UserId]: ...

    async def send_one(
        self, conversation_id: ConversationId, sender: UserId, client_message_id: str, content: str, type_: str
    ) -> Stored: ...

    def mark(
        self,
        conversation_id: ConversationId,
        user_id: UserId,
        kind: WatermarkKind,
        seq: Seq,
        done: Callable[[ServiceError | None], None],
    ) -> None: ...


class Api:
    """`routes` is the whole API; without `dev_tokens` there is no way to get one here."""

    def __init__(
        self,
        chat: Chat,
        presence: ReadPresence,
        devices: Devices,
        dev_tokens: DevTokens | None,
        send_limit: TokenBuckets,
        settings: EdgeSettings,
    ) -> None:
        self._chat = chat
        self._send_limit = send_limit
        self._max_content_bytes = settings.max_content_bytes
        routes = [
            *self._conversation_routes(),
            *self._message_routes(),
            presence_route(chat, presence),
            *device_routes(devices),
        ]
        if dev_tokens is not None:
            routes.append(_dev_token_route(dev_tokens))
        self.routes: Sequence[Route[Any, Any]] = (*routes, self._description_route())
        self._description = describe(self.routes)

    def _conversation_routes(self) -> list[Route[Any, Any]]:
        return [
            Route(
                method="POST",
                path="/conversations",
                name="createConversation",
                text="Makes a group, or finds or makes the one direct conversation of two people.",
                handle=self._create_conversation,
                query=Nothing,
                body=NewConversation,
                answers={
                    201: Answer("It was made.", ConversationBody),
                    200: Answer("It was there already.", ConversationBody),
                },
                refusals=(400, 413, 503),
                takes_idempotency_key=True,
                max_body_bytes=_MAX_NEW_CONVERSATION_BYTES,
            ),
            Route(
                method="GET",
                path="/conversations",
                name="listConversations",
                text="The caller's conversations, newest activity first.",
                handle=self._list_conversations,
                query=ConversationsQuery,
                body=Nothing,
                answers={200: Answer("A page.", ConversationsBody)},
                refusals=(400, 503),
            ),
            Route(
                method="GET",
                path="/conversations/{conversationId}",
                name="getConversation",
                text="One conversation.",
                handle=self._get_conversation,
                query=Nothing,
                body=Nothing,
                answers={200: Answer("The conversation.", ConversationViewBody)},
                refusals=(403, 503),
            ),
            Route(
                method="PUT",
                path="/conversations/{conversationId}/members/{userId}",
                name="addMember",
                text="Adds a member to a group. Somebody who is one already stays one.",
                handle=self._add_member,
                query=Nothing,
                body=Nothing,
                answers={200: Answer("The conversation, with its members.", ConversationBody)},
                refusals=(400, 403, 413, 503),
            ),
            Route(
                method="DELETE",
                path="/conversations/{conversationId}/members/{userId}",
                name="removeMember",
                text="Removes a member from a group; one's own id: leaves it.",
                handle=self._remove_member,
                query=Nothing,
                body=Nothing,
                answers={204: Answer("No later message reaches that member.")},
                refusals=(400, 403, 503),
            ),
            self._mute_route("PUT", "mute", "The caller is not notified of its messages any more.", muted=True),
            self._mute_route("DELETE", "unmute", "The caller is notified of its messages again.", muted=False),
        ]

    def _mute_route(self, method: str, name: str, text: str, *, muted: bool) -> Route[Any, Any]:
        async def mute(call: Call[Nothing, Nothing]) -> Reply:
            await self._chat.set_muted(call.conversation_id, call.user_id, muted=muted)
            return Reply(204)

        return Route(
            method=method,
            path="/conversations/{conversationId}/mute",
            name=name,
            text=text,
            handle=mute,
            query=Nothing,
            body=Nothing,
            answers={204: Answer("So it is.")},
            refusals=(403, 503),
        )

    def _message_routes(self) -> list[Route[Any, Any]]:
        return [
            Route(
                method="GET",
                path="/conversations/{conversationId}/messages",
                name="readMessages",
                text="A page of the conversation's messages; without a bound the latest.",
                handle=self._read_messages,
                query=HistoryQuery,
                body=Nothing,
                answers={200: Answer("The page.", HistoryBody)},
                refusals=(400, 403, 503),
            ),
            Route(
                method="POST",
                path="/conversations/{conversationId}/messages",
                name="sendMessage",
                text="Sends a message; the answer comes when it is durable.",
                handle=self._send_message,
                query=Nothing,
                body=NewMessage,
                answers={
                    201: Answer("The message.", MessageBody),
                    200: Answer("The message, which a request with this `clientMessageId` sent before.", MessageBody),
                },
                refusals=(400, 403, 409, 413, 429, 503),
            ),
            Route(
                method="POST",
                path="/conversations/{conversationId}/read",
                name="markRead",
                text="Everything up to a message has been seen by the caller.",
                handle=self._mark_read,
                query=Nothing,
                body=ReadUpTo,
                answers={204: Answer("That is durable.")},
                refusals=(400, 403, 413, 503),
            ),
        ]

    def _description_route(self) -> Route[Any, Any]:
        return Route(
            method="GET",
            path="/openapi.json",
            name="describe",
            text="This description.",
            handle=self._describe,
            query=Nothing,
            body=Nothing,
            answers={200: Answer("OpenAPI 3.1.", dict)},
            is_open=True,
        )

    # ---- Conversations.

    async def _create_conversation(self, call: Call[Nothing, NewConversation]) -> Reply:
        wanted = call.body
        conversation, created = await self._chat.create_conversation(
            call.user_id,
            wanted.type,
            wanted.member_ids,
            wanted.title,
            request_id=call.idempotency_key or str(uuid_utils.uuid7()),
        )
        return Reply(201 if created else 200, conversation_body(conversation))

    async def _list_conversations(self, call: Call[ConversationsQuery, Nothing]) -> Reply:
        views, next_cursor = await self._chat.list_conversations(
            call.user_id, cursor=call.query.cursor, limit=call.query.limit
        )
        return Reply(200, ConversationsBody([conversation_view_body(view) for view in views], next_cursor))

    async def _get_conversation(self, call: Call[Nothing, Nothing]) -> Reply:
        view = await self._chat.get_conversation(call.conversation_id, call.user_id)
        return Reply(200, conversation_view_body(view))

    async def _add_member(self, call: Call[Nothing, Nothing]) -> Reply:
        conversation = await self._chat.add_member(call.conversation_id, call.user_id, call.member_id)
        return Reply(200, conversation_body(conversation))

    async def _remove_member(self, call: Call[Nothing, Nothing]) -> Reply:
        await self._chat.remove_member(call.conversation_id, call.user_id, call.member_id)
        return Reply(204)

    # ---- Messages.

    async def _read_messages(self, call: Call[HistoryQuery, Nothing]) -> Reply:
        query = call.query
        page = await self._chat.read_messages(
            call.conversation_id, call.user_id, after=query.after_seq, before=query.before_seq, limit=query.limit
        )
        return Reply(200, history_body(page))

    async def _send_message(self, call: Call[Nothing, NewMessage]) -> Reply:
        self._send_limit.take(call.user_id)
        draft = call.body
        if len(draft.content.encode()) > self._max_content_bytes:
            raise ContentTooLarge(what="content", limit=self._max_content_bytes)
        client_message_id = draft.client_message_id or str(uuid_utils.uuid7())
        stored = await self._chat.send_one(
            call.conversation_id, call.user_id, client_message_id, draft.content, draft.type
        )
        message = Message(
            message_id=stored.message_id,
            conversation_id=call.conversation_id,
            seq=stored.seq,
            sender_id=call.user_id,
            client_message_id=client_message_id,
            content=draft.content,
            type=draft.type,
            sent_at_ms=stored.sent_at_ms,
        )
        return Reply(200 if stored.repeat else 201, message_view(message, "sent"))

    async def _mark_read(self, call: Call[Nothing, ReadUpTo]) -> Reply:
        try:
            conversation_id, seq = parse_message_id(call.body.message_id)
        except ValueError:
            conversation_id, seq = ConversationId(""), Seq(0)
        if conversation_id != call.conversation_id:
            raise BadRequest(problem="messageId: expected the id of a message of this conversation")
        outcome: asyncio.Future[ServiceError | None] = asyncio.get_running_loop().create_future()

        def done(error: ServiceError | None) -> None:
            if not outcome.done():
                outcome.set_result(error)

        self._chat.mark(call.conversation_id, call.user_id, WatermarkKind.SEEN, seq, done)
        if (error := await outcome) is not None:
            raise error
        return Reply(204)

    async def _describe(self, _: Call[Nothing, Nothing]) -> Reply:
        return Reply(200, self._description)


def _dev_token_route(dev_tokens: DevTokens) -> Route[Any, Any]:
    async def issue(call: Call[Nothing, DevTokenRequest]) -> Reply:
        token, expires_at = dev_tokens.issue(call.body.user_id)
        return Reply(201, DevToken(token, rfc3339(int(expires_at.timestamp() * 1000))))

    return Route(
        method="POST",
        path="/dev/token",
        name="issueDevToken",
        text="A token for any name, for anybody: development only.",
        handle=issue,
        query=Nothing,
        body=DevTokenRequest,
        answers={201: Answer("The token.", DevToken)},
        refusals=(400, 413),
        is_open=True,
    )
