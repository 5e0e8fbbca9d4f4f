"""What a deployment has really kept, looked up where it lies and not where the API says so.

The stack is looked at in MongoDB, Redis and RabbitMQ. The embedded server keeps what lasts in two SQLite files; what it
keeps in memory instead (presence, what is read, the queue) shows only in its API and in what notify has written down.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import aio_pika
from aio_pika.abc import AbstractIncomingMessage
from pymongo import AsyncMongoClient
from redis.asyncio import Redis

from protos.notify.v1 import notify_pb2
from services.chat.lastread.redis import KEY_PREFIX as LAST_READ_PREFIX
from services.presence.machine import standing
from services.presence.model import UserId
from services.presence.store.records import decode_state
from services.presence.store.redis_keys import Keys, shard_of
from tests.e2e.api import Json, User
from tests.e2e.deployments import Embedded, FullStack
from tests.e2e.world import World

_DATABASE: Final = "parley"
_PRESENCE_PREFIX: Final = "parley:presence:"
_EXCHANGE: Final = "parley.notify.exchange"
_JOB_KEY: Final = "job"


@dataclass(frozen=True, slots=True)
class StoredMessage:
    conversation_id: str
    seq: int
    sender_id: str
    content: str


@dataclass(frozen=True, slots=True)
class Watermarks:
    delivered: int
    read: int


class Evidence(Protocol):
    """Answers are of this moment; whoever looks for what happens later asks again."""

    async def find_message(self, conversation: str, seq: int) -> StoredMessage | None: ...

    async def find_last_seq(self, conversation: str) -> int | None:
        """The seq of the last message that the conversation's own record knows of."""

    async def find_watermarks(self, conversation: str, user: User) -> Watermarks | None: ...

    async def find_last_read(self, conversation: str, user: User) -> int | None:
        """As it is remembered beside the store."""

    async def find_status(self, user: User) -> str:
        """The presence that is held."""

    async def find_last_active(self, user: User) -> datetime | None: ...

    async def find_notified(self, conversation: str, seq: int) -> Sequence[str]:
        """Users of whom notify was told that they have not seen that message arrive, sorted."""


class StackEvidence:
    """Listens to the queue's exchange from the beginning to the end of a test."""

    def __init__(self, mongo: AsyncMongoClient[Json], redis: Redis) -> None:
        self._database = mongo[_DATABASE]
        self._redis = redis
        self._keys = Keys(_PRESENCE_PREFIX, 0)
        self._jobs: list[notify_pb2.NotifyJob] = []

    async def find_message(self, conversation: str, seq: int) -> StoredMessage | None:
        found = await self._database["messages"].find_one({"conversationId": conversation, "seq": seq})
        if found is None:
            return None
        return StoredMessage(found["conversationId"], found["seq"], found["senderId"], found["content"])

    async def find_last_seq(self, conversation: str) -> int | None:
        found = await self._database["conversations"].find_one({"_id": conversation})
        return None if found is None or "lastMessage" not in found else int(found["lastMessage"]["seq"])

    async def find_watermarks(self, conversation: str, user: User) -> Watermarks | None:
        membership = {"conversationId": conversation, "userId": user.user_id}
        found = await self._database["memberships"].find_one(membership)
        return None if found is None else Watermarks(found["deliveredSeq"], found["readSeq"])

    async def find_last_read(self, conversation: str, user: User) -> int | None:
        score = await self._redis.zscore(LAST_READ_PREFIX + conversation, user.user_id)
        return None if score is None else int(score)

    async def find_status(self, user: User) -> str:
        user_id = UserId(user.user_id)
        held: Any = await self._redis.get(self._keys.user(shard_of(user_id), user_id))
        return standing(decode_state(held)).value

    async def find_last_active(self, user: User) -> datetime | None:
        user_id = UserId(user.user_id)
        at_ms = await self._redis.get(self._keys.activity(shard_of(user_id), user_id))
        return None if at_ms is None else datetime.fromtimestamp(int(at_ms) / 1000, UTC)

    async def find_notified(self, conversation: str, seq: int) -> Sequence[str]:
        stored = [job.message_stored for job in self._jobs]
        return sorted(
            recipient.user_id
            for message in stored
            if (message.conversation_id, message.seq) == (conversation, seq)
            for recipient in message.recipients
        )

    async def take(self, arrived: AbstractIncomingMessage) -> None:
        """A copy of a job for notify."""
        self._jobs.append(notify_pb2.NotifyJob.FromString(arrived.body))


class EmbeddedEvidence:
    def __init__(self, embedded: Embedded, world: World) -> None:
        self._embedded = embedded
        self._world = world

    async def find_message(self, conversation: str, seq: int) -> StoredMessage | None:
        row = await self._chat(
            "SELECT conversation_id, seq, sender_id, content FROM messages WHERE conversation_id = ? AND seq = ?",
            conversation,
            seq,
        )
        return None if row is None else StoredMessage(*row)

    async def find_last_seq(self, conversation: str) -> int | None:
        row = await self._chat(
            "SELECT seq FROM messages JOIN conversations USING (conversation_id) "
            "WHERE conversation_id = ? AND sent_at_ms = last_activity_at_ms ORDER BY seq DESC",
            conversation,
        )
        return None if row is None else int(row[0])

    async def find_watermarks(self, conversation: str, user: User) -> Watermarks | None:
        row = await self._chat(
            "SELECT delivered_seq, read_seq FROM memberships WHERE conversation_id = ? AND user_id = ?",
            conversation,
            user.user_id,
        )
        return None if row is None else Watermarks(*row)

    async def find_last_read(self, conversation: str, user: User) -> int | None:
        return int((await self._world.api().view(user, conversation))["readSeq"])

    async def find_status(self, user: User) -> str:
        (presence,) = await self._world.api().presence(user, user.user_id)
        return str(presence["status"])

    async def find_last_active(self, user: User) -> datetime | None:
        (presence,) = await self._world.api().presence(user, user.user_id)
        at = presence["lastActiveAt"]
        return None if at is None else datetime.fromisoformat(at)

    async def find_notified(self, conversation: str, seq: int) -> Sequence[str]:
        rows = await asyncio.to_thread(
            _select,
            self._embedded.notify_file,
            "SELECT user_id FROM marks WHERE conversation_id = ? AND pushed_seq >= ? ORDER BY user_id",
            (conversation, seq),
        )
        return [user_id for (user_id,) in rows]

    async def _chat(self, query: str, *values: object) -> Any:
        """The first row, or None."""
        rows = await asyncio.to_thread(_select, self._embedded.chat_file, query, values)
        return rows[0] if rows else None


def evidence_of(world: World) -> AbstractAsyncContextManager[Evidence]:
    """What the world's deployment keeps."""
    if isinstance(world.deployment, FullStack):
        return _of_stack(world.deployment)
    assert isinstance(world.deployment, Embedded)
    return _of_embedded(world.deployment, world)


@asynccontextmanager
async def _of_embedded(embedded: Embedded, world: World) -> AsyncIterator[Evidence]:
    yield EmbeddedEvidence(embedded, world)


@asynccontextmanager
async def _of_stack(deployment: FullStack) -> AsyncIterator[Evidence]:
    stack = deployment.stack
    assert stack.rabbitmq is not None
    redis = Redis.from_url(stack.redis.url)
    async with AsyncMongoClient[Json](stack.mongod.url) as mongo, redis:
        evidence = StackEvidence(mongo, redis)
        connection = await aio_pika.connect(stack.rabbitmq.url)
        async with connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(exclusive=True)
            await queue.bind(_EXCHANGE, _JOB_KEY)
            await queue.consume(evidence.take, no_ack=True)
            yield evidence


def _select(file: Path, query: str, values: Sequence[object]) -> list[Any]:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        return connection.execute(query, values).fetchall()
