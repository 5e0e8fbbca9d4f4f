"""The contract of `services.chat.store.Outbox`: one suite, every store."""

from services.chat.model import Seq
from services.chat.store import Appended, OutboxEntry, Store
from tests.contract.chat.conftest import StartStore
from tests.contract.chat.samples import (
    OTHER_ROOM,
    ROOM,
    SEQ_TAKEN,
    START_MS,
    entry,
    message,
    messages,
)

LATER_MS = START_MS + 1_000_000


async def waiting(store: Store) -> list[str]:
    entries = await store.read_entries(created_before_ms=LATER_MS, limit=1000)
    return [each.entry_id for each in entries]


async def test_an_entry_is_stored_beside_its_messages_and_read_back_as_it_was(store: Store) -> None:
    written = OutboxEntry("e1", START_MS, ((ROOM, Seq(1), Seq(2)), (OTHER_ROOM, Seq(7), Seq(9_999_999_999))))

    await store.append(messages(1, 2), written)

    assert await store.read_entries(created_before_ms=LATER_MS, limit=10) == [written]
    assert await store.find_head(ROOM) == 2


async def test_an_append_without_an_entry_leaves_none(store: Store) -> None:
    await store.append(messages(1, 2), None)

    assert await waiting(store) == []
    assert await store.count_entries() == 0


async def test_an_entry_is_stored_though_its_messages_are_refused(store: Store) -> None:
    await store.append(messages(1, 1), None)

    assert await store.append([message(1, key="late")], entry("e1")) == Appended(0, SEQ_TAKEN)

    assert await waiting(store) == ["e1"]


async def test_an_entry_can_be_stored_alone(store: Store) -> None:
    assert await store.append([], entry("e1")) == Appended(0)

    assert await waiting(store) == ["e1"]


async def test_an_entry_that_is_there_stays_as_it_is_and_stops_nothing(store: Store) -> None:
    await store.append(messages(1, 1), entry("e1", last=1))

    assert await store.append(messages(2, 2), entry("e1", last=2)) == Appended(1)

    assert await store.read_entries(created_before_ms=LATER_MS, limit=10) == [entry("e1", last=1)]


async def test_entries_are_read_oldest_first(store: Store) -> None:
    for place, entry_id in enumerate(["c", "a", "d", "b"]):
        await store.append([], entry(entry_id, created_at_ms=START_MS + place))

    assert await waiting(store) == ["c", "a", "d", "b"]


async def test_no_more_entries_are_read_than_asked_for_and_those_are_the_oldest(store: Store) -> None:
    for place in range(9, -1, -1):
        await store.append([], entry(f"e{place}", created_at_ms=START_MS + place))

    entries = await store.read_entries(created_before_ms=LATER_MS, limit=3)

    assert [each.entry_id for each in entries] == ["e0", "e1", "e2"]


async def test_entries_made_at_that_time_or_later_are_not_read(store: Store) -> None:
    for place in range(3):
        await store.append([], entry(f"e{place}", created_at_ms=START_MS + place))

    entries = await store.read_entries(created_before_ms=START_MS + 1, limit=10)

    assert [each.entry_id for each in entries] == ["e0"]


async def test_deleted_entries_are_gone_and_deleting_them_again_is_harmless(store: Store) -> None:
    for place in range(4):
        await store.append([], entry(f"e{place}", created_at_ms=START_MS + place))

    await store.delete_entries(["e0", "e2", "never was"])
    await store.delete_entries(["e0", "e2"])
    await store.delete_entries([])

    assert await waiting(store) == ["e1", "e3"]
    assert await store.count_entries() == 2


async def test_an_entry_survives_its_replica(start_store: StartStore) -> None:
    dead = await start_store()
    await dead.append(messages(1, 3), entry("left behind", last=3))
    await dead.close()

    sweeper = await start_store()

    assert await waiting(sweeper) == ["left behind"]
