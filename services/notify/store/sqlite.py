"""The store in one SQLite file: the embedded default.

One connection on one thread; each write is its own commit (some 800/s, measured; a push takes longer than that).
"""

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

from services.notify.errors import StoreUnavailable
from services.notify.model import ConversationId, Device, DeviceId, Mark, MessageId, Seq, UserId
from services.notify.store import KEPT, Claim, Claimed, Finished, Held, Holder
from services.notify.store.addresses import address_of, parts_of
from services.runtime.config import ConfigError
from services.runtime.log import logger

T = TypeVar("T")

# "PRLN", and the number of the schema.
_APPLICATION_ID: Final = 0x50524C4E
_VERSION: Final = 1
_BUSY_S: Final = 5.0
_PAUSE_S: Final = 0.01
_RETRY_AFTER_MS: Final = 500
# Old rows are swept once in so many writes.
_SWEEP_EVERY: Final = 1_000

_SCHEMA: Final = (
    """
    CREATE TABLE devices (
        device_id TEXT PRIMARY KEY,
        user_id TEXT NOT NULL,
        platform TEXT NOT NULL,
        address TEXT NOT NULL,
        registered_at_ms INTEGER NOT NULL
    ) WITHOUT ROWID
    """,
    "CREATE INDEX devices_of_user ON devices (user_id, registered_at_ms, device_id)",
    """
    CREATE TABLE push_keys (
        message_id TEXT NOT NULL,
        device_id TEXT NOT NULL,
        holder TEXT NOT NULL,
        taken_at_ms INTEGER NOT NULL,
        is_finished INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (message_id, device_id)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE marks (
        conversation_id TEXT NOT NULL,
        user_id TEXT NOT NULL,
        read_seq INTEGER NOT NULL DEFAULT 0,
        pushed_seq INTEGER NOT NULL DEFAULT 0,
        at_ms INTEGER NOT NULL,
        PRIMARY KEY (conversation_id, user_id)
    ) WITHOUT ROWID
    """,
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_VERSION}",
)

_log = logger(__name__)


class SqliteStore:
    """See `services.notify.store.Store`. The file and its directory are made when they are missing.

    Raises:
        ValueError: `path` names no file; nothing would last.
    """

    def __init__(self, path: str) -> None:
        if path in ("", ":memory:"):
            raise ValueError("a store URL of SQLite names a file: sqlite:///path/to/file")
        self._path = Path(path).absolute()
        self._thread: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None
        self._writes = 0

    async def start(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="notify-store")
        try:
            loop = asyncio.get_running_loop()
            self._connection = await loop.run_in_executor(self._thread, _open_file, self._path)
        except (OSError, sqlite3.Error) as failure:
            await self.close()
            raise ConfigError((f"{self._path} cannot be used as the store: {failure}",)) from failure
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        connection, self._connection = self._connection, None
        if thread is not None and connection is not None:
            await asyncio.get_running_loop().run_in_executor(thread, connection.close)
        if thread is not None:
            thread.shutdown(wait=False)

    # ---- Devices.

    async def register(self, device: Device, *, max_devices: int) -> tuple[Device, bool]:
        def do(db: sqlite3.Connection) -> tuple[Device, bool]:
            row = _device_row(db, device.device_id)
            if row is not None and row[1] == device.user_id:
                return _device(row), False
            db.execute(
                "INSERT OR REPLACE INTO devices VALUES (?, ?, ?, ?, ?)",
                (
                    device.device_id,
                    device.user_id,
                    device.platform.value,
                    json.dumps(parts_of(device.address)),
                    device.registered_at_ms,
                ),
            )
            db.execute(
                "DELETE FROM devices WHERE device_id IN (SELECT device_id FROM devices WHERE user_id = ?"
                " AND device_id != ? ORDER BY registered_at_ms DESC, device_id DESC LIMIT -1 OFFSET ?)",
                (device.user_id, device.device_id, max_devices - 1),
            )
            return device, True

        return await self._write(do)

    async def find_devices(self, user_ids: Sequence[UserId]) -> Mapping[UserId, Sequence[Device]]:
        def do(db: sqlite3.Connection) -> Mapping[UserId, Sequence[Device]]:
            found: dict[UserId, list[Device]] = {}
            rows = db.execute(
                "SELECT * FROM devices WHERE user_id IN (SELECT value FROM json_each(?))"
                " ORDER BY registered_at_ms, device_id",
                (json.dumps(user_ids),),
            )
            for row in rows:
                found.setdefault(UserId(row[1]), []).append(_device(row))
            return found

        return await self._run(do)

    async def find_device(self, device_id: DeviceId) -> Device | None:
        def do(db: sqlite3.Connection) -> Device | None:
            row = _device_row(db, device_id)
            return None if row is None else _device(row)

        return await self._run(do)

    async def remove(self, user_id: UserId, device_id: DeviceId) -> bool:
        def do(db: sqlite3.Connection) -> bool:
            gone = db.execute("DELETE FROM devices WHERE device_id = ? AND user_id = ?", (device_id, user_id))
            return gone.rowcount > 0

        return await self._write(do)

    # ---- Keys.

    async def claim(
        self, message_id: MessageId, device_id: DeviceId, holder: Holder, *, now_ms: int, lease: timedelta
    ) -> Claim:
        lease_ms = round(lease / timedelta(milliseconds=1))

        def do(db: sqlite3.Connection) -> Claim:
            row = db.execute(
                "SELECT taken_at_ms, is_finished FROM push_keys WHERE message_id = ? AND device_id = ?",
                (message_id, device_id),
            ).fetchone()
            if row is not None and row[1]:
                return Finished()
            if row is not None and 0 <= now_ms - row[0] < lease_ms:
                return Held(timedelta(milliseconds=row[0] + lease_ms - now_ms))
            db.execute(
                "INSERT OR REPLACE INTO push_keys VALUES (?, ?, ?, ?, 0)", (message_id, device_id, holder, now_ms)
            )
            self._sweep(db, now_ms)
            return Claimed()

        return await self._write(do)

    async def finish(self, message_id: MessageId, device_id: DeviceId, *, now_ms: int) -> None:
        await self._write(
            lambda db: db.execute(
                "INSERT INTO push_keys VALUES (?, ?, '', ?, 1)"
                " ON CONFLICT (message_id, device_id) DO UPDATE SET is_finished = 1",
                (message_id, device_id, now_ms),
            )
        )

    async def release(self, message_id: MessageId, device_id: DeviceId, holder: Holder) -> None:
        await self._write(
            lambda db: db.execute(
                "DELETE FROM push_keys WHERE message_id = ? AND device_id = ? AND holder = ? AND NOT is_finished",
                (message_id, device_id, holder),
            )
        )

    # ---- Marks.

    async def move_read(self, conversation_id: ConversationId, user_id: UserId, seq: Seq, *, now_ms: int) -> Mark:
        def do(db: sqlite3.Connection) -> Mark:
            row = db.execute(
                "SELECT read_seq, pushed_seq FROM marks WHERE conversation_id = ? AND user_id = ?",
                (conversation_id, user_id),
            ).fetchone()
            db.execute(
                "INSERT INTO marks VALUES (?, ?, ?, 0, ?) ON CONFLICT (conversation_id, user_id)"
                " DO UPDATE SET read_seq = max(read_seq, excluded.read_seq), at_ms = excluded.at_ms",
                (conversation_id, user_id, seq, now_ms),
            )
            return Mark(Seq(row[0]), Seq(row[1])) if row is not None else Mark()

        return await self._write(do)

    async def record_pushed(
        self, conversation_id: ConversationId, user_ids: Sequence[UserId], seq: Seq, *, now_ms: int
    ) -> None:
        await self._write(
            lambda db: db.executemany(
                "INSERT INTO marks VALUES (?, ?, 0, ?, ?) ON CONFLICT (conversation_id, user_id)"
                " DO UPDATE SET pushed_seq = max(pushed_seq, excluded.pushed_seq), at_ms = excluded.at_ms",
                [(conversation_id, user_id, seq, now_ms) for user_id in user_ids],
            )
        )

    async def find_marks(self, conversation_id: ConversationId, user_ids: Sequence[UserId]) -> Mapping[UserId, Mark]:
        def do(db: sqlite3.Connection) -> Mapping[UserId, Mark]:
            rows = db.execute(
                "SELECT user_id, read_seq, pushed_seq FROM marks"
                " WHERE conversation_id = ? AND user_id IN (SELECT value FROM json_each(?))",
                (conversation_id, json.dumps(user_ids)),
            )
            return {UserId(user): Mark(Seq(read), Seq(pushed)) for user, read, pushed in rows}

        return await self._run(do)

    # ---- The thread.

    async def _write(self, do: Callable[[sqlite3.Connection], T]) -> T:
        def in_transaction(db: sqlite3.Connection) -> T:
            db.execute("BEGIN IMMEDIATE")
            try:
                result = do(db)
                db.execute("COMMIT")
                return result
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")

        return await self._run(in_transaction)

    async def _run(self, do: Callable[[sqlite3.Connection], T]) -> T:
        """In the thread to its end, whatever becomes of the caller."""
        if self._thread is None or self._connection is None:
            raise StoreUnavailable(retry_after_ms=_RETRY_AFTER_MS)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, do, self._connection)
        except sqlite3.OperationalError as failure:
            _log.warning("store_failed", store="sqlite", kind=type(failure).__name__, message=str(failure))
            raise StoreUnavailable(retry_after_ms=_RETRY_AFTER_MS) from failure

    def _sweep(self, db: sqlite3.Connection, now_ms: int) -> None:
        self._writes += 1
        if self._writes % _SWEEP_EVERY == 0:
            before_ms = now_ms - round(KEPT / timedelta(milliseconds=1))
            db.execute("DELETE FROM push_keys WHERE taken_at_ms < ?", (before_ms,))
            db.execute("DELETE FROM marks WHERE at_ms < ?", (before_ms,))


def _device_row(db: sqlite3.Connection, device_id: DeviceId) -> tuple[Any, ...] | None:
    row: tuple[Any, ...] | None = db.execute("SELECT * FROM devices WHERE device_id = ?", (device_id,)).fetchone()
    return row


def _device(row: tuple[Any, ...]) -> Device:
    device_id, user_id, platform, address, registered_at_ms = row
    return Device(DeviceId(device_id), UserId(user_id), address_of(platform, json.loads(address)), registered_at_ms)


def _use_wal(db: sqlite3.Connection) -> None:
    """SQLite's own waiting for locks does not cover the change of the journal mode; another start may hold one."""
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as failure:
            if failure.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_S)
        else:
            return


def _open_file(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    db = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_S, check_same_thread=False)
    try:
        _use_wal(db)
        db.execute("PRAGMA synchronous = FULL")
        db.execute("BEGIN IMMEDIATE")  # of two that start at once, one makes the tables
        application: int = db.execute("PRAGMA application_id").fetchone()[0]
        version: int = db.execute("PRAGMA user_version").fetchone()[0]
        if not application and not db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            for statement in _SCHEMA:
                db.execute(statement)
        elif application != _APPLICATION_ID:
            raise ConfigError((f"{path} is a database of another program: choose another file",))
        elif version > _VERSION:
            raise ConfigError((f"{path} was written by a later version (schema {version}; this one knows {_VERSION})",))
        db.execute("COMMIT")
    except BaseException:
        db.close()
        raise
    return db
