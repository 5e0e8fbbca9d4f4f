"""The values of the notify service: what is to be told, to whom, and where it goes. No I/O.

Addresses are secrets (whoever has one can push to it, or knows who is behind it): they show themselves as "***".
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import NewType

UserId = NewType("UserId", str)
ConversationId = NewType("ConversationId", str)
MessageId = NewType("MessageId", str)
DeviceId = NewType("DeviceId", str)
Seq = NewType("Seq", int)


class Platform(Enum):
    """Who carries the push. The values are written into the store."""

    WEBPUSH = "webpush"
    FCM = "fcm"
    APNS = "apns"


class Status(Enum):
    """What presence says of a user. UNKNOWN also where it does not answer."""

    OFFLINE = "offline"
    ONLINE = "online"
    AWAY = "away"
    BUSY = "busy"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class WebPushAddress:
    """RFC 8030 and 8291: the endpoint, the receiver's public key and its secret, both base64url."""

    endpoint: str = field(repr=False)
    p256dh: str = field(repr=False)
    auth: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class FcmAddress:
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ApnsAddress:
    """The token in lower-case hex."""

    token: str = field(repr=False)


Address = WebPushAddress | FcmAddress | ApnsAddress


@dataclass(frozen=True, slots=True)
class Device:
    """An address belongs to one user at a time; its id is made of the address, so it stays the same."""

    device_id: DeviceId
    user_id: UserId
    address: Address
    registered_at_ms: int

    @property
    def platform(self) -> Platform:
        return platform_of(self.address)


def platform_of(address: Address) -> Platform:
    match address:
        case WebPushAddress():
            return Platform.WEBPUSH
        case FcmAddress():
            return Platform.FCM
        case ApnsAddress():
            return Platform.APNS


@dataclass(frozen=True, slots=True)
class Message:
    """What chat tells of a stored message."""

    conversation_id: ConversationId
    message_id: MessageId
    seq: Seq
    sender_id: UserId
    preview: str = field(repr=False)
    sent_at_ms: int


@dataclass(frozen=True, slots=True)
class Recipient:
    user_id: UserId
    unread_count: int
    muted: bool = False


# ---- Jobs, as they come from the queue.


@dataclass(frozen=True, slots=True)
class MessageStored:
    message: Message
    recipients: tuple[Recipient, ...]


@dataclass(frozen=True, slots=True)
class ReadMoved:
    conversation_id: ConversationId
    user_id: UserId
    read_seq: Seq
    unread_count: int


@dataclass(frozen=True, slots=True)
class PushDue:
    """What is left of a `MessageStored` when its grace is over."""

    message: Message
    recipients: tuple[Recipient, ...]
    shown: frozenset[UserId]


@dataclass(frozen=True, slots=True)
class PushDevice:
    """One device, to try again."""

    message: Message
    recipient: Recipient
    device_id: DeviceId


Job = MessageStored | ReadMoved | PushDue | PushDevice


# ---- What goes out.


@dataclass(frozen=True, slots=True)
class MessageNote:
    """Shown to the user. A repeat under the same message id replaces what is shown already."""

    message: Message
    unread_count: int


@dataclass(frozen=True, slots=True)
class ReadNote:
    """Silent: read elsewhere; what is shown of the conversation up to `read_seq` can be taken away."""

    conversation_id: ConversationId
    read_seq: Seq
    unread_count: int


Note = MessageNote | ReadNote


@dataclass(frozen=True, slots=True)
class LiveMessage:
    user_id: UserId
    message: Message
    unread_count: int


@dataclass(frozen=True, slots=True)
class LiveUnread:
    user_id: UserId
    conversation_id: ConversationId
    read_seq: Seq
    unread_count: int


Live = LiveMessage | LiveUnread


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """For an edge that has the user connected: whether another edge has too."""

    user_id: UserId
    elsewhere: bool


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a member has read in a conversation, and the latest message that was pushed to him; 0: nothing."""

    read_seq: Seq = Seq(0)
    pushed_seq: Seq = Seq(0)


NO_MARK = Mark()
