"""The JSON shapes that STOMP and HTTP share, as wire.md lists them."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from edge.model import Message
from edge.times import rfc3339

Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
Status = Annotated[str, Meta(extra_json_schema={"enum": ["sent", "delivered", "seen"]})]


class LastMessage(msgspec.Struct, frozen=True, rename="camel"):
    """A message where its status is not known."""

    message_id: str
    conversation_id: str
    seq: int
    sender_id: str
    content: str
    type: str
    client_message_id: str
    sent_at: Time


class MessageBody(LastMessage, frozen=True, rename="camel"):
    """A message as clients see it."""

    status: Status


def last_message_view(message: Message) -> LastMessage:
    return LastMessage(*_fields(message))


def message_view(message: Message, status: str) -> MessageBody:
    return MessageBody(*_fields(message), status)


def message_body(message: Message, status: str) -> dict[str, Any]:
    """The same as a dict in the order of wire.md; as an event it also carries `"event": "message"`, in front."""
    body: dict[str, Any] = msgspec.to_builtins(message_view(message, status))
    return body


def _fields(message: Message) -> tuple[str, str, int, str, str, str, str, str]:
    return (
        message.message_id,
        message.conversation_id,
        message.seq,
        message.sender_id,
        message.content,
        message.type,
        message.client_message_id,
        rfc3339(message.sent_at_ms),
    )
