"""What one watching edge is told, and how often."""

import asyncio
import time

import pytest

from services.presence.model import Presence, Status, UserId
from services.presence.streams import Update, WatchStream

ALICE, BOB = UserId("alice"), UserId("bob")
COALESCE_S = 0.1


@pytest.fixture
def stream() -> WatchStream:
    return WatchStream(coalesce_s=COALESCE_S)


def as_(status: Status, user_id: UserId = ALICE) -> Presence:
    return Presence(user_id, status)


async def take(stream: WatchStream) -> Update:
    async with asyncio.timeout(2):
        update = await stream.take()
    assert update is not None
    return update


async def has_nothing_now(stream: WatchStream) -> bool:
    try:
        async with asyncio.timeout(COALESCE_S / 4):
            await stream.take()
    except TimeoutError:
        return True
    return False


async def test_the_first_change_goes_at_once_and_the_next_ones_together(stream: WatchStream) -> None:
    stream.push_change(as_(Status.ONLINE))
    began = time.monotonic()
    assert (await take(stream)).presences == [as_(Status.ONLINE)]
    assert time.monotonic() - began < COALESCE_S / 2
    stream.push_change(as_(Status.AWAY))
    stream.push_change(as_(Status.BUSY, BOB))
    stream.push_change(as_(Status.BUSY))
    assert await has_nothing_now(stream)
    assert (await take(stream)).presences == [as_(Status.BUSY), as_(Status.BUSY, BOB)]
    assert time.monotonic() - began >= COALESCE_S - 0.01


async def test_a_user_who_changes_all_the_time_is_told_a_few_times_a_second(stream: WatchStream) -> None:
    told = 0

    async def read() -> None:
        nonlocal told
        while (update := await stream.take()) is not None:
            told += len(update.presences)

    reading = asyncio.create_task(read())
    began = time.monotonic()
    while time.monotonic() - began < 5.5 * COALESCE_S:
        stream.push_change(as_(Status.AWAY))
        stream.push_change(as_(Status.ONLINE))
        await asyncio.sleep(0.001)
    stream.close()
    await reading
    assert 2 <= told <= 6 + 1


async def test_a_snapshot_does_not_wait_for_the_next_round(stream: WatchStream) -> None:
    stream.push_change(as_(Status.ONLINE))
    await take(stream)
    stream.push_change(as_(Status.AWAY))
    stream.push_snapshot(as_(Status.BUSY, BOB))
    assert (await take(stream)).presences == [as_(Status.BUSY, BOB)]
    assert (await take(stream)).presences == [as_(Status.AWAY)]


async def test_a_change_of_what_waits_to_be_told_replaces_it(stream: WatchStream) -> None:
    stream.push_snapshot(as_(Status.ONLINE))
    stream.push_change(as_(Status.AWAY))
    assert (await take(stream)).presences == [as_(Status.AWAY)]
    assert await has_nothing_now(stream)
    stream.push_change(as_(Status.ONLINE))
    stream.push_snapshot(as_(Status.BUSY))
    assert (await take(stream)).presences == [as_(Status.BUSY)]
    await asyncio.sleep(COALESCE_S)
    assert await has_nothing_now(stream)


async def test_many_users_come_in_parts_of_a_thousand_without_a_pause(stream: WatchStream) -> None:
    for number in range(2_500):
        stream.push_change(as_(Status.ONLINE, UserId(f"u{number}")))
    began = time.monotonic()
    sizes = [len((await take(stream)).presences) for _ in range(3)]
    assert sizes == [1_000, 1_000, 500]
    assert time.monotonic() - began < COALESCE_S / 2


async def test_a_request_for_a_report_goes_at_once(stream: WatchStream) -> None:
    stream.push_change(as_(Status.ONLINE))
    await take(stream)
    stream.push_change(as_(Status.AWAY))
    stream.ask_for_report()
    assert await take(stream) == Update([], report_needed=True)
    assert await take(stream) == Update([as_(Status.AWAY)], report_needed=False)


async def test_whom_the_edge_no_longer_watches_it_is_not_told_of(stream: WatchStream) -> None:
    stream.push_snapshot(as_(Status.ONLINE))
    stream.push_change(as_(Status.ONLINE, BOB))
    stream.forget(ALICE)
    stream.forget(BOB)
    assert await has_nothing_now(stream)


async def test_a_closed_stream_ends_its_reader(stream: WatchStream) -> None:
    reading = asyncio.create_task(stream.take())
    await asyncio.sleep(0)
    stream.close()
    assert await reading is None
    assert await stream.take() is None
