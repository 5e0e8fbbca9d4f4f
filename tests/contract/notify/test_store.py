"""The contract of `services.notify.store.Store`: one suite, every store."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from services.notify.errors import StoreUnavailable
from services.notify.model import (
    Address,
    ApnsAddress,
    ConversationId,
    Device,
    DeviceId,
    FcmAddress,
    Mark,
    MessageId,
    Seq,
    UserId,
    WebPushAddress,
)
from services.notify.store import Claimed, Finished, Held, Holder, Store, open_store
from tests.contract.notify.conftest import StartStore

ANN, BOB = UserId("ann"), UserId("bob")
ROOM, OTHER = ConversationId("room"), ConversationId("other")
M1, D1, D2 = MessageId("m1"), DeviceId("d1"), DeviceId("d2")
ME, YOU = Holder("me"), Holder("you")
NOW = 1_700_000_000_000
LEASE = timedelta(seconds=6)
ADDRESSES: list[Address] = [
    WebPushAddress("https://push.example.org/x", "BKey", "secret"),
    FcmAddress("fcm-token:ü"),
    ApnsAddress("00ff"),
]


def device(name: str = "d1", user: UserId = ANN, at_ms: int = NOW, address: Address = ADDRESSES[1]) -> Device:
    return Device(DeviceId(name), user, address, at_ms)


CALLS: list[Callable[[Store], Awaitable[object]]] = [
    lambda store: store.register(device(), max_devices=2),
    lambda store: store.find_devices([ANN]),
    lambda store: store.find_device(D1),
    lambda store: store.remove(ANN, D1),
    lambda store: store.claim(M1, D1, ME, now_ms=NOW, lease=LEASE),
    lambda store: store.finish(M1, D1, now_ms=NOW),
    lambda store: store.release(M1, D1, ME),
    lambda store: store.move_read(ROOM, ANN, Seq(1), now_ms=NOW),
    lambda store: store.record_pushed(ROOM, [ANN], Seq(1), now_ms=NOW),
    lambda store: store.find_marks(ROOM, [ANN]),
]


async def test_whatever_is_asked_of_a_store_that_is_not_open_is_unavailable(
    make_store: Callable[[], Store],
) -> None:
    store = make_store()
    await store.close()
    for call in CALLS:
        with pytest.raises(StoreUnavailable):
            await call(store)
    await store.start()
    for call in CALLS:
        await call(store)
    await store.close()
    await store.close()
    for call in CALLS:
        with pytest.raises(StoreUnavailable) as refusal:
            await call(store)
        assert refusal.value.retry_after_ms is not None


async def test_replicas_may_start_at_the_same_time(start_store: StartStore) -> None:
    replicas = await asyncio.gather(*(start_store() for _ in range(3)))
    await replicas[0].register(device(), max_devices=5)
    assert await replicas[2].find_device(D1) == device()


def test_an_unknown_kind_of_store_is_refused_without_showing_the_url() -> None:
    with pytest.raises(ValueError, match="expected mongodb") as refusal:
        open_store("postgres://user:password@host/x")
    assert "password" not in str(refusal.value)


# ---- Devices.


@pytest.mark.parametrize("address", ADDRESSES, ids=lambda address: type(address).__name__)
async def test_a_device_comes_back_as_it_was_registered(store: Store, address: Address) -> None:
    assert await store.register(device(address=address), max_devices=5) == (device(address=address), True)
    assert await store.find_device(D1) == device(address=address)
    assert await store.find_devices([BOB, ANN]) == {ANN: [device(address=address)]}


async def test_registering_the_same_address_again_is_the_same_device(store: Store) -> None:
    await store.register(device(), max_devices=5)
    assert await store.register(device(at_ms=NOW + 5), max_devices=5) == (device(), False)
    assert await store.find_devices([ANN]) == {ANN: [device()]}


async def test_an_address_that_was_another_users_is_the_new_ones_alone(store: Store) -> None:
    await store.register(device(user=ANN), max_devices=5)
    assert await store.register(device(user=BOB, at_ms=NOW + 1), max_devices=5) == (
        device(user=BOB, at_ms=NOW + 1),
        True,
    )
    assert await store.find_devices([ANN, BOB]) == {BOB: [device(user=BOB, at_ms=NOW + 1)]}
    assert not await store.remove(ANN, D1)
    assert await store.find_device(D1)


async def test_of_many_registrations_at_once_one_is_new(store: Store) -> None:
    outcomes = await asyncio.gather(*(store.register(device(), max_devices=5) for _ in range(8)))
    assert [created for _, created in outcomes].count(True) == 1


async def test_beyond_the_bound_the_users_oldest_device_goes(store: Store) -> None:
    await store.register(device("bobs", BOB), max_devices=3)
    for number in range(6):
        await store.register(device(f"d{number}", at_ms=NOW + number), max_devices=3)
    found = await store.find_devices([ANN, BOB])
    assert [each.device_id for each in found[ANN]] == ["d3", "d4", "d5"]
    assert len(found[BOB]) == 1


async def test_the_newest_device_stays_even_where_clocks_say_that_it_is_the_oldest(store: Store) -> None:
    for number in range(4):
        await store.register(device(f"d{number}", at_ms=NOW - number), max_devices=2)
    assert "d3" in [each.device_id for each in (await store.find_devices([ANN]))[ANN]]


async def test_removing_is_idempotent_and_only_for_the_owner(store: Store) -> None:
    await store.register(device(), max_devices=5)
    assert not await store.remove(BOB, D1)
    assert await store.remove(ANN, D1)
    assert not await store.remove(ANN, D1)
    assert await store.find_device(D1) is None


# ---- Keys.


async def test_a_key_is_claimed_by_one_of_many(store: Store) -> None:
    claims = await asyncio.gather(*(store.claim(M1, D1, Holder(f"h{n}"), now_ms=NOW, lease=LEASE) for n in range(10)))
    assert claims.count(Claimed()) == 1
    assert claims.count(Held(LEASE)) == 9
    assert await store.claim(M1, D2, YOU, now_ms=NOW, lease=LEASE) == Claimed()


async def test_a_finished_key_is_never_claimed_again(store: Store) -> None:
    await store.claim(M1, D1, ME, now_ms=NOW, lease=LEASE)
    await store.finish(M1, D1, now_ms=NOW)
    await store.release(M1, D1, ME)
    assert await store.claim(M1, D1, YOU, now_ms=NOW + 1_000_000, lease=LEASE) == Finished()
    await store.finish(M1, D2, now_ms=NOW)
    await store.finish(M1, D2, now_ms=NOW)
    assert await store.claim(M1, D2, YOU, now_ms=NOW, lease=LEASE) == Finished()


async def test_a_lease_that_is_over_is_taken_by_the_next_and_not_before(store: Store) -> None:
    await store.claim(M1, D1, ME, now_ms=NOW, lease=LEASE)
    assert await store.claim(M1, D1, YOU, now_ms=NOW + 5_999, lease=LEASE) == Held(timedelta(milliseconds=1))
    assert await store.claim(M1, D1, YOU, now_ms=NOW + 6_000, lease=LEASE) == Claimed()
    assert await store.claim(M1, D1, ME, now_ms=NOW + 6_001, lease=LEASE) == Held(timedelta(milliseconds=5_999))


async def test_a_released_key_is_free_at_once_but_only_its_holder_releases_it(store: Store) -> None:
    await store.claim(M1, D1, ME, now_ms=NOW, lease=LEASE)
    await store.release(M1, D1, YOU)
    assert await store.claim(M1, D1, YOU, now_ms=NOW + 1, lease=LEASE) == Held(timedelta(milliseconds=5_999))
    await store.release(M1, D1, ME)
    assert await store.claim(M1, D1, YOU, now_ms=NOW + 1, lease=LEASE) == Claimed()


async def test_time_that_went_back_ends_a_lease(store: Store) -> None:
    await store.claim(M1, D1, ME, now_ms=NOW, lease=LEASE)
    assert await store.claim(M1, D1, YOU, now_ms=NOW - 3_600_000, lease=LEASE) == Claimed()


# ---- Marks.


async def test_marks_only_move_forwards_and_tell_what_was_before(store: Store) -> None:
    assert await store.move_read(ROOM, ANN, Seq(5), now_ms=NOW) == Mark()
    await store.record_pushed(ROOM, [ANN, BOB], Seq(7), now_ms=NOW)
    assert await store.move_read(ROOM, ANN, Seq(3), now_ms=NOW) == Mark(Seq(5), Seq(7))
    await store.record_pushed(ROOM, [ANN], Seq(6), now_ms=NOW)
    assert await store.move_read(ROOM, ANN, Seq(9), now_ms=NOW) == Mark(Seq(5), Seq(7))
    assert await store.find_marks(ROOM, [ANN, BOB, UserId("nobody")]) == {
        ANN: Mark(Seq(9), Seq(7)),
        BOB: Mark(Seq(0), Seq(7)),
    }
    assert await store.find_marks(OTHER, [ANN]) == {}


async def test_marks_moved_at_the_same_time_end_at_the_furthest(store: Store) -> None:
    await asyncio.gather(*(store.move_read(ROOM, ANN, Seq(n), now_ms=NOW) for n in (3, 9, 1, 7)))
    assert await store.find_marks(ROOM, [ANN]) == {ANN: Mark(Seq(9), Seq(0))}


async def test_recording_nobody_is_nothing(store: Store) -> None:
    await store.record_pushed(ROOM, [], Seq(1), now_ms=NOW)
    assert await store.find_marks(ROOM, []) == {}


async def test_what_was_written_is_there_after_a_restart(start_store: StartStore) -> None:
    first = await start_store()
    await first.register(device(), max_devices=5)
    await first.claim(M1, D1, ME, now_ms=NOW, lease=LEASE)
    await first.close()

    second = await start_store()
    assert await second.find_device(D1) == device()
    assert await second.claim(M1, D1, YOU, now_ms=NOW, lease=LEASE) == Held(LEASE)
