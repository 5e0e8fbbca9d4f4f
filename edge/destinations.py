"""What a destination names (wire.md). Only exact names: no pattern is ever a match, and nothing is normalised."""

import re
from dataclasses import dataclass
from enum import StrEnum

from edge.errors import BadDestination
from edge.model import ConversationId

CONVERSATION_PREFIX = "/topic/conversation."
PRESENCE = "/topic/presence"
NOTIFICATIONS = "/user/queue/notifications"
ERRORS = "/user/queue/errors"

# Ids are base32 with a letter in front; room for longer ones, none for separators.
_CONVERSATION_ID = re.compile(r"[A-Za-z0-9]{1,64}")


class Command(StrEnum):
    """What a client may SEND to."""

    SEND = "/app/chat.send"
    DELIVERED = "/app/chat.delivered"
    READ = "/app/chat.read"
    TYPING = "/app/chat.typing"
    SET_PRESENCE = "/app/presence.set"
    REFRESH = "/app/session.refresh"


@dataclass(frozen=True, slots=True)
class ConversationTopic:
    conversation_id: ConversationId


@dataclass(frozen=True, slots=True)
class UserQueue:
    """One of the caller's own: `PRESENCE`, `NOTIFICATIONS` or `ERRORS`."""

    name: str


def parse_subscription(destination: str) -> ConversationTopic | UserQueue:
    """
    Raises:
        BadDestination: nothing to subscribe to has that name.
    """
    if destination.startswith(CONVERSATION_PREFIX):
        conversation_id = destination[len(CONVERSATION_PREFIX) :]
        if is_conversation_id(conversation_id):
            return ConversationTopic(ConversationId(conversation_id))
    elif destination in (PRESENCE, NOTIFICATIONS, ERRORS):
        return UserQueue(destination)
    raise BadDestination(verb="SUBSCRIBE")


def parse_command(destination: str) -> Command:
    """
    Raises:
        BadDestination: nothing to send to has that name.
    """
    try:
        return Command(destination)
    except ValueError:
        raise BadDestination(verb="SEND") from None


def is_conversation_id(text: str) -> bool:
    return _CONVERSATION_ID.fullmatch(text) is not None
