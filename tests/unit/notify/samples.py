"""Messages, devices and notes that the tests of notify share."""

from services.notify.model import (
    Address,
    ApnsAddress,
    ConversationId,
    Device,
    DeviceId,
    FcmAddress,
    Message,
    MessageId,
    MessageNote,
    ReadNote,
    Recipient,
    Seq,
    UserId,
)

ANN, BOB, CID = UserId("ann"), UserId("bob"), UserId("cid")
ROOM = ConversationId("groom")


def message(seq: int = 1, sender: UserId = ANN, preview: str = "hello there") -> Message:
    return Message(ROOM, MessageId(f"groom-{seq:010}"), Seq(seq), sender, preview, 1_700_000_000_000)


def to(user: UserId, unread: int = 1, *, muted: bool = False) -> Recipient:
    return Recipient(user, unread, muted)


def device(name: str = "d1", user: UserId = BOB, address: Address | None = None) -> Device:
    return Device(DeviceId(name), user, address or FcmAddress(f"token-{name}"), 1_700_000_000_000)


def apns_device(name: str = "d1", user: UserId = BOB) -> Device:
    return device(name, user, ApnsAddress("ab" * 32))


def note(seq: int = 1, unread: int = 3) -> MessageNote:
    return MessageNote(message(seq), unread)


READ = ReadNote(ROOM, Seq(9), 0)
