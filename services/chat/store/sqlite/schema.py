"""The tables of a store file, and how a file is opened: only one that is ours, or new."""

import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from services.runtime.config import ConfigError

# Written into the file: "PRLY", and the number of the schema.
_APPLICATION_ID: Final = 0x50524C59
_VERSION: Final = 1
# Another process may hold the lock for a commit or two; much longer means that it hangs.
_BUSY_S: Final = 5.0
_PAUSE_S: Final = 0.01

_SCHEMA: Final[Sequence[str]] = (
    # The rows lie in the order of the key: a page of history is a range, the head its last row.
    """
    CREATE TABLE messages (
        conversation_id TEXT NOT NULL,
        seq INTEGER NOT NULL,
        sender_id TEXT NOT NULL,
        client_message_id TEXT NOT NULL,
        content TEXT NOT NULL,
        type TEXT NOT NULL,
        sent_at_ms INTEGER NOT NULL,
        PRIMARY KEY (conversation_id, seq)
    ) WITHOUT ROWID
    """,
    "CREATE UNIQUE INDEX idempotency_key ON messages (conversation_id, sender_id, client_message_id)",
    """
    CREATE TABLE conversations (
        conversation_id TEXT PRIMARY KEY,
        type TEXT NOT NULL,
        title TEXT,
        created_at_ms INTEGER NOT NULL,
        last_activity_at_ms INTEGER NOT NULL
    ) WITHOUT ROWID
    """,
    # A row that is not current remembers how far somebody came who has left: watermarks never go back.
    """
    CREATE TABLE memberships (
        conversation_id TEXT NOT NULL,
        user_id TEXT NOT NULL,
        delivered_seq INTEGER NOT NULL,
        read_seq INTEGER NOT NULL,
        muted INTEGER NOT NULL DEFAULT 0,
        is_current INTEGER NOT NULL DEFAULT 1,
        PRIMARY KEY (conversation_id, user_id)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX user_memberships ON memberships (user_id, conversation_id) WHERE is_current",
    # ranges: JSON, [[conversation id, first seq, last seq], …]
    """
    CREATE TABLE outbox (
        entry_id TEXT PRIMARY KEY,
        created_at_ms INTEGER NOT NULL,
        ranges TEXT NOT NULL
    ) WITHOUT ROWID
    """,
    "CREATE INDEX oldest_entries ON outbox (created_at_ms, entry_id)",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_VERSION}",
)


def open_file(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """A connection that commits only when told to; the file and its directory are made, or checked, first.

    Raises:
        ConfigError: the file is somebody else's, or of a later version.
        OSError, sqlite3.Error: it cannot be opened, or is no database at all.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_S)
    try:
        if read_only:
            connection.execute("PRAGMA query_only = ON")
            return connection
        _while_others_do_the_same(lambda: _make_or_check(connection, path))
    except BaseException:
        connection.close()
        raise
    return connection


def _while_others_do_the_same(prepare: Callable[[], None]) -> None:
    """SQLite's own waiting for locks does not cover the change of the journal mode."""
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            return prepare()
        except sqlite3.OperationalError as failure:
            if failure.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE_S)


def _make_or_check(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("BEGIN IMMEDIATE")  # of two that start at once, one makes the tables
    try:
        if _is_empty(connection):
            for statement in _SCHEMA:
                connection.execute(statement)
        else:
            _check(connection, path)
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    # Readers then do not wait for the writer, and a commit is one sync; FULL makes it a durable one.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")


def _is_empty(connection: sqlite3.Connection) -> bool:
    return not _pragma(connection, "application_id") and not _number(connection, "SELECT count(*) FROM sqlite_schema")


def _check(connection: sqlite3.Connection, path: Path) -> None:
    if _pragma(connection, "application_id") != _APPLICATION_ID:
        raise ConfigError((f"{path} is a database of another program: choose another file",))
    version = _pragma(connection, "user_version")
    if version > _VERSION:
        raise ConfigError((f"{path} was written by a later version (schema {version}; this one knows {_VERSION})",))


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return _number(connection, f"PRAGMA {name}")


def _number(connection: sqlite3.Connection, query: str) -> int:
    number: int = connection.execute(query).fetchone()[0]
    return number
