"""The contract of `services.chat.store.MessageLog`: one suite, every store."""

import asyncio
from itertools import chain

import pytest

from services.chat.model import MAX_SEQ, ConversationId, Message, MessageId, Seq, UserId
from services.chat.store import Appended, IdempotencyKey, MessageLog, Store
from tests.contract.chat.conftest import StartStore
from tests.contract.chat.samples import (
    ANN,
    BOB,
    KEY_TAKEN,
    OTHER_ROOM,
    ROOM,
    SEQ_TAKEN,
    all_of,
    entry,
    group,
    key_of,
    message,
    messages,
    seqs,
)
from tests.e2e.waiting import eventually


async def history(log: MessageLog, room: ConversationId = ROOM) -> list[Message]:
    return list(await log.read_after(room, Seq(0), limit=1000))


# ---- Appending.


async def test_appended_messages_are_read_back_as_they_were(store: Store) -> None:
    batch = [message(1, sender=ANN), message(2, sender=BOB, content="and hello back", sent_at_ms=1)]

    assert await store.append(batch, None) == all_of(batch)

    assert await history(store) == batch


@pytest.mark.parametrize(
    "content",
    [
        "",
        " \r\n\t ",
        "\u202eright to left\u202c \u200f",
        "e\u0301 is not \u00e9",
        "\N{GRINNING FACE}\N{WOMAN}\N{ZERO WIDTH JOINER}\N{ROCKET}",
        "\x00before, between\x00 and after\x00",
        "\ufeff\uffff\U0010ffff",
        '{"$gt": ""}',
        "$where: sleep(1000)",
        "'; DROP TABLE messages; --",
        "<script>alert(1)</script>&lt;",
        "я" * (16 * 1024 // 2),
    ],
    ids=range(12),
)
async def test_content_is_stored_to_the_letter(store: Store, content: str) -> None:
    stored = message(1, key=content[:40] or "empty", content=content)

    assert await store.append([stored], None) == Appended(1)

    assert await history(store) == [stored]
    assert await store.find_by_keys([key_of(stored)]) == {key_of(stored): stored}


async def test_a_thousand_messages_are_one_append(store: Store) -> None:
    batch = messages(1, 1000)

    assert await store.append(batch, None) == Appended(1000)

    assert await history(store) == batch


async def test_one_append_holds_messages_of_several_conversations(store: Store) -> None:
    mixed = list(chain.from_iterable(zip(messages(1, 3), messages(1, 3, OTHER_ROOM), strict=True)))

    assert await store.append(mixed, None) == all_of(mixed)

    assert await history(store) == messages(1, 3)
    assert await history(store, OTHER_ROOM) == messages(1, 3, OTHER_ROOM)


async def test_a_taken_number_stops_the_append_and_keeps_what_stands_before_it(store: Store) -> None:
    await store.append([message(3, key="there first")], None)

    appended = await store.append(messages(1, 4), None)

    assert appended == Appended(stored=2, refused_by=SEQ_TAKEN)
    assert [each.client_message_id for each in await history(store)] == ["key-1", "key-2", "there first"]


async def test_a_taken_key_stops_the_append_and_keeps_what_stands_before_it(store: Store) -> None:
    await store.append([message(1, key="again")], None)

    appended = await store.append([message(2), message(3, key="again", content="other"), message(4)], None)

    assert appended == Appended(stored=1, refused_by=KEY_TAKEN)
    assert await history(store) == [message(1, key="again"), message(2)]


async def test_the_first_message_may_be_the_refused_one(store: Store) -> None:
    await store.append([message(1)], None)

    assert await store.append([message(1, key="new")], None) == Appended(0, SEQ_TAKEN)
    assert await store.append([message(2, key="key-1")], None) == Appended(0, KEY_TAKEN)
    assert await history(store) == [message(1)]


async def test_where_number_and_key_are_taken_the_number_is_told(store: Store) -> None:
    await store.append(messages(1, 2), None)

    assert await store.append(messages(1, 2), None) == Appended(0, SEQ_TAKEN)
    assert await store.append([message(2, key="key-1")], None) == Appended(0, SEQ_TAKEN)


async def test_nothing_behind_the_refused_message_is_stored_whatever_its_conversation(store: Store) -> None:
    await store.append([message(1)], None)
    batch = [message(1, OTHER_ROOM), message(1, key="late"), message(2, OTHER_ROOM)]

    assert await store.append(batch, None) == Appended(1, SEQ_TAKEN)

    assert await history(store, OTHER_ROOM) == [message(1, OTHER_ROOM)]


async def test_a_key_twice_in_one_append_is_refused_like_any_other(store: Store) -> None:
    appended = await store.append([message(1, key="twice"), message(2, key="twice")], None)

    assert appended == Appended(1, KEY_TAKEN)


async def test_a_key_belongs_to_one_sender_in_one_conversation(store: Store) -> None:
    same_key = [
        message(1, key="same", sender=ANN),
        message(2, key="same", sender=BOB),
        message(1, OTHER_ROOM, key="same", sender=ANN),
    ]

    assert await store.append(same_key, None) == Appended(3)


async def test_an_append_of_nothing_stores_nothing(store: Store) -> None:
    assert await store.append([], None) == Appended(0)
    assert await store.find_head(ROOM) == 0


async def test_many_appends_at_once_are_all_stored(store: Store) -> None:
    rooms = [ConversationId(f"g{number}") for number in range(64)]

    appended = await asyncio.gather(*(store.append([message(1, room)], entry(room)) for room in rooms))

    assert appended == [Appended(1)] * len(rooms)
    assert await store.find_heads(rooms) == dict.fromkeys(rooms, 1)


async def test_a_refusal_among_appends_at_once_concerns_only_its_own(store: Store) -> None:
    await store.append([message(1)], None)
    rooms = [ConversationId(f"g{number}") for number in range(20)]

    refused, *appended = await asyncio.gather(
        store.append([message(1, key="late"), message(2)], None),
        *(store.append([message(1, room)], None) for room in rooms),
    )

    assert refused == Appended(0, SEQ_TAKEN)
    assert appended == [Appended(1)] * len(rooms)


async def _write_like_the_service(log: MessageLog, sender: UserId, count: int) -> None:
    """Numbers from the head; when another writer was first, looks again."""
    waiting = [f"{sender}-{number}" for number in range(count)]
    while waiting:
        head = await log.find_head(ROOM)
        batch = [message(head + place, sender=sender, key=key) for place, key in enumerate(waiting[:3], start=1)]
        appended = await log.append(batch, None)
        assert appended.refused_by in (None, SEQ_TAKEN)
        del waiting[: appended.stored]


async def test_writers_that_race_leave_no_hole_and_lose_nothing(start_store: StartStore) -> None:
    replicas = [await start_store(), await start_store()]
    writers = [(replicas[number % 2], UserId(f"user{number}")) for number in range(8)]

    async with asyncio.timeout(60):
        await asyncio.gather(*(_write_like_the_service(log, user, 6) for log, user in writers))

    stored = await history(replicas[0])
    assert seqs(stored) == list(range(1, 8 * 6 + 1))
    assert {each.client_message_id for each in stored} == {f"user{u}-{n}" for u in range(8) for n in range(6)}
    assert await replicas[1].find_head(ROOM) == 8 * 6


async def test_a_sender_finds_its_own_messages_in_the_order_it_wrote_them(start_store: StartStore) -> None:
    replicas = [await start_store(), await start_store()]

    await asyncio.gather(
        *(_write_like_the_service(log, user, 10) for log, user in zip(replicas, (ANN, BOB), strict=True))
    )

    keys = [each.client_message_id for each in await history(replicas[0]) if each.sender_id == ANN]
    assert keys == [f"ann-{number}" for number in range(10)]


# ---- Heads and keys.


async def test_the_head_of_what_is_not_there_is_zero(store: Store) -> None:
    assert await store.find_head(ROOM) == 0
    assert await store.find_heads([ROOM, OTHER_ROOM]) == {ROOM: 0, OTHER_ROOM: 0}
    assert await store.find_heads([]) == {}


async def test_the_head_is_the_latest_seq(store: Store) -> None:
    await store.append(messages(1, 7), None)
    await store.append(messages(1, 2, OTHER_ROOM), None)

    assert await store.find_head(ROOM) == 7
    assert await store.find_heads([OTHER_ROOM, ROOM]) == {ROOM: 7, OTHER_ROOM: 2}


@pytest.mark.parametrize("recorded", [0, 1, 12, 17, 18, 19, 20])
async def test_heads_of_many_are_exact_however_far_the_recorded_activity_lags(store: Store, recorded: int) -> None:
    rooms = [ConversationId(f"g{number}") for number in range(10)]
    for room in rooms[:8]:
        await store.create(group(room))
        await store.append(messages(1, 20, room), None)
        if recorded:
            await store.record_activity([message(recorded, room)])

    heads = await store.find_heads(rooms)

    assert heads == {**dict.fromkeys(rooms[:8], 20), rooms[8]: 0, rooms[9]: 0}


async def test_keys_find_the_messages_that_are_stored_and_only_those(store: Store) -> None:
    stored = [message(1), message(2, sender=BOB, key="key-1"), message(3, key="$gt")]
    await store.append(stored, None)
    strangers = [
        IdempotencyKey(ROOM, ANN, "key-2"),
        IdempotencyKey(OTHER_ROOM, ANN, "key-1"),
        IdempotencyKey(ROOM, BOB, "$gt"),
    ]

    found = await store.find_by_keys([*map(key_of, stored), *strangers])

    assert found == {key_of(each): each for each in stored}
    assert await store.find_by_keys(strangers) == {}
    assert await store.find_by_keys([]) == {}


async def test_a_thousand_keys_are_found_at_once(store: Store) -> None:
    stored = [message(seq, sender=UserId(f"user{seq}")) for seq in range(1, 1001)]
    await store.append(stored, None)

    assert await store.find_by_keys([key_of(each) for each in stored]) == {key_of(each): each for each in stored}


# ---- Pages.


async def test_pages_forwards_are_ascending_and_without_a_hole(store: Store) -> None:
    await store.append(messages(1, 10), None)

    assert await store.read_after(ROOM, Seq(0), limit=4) == messages(1, 4)
    assert await store.read_after(ROOM, Seq(4), limit=4) == messages(5, 8)
    assert await store.read_after(ROOM, Seq(8), limit=4) == messages(9, 10)


@pytest.mark.parametrize("seq", [10, 11, 5_000, MAX_SEQ - 1, MAX_SEQ, MAX_SEQ + 1, 1 << 40])
async def test_there_is_nothing_after_the_head(store: Store, seq: int) -> None:
    await store.append(messages(1, 10), None)

    assert list(await store.read_after(ROOM, Seq(seq), limit=10)) == []


async def test_pages_backwards_are_ascending_too(store: Store) -> None:
    await store.append(messages(1, 10), None)

    assert await store.read_before(ROOM, Seq(11), limit=4) == messages(7, 10)
    assert await store.read_before(ROOM, Seq(7), limit=4) == messages(3, 6)
    assert await store.read_before(ROOM, Seq(3), limit=4) == messages(1, 2)
    assert list(await store.read_before(ROOM, Seq(1), limit=4)) == []


@pytest.mark.parametrize("seq", [11, 5_000, MAX_SEQ, MAX_SEQ + 1, 1 << 40])
async def test_the_page_before_any_seq_past_the_head_ends_at_the_head(store: Store, seq: int) -> None:
    await store.append(messages(1, 10), None)

    assert await store.read_before(ROOM, Seq(seq), limit=3) == messages(8, 10)


async def test_the_last_number_there_can_be_is_read_like_any_other(store: Store) -> None:
    last = message(MAX_SEQ, sent_at_ms=1)
    await store.append([last], None)

    assert await store.read_before(ROOM, Seq(MAX_SEQ + 1), limit=3) == [last]
    assert await store.read_after(ROOM, Seq(MAX_SEQ - 1), limit=3) == [last]
    assert await store.read_before(ROOM, Seq(1 << 40), limit=3) == [last]
    assert list(await store.read_before(ROOM, MAX_SEQ, limit=3)) == []
    assert list(await store.read_after(ROOM, Seq(1 << 40), limit=3)) == []
    assert await store.find_head(ROOM) == MAX_SEQ


async def test_conversations_whose_ids_begin_alike_do_not_mix(store: Store) -> None:
    short, long = ConversationId("g"), ConversationId("g-5")
    await store.append(messages(1, 3, short), None)
    await store.append(messages(1, 9, long), None)

    assert await store.find_head(short) == 3
    assert await store.find_heads([short, long]) == {short: 3, long: 9}
    assert await history(store, short) == messages(1, 3, short)
    assert await store.read_before(short, Seq(100), limit=2) == messages(2, 3, short)


async def test_a_message_is_found_by_its_id(store: Store) -> None:
    await store.append(messages(1, 3), None)

    assert await store.find_message(message(2).message_id) == message(2)
    assert await store.find_message(message(4).message_id) is None


@pytest.mark.parametrize("message_id", ["", "groom", "groom-2", "groom-0000000000", "-0000000001", "groom-00000000٠2"])
async def test_what_is_no_message_id_finds_nothing(store: Store, message_id: str) -> None:
    await store.append(messages(1, 3), None)

    assert await store.find_message(MessageId(message_id)) is None


# ---- What lasts.


async def test_another_replica_sees_what_was_acknowledged(start_store: StartStore) -> None:
    here, there = await start_store(), await start_store()

    for seq in range(1, 6):
        await here.append([message(seq)], None)

        assert await there.find_head(ROOM) == seq


async def test_everything_is_there_after_closing_and_opening_again(start_store: StartStore) -> None:
    first = await start_store()
    await first.append(messages(1, 5), entry("e1"))
    await first.create(group())
    await first.close()

    second = await start_store()

    assert await history(second) == messages(1, 5)
    assert await second.count_entries() == 1
    assert await second.find(ROOM) == group()


@pytest.mark.parametrize("steps", range(1, 8))
async def test_a_caller_that_goes_away_leaves_a_whole_batch_and_disturbs_nobody(store: Store, steps: int) -> None:
    append = asyncio.create_task(store.append(messages(1, 50), entry("e1")))
    others = [asyncio.create_task(store.append([message(1, ConversationId(f"g{n}"))], None)) for n in range(3)]
    for _ in range(steps):
        await asyncio.sleep(0)
    append.cancel()
    await asyncio.wait([append])

    async def stored() -> bool:
        return await store.find_head(ROOM) == 50 and await store.count_entries() == 1

    await eventually(stored)
    assert await asyncio.wait_for(asyncio.gather(*others), timeout=10) == [Appended(1)] * 3
    assert await store.append(messages(51, 51), None) == Appended(1)


async def test_closing_waits_for_what_was_accepted(start_store: StartStore) -> None:
    store = await start_store()
    appends = []
    for number in range(20):  # the first are under way when the last are accepted
        appends.append(asyncio.create_task(store.append([message(1, ConversationId(f"g{number}"))], None)))
        await asyncio.sleep(0)

    await store.close()

    assert await asyncio.wait_for(asyncio.gather(*appends), timeout=10) == [Appended(1)] * 20
