"""Who carries a push to a device: the Protocol, the outcomes, and what stands in front of every provider.

A provider knows one wire format and maps every answer to an outcome; the network's failures may pass through it.
`Guarded` adds what all need: a deadline, a breaker, and that a bug in one push stays in that push. A try is a call of
the provider: what an open breaker refuses is not counted.

A repeat carries the same collapse id, made of the message id: Web Push `Topic` (replaces what is not delivered yet) and
the payload's `tag` (the page's service worker replaces what is shown), FCM `collapse_key` and `tag`, APNs
`apns-collapse-id`. That is how a repeat after a crash or a lost answer stays visible once.
"""

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final, Protocol

import orjson

from services.notify.model import Device, MessageNote, Note, Platform

# A push that could not be delivered for a day is no news any more.
LIFETIME: Final = timedelta(days=1)
# What a provider may ask us to wait; beyond it we ask again anyway.
_MAX_ASKED: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Delivered:
    """The provider has it."""


@dataclass(frozen=True, slots=True)
class Gone:
    """The device will never be reached under this address again."""


@dataclass(frozen=True, slots=True)
class RetryLater:
    """`counted` False: the provider was not asked. `is_away` is the breaker's question: not for a rate limit."""

    reason: str
    after: timedelta | None = None
    counted: bool = True
    is_away: bool = True


@dataclass(frozen=True, slots=True)
class Refused:
    """It will refuse the same again: a mistake of ours, or of the configuration."""

    reason: str


Outcome = Delivered | Gone | RetryLater | Refused


class Provider(Protocol):
    """One push service, or family of them."""

    @property
    def platform(self) -> Platform: ...

    @property
    def public_key(self) -> str:
        """What a client needs to subscribe; empty where it needs nothing."""

    def target_of(self, device: Device) -> str:
        """Whose breaker counts: one of few names, none of them a user's choice."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def push(self, device: Device, note: Note) -> Outcome:
        """One request. May raise `TimeoutError` and `OSError`; both are "away"."""


def collapse_id(note: Note) -> str:
    """The same for a repeat, different for everything else. 32 characters of base64url (RFC 8030: at most 32)."""
    # Of what was read elsewhere the latest is all that counts.
    named = f"message/{note.message.message_id}" if isinstance(note, MessageNote) else f"read/{note.conversation_id}"
    return base64.urlsafe_b64encode(hashlib.blake2b(named.encode(), digest_size=24).digest()).decode()


def payload(note: Note) -> dict[str, object]:
    """What the client's own code gets, on every platform."""
    if isinstance(note, MessageNote):
        message = note.message
        return {
            "event": "message",
            "tag": message.message_id,
            "conversationId": message.conversation_id,
            "messageId": message.message_id,
            "seq": message.seq,
            "senderId": message.sender_id,
            "preview": message.preview,
            "unreadCount": note.unread_count,
        }
    return {
        "event": "read",
        "conversationId": note.conversation_id,
        "readSeq": note.read_seq,
        "unreadCount": note.unread_count,
    }


def payload_bytes(note: Note) -> bytes:
    return orjson.dumps(payload(note))


def retry_after(value: str | None, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> timedelta | None:
    """A Retry-After header: seconds or an HTTP date (RFC 9110); None where it is absent or nonsense."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        asked = timedelta(seconds=min(int(value), 86_400))
    else:
        try:
            asked = parsedate_to_datetime(value) - now()
        except (ValueError, TypeError):
            return None
    return max(timedelta(0), min(asked, _MAX_ASKED))
