"""Conversations and memberships in SQLite. Every use is one transaction, so nothing here is ever half done."""

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from services.chat.errors import TooManyMembers
from services.chat.model import (
    Conversation,
    ConversationId,
    ConversationType,
    ConversationView,
    Message,
    Seq,
    UserId,
    WatermarkKind,
    Watermarks,
)
from services.chat.store import Membership
from services.chat.store.sqlite.messages import SqlitePart, find_last_message

_MEMBER = "conversation_id = ? AND user_id = ? AND is_current"


class SqliteConversations(SqlitePart):
    async def create(self, conversation: Conversation) -> bool:
        def do(connection: sqlite3.Connection) -> bool:
            created = connection.execute(
                "INSERT OR IGNORE INTO conversations "
                "(conversation_id, type, title, created_at_ms, last_activity_at_ms) VALUES (?, ?, ?, ?, ?)",
                (
                    conversation.conversation_id,
                    conversation.type.value,
                    conversation.title,
                    conversation.created_at_ms,
                    conversation.created_at_ms,
                ),
            )
            if not created.rowcount:
                return False
            connection.executemany(
                "INSERT INTO memberships (conversation_id, user_id, delivered_seq, read_seq) VALUES (?, ?, 0, 0)",
                ((conversation.conversation_id, user_id) for user_id in conversation.member_ids),
            )
            return True

        return await self._database.write(do)

    async def find(self, conversation_id: ConversationId) -> Conversation | None:
        return await self._database.read(lambda connection: _find(connection, conversation_id))

    async def find_membership(self, conversation_id: ConversationId, user_id: UserId) -> Membership | None:
        def do(connection: sqlite3.Connection) -> Membership | None:
            query = f"SELECT user_id, delivered_seq, read_seq, muted FROM memberships WHERE {_MEMBER}"
            row = connection.execute(query, (conversation_id, user_id)).fetchone()
            return None if row is None else _membership_of(row)

        return await self._database.read(do)

    async def read_memberships(self, conversation_id: ConversationId) -> Sequence[Membership]:
        return (await self.read_memberships_of((conversation_id,)))[conversation_id]

    async def read_memberships_of(
        self, conversation_ids: Collection[ConversationId]
    ) -> Mapping[ConversationId, Sequence[Membership]]:
        query = (
            "SELECT user_id, delivered_seq, read_seq, muted FROM memberships "
            "WHERE conversation_id = ? AND is_current ORDER BY user_id"
        )
        return await self._database.read(
            lambda connection: {
                each: [_membership_of(row) for row in connection.execute(query, (each,))] for each in conversation_ids
            }
        )

    async def add_member(
        self, conversation_id: ConversationId, user_id: UserId, *, read_seq: Seq, max_members: int
    ) -> bool:
        def do(connection: sqlite3.Connection) -> bool:
            conversation = _find(connection, conversation_id)
            if conversation is None or user_id in conversation.member_ids:
                return False
            if len(conversation.member_ids) >= max_members:
                raise TooManyMembers(limit=max_members)
            connection.execute(
                "INSERT INTO memberships (conversation_id, user_id, delivered_seq, read_seq) "
                "VALUES (:conversation, :user, :seq, :seq) "
                "ON CONFLICT DO UPDATE SET is_current = 1, "
                "delivered_seq = max(delivered_seq, :seq), read_seq = max(read_seq, :seq)",
                {"conversation": conversation_id, "user": user_id, "seq": read_seq},
            )
            return True

        return await self._database.write(do)

    async def remove_member(self, conversation_id: ConversationId, user_id: UserId) -> bool:
        return await self._update_member("is_current = 0", conversation_id, user_id)

    async def read_page(
        self, user_id: UserId, *, before: tuple[int, ConversationId] | None, limit: int
    ) -> Sequence[tuple[int, ConversationView]]:
        query = (
            "SELECT c.last_activity_at_ms, c.conversation_id, m.delivered_seq, m.read_seq, m.muted "
            "FROM memberships m JOIN conversations c USING (conversation_id) WHERE m.user_id = :user AND m.is_current "
            "AND (:activity IS NULL OR (c.last_activity_at_ms, c.conversation_id) < (:activity, :conversation)) "
            "ORDER BY c.last_activity_at_ms DESC, c.conversation_id DESC LIMIT :limit"
        )
        activity, conversation_id = before or (None, None)
        values = {"user": user_id, "activity": activity, "conversation": conversation_id, "limit": limit}
        return await self._database.read(
            lambda connection: [_view(connection, row) for row in connection.execute(query, values)]
        )

    async def record_activity(self, latest: Sequence[Message]) -> None:
        def do(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "UPDATE conversations SET last_activity_at_ms = max(last_activity_at_ms, ?) WHERE conversation_id = ?",
                ((message.sent_at_ms, message.conversation_id) for message in latest),
            )

        await self._database.write(do)

    async def move_watermarks(
        self, moves: Sequence[tuple[ConversationId, UserId, WatermarkKind, Seq]]
    ) -> Sequence[Watermarks | None]:
        def do(connection: sqlite3.Connection) -> Sequence[Watermarks | None]:
            connection.executemany(
                "UPDATE memberships SET delivered_seq = max(delivered_seq, ?), read_seq = max(read_seq, ?) "
                f"WHERE {_MEMBER}",
                (
                    (seq, seq if kind is WatermarkKind.SEEN else 0, conversation_id, user_id)
                    for conversation_id, user_id, kind, seq in moves
                ),
            )
            query = f"SELECT delivered_seq, read_seq FROM memberships WHERE {_MEMBER}"
            rows = (connection.execute(query, move[:2]).fetchone() for move in moves)
            return [None if row is None else Watermarks(*row) for row in rows]

        return await self._database.write(do)

    async def read_contacts(self, user_id: UserId) -> Sequence[UserId]:
        query = (
            "SELECT DISTINCT other.user_id FROM memberships own JOIN memberships other USING (conversation_id) "
            "WHERE own.user_id = ?1 AND own.is_current AND other.is_current AND other.user_id != ?1 "
            "ORDER BY other.user_id"
        )
        return await self._database.read(lambda connection: [row[0] for row in connection.execute(query, (user_id,))])

    async def set_muted(self, conversation_id: ConversationId, user_id: UserId, *, muted: bool) -> bool:
        return await self._update_member(f"muted = {int(muted)}", conversation_id, user_id)

    async def _update_member(self, change: str, conversation_id: ConversationId, user_id: UserId) -> bool:
        update = f"UPDATE memberships SET {change} WHERE {_MEMBER}"
        return await self._database.write(
            lambda connection: connection.execute(update, (conversation_id, user_id)).rowcount == 1
        )


def _find(connection: sqlite3.Connection, conversation_id: ConversationId) -> Conversation | None:
    row = connection.execute(
        "SELECT type, title, created_at_ms FROM conversations WHERE conversation_id = ?", (conversation_id,)
    ).fetchone()
    if row is None:
        return None
    members = connection.execute(
        "SELECT user_id FROM memberships WHERE conversation_id = ? AND is_current ORDER BY user_id",
        (conversation_id,),
    )
    type_, title, created_at_ms = row
    return Conversation(
        conversation_id, ConversationType(type_), title, tuple(each[0] for each in members), created_at_ms
    )


def _membership_of(row: tuple[Any, ...]) -> Membership:
    user_id, delivered_seq, read_seq, muted = row
    return Membership(user_id, Watermarks(delivered_seq, read_seq), muted=bool(muted))


def _view(connection: sqlite3.Connection, row: tuple[Any, ...]) -> tuple[int, ConversationView]:
    activity_ms, conversation_id, delivered_seq, read_seq, muted = row
    conversation = _find(connection, conversation_id)
    if conversation is None:
        raise RuntimeError("a conversation vanished within a snapshot")
    last_message = find_last_message(connection, conversation_id)
    view = ConversationView(
        conversation=conversation,
        head_seq=last_message.seq if last_message else Seq(0),
        watermarks=Watermarks(delivered_seq, read_seq),
        last_message=last_message,
        muted=bool(muted),
    )
    return activity_ms, view
