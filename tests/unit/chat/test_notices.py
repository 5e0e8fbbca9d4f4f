"""What notify is told, of whom and when; and that nothing is lost while it cannot be."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.chat import notices as module
from services.chat.attendance import Attendance
from services.chat.errors import JobsUnavailable, StoreUnavailable
from services.chat.jobs import Job
from services.chat.members import Members
from services.chat.messages import Commit
from services.chat.model import (
    Conversation,
    ConversationId,
    ConversationType,
    Message,
    Seq,
    UserId,
    WatermarkKind,
)
from services.chat.notices import MessageNotice, Notice, Notices, ReadNotice, Recipient
from services.chat.store import Membership, OutboxEntry
from services.chat.store.sqlite import SqliteStore
from services.runtime.clock import SystemClock
from services.runtime.metrics import Metrics
from tests.e2e.waiting import eventually
from tests.support.clock import ManualClock
from tests.unit.chat.fake_jobs import FakeJobs, message_of

ALICE, BOB, CAROL = UserId("alice"), UserId("bob"), UserId("carol")
C, D = ConversationId("gc"), ConversationId("gd")
EDGE = "a stream"


class Store(SqliteStore):
    """The SQLite store; deleting entries fails while `is_away`. Counts how often members are read."""

    is_away = False
    members_read = 0

    async def read_memberships_of(
        self, conversation_ids: Collection[ConversationId]
    ) -> Mapping[ConversationId, Sequence[Membership]]:
        self.members_read += 1
        return await super().read_memberships_of(conversation_ids)

    async def delete_entries(self, entry_ids: Sequence[str]) -> None:
        if self.is_away:
            raise StoreUnavailable
        await super().delete_entries(entry_ids)


class World:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.jobs = FakeJobs()
        self.attendance = Attendance()
        self.registry = CollectorRegistry()
        self.told: dict[str, Notice] = {}
        members = Members(store, SystemClock())
        self.clock = ManualClock(time_ms=said(1).sent_at_ms)
        self.notices = Notices(
            store, members, self.attendance, self.jobs, self._encode, self.clock, Metrics(self.registry)
        )

    def _encode(self, notice: Notice) -> Job:
        if isinstance(notice, MessageNotice):
            name = f"{notice.message.conversation_id} {notice.message.seq}"
        else:
            name = f"{notice.conversation_id} read by {notice.user_id} to {notice.read_seq}"
        self.told[name] = notice
        return Job(name, b"")

    async def commit(self, *messages: Message, entry_id: str | None = None) -> Commit:
        """Stores them with their entry, as `Messages` does."""
        ranges = tuple((each.conversation_id, each.seq, each.seq) for each in messages)
        await self.store.append(messages, None if entry_id is None else OutboxEntry(entry_id, 0, ranges))
        return Commit(messages, entry_id)

    async def entries(self) -> list[str]:
        return [each.entry_id for each in await self.store.read_entries(created_before_ms=1, limit=100)]

    async def read(self, user: UserId, seq: int) -> None:
        await self.store.move_watermarks([(C, user, WatermarkKind.SEEN, Seq(seq))])

    def attend(self, *users: UserId, head: int = 0) -> None:
        for user in users:
            self.attendance.came(EDGE, C, user, head=Seq(head))

    def count(self, name: str, kind: str) -> float:
        return self.registry.get_sample_value(f"parley_chat_{name}_total", {"kind": kind}) or 0


def said(seq: int, sender: UserId = ALICE, conversation: ConversationId = C) -> Message:
    return message_of(conversation, seq, sender)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(module, "_RETRY_S", 0.01)
    monkeypatch.setattr(module, "_READ_PACE_S", 0.01)
    store = Store(str(tmp_path / "chat.db"))
    await store.start()
    for conversation in (C, D):
        await store.create(Conversation(conversation, ConversationType.GROUP, None, (ALICE, BOB, CAROL), 0))
    world = World(store)
    yield world
    world.jobs.gate.set()
    world.store.is_away = False
    await world.notices.stop()
    await store.close()


# ---- Who is told of a message.


async def test_everybody_but_the_sender_is_told_with_his_own_unread_count(world: World) -> None:
    await world.commit(*map(said, range(1, 4)))
    await world.read(BOB, 2)
    await world.store.set_muted(C, CAROL, muted=True)
    await world.notices.publish([said(3)])
    assert world.told["gc 3"] == MessageNotice(said(3), (Recipient(BOB, 1, False), Recipient(CAROL, 3, True)))


async def test_who_attends_is_not_told(world: World) -> None:
    world.attend(BOB)
    await world.notices.publish([said(1), said(1, conversation=D)])
    assert world.told["gc 1"] == MessageNotice(said(1), (Recipient(CAROL, 1, False),))
    assert world.told["gd 1"] == MessageNotice(
        said(1, conversation=D), (Recipient(BOB, 1, False), Recipient(CAROL, 1, False))
    )


async def test_who_has_read_it_is_not_told(world: World) -> None:
    await world.commit(said(1))
    await world.read(BOB, 1)
    await world.notices.publish([said(1)])
    assert world.told["gc 1"] == MessageNotice(said(1), (Recipient(CAROL, 1, False),))


async def test_where_nobody_has_to_be_told_nothing_is_published(world: World) -> None:
    world.attend(BOB, CAROL)
    await world.notices.publish([said(1)])
    await world.commit(said(1, conversation=D))
    await world.store.move_watermarks([(D, user, WatermarkKind.SEEN, Seq(1)) for user in (BOB, CAROL)])
    await world.notices.publish([said(1, conversation=D)])
    assert world.jobs.published == []


async def test_where_all_the_others_attend_the_store_is_not_asked(world: World) -> None:
    world.attend(BOB, CAROL)
    await world.notices.publish([said(1)])  # looks who is a member
    read = world.store.members_read
    await world.notices.publish([said(2)])
    assert world.store.members_read == read


async def test_who_left_is_not_told_and_who_came_is(world: World) -> None:
    await world.store.remove_member(C, BOB)
    await world.store.add_member(C, UserId("dave"), read_seq=Seq(0), max_members=10)
    await world.notices.publish([said(1)])
    notice = world.told["gc 1"]
    assert isinstance(notice, MessageNotice)
    assert [each.user_id for each in notice.recipients] == [CAROL, "dave"]


# ---- Messages wait until the queue has them.


async def test_entries_go_when_their_messages_are_confirmed_and_not_before(world: World) -> None:
    await world.notices.start()
    world.jobs.gate.clear()
    world.notices.committed([await world.commit(said(1), entry_id="e1")])
    await eventually(lambda: world.jobs.tries == 1)
    assert await world.entries() == ["e1"]
    assert world.notices.holds("e1")
    world.jobs.gate.set()
    await eventually(lambda: not world.notices.holds("e1"))
    assert await world.entries() == []
    assert world.jobs.published == ["gc 1"]
    assert world.count("notices", "message") == 1


async def test_while_the_queue_is_away_nothing_is_lost_and_the_order_stays(world: World) -> None:
    await world.notices.start()
    world.jobs.is_connected = False
    for seq in range(1, 6):
        world.notices.committed([await world.commit(said(seq), entry_id=f"e{seq}")])
    await eventually(lambda: world.jobs.tries > 3)
    assert all(world.notices.holds(f"e{seq}") for seq in range(1, 6))
    assert len(await world.entries()) == 5
    world.jobs.is_connected = True
    await eventually(lambda: len(world.jobs.published) == 5)
    assert world.jobs.published == [f"gc {seq}" for seq in range(1, 6)]
    await eventually(lambda: not world.notices.holds("e5"))
    assert await world.entries() == []


async def test_what_came_first_is_told_first_whatever_comes_while_it_fails(world: World) -> None:
    await world.notices.start()
    world.jobs.gate.clear()
    world.jobs.is_connected = False
    world.notices.committed([await world.commit(said(1)), await world.commit(said(2))])
    await eventually(lambda: world.jobs.tries == 1)
    world.notices.committed([await world.commit(said(3))])
    world.jobs.gate.set()
    await eventually(lambda: world.jobs.tries > 2)
    world.jobs.is_connected = True
    await eventually(lambda: len(world.jobs.published) == 3)
    assert world.jobs.published == ["gc 1", "gc 2", "gc 3"]


async def test_messages_whose_entries_cannot_be_deleted_are_told_again(world: World) -> None:
    await world.notices.start()
    world.store.is_away = True
    world.notices.committed([await world.commit(said(1), entry_id="e1")])
    await eventually(lambda: len(world.jobs.published) > 1)
    assert world.notices.holds("e1")
    world.store.is_away = False
    await eventually(lambda: not world.notices.holds("e1"))
    assert await world.entries() == []


async def test_what_does_not_fit_is_left_to_the_sweeper_with_its_entry(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_WAITING_MESSAGES", 3)
    commits = [
        await world.commit(said(1), said(2), entry_id="e1"),
        await world.commit(said(3), said(4), entry_id="e2"),
        await world.commit(said(5), entry_id="e3"),
    ]
    world.notices.committed(commits)
    assert [world.notices.holds(entry) for entry in ("e1", "e2", "e3")] == [True, False, True]
    assert world.count("notices_dropped", "message") == 2
    await world.notices.start()
    await eventually(lambda: len(world.jobs.published) == 3)
    assert world.jobs.published == ["gc 1", "gc 2", "gc 5"]
    await eventually(lambda: not world.notices.holds("e3"))
    assert await world.entries() == ["e2"]


async def test_what_was_told_makes_room(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_WAITING_MESSAGES", 1)
    await world.notices.start()
    for seq in (1, 2, 3):
        world.notices.committed([await world.commit(said(seq), entry_id="e")])
        await eventually(lambda: not world.notices.holds("e"))
    assert world.jobs.published == ["gc 1", "gc 2", "gc 3"]
    assert world.count("notices_dropped", "message") == 0


async def test_a_bug_leaves_its_messages_to_the_sweeper_and_stops_nothing(world: World) -> None:
    await world.notices.start()
    world.jobs.bug = KeyError("a bug")
    world.notices.committed([await world.commit(said(1), entry_id="e1")])
    await eventually(lambda: not world.notices.holds("e1"))
    world.notices.committed([await world.commit(said(2), entry_id="e2")])
    await eventually(lambda: not world.notices.holds("e2"))
    assert world.jobs.published == ["gc 2"]
    assert await world.entries() == ["e1"]


async def test_a_cancellation_that_comes_out_of_the_queue_is_a_failure_like_any_and_loses_nothing(
    world: World,
) -> None:
    await world.notices.start()
    world.jobs.bug = asyncio.CancelledError("as libraries raise it where their connection ends")
    world.notices.committed([await world.commit(said(1), entry_id="e1")])
    await eventually(lambda: not world.notices.holds("e1"))
    assert (world.jobs.tries, world.jobs.published) == (2, ["gc 1"])
    assert await world.entries() == []


async def test_stopping_tells_what_waits(world: World) -> None:
    await world.notices.start()
    world.jobs.gate.clear()
    world.notices.committed([await world.commit(said(1), entry_id="e1")])
    await eventually(lambda: world.jobs.tries == 1)
    world.notices.committed([await world.commit(said(2), entry_id="e2")])
    stopping = asyncio.create_task(world.notices.stop())
    await eventually(lambda: world.jobs.tries == 2)  # what was under way goes again
    world.jobs.gate.set()
    await stopping
    assert world.jobs.published == ["gc 1", "gc 2"]
    assert await world.entries() == []


async def test_stopping_does_not_wait_for_a_queue_that_is_away(world: World) -> None:
    world.jobs.is_connected = False
    world.notices.committed([await world.commit(said(1), entry_id="e1")])
    await world.notices.stop()
    assert world.jobs.tries == 1
    assert await world.entries() == ["e1"]


async def test_who_publishes_hears_that_the_queue_is_away(world: World) -> None:
    world.jobs.is_connected = False
    with pytest.raises(JobsUnavailable):
        await world.notices.publish([said(1)])


# ---- Who attended may have been dead.


async def test_the_newest_message_is_told_again_when_somebody_ceased_to_attend_soon_after_it(world: World) -> None:
    await world.notices.start()
    world.attend(BOB, CAROL)
    world.notices.committed([await world.commit(said(1), entry_id="e1")])
    await eventually(lambda: not world.notices.holds("e1"))
    assert world.jobs.published == []
    world.attendance.went(EDGE, C, BOB)
    world.clock.advance(29)
    world.notices.look_again(said(1))
    await eventually(lambda: world.told)
    assert world.told["gc 1"] == MessageNotice(said(1), (Recipient(BOB, 1, False),))


async def test_an_old_message_or_one_that_nobody_knows_is_not_looked_at_again(world: World) -> None:
    world.clock.advance(30)
    world.notices.look_again(said(1))
    world.notices.look_again(None)
    await world.notices.stop()
    assert world.jobs.tries == 0


async def test_of_a_conversation_only_the_newest_is_looked_at_again_and_who_has_read_it_hears_nothing(
    world: World,
) -> None:
    await world.commit(*map(said, range(1, 4)))
    await world.read(CAROL, 3)
    for seq in (2, 3, 1):
        world.notices.look_again(said(seq))
    await world.notices.stop()
    assert world.told == {"gc 3": MessageNotice(said(3), (Recipient(BOB, 3, False),))}


async def test_what_is_looked_at_again_waits_while_the_queue_is_away(world: World) -> None:
    await world.notices.start()
    world.jobs.is_connected = False
    world.notices.look_again(said(1))
    await eventually(lambda: world.jobs.tries > 1)
    world.jobs.is_connected = True
    await eventually(lambda: world.jobs.published == ["gc 1"])


async def test_conversations_beyond_the_bound_are_not_looked_at_again_and_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_AGAIN", 1)
    bounded = World(world.store)
    bounded.notices.look_again(said(1))
    bounded.notices.look_again(said(1, conversation=D))
    await bounded.notices.stop()
    assert bounded.jobs.published == ["gc 1"]
    assert bounded.count("notices_dropped", "again") == 1


# ---- What has been read.


async def test_reads_of_a_member_merge_to_the_furthest(world: World) -> None:
    for seq, head in ((3, 9), (7, 8), (5, 10)):
        world.notices.read(C, BOB, Seq(seq), head=Seq(head))
    world.notices.read(C, CAROL, Seq(1), head=Seq(1))
    world.notices.read(D, BOB, Seq(2), head=Seq(2))
    await world.notices.start()
    await eventually(lambda: world.told)
    assert list(world.told.values()) == [
        ReadNotice(C, BOB, Seq(7), 3),
        ReadNotice(C, CAROL, Seq(1), 0),
        ReadNotice(D, BOB, Seq(2), 0),
    ]
    await eventually(lambda: world.count("notices", "read") == 3)


async def test_a_read_beyond_a_head_that_is_behind_leaves_nothing_unread(world: World) -> None:
    world.notices.read(C, BOB, Seq(7), head=Seq(5))
    await world.notices.stop()
    assert list(world.told.values()) == [ReadNotice(C, BOB, Seq(7), 0)]


async def test_who_attends_owes_one_read_only(world: World) -> None:
    world.attend(BOB, head=5)
    await world.notices.start()
    world.notices.read(C, BOB, Seq(5), head=Seq(5))
    await eventually(lambda: world.jobs.published == ["gc read by bob to 5"])
    world.notices.read(C, BOB, Seq(6), head=Seq(6))
    world.notices.read(C, CAROL, Seq(6), head=Seq(6))
    await eventually(lambda: "gc read by carol to 6" in world.jobs.published)
    assert len(world.jobs.published) == 2


async def test_who_left_counts_as_having_read_everything_even_where_he_attended(world: World) -> None:
    world.attend(BOB, head=0)
    world.notices.read(C, BOB, Seq(1), head=Seq(1))
    world.notices.left(C, BOB, head=Seq(9))
    await world.notices.stop()
    assert list(world.told.values()) == [ReadNotice(C, BOB, Seq(9), 0)]


async def test_reads_wait_while_the_queue_is_away(world: World) -> None:
    await world.notices.start()
    world.jobs.is_connected = False
    world.notices.read(C, BOB, Seq(1), head=Seq(4))
    await eventually(lambda: world.jobs.tries > 1)
    world.notices.read(C, BOB, Seq(2), head=Seq(4))
    world.jobs.is_connected = True
    await eventually(lambda: world.jobs.published)
    assert world.jobs.published == ["gc read by bob to 2"]


async def test_reads_beyond_the_bound_are_dropped_and_counted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_WAITING_READS", 1)
    bounded = World(world.store)
    bounded.notices.read(C, BOB, Seq(1), head=Seq(1))
    bounded.notices.read(C, CAROL, Seq(1), head=Seq(1))
    bounded.notices.left(D, CAROL, head=Seq(1))
    bounded.notices.read(C, BOB, Seq(2), head=Seq(2))
    await bounded.notices.stop()
    assert bounded.jobs.published == ["gc read by bob to 2"]
    assert bounded.count("notices_dropped", "read") == 2
