"""What only the MongoDB store promises: about servers that hang, die or are not fit, about what it asks of them, and
about documents that a dead replica left half done. Over motor and over pymongo's own client."""

import asyncio
import gc
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pymongo
import pytest
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from scripts.processes import free_port
from scripts.servers import Mongod
from services.chat.errors import StoreUnavailable
from services.chat.model import ConversationId, Message, Seq, UserId, WatermarkKind
from services.chat.store import Appended
from services.chat.store.mongo import MongoStore, connection
from services.runtime.config import ConfigError
from tests.contract.chat.samples import (
    ANN,
    BOB,
    CID,
    ROOM,
    SEQ_TAKEN,
    START_MS,
    entry,
    group,
    key_of,
    message,
    messages,
    seqs,
)
from tests.e2e.waiting import eventually

Document = dict[str, Any]
BOUND_S = 1.0

# pymongo 4.20 forgets the socket of a connection attempt that is cancelled (`_async_create_connection`), as closing a
# client cancels its monitor's while the server is away. `make_store` collects it before the next module runs.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)


class Commands(CommandListener):
    """What a client sent, without its handshakes."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Document]] = []

    def started(self, event: CommandStartedEvent) -> None:
        self.sent.append((event.command_name, dict(event.command)))

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Not asked for."""

    def failed(self, event: CommandFailedEvent) -> None:
        """Not asked for."""

    def names(self) -> Counter[str]:
        return Counter(name for name, _ in self.sent)


@pytest.fixture(params=[AsyncIOMotorClient, AsyncMongoClient], ids=["motor", "pymongo"])
def client_factory(request: pytest.FixtureRequest) -> Callable[..., AsyncMongoClient[Document]]:
    factory: Callable[..., AsyncMongoClient[Document]] = request.param
    return factory


@pytest.fixture(scope="module")
def own_mongod(session_directory: Path) -> Iterator[Mongod]:
    """One that may be hurt."""
    with Mongod(session_directory / "store-mongod", cache_gb=0.25) as server:
        yield server


@pytest.fixture
def own_url(own_mongod: Mongod) -> str:
    return own_mongod.url_of(f"test_{uuid4().hex}")


async def pause(server: Mongod) -> None:
    """Returns when it has really stopped: a thread may finish an answer after the signal was sent."""
    server.pause()

    def all_threads_stopped() -> bool:
        stats = (thread.read_text() for thread in Path(f"/proc/{server.pid}/task").glob("*/stat"))
        return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)

    await eventually(all_threads_stopped)


MakeMongoStore = Callable[..., MongoStore]


@pytest.fixture
async def make_store(client_factory: Callable[..., AsyncMongoClient[Document]]) -> AsyncIterator[MakeMongoStore]:
    """A store with short bounds, closed when the test ends."""
    made: list[MongoStore] = []

    def make(url: str, **options: Any) -> MongoStore:
        short = timedelta(seconds=BOUND_S)
        defaults = {"client_factory": client_factory, "operation_timeout": short, "start_timeout": 3 * short}
        made.append(MongoStore(url, **{**defaults, **options}))
        return made[-1]

    yield make
    for store in made:
        await store.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}, "a task outlives its store"
    gc.collect()


# ---- Servers that hang or die.


async def test_a_server_that_hangs_is_unavailable_within_the_bound(
    make_store: MakeMongoStore, own_mongod: Mongod, own_url: str
) -> None:
    store = make_store(own_url)
    await store.start()
    await pause(own_mongod)
    try:
        began = time.monotonic()
        outcomes = await asyncio.gather(
            *(store.append([message(1, ConversationId(f"g{number}"))], entry(f"e{number}")) for number in range(20)),
            *(store.find_head(ROOM) for _ in range(10)),
            store.read_page(ANN, before=None, limit=10),
            store.move_watermarks([(ROOM, ANN, WatermarkKind.SEEN, Seq(1))]),
            store.ping(),
            return_exceptions=True,
        )
        took_s = time.monotonic() - began
    finally:
        own_mongod.resume()

    assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
    assert took_s < BOUND_S + 1


async def test_a_store_works_again_once_its_server_does_and_the_repeat_tells_what_became_of_the_write(
    make_store: MakeMongoStore, own_mongod: Mongod, own_url: str
) -> None:
    store = make_store(own_url)
    await store.start()
    await pause(own_mongod)
    try:
        with pytest.raises(StoreUnavailable):
            await store.append(messages(1, 3), entry("e1"))
    finally:
        own_mongod.resume()

    async def repeated() -> Appended:
        try:
            return await store.append(messages(1, 3), entry("e1"))
        except StoreUnavailable as not_yet:
            raise AssertionError from not_yet

    assert await eventually(repeated) in (Appended(3), Appended(0, SEQ_TAKEN))
    assert await store.find_by_keys([key_of(each) for each in messages(1, 3)]) == {
        key_of(each): each for each in messages(1, 3)
    }


async def test_a_batch_whose_caller_went_away_in_the_middle_is_stored_whole(
    make_store: MakeMongoStore, own_mongod: Mongod, own_url: str
) -> None:
    store = make_store(own_url, operation_timeout=timedelta(seconds=10))
    await store.start()
    await pause(own_mongod)
    try:
        append = asyncio.create_task(store.append(messages(1, 200), entry("e1")))
        await asyncio.sleep(0.1)  # the server has it, or will
        append.cancel()
        with pytest.raises(asyncio.CancelledError):
            await append
    finally:
        own_mongod.resume()

    async def stored() -> bool:
        return await store.find_head(ROOM) == 200 and await store.count_entries() == 1

    await eventually(stored)
    assert await store.append(messages(201, 201), None) == Appended(1)


async def test_closing_waits_for_the_writes_of_callers_that_went_away(
    make_store: MakeMongoStore, own_mongod: Mongod, own_url: str
) -> None:
    store = make_store(own_url, operation_timeout=timedelta(seconds=10))
    await store.start()
    await pause(own_mongod)
    append = asyncio.create_task(store.append(messages(1, 5), None))
    await asyncio.sleep(0.1)
    append.cancel()
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0.1)
    assert not closing.done()
    own_mongod.resume()
    await closing

    reader = make_store(own_url)
    await reader.start()
    assert await reader.find_head(ROOM) == 5


async def test_closing_is_bounded_though_the_server_hangs(
    make_store: MakeMongoStore, own_mongod: Mongod, own_url: str
) -> None:
    store = make_store(own_url)
    await store.start()
    await pause(own_mongod)
    try:
        async with asyncio.timeout(8):
            await store.close()
    finally:
        own_mongod.resume()


async def test_what_was_acknowledged_survives_a_killed_server_and_the_store_finds_it_again(
    make_store: MakeMongoStore, own_mongod: Mongod, own_url: str
) -> None:
    store = make_store(own_url)
    await store.start()
    acknowledged: list[Message] = []

    async def write() -> None:
        for seq in range(1, 10_000):
            await store.append([message(seq)], entry(f"e{seq}"))
            acknowledged.append(message(seq))

    writing = asyncio.create_task(write())
    await eventually(lambda: len(acknowledged) >= 30)
    await asyncio.to_thread(own_mongod.kill)
    with pytest.raises(StoreUnavailable):
        await writing
    with pytest.raises(StoreUnavailable):
        await store.find_head(ROOM)
    await asyncio.to_thread(own_mongod.start)

    async def read() -> list[Message]:
        try:
            return list(await store.read_after(ROOM, Seq(0), limit=1000))
        except StoreUnavailable as not_yet:
            raise AssertionError from not_yet

    stored = await eventually(read)
    assert stored[: len(acknowledged)] == acknowledged
    assert seqs(stored) == list(range(1, len(stored) + 1))
    assert await store.count_entries() >= len(acknowledged)


# ---- Servers that are not fit.


async def test_a_server_that_is_not_there_is_unavailable_within_the_start_bound(make_store: MakeMongoStore) -> None:
    store = make_store(f"mongodb://127.0.0.1:{free_port()}/chat?replicaSet=rs0")

    async with asyncio.timeout(3 * BOUND_S + 2):
        with pytest.raises(StoreUnavailable):
            await store.start()


async def test_a_server_that_hangs_at_the_start_is_unavailable_within_the_start_bound(
    make_store: MakeMongoStore, own_mongod: Mongod, own_url: str
) -> None:
    await pause(own_mongod)
    try:
        async with asyncio.timeout(3 * BOUND_S + 4):
            with pytest.raises(StoreUnavailable):
                await make_store(own_url).start()
    finally:
        own_mongod.resume()


async def test_a_server_that_comes_while_the_store_starts_is_used(
    make_store: MakeMongoStore, own_mongod: Mongod, own_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_ATTEMPT_S", 0.2)
    await pause(own_mongod)
    starting = asyncio.create_task(make_store(own_url, start_timeout=timedelta(seconds=20)).start())
    await asyncio.sleep(0.7)  # some attempts have failed
    own_mongod.resume()

    await starting


@pytest.mark.parametrize("options", ["", "?replicaSet=rs0", "?replicaSet=rs0&directConnection=true"])
async def test_a_standalone_server_is_refused(make_store: MakeMongoStore, standalone: Mongod, options: str) -> None:
    store = make_store(standalone.url_of("chat") + options, start_timeout=timedelta(seconds=30))

    async with asyncio.timeout(10):
        with pytest.raises(ConfigError, match="this mongod is not in a replica set"):
            await store.start()

    with pytest.raises(StoreUnavailable):
        await store.ping()


@pytest.fixture(scope="module")
def standalone(session_directory: Path) -> Iterator[Mongod]:
    with Mongod(session_directory / "store-standalone", replica_set=None, cache_gb=0.25) as server:
        yield server


async def test_replicas_that_start_together_on_a_new_database_make_its_indexes(
    make_store: MakeMongoStore, own_url: str
) -> None:
    await asyncio.gather(*(make_store(own_url).start() for _ in range(4)))

    with pymongo.MongoClient[Document](own_url) as client:
        database = client.get_default_database()
        unique = {
            name: [list(index["key"]) for index in database[name].list_indexes() if index.get("unique")]
            for name in ("messages", "memberships")
        }
        assert set(database["outbox"].index_information()) == {"_id_", "oldest"}
        assert set(database["memberships"].index_information()) == {"_id_", "slot", "user"}
    # A sharded collection can only keep a unique index that begins with the shard key.
    assert unique == {
        "messages": [["conversationId", "senderId", "clientMessageId"]],
        "memberships": [["conversationId", "slot"]],
    }


# ---- What it asks of them.


@pytest.fixture
async def watched(
    make_store: MakeMongoStore, client_factory: Callable[..., AsyncMongoClient[Document]], empty_database_url: str
) -> tuple[MongoStore, Commands]:
    """A store on a URL that asks for less than the guarantees need, and what it sends."""
    commands = Commands()

    def factory(url: str, **options: Any) -> AsyncMongoClient[Document]:
        return client_factory(url, event_listeners=[commands], **options)

    careless = empty_database_url + "&w=1&journal=false&readConcernLevel=local&readPreference=secondaryPreferred"
    store = make_store(careless, client_factory=factory)
    await store.start()
    commands.sent.clear()
    return store, commands


async def test_every_write_waits_for_the_majority_and_the_journal_and_every_read_is_of_what_they_have(
    watched: tuple[MongoStore, Commands],
) -> None:
    store, commands = watched
    await store.create(group(ROOM, ANN, BOB))
    await store.append(messages(1, 3), entry("e1"))
    await store.add_member(ROOM, CID, read_seq=Seq(0), max_members=9)
    await store.move_watermarks([(ROOM, ANN, WatermarkKind.SEEN, Seq(1))])
    await store.set_muted(ROOM, ANN, muted=True)
    await store.record_activity([message(3)])
    await store.remove_member(ROOM, CID)
    await store.delete_entries(["e1"])
    writes = [command["writeConcern"] for name, command in commands.sent if name in ("insert", "update", "delete")]
    await store.find(ROOM)
    await store.read_page(ANN, before=None, limit=10)
    await store.read_contacts(ANN)
    await store.find_heads([ROOM])
    await store.find_by_keys([key_of(message(1))])
    await store.count_entries()
    reads = {name: command["readConcern"] for name, command in commands.sent if "readConcern" in command}

    assert writes == [{"w": "majority", "j": True}] * 11
    assert reads == {name: {"level": "majority"} for name in ("find", "distinct", "aggregate")}
    assert commands.names().keys() == {"insert", "update", "delete", "find", "distinct", "aggregate"}
    assert not any("$readPreference" in command for _, command in commands.sent)


async def test_retryable_writes_are_on(watched: tuple[MongoStore, Commands]) -> None:
    store, commands = watched

    await store.append(messages(1, 3), entry("e1"))

    assert [(name, "txnNumber" in command) for name, command in commands.sent] == [("insert", True)] * 2


async def test_a_page_of_conversations_takes_as_many_round_trips_for_many_as_for_one(
    watched: tuple[MongoStore, Commands],
) -> None:
    store, commands = watched
    for number in range(30):
        room = ConversationId(f"g{number}")
        await store.create(group(room, ANN, BOB))
        await store.append(messages(1, 4, room), None)
        await store.record_activity([message(2, room)])
    commands.sent.clear()

    page = await store.read_page(ANN, before=None, limit=30)

    assert [view.head_seq for _, view in page] == [4] * 30
    assert commands.names() == {"find": 5}


async def test_heads_of_many_take_a_bounded_number_of_round_trips(watched: tuple[MongoStore, Commands]) -> None:
    store, commands = watched
    rooms = [ConversationId(f"g{number}") for number in range(50)]
    for room in rooms:
        await store.create(group(room, ANN))
    await store.append([message(seq, room) for room in rooms for seq in (1, 2, 3)], None)
    commands.sent.clear()

    assert await store.find_heads(rooms) == dict.fromkeys(rooms, 3)

    assert commands.names() == {"find": 2}


async def test_a_thousand_keys_take_one_round_trip(watched: tuple[MongoStore, Commands]) -> None:
    store, commands = watched
    stored = [message(seq, sender=UserId(f"user{seq % 300}")) for seq in range(1, 1001)]
    await store.append(stored, None)
    commands.sent.clear()

    assert len(await store.find_by_keys([key_of(each) for each in stored])) == 1000

    assert commands.names() == {"find": 1}


async def test_times_are_dates_and_the_names_are_those_of_the_api(
    make_store: MakeMongoStore, empty_database_url: str
) -> None:
    store = make_store(empty_database_url)
    await store.start()
    await store.create(group(ROOM, ANN))
    await store.append([message(1, content="x" * 500)], entry("e1"))
    await store.record_activity([message(1, content="x" * 500)])
    await store.record_activity([message(0)])

    with pymongo.MongoClient[Document](empty_database_url, tz_aware=True) as client:
        database = client.get_default_database()
        (stored,), (conversation,), (membership,), (outbox,) = (
            database[name].find().to_list() for name in ("messages", "conversations", "memberships", "outbox")
        )
    assert stored.pop("sentAt").timestamp() * 1000 == START_MS + 1
    assert stored == {
        "_id": "groom-0000000001",
        "conversationId": "groom",
        "seq": 1,
        "senderId": "ann",
        "clientMessageId": "key-1",
        "content": "x" * 500,
        "type": "text",
    }
    assert conversation["lastActivityAt"] == conversation["lastMessage"].pop("sentAt")
    assert conversation["lastMessage"] == {
        "messageId": "groom-0000000001",
        "seq": 1,
        "senderId": "ann",
        "preview": "x" * 200,
    }
    assert membership["_id"] == "groom:ann"
    assert outbox["ranges"] == [{"conversationId": "groom", "firstSeq": 1, "lastSeq": 1}]


# ---- Half done.


@pytest.fixture
def database(empty_database_url: str) -> Iterator[pymongo.database.Database[Document]]:
    with pymongo.MongoClient[Document](empty_database_url) as client:
        yield client.get_default_database()


@pytest.fixture
async def store(make_store: MakeMongoStore, empty_database_url: str) -> MongoStore:
    store = make_store(empty_database_url)
    await store.start()
    return store


def _as_if_the_creator_had_died(database: pymongo.database.Database[Document], *, missing: list[UserId]) -> None:
    """The conversation's own document is there and says so, some of the memberships are not."""
    database["memberships"].delete_many({"userId": {"$in": missing}})
    database["conversations"].update_one({"_id": ROOM}, {"$set": {"pendingMemberIds": [ANN, BOB]}})


async def test_a_conversation_whose_creator_died_is_not_seen_and_takes_nobody(
    store: MongoStore, database: pymongo.database.Database[Document]
) -> None:
    await store.create(group(ROOM, ANN, BOB))
    _as_if_the_creator_had_died(database, missing=[BOB])

    assert await store.find(ROOM) is None
    assert list(await store.read_page(ANN, before=None, limit=10)) == []
    assert not await store.add_member(ROOM, CID, read_seq=Seq(0), max_members=9)


@pytest.mark.parametrize("missing", [[], [ANN], [BOB], [ANN, BOB]])
async def test_the_repeated_request_finishes_what_its_replica_left_half_done(
    store: MongoStore, database: pymongo.database.Database[Document], missing: list[UserId]
) -> None:
    await store.create(group(ROOM, ANN, BOB))
    _as_if_the_creator_had_died(database, missing=missing)

    assert not await store.create(group(ROOM, CID, title="another"))

    assert await store.find(ROOM) == group(ROOM, ANN, BOB)


async def test_a_creation_that_goes_on_late_brings_back_nobody(
    store: MongoStore, database: pymongo.database.Database[Document]
) -> None:
    await store.create(group(ROOM, ANN, BOB))
    await store.remove_member(ROOM, BOB)
    await store.add_member(ROOM, CID, read_seq=Seq(0), max_members=2)
    database["conversations"].update_one({"_id": ROOM}, {"$set": {"pendingMemberIds": [ANN, BOB]}})

    await store.create(group(ROOM, ANN, BOB))

    assert await store.find(ROOM) == group(ROOM, ANN, CID)


# ---- Refusals that are not an index's.


async def test_an_append_whose_entry_cannot_be_stored_is_not_acknowledged(
    store: MongoStore, database: pymongo.database.Database[Document]
) -> None:
    database.command("collMod", "outbox", validator={"never": 1})
    try:
        with pytest.raises(StoreUnavailable):
            await store.append(messages(1, 2), entry("e1"))
        assert await store.append(messages(1, 1), None) == Appended(0, SEQ_TAKEN)
    finally:
        database.command("collMod", "outbox", validator={})


async def test_a_failed_insert_shows_no_message_in_its_traceback(
    store: MongoStore, database: pymongo.database.Database[Document]
) -> None:
    database.command("collMod", "messages", validator={"never": 1})
    private = [message(1, content="between us")]
    try:
        with pytest.raises(StoreUnavailable) as failure:
            await store.append(private, None)
    finally:
        database.command("collMod", "messages", validator={})

    shown = "".join(traceback.format_exception(failure.value))
    assert "the insert failed with code 121" in shown
    assert "between us" not in shown
