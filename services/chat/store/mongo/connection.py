"""The one connection to MongoDB: how it is opened, how long an operation may take, what becomes of its failures.

The only module that knows motor. Motor's end of life was on 14 May 2026; everything else here is written with what it
shares with pymongo's `AsyncMongoClient` (so no aggregate, watch or sessions), and the contract suite runs over both.

Every operation runs in a task that the connection owns: gRPC cancels a handler at its caller's deadline, and
cancelling an operation of `AsyncMongoClient` closes its connection and leaves a write uncertain. It is bounded by
`pymongo.timeout` instead, which covers waiting for a primary and for a free connection, the server's work (maxTimeMS),
the answer, and the driver's repeats of retryable writes and reads. Motor honours it too, as it hands its context on to
its threads (tried with a stopped mongod, motor 3.7.1 and pymongo 4.20).
"""

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import timedelta
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast
from urllib.parse import parse_qsl, urlsplit

import pymongo
from bson.codec_options import CodecOptions, DatetimeConversion
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient, ReadPreference
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
)
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from services.chat.store.faults import Faults, unavailable
from services.chat.store.mongo.documents import Document
from services.runtime.config import ConfigError

P = ParamSpec("P")
T = TypeVar("T")
ClientFactory = Callable[..., AsyncMongoClient[Document]]

# Longer than a commit under load (p99 of some 200 ms), shorter than what a sender waits. An election that takes longer
# fails what was under way; the senders' repeats are harmless.
OPERATION_TIMEOUT: Final = timedelta(seconds=5)
# An election (10 s by default) and some more: a rollout during one is not refused.
START_TIMEOUT: Final = timedelta(seconds=20)
_ATTEMPT_S: Final = 2.0
_PAUSE_S: Final = 0.1
_CLOSE_S: Final = 2.0

_DEFAULT_DATABASE: Final = "parley"
# Motor has five threads for each core, and so as many operations at a time. Cold, the first 64 inserts had a p99 of 400
# to 800 ms: so connections are made at start, by using them (they are kept), and several may be made at once. Not by
# minPoolSize: the driver then connects in the background too, and a close in the middle of that leaks the socket.
_WARM: Final = 8
_DEFAULTS: Final[Mapping[str, object]] = {
    "maxPoolSize": 32,
    "maxConnecting": 4,
    "waitQueueTimeoutMS": int(OPERATION_TIMEOUT.total_seconds() * 1000),
    "serverSelectionTimeoutMS": int(OPERATION_TIMEOUT.total_seconds() * 1000),
    # A primary that hangs without closing its connections is given up after connect timeout + heartbeat.
    "connectTimeoutMS": 3_000,
    "heartbeatFrequencyMS": 3_000,
    "appName": "parley-chat",
}
_LOGIN_REFUSED: Final = frozenset({13, 18, 8000})


class MongoConnection:
    """`open` before anything else; bound to the event loop of that call."""

    def __init__(
        self,
        url: str,
        *,
        client_factory: ClientFactory | None,
        operation_timeout: timedelta,
        start_timeout: timedelta,
    ) -> None:
        self._url = url
        self._client_factory = client_factory or cast(ClientFactory, AsyncIOMotorClient)
        self._operation_s = operation_timeout.total_seconds()
        self._start_s = start_timeout.total_seconds()
        self._client: AsyncMongoClient[Document] | None = None
        self._database: AsyncDatabase[Document] | None = None
        self._is_open = False
        self._under_way: set[asyncio.Task[Any]] = set()
        self._faults = Faults("mongodb")

    async def open(self, prepare: Callable[[], Awaitable[None]]) -> None:
        """Connects, refuses what cannot keep the guarantees, warms the pool, runs `prepare`; all in the start bound.

        Raises:
            StoreUnavailable, ConfigError: as `Store.start`; nothing stays connected.
        """
        try:
            with pymongo.timeout(self._start_s):
                await self._connect()
                await prepare()
        except BaseException as failure:
            await self.close()
            if isinstance(failure, OperationFailure) and failure.code in _LOGIN_REFUSED:
                problem = f"MongoDB refuses the login, or its rights (code {failure.code})"
                raise ConfigError((problem,)) from failure
            if isinstance(failure, PyMongoError):
                raise self._faults.translated(failure) from failure
            raise
        self._is_open = True

    async def close(self) -> None:
        """Waits for what is under way (it is bounded), then disconnects."""
        self._is_open = False
        while self._under_way:
            await asyncio.wait(self._under_way)
        client, self._client, self._database = self._client, None, None
        if client is None:
            return
        with pymongo.timeout(_CLOSE_S):
            if inspect.iscoroutinefunction(client.close):
                await client.close()
            else:  # motor's is pymongo's own, which says goodbye over the network
                await asyncio.to_thread(cast(Callable[[], None], client.close))

    @property
    def database(self) -> AsyncDatabase[Document]:
        """For what runs inside `run` or `prepare`."""
        if self._database is None:
            raise RuntimeError("the connection is not open")
        return self._database

    def collection(self, name: str) -> AsyncCollection[Document]:
        return self.database[name]

    async def run(self, operation: Coroutine[Any, Any, T]) -> T:
        """Runs it to its end within the operation bound, whatever becomes of the caller.

        Raises:
            StoreUnavailable: MongoDB failed, did not answer in time, or is not connected.
        """
        if not self._is_open:
            operation.close()
            raise unavailable()
        task = asyncio.get_running_loop().create_task(self._bounded(operation))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def _bounded(self, operation: Coroutine[Any, Any, T]) -> T:
        try:
            with pymongo.timeout(self._operation_s):
                return await operation
        except InvalidOperation:
            raise  # a wrong use of the driver: a bug
        except PyMongoError as failure:
            raise self._faults.translated(failure) from failure

    async def _connect(self) -> None:
        options = {**_unless_in(self._url, _DEFAULTS), "retryWrites": True, "retryReads": True}
        self._client = client = self._client_factory(self._url, **options)
        _refuse_standalone(await self._hello(client))
        # What was read must not be rolled back later, or a number would name two messages: hence majority. A primary
        # that has been deposed without knowing may so give an old head, but never a wrong message; the index then
        # refuses what was numbered by it. A document that refused another is read too: the server waits for the write
        # concern before it tells of a duplicate.
        self._database = client.get_default_database(
            _DEFAULT_DATABASE,
            codec_options=CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_MS),
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("majority"),
            write_concern=WriteConcern(w="majority", j=True),
        )
        await asyncio.gather(*(self._database.command("ping") for _ in range(_WARM)))

    async def _hello(self, client: AsyncMongoClient[Document]) -> Document:
        """In short attempts, so that what can be refused is refused early."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._start_s
        while True:
            try:
                with pymongo.timeout(_ATTEMPT_S):
                    return await client.admin.command("hello")
            except ConnectionFailure as failure:
                _refuse_strangers(client, failure)
                if loop.time() >= deadline:
                    raise
            await asyncio.sleep(_PAUSE_S)


class MongoPart:
    """A part of the store that works over the connection they all share."""

    def __init__(self, mongo: MongoConnection) -> None:
        self._mongo = mongo


Part = TypeVar("Part", bound=MongoPart)


def operation(
    method: Callable[Concatenate[Part, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Part, P], Coroutine[Any, Any, T]]:
    """Makes a method one operation: `MongoConnection.run` around it. Not for methods that call each other."""

    async def bounded(self: Part, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._mongo.run(method(self, *args, **kwargs))

    functools.update_wrapper(bounded, method)
    return bounded


def _unless_in(url: str, defaults: Mapping[str, object]) -> dict[str, object]:
    """The defaults that the URL does not set itself."""
    given = {name.lower() for name, _ in parse_qsl(urlsplit(url).query)}
    return {name: value for name, value in defaults.items() if name.lower() not in given}


_STANDALONE: Final = (
    "this mongod is not in a replica set: it cannot promise that an acknowledged message survives. Start it with "
    "--replSet and initiate the set (one member is enough)"
)


def _refuse_standalone(hello: Mapping[str, Any]) -> None:
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        raise ConfigError((_STANDALONE,))


def _refuse_strangers(client: AsyncMongoClient[Document], failure: ConnectionFailure) -> None:
    """Servers that answer but are not in the replica set that the URL names: the driver drops them from its list, or
    keeps the reason where the URL asks for a direct connection."""
    servers = client.topology_description.server_descriptions().values()
    if all(isinstance(server.error, ConfigurationError) for server in servers):
        problem = f"the URL names a replica set that its servers are not in, or {_STANDALONE}"
        raise ConfigError((problem,)) from failure
