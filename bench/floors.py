"""What MongoDB alone does with such messages on this machine, now: the floors that the results stand on.

Owns: bare inserts of a document that resembles a stored message (`_id` made of conversation and seq, a unique index for
idempotency), `w: majority, j: true`, in a database of their own that is dropped afterwards.
Source of the shapes: the table in the design ("Batch while busy").
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from bson.datetime_ms import DatetimeMS
from pymongo import AsyncMongoClient
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import PyMongoError
from pymongo.write_concern import WriteConcern

from bench.cpu import CpuSnapshot, read_cpu, used_between
from bench.stats import Histogram

_DATABASE = "parley_bench"
_BATCH = 100
_POOL = 64
_TIMEOUT_S = 10.0
_WARM_UP_S = 0.4

Document = dict[str, Any]
Collection = AsyncCollection[Document]


class FloorFailed(Exception):
    """MongoDB could not be measured."""


@dataclass(frozen=True, slots=True)
class FloorShape:
    """So many tasks, each always with one write of `batch` documents under way."""

    label: str
    tasks: int
    batch: int


SHAPES = (
    FloorShape("insert_one, 1 task", tasks=1, batch=1),
    FloorShape("insert_one, 64 tasks", tasks=64, batch=1),
    FloorShape(f"insert_many({_BATCH}), 1 task", tasks=1, batch=_BATCH),
    FloorShape(f"insert_many({_BATCH}), 4 tasks", tasks=4, batch=_BATCH),
)


@dataclass(frozen=True, slots=True)
class Floor:
    label: str
    documents_per_s: float
    write_p50_us: int | None
    write_p99_us: int | None
    cpu_us_per_document: Mapping[str, float]


async def measure_floors(
    mongo_url: str, shapes: tuple[FloorShape, ...], pids: Mapping[str, int], *, seconds: float, content_bytes: int
) -> list[Floor]:
    """Each shape for `seconds`; `pids` are those whose CPU is told (mongod, and this process as the client).

    Raises:
        FloorFailed: MongoDB is away or refuses.
    """
    try:
        async with _database(mongo_url) as database:
            return [
                await _measure(database[f"floor_{at}"], shape, pids, seconds, content_bytes)
                for at, shape in enumerate(shapes)
            ]
    except PyMongoError as failure:
        raise FloorFailed(f"the floors could not be measured: {failure}") from failure


@asynccontextmanager
async def _database(mongo_url: str) -> AsyncIterator[Any]:
    client: AsyncMongoClient[Document] = AsyncMongoClient(
        mongo_url,
        maxPoolSize=_POOL,
        minPoolSize=_POOL,
        maxConnecting=8,
        serverSelectionTimeoutMS=int(_TIMEOUT_S * 1000),
        timeoutMS=int(_TIMEOUT_S * 1000),
    )
    try:
        await client.drop_database(_DATABASE)
        yield client[_DATABASE]
    finally:
        try:
            await client.drop_database(_DATABASE)
        finally:
            await client.close()


async def _measure(
    bare: Collection, shape: FloorShape, pids: Mapping[str, int], seconds: float, content_bytes: int
) -> Floor:
    await bare.create_index([("conversationId", 1), ("senderId", 1), ("clientMessageId", 1)], unique=True)
    collection = bare.with_options(write_concern=WriteConcern(w="majority", j=True))
    samples: list[int] = []
    started: list[CpuSnapshot] = []
    measure_from = time.monotonic() + _WARM_UP_S
    measure_until = measure_from + seconds

    async def write_for_ever(conversation: str) -> None:
        for batch in _batches(conversation, shape.batch, content_bytes):
            began = time.monotonic()
            if began >= measure_until:
                return
            if began >= measure_from and not started:
                started.append(read_cpu(pids))
            await _insert(collection, batch)
            if started:
                samples.append(round((time.monotonic() - began) * 1e6))

    try:
        async with asyncio.TaskGroup() as tasks:
            for number in range(shape.tasks):
                tasks.create_task(write_for_ever(f"dfloor{number:020d}"))
    except* PyMongoError as failures:
        raise FloorFailed(f"{shape.label}: {failures.exceptions[0]}") from failures
    elapsed_s = time.monotonic() - measure_from
    documents = len(samples) * shape.batch
    if not documents:
        raise FloorFailed(f"{shape.label}: not one write ended in {seconds:g} s")
    cpu = used_between(started[0], read_cpu(pids))
    histogram = Histogram()
    histogram.add(samples)
    return Floor(
        label=shape.label,
        documents_per_s=documents / elapsed_s,
        write_p50_us=histogram.quantile(0.5),
        write_p99_us=histogram.quantile(0.99),
        cpu_us_per_document={name: used * 1e6 / documents for name, used in cpu.seconds.items()},
    )


async def _insert(collection: Collection, batch: list[Document]) -> None:
    if len(batch) == 1:
        await collection.insert_one(batch[0])
    else:
        await collection.insert_many(batch, ordered=True)


def _batches(conversation: str, size: int, content_bytes: int) -> Iterator[list[Document]]:
    content = "x" * content_bytes
    numbers = count(1)
    while True:
        yield [_document(conversation, next(numbers), content) for _ in range(size)]


def _document(conversation: str, seq: int, content: str) -> Document:
    return {
        "_id": f"{conversation}-{seq:010d}",
        "conversationId": conversation,
        "seq": seq,
        "senderId": "bench-floor-sender",
        "clientMessageId": f"floor-{seq:08d}",
        "content": content,
        "type": "text",
        "sentAt": DatetimeMS(1_700_000_000_000 + seq),
    }
