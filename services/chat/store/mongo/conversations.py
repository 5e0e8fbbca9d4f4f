"""Conversations and memberships in MongoDB, without transactions.

Two things concern more than one document, and each is made right by one unique index and by documents that say what is
still to be done, so that a crash between two writes needs no repair by hand.

Creating. The conversation is written first, with its members in `pendingMemberIds`, and readers do not see it; then
the memberships; then that field is removed. Whoever finds the field set (a repeat of the request, after a crash) does
the rest.

The member limit. Each membership holds a numbered slot, unique in its conversation: an addition takes a free one below
the limit, and where two choose the same, one looks again. There is no count that could be wrong.

A membership that ended keeps its document, without a slot. So a creation that was interrupted and goes on late finds a
document in its way and cannot bring back somebody who has been removed since; and watermarks never go back.
"""

import random
from collections.abc import Collection, Iterable, Mapping, Sequence

from bson.datetime_ms import DatetimeMS
from pymongo import UpdateOne
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure

from services.chat.errors import TooManyMembers
from services.chat.model import (
    Conversation,
    ConversationId,
    ConversationView,
    Message,
    MessageId,
    Seq,
    UserId,
    WatermarkKind,
    Watermarks,
    message_id_of,
)
from services.chat.store import Membership
from services.chat.store.mongo.connection import MongoPart, operation
from services.chat.store.mongo.documents import (
    BY_ID,
    CURRENT,
    ONE_BATCH,
    VISIBLE,
    Document,
    conversation_document,
    conversation_of,
    first_memberships,
    last_message_document,
    membership_id,
    membership_key,
    membership_of,
    message_of,
    recorded_seq,
    watermarks_of,
)
from services.chat.store.mongo.heads import find_heads_from

_DUPLICATE_KEY = 11000


class MongoConversations(MongoPart):
    @operation
    async def create(self, conversation: Conversation) -> bool:
        document = conversation_document(conversation)
        try:
            await self._conversations.insert_one(document)
        except DuplicateKeyError:
            unfinished = await self._conversations.find_one(
                {"_id": conversation.conversation_id, "pendingMemberIds": {"$exists": True}}
            )
            if unfinished is not None:
                await self._finish_creation(unfinished)
            return False
        await self._finish_creation(document)
        return True

    @operation
    async def find(self, conversation_id: ConversationId) -> Conversation | None:
        # One after the other: a conversation that is seen has its members.
        document = await self._conversations.find_one({"_id": conversation_id, **VISIBLE})
        if document is None:
            return None
        return conversation_of(document, (await self._read_member_ids([conversation_id]))[conversation_id])

    @operation
    async def find_membership(self, conversation_id: ConversationId, user_id: UserId) -> Membership | None:
        document = await self._memberships.find_one({**membership_key(conversation_id, user_id), **CURRENT}, hint=BY_ID)
        return None if document is None else membership_of(document)

    @operation
    async def read_memberships(self, conversation_id: ConversationId) -> Sequence[Membership]:
        return (await self._read_memberships_of((conversation_id,)))[conversation_id]

    @operation
    async def read_memberships_of(
        self, conversation_ids: Collection[ConversationId]
    ) -> Mapping[ConversationId, Sequence[Membership]]:
        return await self._read_memberships_of(conversation_ids)

    @operation
    async def add_member(
        self, conversation_id: ConversationId, user_id: UserId, *, read_seq: Seq, max_members: int
    ) -> bool:
        if await self._conversations.find_one({"_id": conversation_id, **VISIBLE}, {"_id": 1}) is None:
            return False
        while True:  # somebody else gets on with every turn that is lost, and the operation is bounded
            slots = await self._read_slots(conversation_id)
            if user_id in slots:
                return False
            free = _free_slots(slots.values(), max_members)
            if not free:
                raise TooManyMembers(limit=max_members)
            # Any of them: those who add at the same time seldom meet.
            if (new := await self._take_slot(conversation_id, user_id, read_seq, random.choice(free))) is not None:
                return new

    @operation
    async def remove_member(self, conversation_id: ConversationId, user_id: UserId) -> bool:
        result = await self._memberships.update_one(
            {**membership_key(conversation_id, user_id), **CURRENT},
            {"$unset": {"slot": ""}, "$currentDate": {"leftAt": True}},
            hint=BY_ID,
        )
        return result.matched_count == 1

    @operation
    async def read_page(
        self, user_id: UserId, *, before: tuple[int, ConversationId] | None, limit: int
    ) -> Sequence[tuple[int, ConversationView]]:
        own = {each["conversationId"]: each for each in await self._read_own(user_id)}
        page = _page(await self._read_activity(own), before, limit)
        recorded = {each["_id"]: recorded_seq(each) for each in page}
        member_ids = await self._read_member_ids(recorded)
        heads = await find_heads_from(self._messages, recorded)
        latest = await self._read_latest(heads)
        return [
            (
                int(each["lastActivityAt"]),
                ConversationView(
                    conversation=conversation_of(each, member_ids[each["_id"]]),
                    head_seq=heads[each["_id"]],
                    watermarks=watermarks_of(own[each["_id"]]),
                    last_message=latest.get(each["_id"]),
                    muted=own[each["_id"]]["muted"],
                ),
            )
            for each in page
        ]

    @operation
    async def record_activity(self, latest: Sequence[Message]) -> None:
        updates = [
            UpdateOne(
                {"_id": message.conversation_id, "lastMessage.seq": {"$not": {"$gte": message.seq}}},
                {
                    "$set": {"lastMessage": last_message_document(message)},
                    "$max": {"lastActivityAt": DatetimeMS(message.sent_at_ms)},
                },
            )
            for message in latest
        ]
        if updates:
            await self._conversations.bulk_write(updates, ordered=False)

    @operation
    async def move_watermarks(
        self, moves: Sequence[tuple[ConversationId, UserId, WatermarkKind, Seq]]
    ) -> Sequence[Watermarks | None]:
        if not moves:
            return []
        furthest = _merge(moves)
        updates = [
            UpdateOne({**membership_key(*member), **CURRENT}, {"$max": marks}, hint=BY_ID)
            for member, marks in furthest.items()
        ]
        await self._memberships.bulk_write(updates, ordered=False)
        moved = {
            "_id": {"$in": [membership_id(*member) for member in furthest]},
            "conversationId": {"$in": list({conversation_id for conversation_id, _ in furthest})},
            **CURRENT,
        }
        fields = {"deliveredSeq": 1, "readSeq": 1}
        found = self._memberships.find(moved, fields, hint=BY_ID, batch_size=ONE_BATCH)
        after = {document["_id"]: watermarks_of(document) for document in await found.to_list(None)}
        return [after.get(membership_id(conversation_id, user_id)) for conversation_id, user_id, _, _ in moves]

    @operation
    async def read_contacts(self, user_id: UserId) -> Sequence[UserId]:
        own = await self._memberships.distinct("conversationId", {"userId": user_id, **CURRENT})
        users = await self._memberships.distinct("userId", {"conversationId": {"$in": own}, **CURRENT})
        return sorted(UserId(each) for each in users if each != user_id)

    @operation
    async def set_muted(self, conversation_id: ConversationId, user_id: UserId, *, muted: bool) -> bool:
        result = await self._memberships.update_one(
            {**membership_key(conversation_id, user_id), **CURRENT}, {"$set": {"muted": muted}}, hint=BY_ID
        )
        return result.matched_count == 1

    # ---- What these are made of.

    @property
    def _conversations(self) -> AsyncCollection[Document]:
        return self._mongo.collection("conversations")

    @property
    def _memberships(self) -> AsyncCollection[Document]:
        return self._mongo.collection("memberships")

    @property
    def _messages(self) -> AsyncCollection[Document]:
        return self._mongo.collection("messages")

    async def _read_memberships_of(
        self, conversation_ids: Collection[ConversationId]
    ) -> Mapping[ConversationId, Sequence[Membership]]:
        memberships: dict[ConversationId, list[Membership]] = {each: [] for each in conversation_ids}
        found = self._memberships.find({"conversationId": {"$in": list(memberships)}, **CURRENT}, batch_size=ONE_BATCH)
        for document in await found.to_list(None):
            memberships[document["conversationId"]].append(membership_of(document))
        for members in memberships.values():
            members.sort(key=lambda membership: membership.user_id)
        return memberships

    async def _finish_creation(self, conversation: Document) -> None:
        memberships = first_memberships(conversation)
        if memberships:
            try:
                await self._memberships.insert_many(memberships, ordered=False)
            except BulkWriteError as failure:
                _allow_only_duplicates(failure)
        await self._conversations.update_one({"_id": conversation["_id"]}, {"$unset": {"pendingMemberIds": ""}})

    async def _read_slots(self, conversation_id: ConversationId) -> dict[UserId, int]:
        members = self._memberships.find(
            {"conversationId": conversation_id, **CURRENT}, {"userId": 1, "slot": 1}, batch_size=ONE_BATCH
        )
        return {each["userId"]: each["slot"] for each in await members.to_list(None)}

    async def _take_slot(
        self, conversation_id: ConversationId, user_id: UserId, read_seq: Seq, slot: int
    ) -> bool | None:
        """Whether the user is a new member; None: somebody else took the slot."""
        try:
            await self._memberships.update_one(
                {**membership_key(conversation_id, user_id), "slot": {"$exists": False}},
                {
                    "$set": {"slot": slot, "userId": user_id},
                    "$max": {"deliveredSeq": read_seq, "readSeq": read_seq},
                    "$setOnInsert": {"muted": False},
                    "$currentDate": {"joinedAt": True},
                    "$unset": {"leftAt": ""},
                },
                upsert=True,
                hint=BY_ID,
            )
        except DuplicateKeyError as duplicate:
            # Either his current membership, which the filter passes over, or another one in that slot.
            return False if "_id" in (duplicate.details or {})["keyPattern"] else None
        return True

    async def _read_own(self, user_id: UserId) -> list[Document]:
        return await self._memberships.find({"userId": user_id, **CURRENT}, batch_size=ONE_BATCH).to_list(None)

    async def _read_activity(self, conversation_ids: Iterable[ConversationId]) -> list[Document]:
        found = self._conversations.find(
            {"_id": {"$in": list(conversation_ids)}, **VISIBLE},
            {"type": 1, "title": 1, "createdAt": 1, "lastActivityAt": 1, "lastMessage.seq": 1},
            batch_size=ONE_BATCH,
        )
        return await found.to_list(None)

    async def _read_member_ids(
        self, conversation_ids: Iterable[ConversationId]
    ) -> Mapping[ConversationId, list[UserId]]:
        member_ids: dict[ConversationId, list[UserId]] = {each: [] for each in conversation_ids}
        found = self._memberships.find(
            {"conversationId": {"$in": list(member_ids)}, **CURRENT},
            {"conversationId": 1, "userId": 1},
            batch_size=ONE_BATCH,
        )
        for document in await found.to_list(None):
            member_ids[document["conversationId"]].append(document["userId"])
        return member_ids

    async def _read_latest(self, heads: Mapping[ConversationId, Seq]) -> Mapping[ConversationId, Message]:
        ids: list[MessageId] = [message_id_of(*head) for head in heads.items() if head[1]]
        filter_ = {"_id": {"$in": ids}, "conversationId": {"$in": list(heads)}}
        found = self._messages.find(filter_, hint=BY_ID, batch_size=ONE_BATCH)
        return {message.conversation_id: message for message in map(message_of, await found.to_list(None))}


def _page(
    conversations: Sequence[Document], before: tuple[int, ConversationId] | None, limit: int
) -> Sequence[Document]:
    def place(conversation: Document) -> tuple[int, ConversationId]:
        return int(conversation["lastActivityAt"]), conversation["_id"]

    later = [each for each in conversations if before is None or place(each) < before]
    return sorted(later, key=place, reverse=True)[:limit]


def _free_slots(taken: Iterable[int], max_members: int) -> list[int]:
    """As many as there is room for, the lowest: should the limit have been lowered, fewer than are free below it."""
    held = set(taken)
    return [slot for slot in range(max_members) if slot not in held][: max(0, max_members - len(held))]


def _merge(
    moves: Iterable[tuple[ConversationId, UserId, WatermarkKind, Seq]],
) -> dict[tuple[ConversationId, UserId], dict[str, Seq]]:
    """One `$max` for each member."""
    furthest: dict[tuple[ConversationId, UserId], dict[str, Seq]] = {}
    for conversation_id, user_id, kind, seq in moves:
        marks = furthest.setdefault((conversation_id, user_id), {})
        marks["deliveredSeq"] = max(marks.get("deliveredSeq", seq), seq)
        if kind is WatermarkKind.SEEN:
            marks["readSeq"] = max(marks.get("readSeq", seq), seq)
    return furthest


def _allow_only_duplicates(failure: BulkWriteError) -> None:
    """Memberships that are there, current or ended, stay as they are."""
    errors = [*failure.details["writeErrors"], *failure.details["writeConcernErrors"]]
    for error in errors:
        if error.get("code") != _DUPLICATE_KEY:
            raise OperationFailure(f"the members could not be written: code {error.get('code')}", error.get("code"))
