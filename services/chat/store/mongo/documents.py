"""What lies in MongoDB: the documents, their ids and the indexes.

Owns every field name; operators read these collections, so the names are the API's. Times are BSON dates, made from and
read as milliseconds (`DatetimeMS`: no float, no time zone); they cost what an int64 costs (measured, November 2026).

    messages       _id = message id; conversationId, seq, senderId, clientMessageId, content, type, sentAt
    conversations  _id; type, title?, createdAt, lastActivityAt,
                   lastMessage? {messageId, seq, senderId, preview, sentAt},
                   pendingMemberIds? (being created: not visible yet)
    memberships    _id = conversation id, ':', user id; conversationId, userId, deliveredSeq, readSeq, muted,
                   joinedAt, slot? (absent: no member any more), leftAt?
    outbox         _id = entry id; createdAt, ranges [{conversationId, firstSeq, lastSeq}]

Every unique index begins with conversationId or is on an _id that contains it, so `messages` and `memberships` may be
sharded by hashed conversationId; every filter names it too, so that a router asks one shard. The queries on an _id say
so by a hint: with both an _id and a conversationId in the filter the planner might take the other index.

Not clustered (`clusteredIndex`): a tenth cheaper to write, but on 6.0.5 an `$in` over a clustered _id reads the whole
collection (100,000 documents for 50 ids), and that is how heads are found.
"""

from collections.abc import Iterable
from typing import Any, Final

from bson.datetime_ms import DatetimeMS
from pymongo import ASCENDING, IndexModel

from services.chat.model import (
    MAX_SEQ,
    Conversation,
    ConversationId,
    ConversationType,
    Message,
    Seq,
    UserId,
    Watermarks,
    message_id_of,
    sorted_members,
)
from services.chat.store import IdempotencyKey, Membership, OutboxEntry

Document = dict[str, Any]

# Enough for a list of conversations; the whole text is in `messages`.
_PREVIEW_CHARS = 200

BY_ID: Final = [("_id", ASCENDING)]
# The server's default is 101 documents and then another round trip. What is asked for at once is all wanted at once.
ONE_BATCH: Final = 10_000
# A membership without a slot is the memory of one that ended. The filter equals the indexes' own, or they are not used.
CURRENT: Final[Document] = {"slot": {"$gte": 0}}
VISIBLE: Final[Document] = {"pendingMemberIds": {"$exists": False}}

INDEXES: Final = {
    "messages": [
        IndexModel(
            [("conversationId", ASCENDING), ("senderId", ASCENDING), ("clientMessageId", ASCENDING)],
            name="idempotencyKey",
            unique=True,
        )
    ],
    "conversations": [],
    "memberships": [
        # No two members of a conversation share a slot: this, not care, is what keeps to `max_members`.
        IndexModel(
            [("conversationId", ASCENDING), ("slot", ASCENDING)],
            name="slot",
            unique=True,
            partialFilterExpression=CURRENT,
        ),
        IndexModel([("userId", ASCENDING)], name="user", partialFilterExpression=CURRENT),
    ],
    "outbox": [IndexModel([("createdAt", ASCENDING), ("_id", ASCENDING)], name="oldest")],
}


def message_document(message: Message) -> Document:
    return {
        "_id": message.message_id,
        "conversationId": message.conversation_id,
        "seq": message.seq,
        "senderId": message.sender_id,
        "clientMessageId": message.client_message_id,
        "content": message.content,
        "type": message.type,
        "sentAt": DatetimeMS(message.sent_at_ms),
    }


def message_of(document: Document) -> Message:
    return Message(
        conversation_id=document["conversationId"],
        seq=document["seq"],
        sender_id=document["senderId"],
        client_message_id=document["clientMessageId"],
        content=document["content"],
        type=document["type"],
        sent_at_ms=int(document["sentAt"]),
    )


def key_of(message: Message) -> IdempotencyKey:
    return IdempotencyKey(message.conversation_id, message.sender_id, message.client_message_id)


def history(conversation_id: ConversationId, after: int, before: int) -> Document:
    """The filter for the messages between two seqs, both excluded: a range of the _id."""
    first = min(max(after, 0), MAX_SEQ)
    last = min(max(before, 0), MAX_SEQ)
    beyond = "$lte" if before > MAX_SEQ else "$lt"
    bounds = {"$gt": message_id_of(conversation_id, first), beyond: message_id_of(conversation_id, last)}
    # The range alone may hold messages of a conversation whose id begins with this one's and a '-'.
    return {"_id": bounds, "conversationId": conversation_id}


def entry_document(entry: OutboxEntry) -> Document:
    return {
        "_id": entry.entry_id,
        "createdAt": DatetimeMS(entry.created_at_ms),
        "ranges": [
            {"conversationId": conversation_id, "firstSeq": first, "lastSeq": last}
            for conversation_id, first, last in entry.ranges
        ],
    }


def entry_of(document: Document) -> OutboxEntry:
    return OutboxEntry(
        entry_id=document["_id"],
        created_at_ms=int(document["createdAt"]),
        ranges=tuple((each["conversationId"], each["firstSeq"], each["lastSeq"]) for each in document["ranges"]),
    )


def conversation_document(conversation: Conversation) -> Document:
    """As it lies there while its members are being written."""
    created_at = DatetimeMS(conversation.created_at_ms)
    document: Document = {
        "_id": conversation.conversation_id,
        "type": conversation.type.value,
        "createdAt": created_at,
        "lastActivityAt": created_at,
        "pendingMemberIds": list(conversation.member_ids),
    }
    if conversation.title is not None:
        document["title"] = conversation.title
    return document


def conversation_of(document: Document, member_ids: Iterable[UserId]) -> Conversation:
    return Conversation(
        conversation_id=document["_id"],
        type=ConversationType(document["type"]),
        title=document.get("title"),
        member_ids=sorted_members(member_ids),
        created_at_ms=int(document["createdAt"]),
    )


def recorded_seq(conversation: Document) -> Seq:
    """The seq of the latest message that the conversation's document knows of; the log may be further."""
    return Seq(conversation.get("lastMessage", {}).get("seq", 0))


def last_message_document(message: Message) -> Document:
    return {
        "messageId": message.message_id,
        "seq": message.seq,
        "senderId": message.sender_id,
        "preview": message.content[:_PREVIEW_CHARS],
        "sentAt": DatetimeMS(message.sent_at_ms),
    }


def membership_key(conversation_id: ConversationId, user_id: UserId) -> Document:
    """The filter for one membership, current or not."""
    return {"_id": membership_id(conversation_id, user_id), "conversationId": conversation_id}


def membership_id(conversation_id: ConversationId, user_id: UserId) -> str:
    return f"{conversation_id}:{user_id}"


def first_memberships(conversation: Document) -> list[Document]:
    """The memberships that a conversation begins with, out of its own document."""
    conversation_id = conversation["_id"]
    return [
        {
            "_id": membership_id(conversation_id, user_id),
            "conversationId": conversation_id,
            "userId": user_id,
            "slot": slot,
            "deliveredSeq": 0,
            "readSeq": 0,
            "muted": False,
            "joinedAt": conversation["createdAt"],
        }
        for slot, user_id in enumerate(conversation["pendingMemberIds"])
    ]


def membership_of(document: Document) -> Membership:
    return Membership(document["userId"], watermarks_of(document), muted=document["muted"])


def watermarks_of(document: Document) -> Watermarks:
    return Watermarks(delivered_seq=document["deliveredSeq"], read_seq=document["readSeq"])
