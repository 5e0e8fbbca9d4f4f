"""What a client SENDs (wire.md), from body to call: parse, check, hand on. Answers come back through the reply.

Nothing here awaits: a command is accepted at once and answered when its effect is durable.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec
import uuid_utils

from edge.clients import ChatClient, Outgoing
from edge.decoding import decode_body
from edge.destinations import Command, is_conversation_id
from edge.errors import BadRequest, ContentTooLarge, NotAMember
from edge.limits import TokenBuckets
from edge.model import ConversationId, Seq, Stored, UserId, WatermarkKind, parse_message_id
from edge.presence import PresenceStatus
from services.runtime.errors import Forbidden, ServiceError

_MAX_CLIENT_MESSAGE_ID_BYTES = 128

Header = tuple[str, str]


class ChatSend(msgspec.Struct, rename="camel"):
    """`/app/chat.send`"""

    conversation_id: str
    content: str
    type: str = "text"
    client_message_id: str | None = None


class ChatMark(msgspec.Struct, rename="camel"):
    """`/app/chat.delivered` and `/app/chat.read`"""

    conversation_id: str
    message_id: str


class ChatTyping(msgspec.Struct, rename="camel"):
    """`/app/chat.typing`"""

    conversation_id: str
    typing: bool


class PresenceSet(msgspec.Struct):
    """`/app/presence.set`"""

    status: Literal["online", "away", "busy"]


class SessionRefresh(msgspec.Struct, rename="camel"):
    """`/app/session.refresh`"""

    token: str


class Reply(Protocol):
    """How a command is answered: exactly one of the two, once, now or later."""

    def done(self, headers: Sequence[Header] = ()) -> None:
        """The effect is durable; the headers go on the RECEIPT."""

    def refused(
        self, error: ServiceError, *, conversation_id: str | None = None, client_message_id: str | None = None
    ) -> None: ...


class SendTyping(Protocol):
    """Tells the others of a conversation; best effort."""

    def __call__(self, conversation_id: ConversationId, user_id: UserId, *, typing: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class Caller:
    """The connection that a command came from, as far as commands need it."""

    user_id: UserId
    refresh: Callable[[str], None]
    set_status: Callable[[PresenceStatus], None]
    is_watching: Callable[[ConversationId], bool]


class Commands:
    """The commands of this edge."""

    def __init__(
        self,
        chat: ChatClient,
        send_typing: SendTyping,
        send_limit: TokenBuckets,
        *,
        max_content_bytes: int,
    ) -> None:
        self._chat = chat
        self._send_typing = send_typing
        self._send_limit = send_limit
        self._max_content_bytes = max_content_bytes

    def run(self, command: Command, body: bytes, caller: Caller, reply: Reply) -> None:
        """
        Raises:
            ServiceError: refused at once; `reply` was not used.
        """
        match command:
            case Command.SEND:
                self._send(decode_body(body, ChatSend), caller, reply)
            case Command.READ:
                self._mark(decode_body(body, ChatMark), WatermarkKind.SEEN, caller, reply)
            case Command.DELIVERED:
                self._mark(decode_body(body, ChatMark), WatermarkKind.DELIVERED, caller, reply)
            case Command.TYPING:
                self._type(decode_body(body, ChatTyping), caller, reply)
            case Command.REFRESH:
                caller.refresh(decode_body(body, SessionRefresh).token)
                reply.done()
            case Command.SET_PRESENCE:
                caller.set_status(PresenceStatus(decode_body(body, PresenceSet).status))
                reply.done()

    def _send(self, body: ChatSend, caller: Caller, reply: Reply) -> None:
        self._send_limit.take(caller.user_id)
        client_message_id = check_send(body, self._max_content_bytes)
        conversation_id = body.conversation_id

        def done(outcome: Stored | ServiceError, /) -> None:
            if isinstance(outcome, Stored):
                reply.done((("message-id", outcome.message_id), ("x-seq", str(outcome.seq))))
            else:
                reply.refused(outcome, conversation_id=conversation_id, client_message_id=body.client_message_id)

        if not is_conversation_id(conversation_id):
            done(NotAMember())
            return
        try:
            self._chat.send(
                Outgoing(
                    ConversationId(conversation_id), caller.user_id, client_message_id, body.content, body.type, done
                )
            )
        except ServiceError as full:
            done(full)

    def _mark(self, body: ChatMark, kind: WatermarkKind, caller: Caller, reply: Reply) -> None:
        try:
            conversation_id, seq = parse_message_id(body.message_id)
        except ValueError:
            raise BadRequest(problem="messageId: expected the id of a message") from None
        if conversation_id != body.conversation_id:
            raise BadRequest(problem="messageId: expected a message of that conversation")
        if not is_conversation_id(conversation_id):
            raise NotAMember
        self._move(conversation_id, seq, kind, caller, reply)

    def mark_delivered(self, conversation_id: ConversationId, seq: Seq, caller: Caller, reply: Reply) -> None:
        """As an ACK does."""
        self._move(conversation_id, seq, WatermarkKind.DELIVERED, caller, reply)

    def _move(
        self, conversation_id: ConversationId, seq: Seq, kind: WatermarkKind, caller: Caller, reply: Reply
    ) -> None:
        def moved(error: ServiceError | None) -> None:
            if error is None:
                reply.done()
            else:
                reply.refused(error, conversation_id=conversation_id)

        self._chat.mark(conversation_id, caller.user_id, kind, seq, moved)

    def _type(self, body: ChatTyping, caller: Caller, reply: Reply) -> None:
        conversation_id = ConversationId(body.conversation_id)
        # Who watches has been found to be a member; nobody else's typing is of interest to anybody.
        if not caller.is_watching(conversation_id):
            raise Forbidden.told("subscribe to the conversation before telling it that you type")
        self._send_typing(conversation_id, caller.user_id, typing=body.typing)
        reply.done()


def check_send(body: ChatSend, max_content_bytes: int) -> str:
    """The `clientMessageId` to use, once the body is found to be as wire.md wants it.

    Raises:
        BadRequest, ContentTooLarge: it is not.
    """
    if body.type != "text":
        raise BadRequest(problem='type: expected "text"')
    if not body.content:
        raise BadRequest(problem="content: expected some text")
    size = len(body.content)
    if size * 4 > max_content_bytes and len(body.content.encode("utf-8", "surrogatepass")) > max_content_bytes:
        raise ContentTooLarge(what="content", limit=max_content_bytes)
    if body.client_message_id is None:
        return str(uuid_utils.uuid7())
    if not 1 <= len(body.client_message_id.encode("utf-8", "surrogatepass")) <= _MAX_CLIENT_MESSAGE_ID_BYTES:
        raise BadRequest(problem=f"clientMessageId: expected 1 to {_MAX_CLIENT_MESSAGE_ID_BYTES} bytes")
    return body.client_message_id
