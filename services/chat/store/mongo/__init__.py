"""The store on MongoDB: a replica set (one member is enough) or a sharded cluster."""

from datetime import timedelta

from services.chat.store.mongo.connection import (
    OPERATION_TIMEOUT,
    START_TIMEOUT,
    ClientFactory,
    MongoConnection,
)
from services.chat.store.mongo.conversations import MongoConversations
from services.chat.store.mongo.documents import INDEXES
from services.chat.store.mongo.messages import MongoMessageLog, MongoOutbox

__all__ = ["MongoStore"]


class MongoStore(MongoMessageLog, MongoOutbox, MongoConversations):
    """Bound to the event loop that `start` runs in.

    Args:
        url: `mongodb://…/name?replicaSet=…`; pool and connection options in it win over the defaults here, the
            guarantees (write and read concern, retryable writes) and the bounds do not yield. Without a name
            the database is "parley".
        client_factory: what opens the client, instead of motor: pymongo's `AsyncMongoClient`.
        operation_timeout: the bound of every operation; after it the outcome of a write is not known.
        start_timeout: the bound of `start`.
    """

    def __init__(
        self,
        url: str,
        *,
        client_factory: ClientFactory | None = None,
        operation_timeout: timedelta = OPERATION_TIMEOUT,
        start_timeout: timedelta = START_TIMEOUT,
    ) -> None:
        super().__init__(
            MongoConnection(
                url,
                client_factory=client_factory,
                operation_timeout=operation_timeout,
                start_timeout=start_timeout,
            )
        )

    async def start(self) -> None:
        await self._mongo.open(self._create_indexes)

    async def close(self) -> None:
        await self._mongo.close()

    async def ping(self) -> None:
        await self._mongo.run(self._ping())

    async def _ping(self) -> None:
        await self._mongo.database.command("ping")

    async def _create_indexes(self) -> None:
        """Replicas that start together may all do this: what is there already is left as it is."""
        for name, indexes in INDEXES.items():
            if indexes:
                await self._mongo.collection(name).create_indexes(indexes)
