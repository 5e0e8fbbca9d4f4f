"""The store on MongoDB: a replica set (one member is enough) or a sharded cluster.

    devices    _id = device id; userId, platform, address [texts], registeredAt
    pushKeys   _id = message id, '/', device id; holder, takenAt, finished?; at (TTL)
    readMarks  _id = conversation id, '/', user id; conversationId, userId, readSeq, pushedSeq; at (TTL)

Written with what motor and pymongo's `AsyncMongoClient` share, as motor has passed its end of life. Every operation
runs in a task that the store owns, bounded by `pymongo.timeout` and never by its caller's cancellation, which would
close a connection and leave a write uncertain. All that must be atomic is one document: no transactions.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar, cast
from urllib.parse import parse_qsl, urlsplit

import pymongo
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import ASCENDING, AsyncMongoClient, IndexModel, ReadPreference, ReturnDocument, UpdateOne
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import DuplicateKeyError, InvalidOperation, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from services.notify.errors import StoreUnavailable
from services.notify.model import ConversationId, Device, DeviceId, Mark, MessageId, Seq, UserId
from services.notify.store import KEPT, Claim, Claimed, Finished, Held, Holder
from services.notify.store.addresses import address_of, parts_of
from services.runtime.config import ConfigError
from services.runtime.log import logger

T = TypeVar("T")
Document = dict[str, Any]
ClientFactory = Callable[..., AsyncMongoClient[Document]]

OPERATION_TIMEOUT: Final = timedelta(seconds=5)
# An election (10 s by default) and some more: a rollout during one is not refused.
START_TIMEOUT: Final = timedelta(seconds=20)
_CLOSE_S: Final = 2.0
_RETRY_AFTER_MS: Final = 500
_DEFAULT_DATABASE: Final = "parley"
_LOGIN_REFUSED: Final = frozenset({13, 18, 8000})
# Two that take, or make, one document at the same time: the loser looks again.
_ATTEMPTS: Final = 3
_DEFAULTS: Final[Mapping[str, object]] = {
    "maxPoolSize": 32,
    "maxConnecting": 4,
    "waitQueueTimeoutMS": 5_000,
    "serverSelectionTimeoutMS": 5_000,
    "connectTimeoutMS": 3_000,
    "heartbeatFrequencyMS": 3_000,
    "appName": "parley-notify",
}
_INDEXES: Final = {
    "devices": [IndexModel([("userId", ASCENDING), ("registeredAt", ASCENDING), ("_id", ASCENDING)], name="ofUser")],
    "pushKeys": [IndexModel("at", name="forget", expireAfterSeconds=int(KEPT.total_seconds()))],
    "readMarks": [IndexModel("at", name="forget", expireAfterSeconds=int(KEPT.total_seconds()))],
}

_log = logger(__name__)


class MongoStore:
    """See `services.notify.store.Store`. Bound to the event loop that `start` runs in.

    Args:
        url: pool and timeout options in it win over the defaults here, the guarantees do not yield. Without a name
            the database is "parley".
        client_factory: what opens the client, instead of motor: pymongo's `AsyncMongoClient`.
    """

    def __init__(
        self,
        url: str,
        *,
        client_factory: ClientFactory | None = None,
        operation_timeout: timedelta = OPERATION_TIMEOUT,
        start_timeout: timedelta = START_TIMEOUT,
    ) -> None:
        self._url = url
        self._client_factory = client_factory or cast(ClientFactory, AsyncIOMotorClient)
        self._operation_s = operation_timeout.total_seconds()
        self._start_s = start_timeout.total_seconds()
        self._client: AsyncMongoClient[Document] | None = None
        self._database: AsyncDatabase[Document] | None = None
        self._under_way: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        try:
            with pymongo.timeout(self._start_s):
                self._database = await self._connect()
                for name, indexes in _INDEXES.items():
                    await self._database[name].create_indexes(indexes)
        except BaseException as failure:
            await self.close()
            if isinstance(failure, OperationFailure) and failure.code in _LOGIN_REFUSED:
                raise ConfigError((f"MongoDB refuses the login, or its rights (code {failure.code})",)) from failure
            if isinstance(failure, PyMongoError):
                raise _translated(failure) from failure
            raise

    async def close(self) -> None:
        self._database = None
        while self._under_way:
            await asyncio.wait(self._under_way)
        client, self._client = self._client, None
        if client is None:
            return
        with pymongo.timeout(_CLOSE_S):
            if inspect.iscoroutinefunction(client.close):
                await client.close()
            else:  # motor's is pymongo's own, which says goodbye over the network
                await asyncio.to_thread(cast(Callable[[], None], client.close))

    # ---- Devices.

    async def register(self, device: Device, *, max_devices: int) -> tuple[Device, bool]:
        return await self._run(lambda db: self._register(db["devices"], device, max_devices))

    async def _register(
        self, devices: AsyncCollection[Document], device: Device, max_devices: int
    ) -> tuple[Device, bool]:
        document = {
            "userId": device.user_id,
            "platform": device.platform.value,
            "address": list(parts_of(device.address)),
            "registeredAt": device.registered_at_ms,
        }
        for _ in range(_ATTEMPTS):
            known = await devices.find_one({"_id": device.device_id})
            if known is not None and known["userId"] == device.user_id:
                return _device(known), False
            try:
                if known is None:
                    await devices.insert_one({"_id": device.device_id, **document})
                else:
                    moved = await devices.update_one(
                        {"_id": device.device_id, "userId": known["userId"]}, {"$set": document}
                    )
                    if not moved.matched_count:
                        continue
            except DuplicateKeyError:
                continue
            await self._drop_oldest(devices, device, max_devices)
            return device, True
        raise StoreUnavailable(retry_after_ms=_RETRY_AFTER_MS)

    async def _drop_oldest(self, devices: AsyncCollection[Document], device: Device, max_devices: int) -> None:
        others = devices.find({"userId": device.user_id, "_id": {"$ne": device.device_id}}, {"_id": 1})
        ids = [each["_id"] for each in await others.sort([("registeredAt", -1), ("_id", -1)]).to_list(None)]
        if beyond := ids[max_devices - 1 :]:
            await devices.delete_many({"_id": {"$in": beyond}, "userId": device.user_id})

    async def find_devices(self, user_ids: Sequence[UserId]) -> Mapping[UserId, Sequence[Device]]:
        async def do(db: AsyncDatabase[Document]) -> Mapping[UserId, Sequence[Device]]:
            cursor = db["devices"].find({"userId": {"$in": list(user_ids)}})
            found: dict[UserId, list[Device]] = {}
            for document in await cursor.sort([("registeredAt", ASCENDING), ("_id", ASCENDING)]).to_list(None):
                found.setdefault(UserId(document["userId"]), []).append(_device(document))
            return found

        return await self._run(do)

    async def find_device(self, device_id: DeviceId) -> Device | None:
        document = await self._run(lambda db: db["devices"].find_one({"_id": device_id}))
        return None if document is None else _device(document)

    async def remove(self, user_id: UserId, device_id: DeviceId) -> bool:
        gone = await self._run(lambda db: db["devices"].delete_one({"_id": device_id, "userId": user_id}))
        return gone.deleted_count > 0

    # ---- Keys.

    async def claim(
        self, message_id: MessageId, device_id: DeviceId, holder: Holder, *, now_ms: int, lease: timedelta
    ) -> Claim:
        lease_ms = round(lease / timedelta(milliseconds=1))
        free = {
            "_id": _key(message_id, device_id),
            "finished": {"$exists": False},
            "$or": [{"takenAt": {"$lte": now_ms - lease_ms}}, {"takenAt": {"$gt": now_ms}}],
        }
        taken = {"$set": {"holder": holder, "takenAt": now_ms, "at": _date(now_ms)}}

        async def do(db: AsyncDatabase[Document]) -> Claim:
            keys = db["pushKeys"]
            for _ in range(_ATTEMPTS):
                try:  # made, or taken over; where neither is right the _id is there already
                    await keys.update_one(free, taken, upsert=True)
                    return Claimed()
                except DuplicateKeyError:
                    known = await keys.find_one({"_id": free["_id"]})
                if known is not None and known.get("finished"):
                    return Finished()
                # A repeat of our own write, which the driver makes when an answer was lost, finds our own key.
                if known is not None and known["holder"] == holder and known["takenAt"] == now_ms:
                    return Claimed()
                if known is not None:
                    return Held(timedelta(milliseconds=max(1, known["takenAt"] + lease_ms - now_ms)))
            raise StoreUnavailable(retry_after_ms=_RETRY_AFTER_MS)

        return await self._run(do)

    async def finish(self, message_id: MessageId, device_id: DeviceId, *, now_ms: int) -> None:
        key = {"_id": _key(message_id, device_id)}
        made = {"holder": "", "takenAt": now_ms, "at": _date(now_ms)}
        await self._run(
            lambda db: db["pushKeys"].update_one(key, {"$set": {"finished": True}, "$setOnInsert": made}, upsert=True)
        )

    async def release(self, message_id: MessageId, device_id: DeviceId, holder: Holder) -> None:
        held = {"_id": _key(message_id, device_id), "holder": holder, "finished": {"$exists": False}}
        await self._run(lambda db: db["pushKeys"].delete_one(held))

    # ---- Marks.

    async def move_read(self, conversation_id: ConversationId, user_id: UserId, seq: Seq, *, now_ms: int) -> Mark:
        update = _mark_update(conversation_id, user_id, {"readSeq": int(seq)}, now_ms)

        async def do(db: AsyncDatabase[Document]) -> Mark:
            for _ in range(_ATTEMPTS):
                try:
                    before = await db["readMarks"].find_one_and_update(
                        {"_id": _key(conversation_id, user_id)},
                        update,
                        upsert=True,
                        return_document=ReturnDocument.BEFORE,
                    )
                except DuplicateKeyError:
                    continue  # two made it at the same time
                return Mark() if before is None else _mark(before)
            raise StoreUnavailable(retry_after_ms=_RETRY_AFTER_MS)

        return await self._run(do)

    async def record_pushed(
        self, conversation_id: ConversationId, user_ids: Sequence[UserId], seq: Seq, *, now_ms: int
    ) -> None:
        writes = [
            UpdateOne(
                {"_id": _key(conversation_id, user_id)},
                _mark_update(conversation_id, user_id, {"pushedSeq": int(seq)}, now_ms),
                upsert=True,
            )
            for user_id in user_ids
        ]
        if writes:
            await self._run(lambda db: db["readMarks"].bulk_write(writes, ordered=False))

    async def find_marks(self, conversation_id: ConversationId, user_ids: Sequence[UserId]) -> Mapping[UserId, Mark]:
        wanted = {"_id": {"$in": [_key(conversation_id, user_id) for user_id in user_ids]}}
        documents = await self._run(lambda db: db["readMarks"].find(wanted).to_list(None))
        return {UserId(document["userId"]): _mark(document) for document in documents}

    # ---- The connection.

    async def _connect(self) -> AsyncDatabase[Document]:
        # The driver refuses to be given an option twice.
        given = {name.lower() for name, _ in parse_qsl(urlsplit(self._url).query)}
        options = {name: value for name, value in _DEFAULTS.items() if name.lower() not in given}
        self._client = client = self._client_factory(self._url, **options, retryWrites=True, retryReads=True)
        hello = await client.admin.command("hello")
        if "setName" not in hello and hello.get("msg") != "isdbgrid":
            raise ConfigError(
                ("a standalone mongod cannot promise that an acknowledged write survives: start it with --replSet",)
            )
        return client.get_default_database(
            _DEFAULT_DATABASE,
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("majority"),
            write_concern=WriteConcern(w="majority", j=True),
        )

    async def _run(self, operation: Callable[[AsyncDatabase[Document]], Awaitable[T]]) -> T:
        """To its end within the operation bound, whatever becomes of the caller."""
        database = self._database
        if database is None:
            raise StoreUnavailable(retry_after_ms=_RETRY_AFTER_MS)
        task = asyncio.get_running_loop().create_task(self._bounded(operation, database))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def _bounded(
        self, operation: Callable[[AsyncDatabase[Document]], Awaitable[T]], database: AsyncDatabase[Document]
    ) -> T:
        try:
            with pymongo.timeout(self._operation_s):
                return await operation(database)
        except InvalidOperation:
            raise  # a wrong use of the driver: a bug
        except PyMongoError as failure:
            raise _translated(failure) from failure


def _translated(failure: PyMongoError) -> StoreUnavailable:
    # Not its text: a duplicate key or a refused document is shown in it, and an address may be in there.
    _log.warning("store_failed", store="mongodb", kind=type(failure).__name__)
    return StoreUnavailable(retry_after_ms=_RETRY_AFTER_MS)


def _key(first: str, second: str) -> str:
    return f"{first}/{second}"


def _date(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _mark_update(conversation_id: ConversationId, user_id: UserId, seqs: Mapping[str, int], now_ms: int) -> Document:
    missing = {name: 0 for name in ("readSeq", "pushedSeq") if name not in seqs}
    names = {"conversationId": conversation_id, "userId": user_id}
    return {"$max": dict(seqs), "$set": {"at": _date(now_ms)}, "$setOnInsert": {**missing, **names}}


def _mark(document: Document) -> Mark:
    return Mark(Seq(document["readSeq"]), Seq(document["pushedSeq"]))


def _device(document: Document) -> Device:
    return Device(
        DeviceId(document["_id"]),
        UserId(document["userId"]),
        address_of(document["platform"], document["address"]),
        document["registeredAt"],
    )
