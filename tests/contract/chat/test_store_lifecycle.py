"""Opening and closing a store: one suite, every store."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from services.chat.errors import StoreUnavailable
from services.chat.model import MessageId, Seq, WatermarkKind
from services.chat.store import Appended, Store, open_store
from tests.contract.chat.conftest import MakeStore, StartStore
from tests.contract.chat.samples import ANN, OTHER_ROOM, ROOM, entry, group, key_of, message, messages

CALLS: list[Callable[[Store], Awaitable[object]]] = [
    lambda store: store.append([message(1)], entry("e1")),
    lambda store: store.find_head(ROOM),
    lambda store: store.find_heads([ROOM]),
    lambda store: store.find_by_keys([key_of(message(1))]),
    lambda store: store.read_after(ROOM, Seq(0), limit=1),
    lambda store: store.read_before(ROOM, Seq(9), limit=1),
    lambda store: store.find_message(MessageId("groom-0000000001")),
    lambda store: store.delete_entries(["e1"]),
    lambda store: store.read_entries(created_before_ms=1, limit=1),
    lambda store: store.count_entries(),
    lambda store: store.create(group()),
    lambda store: store.find(ROOM),
    lambda store: store.find_membership(ROOM, ANN),
    lambda store: store.read_memberships(ROOM),
    lambda store: store.add_member(ROOM, ANN, read_seq=Seq(0), max_members=9),
    lambda store: store.remove_member(ROOM, ANN),
    lambda store: store.read_page(ANN, before=None, limit=1),
    lambda store: store.record_activity([message(1)]),
    lambda store: store.move_watermarks([(ROOM, ANN, WatermarkKind.SEEN, Seq(1))]),
    lambda store: store.read_contacts(ANN),
    lambda store: store.set_muted(ROOM, ANN, muted=True),
    lambda store: store.ping(),
]


async def test_an_open_store_answers_a_ping(store: Store) -> None:
    await store.ping()


async def test_whatever_is_asked_of_a_store_that_is_not_open_is_unavailable(make_store: MakeStore) -> None:
    store = make_store()
    for call in CALLS:
        with pytest.raises(StoreUnavailable):
            await call(store)

    await store.start()
    for call in CALLS:
        await call(store)

    await store.close()
    for call in CALLS:
        with pytest.raises(StoreUnavailable) as refusal:
            await call(store)
        assert refusal.value.retry_after_ms is not None


async def test_closing_is_harmless_before_the_start_and_a_second_time(make_store: MakeStore) -> None:
    store = make_store()
    await store.close()
    await store.start()
    await store.close()
    await store.close()


async def test_replicas_may_start_at_the_same_time(start_store: StartStore) -> None:
    replicas = await asyncio.gather(*(start_store() for _ in range(4)))

    assert await replicas[0].append(messages(1, 1), None) == Appended(1)
    assert await asyncio.gather(*(replica.find_head(ROOM) for replica in replicas)) == [1] * 4


async def test_text_that_is_no_unicode_stops_its_whole_append_and_disturbs_nobody(store: Store) -> None:
    broken, sound = await asyncio.gather(
        store.append([message(1), message(2, content="\ud800")], entry("e1")),
        store.append([message(1, OTHER_ROOM)], None),
        return_exceptions=True,
    )

    assert isinstance(broken, UnicodeError)
    assert sound == Appended(1)
    assert await store.find_head(ROOM) == 0


@pytest.mark.parametrize("url", ["", "postgres://host/name", "sqlite://relative", "memory://", "/path", "sqlite:///"])
def test_a_url_of_no_store_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="store URL"):
        open_store(url)


def test_a_refused_url_is_not_repeated_with_its_password() -> None:
    with pytest.raises(ValueError, match="store URL") as refusal:
        open_store("postgres://user:secret@host/name")

    assert "secret" not in str(refusal.value)
