"""The message log and the outbox in MongoDB.

One ordered, journaled `insert_many` per append: it stops at the first document that an index refuses, and a crash
keeps a prefix. The driver repeats an interrupted one under its transaction number, so what was inserted is not inserted
twice.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence

from bson.datetime_ms import DatetimeMS
from pymongo import ASCENDING, DESCENDING
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure

from services.chat.model import (
    MAX_SEQ,
    ConversationId,
    Message,
    MessageId,
    Seq,
    UserId,
    parse_message_id,
)
from services.chat.store import AppendConflict, Appended, IdempotencyKey, OutboxEntry
from services.chat.store.mongo.connection import MongoPart, operation
from services.chat.store.mongo.documents import (
    BY_ID,
    ONE_BATCH,
    Document,
    entry_document,
    entry_of,
    history,
    key_of,
    message_document,
    message_of,
)
from services.chat.store.mongo.heads import find_head, find_heads

_DUPLICATE_KEY = 11000
# Below this the outbox is counted, above it estimated: a mongod's estimate may be off for good after it was killed, and
# an outbox that seems never to be empty would wake people.
_COUNTED = 10_000


class MongoMessageLog(MongoPart):
    @operation
    async def append(self, messages: Sequence[Message], outbox: OutboxEntry | None) -> Appended:
        # Neither is left behind when the other fails. The driver repeats each of them within the bound.
        appended, entry = await asyncio.gather(
            self._insert(messages), self._insert_entry(outbox), return_exceptions=True
        )
        if isinstance(appended, BaseException):
            raise appended
        if isinstance(entry, BaseException):
            raise entry
        return appended

    @operation
    async def find_head(self, conversation_id: ConversationId) -> Seq:
        return await find_head(self._messages, conversation_id)

    @operation
    async def find_heads(self, conversation_ids: Sequence[ConversationId]) -> Mapping[ConversationId, Seq]:
        return await find_heads(self._messages, self._mongo.collection("conversations"), conversation_ids)

    @operation
    async def find_by_keys(self, keys: Sequence[IdempotencyKey]) -> Mapping[IdempotencyKey, Message]:
        wanted: defaultdict[tuple[ConversationId, UserId], list[str]] = defaultdict(list)
        for key in keys:
            wanted[key.conversation_id, key.sender_id].append(key.client_message_id)
        if not wanted:
            return {}
        branches = [
            {"conversationId": conversation_id, "senderId": sender_id, "clientMessageId": {"$in": ids}}
            for (conversation_id, sender_id), ids in wanted.items()
        ]
        found = self._messages.find({"$or": branches}, batch_size=ONE_BATCH)
        return {key_of(message): message for message in map(message_of, await found.to_list(None))}

    @operation
    async def read_after(self, conversation_id: ConversationId, seq: Seq, *, limit: int) -> Sequence[Message]:
        page = await self._read(history(conversation_id, seq, MAX_SEQ + 1), ASCENDING, limit)
        return page

    @operation
    async def read_before(self, conversation_id: ConversationId, seq: Seq, *, limit: int) -> Sequence[Message]:
        page = await self._read(history(conversation_id, 0, seq), DESCENDING, limit)
        return page[::-1]

    @operation
    async def find_message(self, message_id: MessageId) -> Message | None:
        try:
            conversation_id, _ = parse_message_id(message_id)
        except ValueError:
            return None
        document = await self._messages.find_one({"_id": message_id, "conversationId": conversation_id})
        return None if document is None else message_of(document)

    @property
    def _messages(self) -> AsyncCollection[Document]:
        return self._mongo.collection("messages")

    async def _insert(self, messages: Sequence[Message]) -> Appended:
        if not messages:
            return Appended(0)
        try:
            await self._messages.insert_many([message_document(message) for message in messages], ordered=True)
        except BulkWriteError as failure:
            return appended_before(failure)
        return Appended(len(messages))

    async def _insert_entry(self, entry: OutboxEntry | None) -> None:
        if entry is None:
            return
        try:
            await self._mongo.collection("outbox").insert_one(entry_document(entry))
        except DuplicateKeyError:
            return

    async def _read(self, page: Document, direction: int, limit: int) -> list[Message]:
        found = self._messages.find(page, hint=BY_ID, batch_size=ONE_BATCH).sort("_id", direction).limit(limit)
        return [message_of(document) for document in await found.to_list(None)]


class MongoOutbox(MongoPart):
    @operation
    async def delete_entries(self, entry_ids: Sequence[str]) -> None:
        await self._outbox.delete_many({"_id": {"$in": list(entry_ids)}})

    @operation
    async def read_entries(self, *, created_before_ms: int, limit: int) -> Sequence[OutboxEntry]:
        old = {"createdAt": {"$lt": DatetimeMS(created_before_ms)}}
        oldest = [("createdAt", ASCENDING), ("_id", ASCENDING)]
        found = self._outbox.find(old, batch_size=ONE_BATCH).sort(oldest).limit(limit)
        return [entry_of(document) for document in await found.to_list(None)]

    @operation
    async def count_entries(self) -> int:
        counted = await self._outbox.count_documents({}, limit=_COUNTED)
        return counted if counted < _COUNTED else max(counted, await self._outbox.estimated_document_count())

    @property
    def _outbox(self) -> AsyncCollection[Document]:
        return self._mongo.collection("outbox")


def appended_before(failure: BulkWriteError) -> Appended:
    """What was stored before an index refused the next.

    Raises:
        OperationFailure: something else stopped the insert, or it is not known to last; how far it came is open.
    """
    first: Document = next(iter(failure.details["writeErrors"]), {})
    lost: Document = next(iter(failure.details["writeConcernErrors"]), {})
    if lost or first.get("code") != _DUPLICATE_KEY:
        code = (lost or first).get("code")
        # Not `from failure`: its text has whole messages in it, and may end in a log.
        raise OperationFailure(f"the insert failed with code {code}", code) from None
    return Appended(first["index"], AppendConflict(seq_taken="_id" in first["keyPattern"]))
