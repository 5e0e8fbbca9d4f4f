"""The store in one SQLite file: the embedded default. Several processes may share the file; one is the usual case."""

from pathlib import Path

from services.chat.store.sqlite.conversations import SqliteConversations
from services.chat.store.sqlite.database import Database
from services.chat.store.sqlite.messages import SqliteMessageLog, SqliteOutbox

__all__ = ["SqliteStore"]


class SqliteStore(SqliteMessageLog, SqliteOutbox, SqliteConversations):
    """Bound to the event loop that `start` runs in. The file and its directory are made when they are missing.

    Raises:
        ValueError: `path` names no file; nothing would last.
    """

    def __init__(self, path: str) -> None:
        if path in ("", ":memory:"):
            raise ValueError("a store URL of SQLite names a file: sqlite:///path/to/file")
        super().__init__(Database(Path(path).absolute()))

    async def start(self) -> None:
        await self._database.open()

    async def close(self) -> None:
        await self._database.close()

    async def ping(self) -> None:
        await self._database.read(
            lambda connection: connection.execute("SELECT 1 FROM conversations LIMIT 1").fetchone()
        )
