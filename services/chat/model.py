"""The values of a conversation and the rules that need nothing else: ids, seqs, what a page and a status are.

Owns: `Message`, `Conversation`, `Watermarks` and how ids are made. Does no I/O and knows no store.
Source: wire.md for the ranges, design.md ("One log per conversation") for the ids.
"""

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

import uuid_utils

UserId = NewType("UserId", str)
ConversationId = NewType("ConversationId", str)
MessageId = NewType("MessageId", str)
# A message's place in its conversation: 1, 2, 3, … The head of an empty conversation is 0.
Seq = NewType("Seq", int)

# Ten decimal digits: text order is seq order, and ten thousand million messages fit into one conversation.
_SEQ_DIGITS = 10
MAX_SEQ = Seq(10**_SEQ_DIGITS - 1)
# wire.md: at most 200 messages in a page, 1,000 members in a group.
MAX_PAGE = 200
MAX_MEMBERS = 1000


class ConversationType(StrEnum):
    DIRECT = "direct"
    GROUP = "group"


class WatermarkKind(StrEnum):
    DELIVERED = "delivered"
    SEEN = "seen"


class MessageStatus(StrEnum):
    """What every member but the sender has done with a message; of several, the least."""

    SENT = "sent"
    DELIVERED = "delivered"
    SEEN = "seen"


@dataclass(frozen=True, slots=True)
class Draft:
    """A message before it has a number: what a sender asked for."""

    conversation_id: ConversationId
    sender_id: UserId
    client_message_id: str
    content: str
    type: str


@dataclass(frozen=True, slots=True)
class Message:
    """A stored message. `sent_at_ms` is UTC milliseconds; order is by `seq`, never by it."""

    conversation_id: ConversationId
    seq: Seq
    sender_id: UserId
    client_message_id: str
    content: str
    type: str
    sent_at_ms: int

    @property
    def message_id(self) -> MessageId:
        return message_id_of(self.conversation_id, self.seq)

    def is_repeat_of(self, draft: Draft) -> bool:
        """Whether `draft`, which has this message's idempotency key, also has its body."""
        return self.content == draft.content and self.type == draft.type


@dataclass(frozen=True, slots=True)
class Conversation:
    conversation_id: ConversationId
    type: ConversationType
    title: str | None
    # Sorted, so that two replicas show the same thing.
    member_ids: tuple[UserId, ...]
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class Watermarks:
    """How far one member has come in one conversation. Each only ever grows; `read` never passes `delivered`."""

    delivered_seq: Seq
    read_seq: Seq


@dataclass(frozen=True, slots=True)
class ConversationView:
    """A conversation as one member sees it."""

    conversation: Conversation
    head_seq: Seq
    watermarks: Watermarks
    last_message: Message | None
    muted: bool

    @property
    def unread_count(self) -> int:
        """Derived, never counted up."""
        return max(0, self.head_seq - self.watermarks.read_seq)


def message_id_of(conversation_id: ConversationId, seq: int) -> MessageId:
    return MessageId(f"{conversation_id}-{seq:0{_SEQ_DIGITS}d}")


def parse_message_id(message_id: str) -> tuple[ConversationId, Seq]:
    """The conversation and seq that `message_id` is made of.

    Raises:
        ValueError: this is not a message id.
    """
    conversation_id, separator, digits = message_id.rpartition("-")
    if not separator or len(digits) != _SEQ_DIGITS or not (digits.isascii() and digits.isdigit()):
        raise ValueError("not a message id: expected <conversationId>-<ten digits>")
    seq = int(digits)
    if seq < 1 or not conversation_id:
        raise ValueError("not a message id: the number counts from 1")
    return ConversationId(conversation_id), Seq(seq)


def direct_conversation_id(a: UserId, b: UserId) -> ConversationId:
    """The id of the one direct conversation of a pair: derived, so that two can never be made.

    It may be guessed by whoever knows both names; that reveals nothing, because a conversation that one is not a
    member of and one that does not exist get the same answer.
    """
    pair = "\n".join(sorted((a, b)))  # a newline cannot stand in a user id
    return ConversationId("d" + _base32(hashlib.sha256(b"parley direct\n" + pair.encode()).digest()[:16]))


def group_conversation_id(creator: UserId, request_id: str) -> ConversationId:
    """A group's id, derived from the request that makes it, so that a retried request makes one group."""
    if not request_id:
        return ConversationId("g" + _base32(uuid_utils.uuid7().bytes))
    digest = hashlib.sha256(f"parley group\n{creator}\n{request_id}".encode()).digest()
    return ConversationId("g" + _base32(digest[:16]))


def sorted_members(member_ids: Iterable[UserId]) -> tuple[UserId, ...]:
    return tuple(sorted(set(member_ids)))


def _base32(raw: bytes) -> str:
    return base64.b32hexencode(raw).decode("ascii").rstrip("=").lower()
