"""The edge's own view of what chat tells it; values without behaviour beyond their ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

UserId = NewType("UserId", str)
ConversationId = NewType("ConversationId", str)
Seq = NewType("Seq", int)


class WatermarkKind(StrEnum):
    DELIVERED = "delivered"
    SEEN = "seen"


@dataclass(frozen=True, slots=True)
class Message:
    message_id: str
    conversation_id: ConversationId
    seq: Seq
    sender_id: UserId
    client_message_id: str
    content: str
    type: str
    sent_at_ms: int


@dataclass(frozen=True, slots=True)
class Stored:
    """The answer to a send: the message is durable."""

    message_id: str
    seq: Seq
    sent_at_ms: int
    repeat: bool


@dataclass(frozen=True, slots=True)
class Conversation:
    conversation_id: ConversationId
    type: str
    title: str | None
    member_ids: Sequence[UserId]
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class ConversationView:
    conversation: Conversation
    head_seq: Seq
    read_seq: Seq
    last_message: Message | None
    muted: bool


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Ascending, with the status of each: `sent`, `delivered` or `seen` by every member but its sender."""

    messages: Sequence[Message]
    head_seq: Seq
    statuses: Sequence[str]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a verified token names, and until when."""

    user_id: UserId
    expires_at_s: float


def parse_message_id(message_id: str) -> tuple[ConversationId, Seq]:
    """The conversation and seq that a message id is made of (wire.md: ids come from here, and go back unread).

    Raises:
        ValueError: this is not a message id.
    """
    conversation_id, _, digits = message_id.rpartition("-")
    if not conversation_id or len(digits) != 10 or not (digits.isascii() and digits.isdigit()) or int(digits) < 1:
        raise ValueError("not a message id")
    return ConversationId(conversation_id), Seq(int(digits))
