"""What happens in a conversation's topic, as values; `convert` gives them their form on the wire."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.chat.model import ConversationId, Message, Seq, UserId, WatermarkKind
from services.runtime.errors import ServiceError


@dataclass(frozen=True, slots=True)
class MessagesPassed:
    """Consecutive messages of one conversation, ascending; live."""

    conversation_id: ConversationId
    messages: Sequence[Message]


@dataclass(frozen=True, slots=True)
class MemberRemoved:
    conversation_id: ConversationId
    user_id: UserId


@dataclass(frozen=True, slots=True)
class StatusMoved:
    """Everything up to `seq` is delivered to, or seen by, the user."""

    conversation_id: ConversationId
    user_id: UserId
    kind: WatermarkKind
    seq: Seq
    at_ms: int


@dataclass(frozen=True, slots=True)
class Typing:
    conversation_id: ConversationId
    user_id: UserId
    typing: bool


@dataclass(frozen=True, slots=True)
class MembersChanged:
    """Somebody came into the conversation or left it; `user_ids` are all whom that concerns."""

    conversation_id: ConversationId
    user_ids: Sequence[UserId]


@dataclass(frozen=True, slots=True)
class ContactsUncertain:
    """Changes may have been missed."""


# What goes to every watcher of a topic, and over the bus to the other replicas.
TopicEvent = MessagesPassed | MemberRemoved | StatusMoved | Typing


@dataclass(frozen=True, slots=True)
class Replayed:
    """Messages for one watch, before it joins; ascending."""

    watch_id: int
    messages: Sequence[Message]


@dataclass(frozen=True, slots=True)
class Joined:
    """From here on live events, all later than `head_seq`, are this watch's too."""

    watch_id: int
    head_seq: Seq
    denied_user_ids: Sequence[UserId]


@dataclass(frozen=True, slots=True)
class WatchRefused:
    watch_id: int
    error: ServiceError


# What goes to the one edge that asked.
WatchEvent = Replayed | Joined | WatchRefused
# What goes to the edges that follow one of its users; over the bus to all replicas.
ContactsEvent = MembersChanged | ContactsUncertain
Event = TopicEvent | WatchEvent | ContactsEvent
