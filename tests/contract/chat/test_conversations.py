"""The contract of `services.chat.store.Conversations`: one suite, every store."""

import asyncio
import random
from dataclasses import replace

import pytest

from services.chat.errors import TooManyMembers
from services.chat.model import (
    Conversation,
    ConversationId,
    ConversationType,
    ConversationView,
    Message,
    Seq,
    UserId,
    WatermarkKind,
    Watermarks,
)
from services.chat.store import Membership, Store
from tests.contract.chat.conftest import StartStore
from tests.contract.chat.samples import ANN, BOB, CID, OTHER_ROOM, ROOM, START_MS, group, message, messages

DELIVERED, SEEN = WatermarkKind.DELIVERED, WatermarkKind.SEEN
NOBODY_READ = Watermarks(Seq(0), Seq(0))


async def member_ids(store: Store, room: ConversationId = ROOM) -> list[UserId]:
    return [each.user_id for each in await store.read_memberships(room)]


async def add(store: Store, user: UserId, *, read_seq: int = 0, max_members: int = 1000) -> bool:
    return await store.add_member(ROOM, user, read_seq=Seq(read_seq), max_members=max_members)


# ---- Creating and finding.


@pytest.mark.parametrize(
    "conversation",
    [
        group(ROOM, ANN, BOB, CID, title="\u202eTitle $ \N{ROCKET}\x00"),
        group(ROOM, ANN, title=""),
        group(ROOM, ANN, BOB, title=None),
        Conversation(ROOM, ConversationType.DIRECT, None, (ANN, BOB), 1),
    ],
    ids=["group", "alone", "untitled", "direct"],
)
async def test_a_created_conversation_is_found_as_it_was(store: Store, conversation: Conversation) -> None:
    assert await store.create(conversation)

    assert await store.find(ROOM) == conversation


async def test_what_was_never_created_is_not_found(store: Store) -> None:
    await store.create(group())

    assert await store.find(OTHER_ROOM) is None
    assert await store.find_membership(OTHER_ROOM, ANN) is None
    assert list(await store.read_memberships(OTHER_ROOM)) == []


async def test_a_new_member_has_read_nothing_and_is_not_muted(store: Store) -> None:
    await store.create(group(ROOM, ANN, BOB))

    assert await store.find_membership(ROOM, ANN) == Membership(ANN, NOBODY_READ, muted=False)
    assert await store.find_membership(ROOM, CID) is None


async def test_creating_what_is_there_leaves_it_as_it_is(store: Store) -> None:
    original = group(ROOM, ANN, BOB, title="first")
    await store.create(original)

    assert not await store.create(group(ROOM, BOB, CID, title="second", created_at_ms=START_MS + 9))

    assert await store.find(ROOM) == original
    assert await store.find_membership(ROOM, CID) is None


async def test_creating_again_does_not_bring_back_who_was_removed(store: Store) -> None:
    await store.create(group(ROOM, ANN, BOB))
    await store.remove_member(ROOM, BOB)

    assert not await store.create(group(ROOM, ANN, BOB))

    assert await member_ids(store) == [ANN]


async def test_of_those_who_create_at_once_one_wins_whole(start_store: StartStore) -> None:
    replicas = [await start_store(), await start_store()]
    rivals = [group(ROOM, ANN, UserId(f"user{number}"), title=f"title {number}") for number in range(10)]

    created = await asyncio.gather(*(replicas[place % 2].create(rival) for place, rival in enumerate(rivals)))

    assert created.count(True) == 1
    assert await replicas[0].find(ROOM) == rivals[created.index(True)]


async def test_a_conversation_that_is_seen_has_its_members(start_store: StartStore) -> None:
    here, there = await start_store(), await start_store()
    members = [UserId(f"user{number:03}") for number in range(300)]
    for turn in range(3):
        made = group(ConversationId(f"g{turn}"), *members)
        creating = asyncio.create_task(here.create(made))
        seen: Conversation | None = None
        while seen is None:
            seen = await there.find(made.conversation_id)
        assert seen == made
        assert await creating


async def test_members_are_read_sorted_with_how_far_each_has_come(store: Store) -> None:
    await store.create(group(ROOM, CID, ANN, BOB))
    await store.append(messages(1, 5), None)
    await store.move_watermarks([(ROOM, BOB, SEEN, Seq(3)), (ROOM, CID, DELIVERED, Seq(4))])
    await store.set_muted(ROOM, ANN, muted=True)

    assert await store.read_memberships(ROOM) == [
        Membership(ANN, NOBODY_READ, muted=True),
        Membership(BOB, Watermarks(Seq(3), Seq(3)), muted=False),
        Membership(CID, Watermarks(Seq(4), Seq(0)), muted=False),
    ]


async def test_the_members_of_several_conversations_are_read_together_as_each_would_be_alone(store: Store) -> None:
    await store.create(group(ROOM, CID, ANN, BOB))
    await store.create(group(OTHER_ROOM, BOB, ANN))
    for room in (ROOM, OTHER_ROOM):
        await store.append(messages(1, 5, room), None)
    await store.move_watermarks([(ROOM, BOB, SEEN, Seq(3)), (OTHER_ROOM, BOB, DELIVERED, Seq(4))])
    await store.set_muted(OTHER_ROOM, ANN, muted=True)
    await store.remove_member(ROOM, CID)

    read = await store.read_memberships_of({ROOM, OTHER_ROOM})

    assert read == {
        ROOM: [Membership(ANN, NOBODY_READ, muted=False), Membership(BOB, Watermarks(Seq(3), Seq(3)), muted=False)],
        OTHER_ROOM: [
            Membership(ANN, NOBODY_READ, muted=True),
            Membership(BOB, Watermarks(Seq(4), Seq(0)), muted=False),
        ],
    }
    assert [read[room] for room in (ROOM, OTHER_ROOM)] == [
        await store.read_memberships(room) for room in (ROOM, OTHER_ROOM)
    ]


async def test_of_several_conversations_each_is_answered_also_where_nobody_is_in_it(store: Store) -> None:
    await store.create(group(ROOM, ANN))
    await store.remove_member(ROOM, ANN)

    read = await store.read_memberships_of([ROOM, OTHER_ROOM, ROOM])

    assert {room: list(members) for room, members in read.items()} == {ROOM: [], OTHER_ROOM: []}
    assert await store.read_memberships_of([]) == {}


async def test_the_members_of_a_thousand_conversations_are_read_at_once(store: Store) -> None:
    rooms = [ConversationId(f"g{number}") for number in range(1_000)]
    await asyncio.gather(*(store.create(group(room, ANN, BOB)) for room in rooms[:100]))

    read = await store.read_memberships_of(rooms)

    assert list(read) == rooms
    assert [len(read[room]) for room in rooms] == [2] * 100 + [0] * 900


# ---- Members come and go.


async def test_an_added_member_starts_where_he_is_told(store: Store) -> None:
    await store.create(group(ROOM, ANN))

    assert await add(store, BOB, read_seq=7)

    assert await store.find_membership(ROOM, BOB) == Membership(BOB, Watermarks(Seq(7), Seq(7)), muted=False)
    assert await store.find(ROOM) == group(ROOM, ANN, BOB)


async def test_adding_a_member_again_changes_nothing(store: Store) -> None:
    await store.create(group(ROOM, ANN, BOB))
    await store.move_watermarks([(ROOM, BOB, SEEN, Seq(3))])

    assert not await add(store, BOB, read_seq=9)
    assert not await add(store, BOB, read_seq=9, max_members=2)

    assert await store.find_membership(ROOM, BOB) == Membership(BOB, Watermarks(Seq(3), Seq(3)), muted=False)


async def test_nobody_is_added_to_what_does_not_exist(store: Store) -> None:
    assert not await add(store, BOB)

    assert await store.find_membership(ROOM, BOB) is None
    assert list(await store.read_page(BOB, before=None, limit=10)) == []


async def test_a_removed_member_is_gone_everywhere(store: Store) -> None:
    await store.create(group(ROOM, ANN, BOB))

    assert await store.remove_member(ROOM, BOB)

    assert await store.find_membership(ROOM, BOB) is None
    assert await member_ids(store) == [ANN]
    assert await store.find(ROOM) == group(ROOM, ANN)
    assert list(await store.read_page(BOB, before=None, limit=10)) == []
    assert list(await store.read_contacts(ANN)) == []
    assert list(await store.read_contacts(BOB)) == []
    assert list(await store.move_watermarks([(ROOM, BOB, SEEN, Seq(1))])) == [None]
    assert not await store.set_muted(ROOM, BOB, muted=True)


async def test_nothing_moves_while_somebody_is_away(store: Store) -> None:
    await store.create(group(ROOM, ANN, BOB))
    await store.remove_member(ROOM, BOB)
    await store.move_watermarks([(ROOM, BOB, SEEN, Seq(9)), (ROOM, BOB, DELIVERED, Seq(9))])
    await store.set_muted(ROOM, BOB, muted=True)

    await add(store, BOB, read_seq=2)

    assert await store.find_membership(ROOM, BOB) == Membership(BOB, Watermarks(Seq(2), Seq(2)), muted=False)


async def test_removing_tells_whether_he_was_a_member(store: Store) -> None:
    await store.create(group(ROOM, ANN, BOB))

    assert await store.remove_member(ROOM, BOB)
    assert not await store.remove_member(ROOM, BOB)
    assert not await store.remove_member(ROOM, CID)
    assert not await store.remove_member(OTHER_ROOM, ANN)


async def test_the_last_member_may_leave(store: Store) -> None:
    await store.create(group(ROOM, ANN))

    assert await store.remove_member(ROOM, ANN)

    assert await store.find(ROOM) == replace(group(), member_ids=())


@pytest.mark.parametrize(("read_seq", "expected"), [(2, 5), (5, 5), (9, 9)])
async def test_who_comes_back_is_never_further_back_than_he_was(store: Store, read_seq: int, expected: int) -> None:
    await store.create(group(ROOM, ANN, BOB))
    await store.move_watermarks([(ROOM, BOB, SEEN, Seq(5))])
    await store.set_muted(ROOM, BOB, muted=True)
    await store.remove_member(ROOM, BOB)

    assert await add(store, BOB, read_seq=read_seq)

    came_back = Membership(BOB, Watermarks(Seq(expected), Seq(expected)), muted=True)
    assert await store.find_membership(ROOM, BOB) == came_back
    assert await member_ids(store) == [ANN, BOB]


async def test_a_full_conversation_refuses_one_more(store: Store) -> None:
    await store.create(group(ROOM, ANN, BOB))

    with pytest.raises(TooManyMembers) as refusal:
        await add(store, CID, max_members=2)

    assert refusal.value.fields == {"limit": "2"}
    assert await member_ids(store) == [ANN, BOB]


async def test_whoever_leaves_makes_room(store: Store) -> None:
    await store.create(group(ROOM, ANN, BOB))
    await store.remove_member(ROOM, ANN)

    assert await add(store, CID, max_members=2)

    with pytest.raises(TooManyMembers):
        await add(store, ANN, max_members=2)


async def test_a_lowered_limit_refuses_newcomers_and_removes_nobody(store: Store) -> None:
    members = [UserId(f"user{number}") for number in range(5)]
    await store.create(group(ROOM, *members))
    await store.remove_member(ROOM, members[1])

    with pytest.raises(TooManyMembers):
        await add(store, CID, max_members=4)
    assert await add(store, CID, max_members=5)

    assert len(await member_ids(store)) == 5


async def test_the_limit_holds_when_many_are_added_at_once(start_store: StartStore) -> None:
    replicas = [await start_store(), await start_store()]
    await replicas[0].create(group(ROOM, ANN))
    crowd = [UserId(f"user{number:02}") for number in range(30)]

    outcomes = await asyncio.gather(
        *(add(replicas[place % 2], user, max_members=12) for place, user in enumerate(crowd)),
        return_exceptions=True,
    )

    added = [user for user, outcome in zip(crowd, outcomes, strict=True) if outcome is True]
    assert len(added) == 11
    assert sum(isinstance(outcome, TooManyMembers) for outcome in outcomes) == 19
    assert await member_ids(replicas[1]) == [ANN, *added]


async def test_one_user_added_many_times_at_once_takes_one_place(start_store: StartStore) -> None:
    replicas = [await start_store(), await start_store()]
    await replicas[0].create(group(ROOM, ANN))

    outcomes = await asyncio.gather(*(add(replicas[turn % 2], BOB, max_members=3) for turn in range(10)))

    assert outcomes.count(True) == 1
    assert await add(replicas[0], CID, max_members=3)


async def test_members_who_come_and_go_at_once_leave_room_for_as_many_as_there_are_places(store: Store) -> None:
    await store.create(group(ROOM, ANN))

    async def come_and_go(user: UserId) -> None:
        for _ in range(4):
            await add(store, user, max_members=9)
            await store.remove_member(ROOM, user)

    await asyncio.gather(*(come_and_go(UserId(f"user{number}")) for number in range(8)))

    assert await member_ids(store) == [ANN]
    for number in range(8):
        assert await add(store, UserId(f"late{number}"), max_members=9)
    with pytest.raises(TooManyMembers):
        await add(store, CID, max_members=9)


async def test_muting_is_kept_until_it_is_undone(store: Store) -> None:
    await store.create(group(ROOM, ANN, BOB))

    assert await store.set_muted(ROOM, ANN, muted=True)
    assert await store.set_muted(ROOM, ANN, muted=True)
    assert [each.muted for each in await store.read_memberships(ROOM)] == [True, False]
    assert await store.set_muted(ROOM, ANN, muted=False)
    assert [each.muted for each in await store.read_memberships(ROOM)] == [False, False]
    assert not await store.set_muted(ROOM, CID, muted=True)


# ---- Watermarks.


async def test_seen_moves_both_watermarks_and_delivered_only_its_own(store: Store) -> None:
    await store.create(group(ROOM, ANN, BOB))

    moved = await store.move_watermarks([(ROOM, ANN, DELIVERED, Seq(4)), (ROOM, BOB, SEEN, Seq(2))])

    assert list(moved) == [Watermarks(Seq(4), Seq(0)), Watermarks(Seq(2), Seq(2))]


async def test_watermarks_do_not_go_back(store: Store) -> None:
    await store.create(group(ROOM, ANN, BOB))
    await store.move_watermarks([(ROOM, ANN, SEEN, Seq(5)), (ROOM, ANN, DELIVERED, Seq(8))])

    moved = await store.move_watermarks([(ROOM, ANN, SEEN, Seq(3)), (ROOM, ANN, DELIVERED, Seq(4))])

    assert list(moved) == [Watermarks(Seq(8), Seq(5))] * 2


async def test_seen_below_delivered_leaves_delivered(store: Store) -> None:
    await store.create(group(ROOM, ANN, BOB))
    await store.move_watermarks([(ROOM, ANN, DELIVERED, Seq(8))])

    assert list(await store.move_watermarks([(ROOM, ANN, SEEN, Seq(6))])) == [Watermarks(Seq(8), Seq(6))]


async def test_each_move_is_answered_in_its_place_with_what_holds_after_all(store: Store) -> None:
    await store.create(group(ROOM, ANN, BOB))
    await store.create(group(OTHER_ROOM, ANN))

    moved = await store.move_watermarks(
        [
            (ROOM, CID, SEEN, Seq(1)),
            (ROOM, ANN, SEEN, Seq(2)),
            (OTHER_ROOM, ANN, DELIVERED, Seq(9)),
            (OTHER_ROOM, BOB, SEEN, Seq(9)),
            (ROOM, ANN, DELIVERED, Seq(3)),
            (ROOM, ANN, SEEN, Seq(1)),
        ]
    )

    ann_in_room = Watermarks(Seq(3), Seq(2))
    assert list(moved) == [None, ann_in_room, Watermarks(Seq(9), Seq(0)), None, ann_in_room, ann_in_room]


async def test_moving_a_stranger_makes_no_member(store: Store) -> None:
    await store.create(group(ROOM, ANN, BOB))

    await store.move_watermarks([(ROOM, CID, SEEN, Seq(1)), (OTHER_ROOM, ANN, SEEN, Seq(1))])

    assert await member_ids(store) == [ANN, BOB]
    assert await store.find_membership(OTHER_ROOM, ANN) is None


async def test_no_moves_have_no_answers(store: Store) -> None:
    assert list(await store.move_watermarks([])) == []


async def test_watermarks_moved_in_any_order_from_everywhere_end_at_the_furthest(start_store: StartStore) -> None:
    replicas = [await start_store(), await start_store()]
    await replicas[0].create(group(ROOM, ANN, BOB))
    moves = [(ROOM, user, kind, Seq(seq)) for user in (ANN, BOB) for kind in (DELIVERED, SEEN) for seq in range(1, 13)]
    moves = [move for move in moves if move != (ROOM, BOB, SEEN, 12)] * 2
    random.Random(7).shuffle(moves)
    furthest = {ANN: NOBODY_READ, BOB: NOBODY_READ}

    async def move(replica: Store, own: list[tuple[ConversationId, UserId, WatermarkKind, Seq]]) -> None:
        for start in range(0, len(own), 3):
            batch = own[start : start + 3]
            for (_, user, kind, seq), after in zip(batch, await replica.move_watermarks(batch), strict=True):
                assert after is not None
                assert after.delivered_seq >= max(seq, after.read_seq)
                assert kind is DELIVERED or after.read_seq >= seq
                seen_before = furthest[user]
                furthest[user] = Watermarks(
                    max(after.delivered_seq, seen_before.delivered_seq), max(after.read_seq, seen_before.read_seq)
                )

    await asyncio.gather(*(move(replicas[part % 2], moves[part::6]) for part in range(6)))

    assert furthest == {ANN: Watermarks(Seq(12), Seq(12)), BOB: Watermarks(Seq(12), Seq(11))}
    assert [each.watermarks for each in await replicas[0].read_memberships(ROOM)] == [furthest[ANN], furthest[BOB]]


async def test_what_one_caller_sees_of_a_watermark_only_grows(start_store: StartStore) -> None:
    here, there = await start_store(), await start_store()
    await here.create(group(ROOM, ANN, BOB))
    moving = asyncio.gather(*(here.move_watermarks([(ROOM, ANN, SEEN, Seq(seq))]) for seq in range(30, 0, -1)))
    seen = 0
    while not moving.done():
        membership = await there.find_membership(ROOM, ANN)
        assert membership is not None
        assert membership.watermarks.read_seq >= seen
        seen = membership.watermarks.read_seq
    await moving


async def test_a_thousand_moves_are_made_at_once(store: Store) -> None:
    members = [UserId(f"user{number:03}") for number in range(500)]
    await store.create(group(ROOM, *members))

    moved = await store.move_watermarks(
        [(ROOM, user, kind, Seq(place + 1)) for place, user in enumerate(members) for kind in (DELIVERED, SEEN)]
    )

    assert list(moved) == [Watermarks(Seq(place // 2 + 1), Seq(place // 2 + 1)) for place in range(1000)]


# ---- A user's conversations.


async def a_room_with(
    store: Store, name: str, *, head: int = 0, activity_ms: int, record: bool = True
) -> ConversationId:
    """A conversation of ann and bob that was last active then."""
    room = ConversationId(name)
    await store.create(group(room, ANN, BOB, created_at_ms=START_MS if head else activity_ms))
    if head:
        batch = [message(seq, room, sent_at_ms=activity_ms) for seq in range(1, head + 1)]
        await store.append(batch, None)
        if record:
            await store.record_activity([batch[-1]])
    return room


async def listed(store: Store, user: UserId = ANN, *, limit: int = 10) -> list[str]:
    """All pages, one after the other."""
    found: list[str] = []
    before: tuple[int, ConversationId] | None = None
    while page := await store.read_page(user, before=before, limit=limit):
        assert len(page) <= limit
        found += [view.conversation.conversation_id for _, view in page]
        before = (page[-1][0], page[-1][1].conversation.conversation_id)
    return found


async def test_a_view_shows_the_conversation_as_its_member_sees_it(store: Store) -> None:
    room = await a_room_with(store, "g1", head=5, activity_ms=START_MS + 7)
    await store.move_watermarks([(room, ANN, SEEN, Seq(2)), (room, ANN, DELIVERED, Seq(4))])
    await store.set_muted(room, ANN, muted=True)

    ((activity_ms, view),) = await store.read_page(ANN, before=None, limit=10)

    assert activity_ms == START_MS + 7
    assert view == ConversationView(
        conversation=group(room, ANN, BOB),
        head_seq=Seq(5),
        watermarks=Watermarks(Seq(4), Seq(2)),
        last_message=message(5, room, sent_at_ms=START_MS + 7),
        muted=True,
    )
    assert view.unread_count == 3


async def test_a_conversation_without_messages_is_as_old_as_itself(store: Store) -> None:
    await a_room_with(store, "g1", activity_ms=START_MS + 3)

    ((activity_ms, view),) = await store.read_page(ANN, before=None, limit=10)

    assert activity_ms == START_MS + 3
    assert view.head_seq == 0
    assert view.last_message is None


@pytest.mark.parametrize("unrecorded", [1, 2, 3, 4, 5, 30])
async def test_heads_and_last_messages_come_from_the_log_whatever_was_recorded(store: Store, unrecorded: int) -> None:
    rooms = [await a_room_with(store, f"g{number}", head=2, activity_ms=START_MS + number) for number in range(6)]
    for room in rooms[:5]:
        await store.append(messages(3, 2 + unrecorded, room), None)
    never_recorded = await a_room_with(store, "g9", head=unrecorded, activity_ms=START_MS + 9, record=False)

    views = [view for _, view in await store.read_page(BOB, before=None, limit=10)]

    heads = {view.conversation.conversation_id: view.head_seq for view in views}
    assert heads == {**dict.fromkeys(rooms[:5], 2 + unrecorded), rooms[5]: 2, never_recorded: unrecorded}
    for view in views:
        assert view.last_message is not None
        assert view.last_message.conversation_id == view.conversation.conversation_id
        assert view.last_message.seq == view.head_seq


async def test_conversations_are_listed_newest_activity_first(store: Store) -> None:
    await a_room_with(store, "g1", activity_ms=START_MS + 1)
    await a_room_with(store, "g2", head=1, activity_ms=START_MS + 9)
    await a_room_with(store, "g3", activity_ms=START_MS + 5)

    assert await listed(store) == ["g2", "g3", "g1"]


@pytest.mark.parametrize("limit", [1, 2, 3, 10])
async def test_pages_repeat_nothing_and_miss_nothing_even_where_times_are_equal(store: Store, limit: int) -> None:
    for number in range(8):
        await a_room_with(store, f"g{number}", activity_ms=START_MS + number // 3)

    assert await listed(store, limit=limit) == ["g7", "g6", "g5", "g4", "g3", "g2", "g1", "g0"]


async def test_activity_between_two_pages_repeats_nothing_on_the_second(store: Store) -> None:
    rooms = [await a_room_with(store, f"g{number}", activity_ms=START_MS + number) for number in range(6)]
    first = await store.read_page(ANN, before=None, limit=3)
    active = message(1, rooms[1], sent_at_ms=START_MS + 100)
    await store.append([active], None)
    await store.record_activity([active])

    second = await store.read_page(ANN, before=(first[-1][0], first[-1][1].conversation.conversation_id), limit=3)

    assert [view.conversation.conversation_id for _, view in second] == ["g2", "g0"]


async def test_only_ones_own_conversations_are_listed(store: Store) -> None:
    await store.create(group(ConversationId("g1"), ANN, BOB))
    await store.create(group(ConversationId("g2"), BOB, CID))

    assert await listed(store, ANN) == ["g1"]
    assert await listed(store, UserId("stranger")) == []


async def test_every_member_is_shown_in_a_list(store: Store) -> None:
    crowd = [UserId(f"user{number:03}") for number in range(150)]
    await store.create(group(ROOM, *crowd))
    await store.create(group(OTHER_ROOM, crowd[0]))

    page = await store.read_page(crowd[0], before=None, limit=10)

    assert {view.conversation.conversation_id: len(view.conversation.member_ids) for _, view in page} == {
        ROOM: 150,
        OTHER_ROOM: 1,
    }


async def test_activity_moves_forwards_and_never_back(store: Store) -> None:
    room = await a_room_with(store, "g1", head=3, activity_ms=START_MS + 50)

    await store.record_activity([message(2, room, sent_at_ms=START_MS + 40)])

    assert [activity for activity, _ in await store.read_page(ANN, before=None, limit=1)] == [START_MS + 50]


async def test_activity_does_not_go_back_with_the_clock_of_a_later_message(store: Store) -> None:
    room = await a_room_with(store, "g1", head=3, activity_ms=START_MS + 50)
    behind = message(4, room, sent_at_ms=START_MS + 20)
    await store.append([behind], None)

    await store.record_activity([behind])

    ((activity_ms, view),) = await store.read_page(ANN, before=None, limit=1)
    assert activity_ms == START_MS + 50
    assert view.last_message == behind


async def test_activity_recorded_in_any_order_from_everywhere_ends_at_the_latest(start_store: StartStore) -> None:
    replicas = [await start_store(), await start_store()]
    rooms = [await a_room_with(replicas[0], f"g{number}", activity_ms=START_MS) for number in range(3)]
    batch: list[list[Message]] = [[message(seq, room) for room in rooms] for seq in range(1, 11)]
    for each in batch:
        await replicas[0].append(each, None)
    random.Random(3).shuffle(batch)

    await asyncio.gather(*(replicas[place % 2].record_activity(each) for place, each in enumerate(batch * 2)))

    page = await replicas[1].read_page(ANN, before=None, limit=10)
    assert [activity for activity, _ in page] == [START_MS + 10] * 3


async def test_activity_of_what_does_not_exist_is_passed_over(store: Store) -> None:
    room = await a_room_with(store, "g1", activity_ms=START_MS)

    await store.record_activity([message(1, OTHER_ROOM), message(1, room)])
    await store.record_activity([])

    assert await store.find(OTHER_ROOM) is None
    assert [activity for activity, _ in await store.read_page(ANN, before=None, limit=1)] == [START_MS + 1]


async def test_contacts_are_all_who_share_a_conversation_each_once(store: Store) -> None:
    await store.create(group(ConversationId("g1"), ANN, BOB, CID))
    await store.create(group(ConversationId("g2"), ANN, BOB, UserId("dan")))
    await store.create(group(ConversationId("g3"), BOB, UserId("eve")))

    assert list(await store.read_contacts(ANN)) == [BOB, CID, "dan"]
    assert list(await store.read_contacts(UserId("eve"))) == [BOB]
    assert list(await store.read_contacts(UserId("stranger"))) == []
