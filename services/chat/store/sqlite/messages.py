"""The message log and the outbox in SQLite."""

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from services.chat.model import ConversationId, Message, MessageId, Seq, parse_message_id
from services.chat.store import AppendConflict, Appended, IdempotencyKey, OutboxEntry
from services.chat.store.sqlite.database import Database

_COLUMNS = "conversation_id, seq, sender_id, client_message_id, content, type, sent_at_ms"
_INSERT = f"INSERT INTO messages ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"


class SqlitePart:
    """A part of the store that works over the one file they all share."""

    def __init__(self, database: Database) -> None:
        self._database = database


class SqliteMessageLog(SqlitePart):
    async def append(self, messages: Sequence[Message], outbox: OutboxEntry | None) -> Appended:
        def do(connection: sqlite3.Connection) -> Appended:
            if outbox is not None:
                _insert_entry(connection, outbox)
            return _insert(connection, messages)

        return await self._database.write(do)

    async def find_head(self, conversation_id: ConversationId) -> Seq:
        return await self._database.read(lambda connection: _head(connection, conversation_id))

    async def find_heads(self, conversation_ids: Sequence[ConversationId]) -> Mapping[ConversationId, Seq]:
        return await self._database.read(
            lambda connection: {each: _head(connection, each) for each in conversation_ids}
        )

    async def find_by_keys(self, keys: Sequence[IdempotencyKey]) -> Mapping[IdempotencyKey, Message]:
        def do(connection: sqlite3.Connection) -> Mapping[IdempotencyKey, Message]:
            query = (
                f"SELECT {_COLUMNS} FROM messages WHERE conversation_id = ? AND sender_id = ? AND client_message_id = ?"
            )
            rows = ((key, connection.execute(query, key).fetchone()) for key in keys)
            return {key: Message(*row) for key, row in rows if row is not None}

        return await self._database.read(do)

    async def read_after(self, conversation_id: ConversationId, seq: Seq, *, limit: int) -> Sequence[Message]:
        return await self._read("seq > ? ORDER BY seq LIMIT ?", conversation_id, seq, limit)

    async def read_before(self, conversation_id: ConversationId, seq: Seq, *, limit: int) -> Sequence[Message]:
        page = await self._read("seq < ? ORDER BY seq DESC LIMIT ?", conversation_id, seq, limit)
        return page[::-1]

    async def find_message(self, message_id: MessageId) -> Message | None:
        try:
            conversation_id, seq = parse_message_id(message_id)
        except ValueError:
            return None
        found = await self._read("seq = ?", conversation_id, seq)
        return found[0] if found else None

    async def _read(self, which: str, conversation_id: ConversationId, *values: int) -> list[Message]:
        query = f"SELECT {_COLUMNS} FROM messages WHERE conversation_id = ? AND {which}"
        return await self._database.read(
            lambda connection: [Message(*row) for row in connection.execute(query, (conversation_id, *values))]
        )


class SqliteOutbox(SqlitePart):
    async def delete_entries(self, entry_ids: Sequence[str]) -> None:
        def do(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM outbox WHERE entry_id = ?", ((each,) for each in entry_ids))

        await self._database.write(do)

    async def read_entries(self, *, created_before_ms: int, limit: int) -> Sequence[OutboxEntry]:
        query = (
            "SELECT entry_id, created_at_ms, ranges FROM outbox WHERE created_at_ms < ? "
            "ORDER BY created_at_ms, entry_id LIMIT ?"
        )
        return await self._database.read(
            lambda connection: [_entry_of(row) for row in connection.execute(query, (created_before_ms, limit))]
        )

    async def count_entries(self) -> int:
        def do(connection: sqlite3.Connection) -> int:
            count: int = connection.execute("SELECT count(*) FROM outbox").fetchone()[0]
            return count

        return await self._database.read(do)


def find_last_message(connection: sqlite3.Connection, conversation_id: ConversationId) -> Message | None:
    query = f"SELECT {_COLUMNS} FROM messages WHERE conversation_id = ? ORDER BY seq DESC LIMIT 1"
    row = connection.execute(query, (conversation_id,)).fetchone()
    return None if row is None else Message(*row)


def _head(connection: sqlite3.Connection, conversation_id: ConversationId) -> Seq:
    query = "SELECT max(seq) FROM messages WHERE conversation_id = ?"
    return Seq(connection.execute(query, (conversation_id,)).fetchone()[0] or 0)


def _insert(connection: sqlite3.Connection, messages: Sequence[Message]) -> Appended:
    changes_before = connection.total_changes
    try:
        connection.executemany(_INSERT, map(_row_of, messages))
    except sqlite3.IntegrityError:  # the rows before the refused one stay
        stored = connection.total_changes - changes_before
        return Appended(stored, AppendConflict(seq_taken=_is_taken(connection, messages[stored])))
    return Appended(len(messages))


def _is_taken(connection: sqlite3.Connection, message: Message) -> bool:
    query = "SELECT 1 FROM messages WHERE conversation_id = ? AND seq = ?"
    return connection.execute(query, (message.conversation_id, message.seq)).fetchone() is not None


def _row_of(message: Message) -> tuple[object, ...]:
    return (
        message.conversation_id,
        message.seq,
        message.sender_id,
        message.client_message_id,
        message.content,
        message.type,
        message.sent_at_ms,
    )


def _insert_entry(connection: sqlite3.Connection, entry: OutboxEntry) -> None:
    ranges = orjson.dumps(entry.ranges).decode()
    connection.execute(
        "INSERT OR IGNORE INTO outbox (entry_id, created_at_ms, ranges) VALUES (?, ?, ?)",
        (entry.entry_id, entry.created_at_ms, ranges),
    )


def _entry_of(row: tuple[Any, ...]) -> OutboxEntry:
    entry_id, created_at_ms, ranges = row
    return OutboxEntry(entry_id, created_at_ms, tuple((each[0], each[1], each[2]) for each in orjson.loads(ranges)))
