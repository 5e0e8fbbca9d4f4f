"""Values for the store tests, with everything that a test does not care about filled in."""

from collections.abc import Sequence

from services.chat.model import Conversation, ConversationId, ConversationType, Message, Seq, UserId, sorted_members
from services.chat.store import AppendConflict, Appended, IdempotencyKey, OutboxEntry

ROOM = ConversationId("groom")
OTHER_ROOM = ConversationId("gother")
ANN = UserId("ann")
BOB = UserId("bob")
CID = UserId("cid")
START_MS = 1_790_000_000_000

SEQ_TAKEN = AppendConflict(seq_taken=True)
KEY_TAKEN = AppendConflict(seq_taken=False)


def message(
    seq: int,
    room: ConversationId = ROOM,
    *,
    sender: UserId = ANN,
    key: str | None = None,
    content: str = "hello",
    sent_at_ms: int | None = None,
) -> Message:
    return Message(
        conversation_id=room,
        seq=Seq(seq),
        sender_id=sender,
        client_message_id=key if key is not None else f"key-{seq}",
        content=content,
        type="text",
        sent_at_ms=START_MS + seq if sent_at_ms is None else sent_at_ms,
    )


def messages(first: int, last: int, room: ConversationId = ROOM) -> list[Message]:
    return [message(seq, room) for seq in range(first, last + 1)]


def seqs(page: Sequence[Message]) -> list[int]:
    return [each.seq for each in page]


def key_of(stored: Message) -> IdempotencyKey:
    return IdempotencyKey(stored.conversation_id, stored.sender_id, stored.client_message_id)


def all_of(batch: Sequence[Message]) -> Appended:
    return Appended(stored=len(batch))


def entry(entry_id: str, *, created_at_ms: int = START_MS, room: ConversationId = ROOM, last: int = 1) -> OutboxEntry:
    return OutboxEntry(entry_id, created_at_ms, ((room, Seq(1), Seq(last)),))


def group(
    room: ConversationId = ROOM,
    *members: UserId,
    title: str | None = "the room",
    created_at_ms: int = START_MS,
) -> Conversation:
    return Conversation(room, ConversationType.GROUP, title, sorted_members(members or (ANN, BOB)), created_at_ms)
