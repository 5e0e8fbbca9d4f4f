"""What follows from a commit, whatever dies or is away in between: nothing is left undone, and nothing is undone."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.chat import followup as module
from services.chat import notices as notices_module
from services.chat.activity import Activity
from services.chat.attendance import Attendance
from services.chat.convert import encode_activity, job_of
from services.chat.errors import JobsUnavailable, StoreUnavailable
from services.chat.followup import FollowUp
from services.chat.lastread import Member
from services.chat.lastread.memory import MemoryLastRead
from services.chat.members import Members
from services.chat.messages import Commit
from services.chat.model import Conversation, ConversationId, ConversationType, Message, Seq, UserId, Watermarks
from services.chat.notices import Notices
from services.chat.store import OutboxEntry
from services.chat.store.sqlite import SqliteStore
from services.runtime.clock import SystemClock
from services.runtime.metrics import Metrics
from tests.e2e.waiting import eventually
from tests.support.clock import ManualClock
from tests.unit.chat.fake_jobs import FakeJobs, message_of

ALICE, BOB, CAROL = UserId("alice"), UserId("bob"), UserId("carol")
C, D = ConversationId("gc"), ConversationId("gd")
NOW_MS = 1_790_000_100_000
# Just before anybody else may finish an entry.
YOUNG_MS = NOW_MS - module._SWEEP_AGE_MS


class Store(SqliteStore):
    """The SQLite store; what follows cannot be written while `is_away`."""

    is_away = False

    async def record_activity(self, latest: Sequence[Message]) -> None:
        if self.is_away:
            raise StoreUnavailable
        await super().record_activity(latest)


class Jobs(FakeJobs):
    """Counts how often somebody looks whether the queue is there."""

    def __init__(self) -> None:
        self.looks = 0
        super().__init__()

    @property
    def is_connected(self) -> bool:
        self.looks += 1
        return self._is_connected

    @is_connected.setter
    def is_connected(self, is_connected: bool) -> None:
        self._is_connected = is_connected


class World:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.jobs = Jobs()
        self.last_read = MemoryLastRead()
        self.attendance = Attendance()
        self.clock = ManualClock(time_ms=NOW_MS)
        self.registry = CollectorRegistry()
        metrics = Metrics(self.registry)
        members = Members(store, SystemClock())
        self.notices = Notices(store, members, self.attendance, self.jobs, job_of, self.clock, metrics)
        activity = Activity(None, encode_activity, metrics)
        self.followup = FollowUp(store, self.last_read, self.notices, self.jobs, activity, self.clock, metrics)

    async def start(self) -> None:
        await self.notices.start()
        await self.followup.start()

    async def commit(self, *messages: Message, entry_id: str, created_at_ms: int = NOW_MS) -> Commit:
        """Stores messages of one conversation with their entry, as `Messages` does."""
        of_all = ((messages[0].conversation_id, messages[0].seq, messages[-1].seq),)
        await self.store.append(messages, OutboxEntry(entry_id, created_at_ms, of_all))
        return Commit(messages, entry_id)

    async def entries(self) -> list[str]:
        return [each.entry_id for each in await self.store.read_entries(created_before_ms=NOW_MS + 1, limit=1_000)]

    async def watermarks(self, user: UserId) -> Watermarks:
        membership = await self.store.find_membership(C, user)
        assert membership is not None
        return membership.watermarks

    async def activity_of_newest(self) -> tuple[ConversationId, int]:
        ((at_ms, view),) = await self.store.read_page(ALICE, before=None, limit=1)
        return view.conversation.conversation_id, at_ms

    def messages_told(self) -> list[str]:
        return [job_id for job_id in self.jobs.published if "/read/" not in job_id]

    def count(self, name: str) -> float:
        return self.registry.get_sample_value(f"parley_chat_{name}_total") or 0


def said(seq: int, sender: UserId = ALICE, conversation: ConversationId = C) -> Message:
    return message_of(conversation, seq, sender)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(module, "_PACE_S", 0.01)
    monkeypatch.setattr(module, "_SWEEP_EVERY_S", 0.02)
    monkeypatch.setattr(notices_module, "_RETRY_S", 0.01)
    monkeypatch.setattr(notices_module, "_READ_PACE_S", 0.01)
    store = Store(str(tmp_path / "chat.db"))
    await store.start()
    for conversation in (C, D):
        await store.create(Conversation(conversation, ConversationType.GROUP, None, (ALICE, BOB, CAROL), 0))
    world = World(store)
    yield world
    world.jobs.gate.set()
    await world.followup.stop()
    await world.notices.stop()
    await store.close()


async def test_a_commit_ends_with_its_entry_when_everything_that_follows_is_done(world: World) -> None:
    await world.start()
    commit = await world.commit(said(1), said(2, BOB), said(3), entry_id="e1")
    world.followup.committed(commit)
    await eventually(lambda: len(world.messages_told()) == 3)
    await eventually(lambda: not world.notices.holds("e1"))
    assert await world.entries() == []
    assert await world.activity_of_newest() == (C, said(3).sent_at_ms)
    assert world.messages_told() == [said(seq).message_id for seq in (1, 2, 3)]


async def test_who_writes_has_read_up_to_his_own_message(world: World) -> None:
    await world.start()
    world.followup.committed(await world.commit(said(1), said(2, BOB), said(3), entry_id="e1"))
    await eventually(lambda: world.messages_told())
    assert await world.watermarks(ALICE) == Watermarks(Seq(3), Seq(3))
    assert await world.watermarks(BOB) == Watermarks(Seq(2), Seq(2))
    assert await world.watermarks(CAROL) == Watermarks(Seq(0), Seq(0))
    assert await world.last_read.find([Member(C, ALICE), Member(C, BOB)]) == {Member(C, ALICE): 3, Member(C, BOB): 2}
    await eventually(lambda: {"gc/read/alice/3", "gc/read/bob/2"} <= set(world.jobs.published))


async def test_who_wrote_all_that_he_has_read_by_writing_is_not_told_of(world: World) -> None:
    await world.last_read.record({Member(C, ALICE): Seq(1)})
    await world.commit(said(1, BOB), entry_id="earlier")
    await world.start()
    world.followup.committed(await world.commit(said(2), said(3), said(4, BOB), entry_id="e1"))
    await eventually(lambda: "gc/read/bob/4" in world.jobs.published)
    assert "gc/read/alice/3" not in world.jobs.published
    assert await world.watermarks(ALICE) == Watermarks(Seq(3), Seq(3))


async def test_what_cannot_be_written_is_left_to_the_sweeper_and_told_to_nobody_yet(world: World) -> None:
    await world.start()
    world.store.is_away = True
    world.followup.committed(await world.commit(said(1), entry_id="e1"))
    await eventually(lambda: world.count("followups_left") == 1)
    assert (await world.entries(), world.jobs.published) == (["e1"], [])
    world.store.is_away = False
    world.clock.advance(module._SWEEP_AGE_MS / 1000 + 1)
    await eventually(lambda: world.count("outbox_swept") == 1)
    assert await world.entries() == []
    assert world.messages_told() == [said(1).message_id]


async def test_the_sweeper_finishes_what_a_dead_replica_left(world: World) -> None:
    await world.commit(said(1), said(2), entry_id="dead", created_at_ms=YOUNG_MS - 1)
    await world.commit(said(1, BOB, D), entry_id="dead too", created_at_ms=YOUNG_MS - 1)
    await world.start()
    await eventually(lambda: world.count("outbox_swept") == 2)
    assert await world.entries() == []
    assert sorted(world.messages_told()) == [said(1).message_id, said(2).message_id, "gd-0000000001"]
    assert await world.watermarks(ALICE) == Watermarks(Seq(2), Seq(2))
    assert await world.activity_of_newest() == (C, said(2).sent_at_ms)


async def test_the_sweeper_leaves_what_is_young_to_whoever_wrote_it(world: World) -> None:
    await world.commit(said(1), entry_id="young", created_at_ms=YOUNG_MS)
    await world.commit(said(2), entry_id="old", created_at_ms=YOUNG_MS - 1)
    await world.start()
    await eventually(lambda: world.count("outbox_swept") == 1)
    assert await world.entries() == ["young"]
    world.clock.advance(0.001)
    await eventually(lambda: world.count("outbox_swept") == 2)


async def test_an_entry_that_names_messages_which_were_refused_is_finished_with_those_that_are_there(
    world: World,
) -> None:
    await world.store.append([said(1)], OutboxEntry("half", YOUNG_MS - 1, ((C, Seq(1), Seq(5)), (D, Seq(1), Seq(1)))))
    await world.start()
    await eventually(lambda: world.count("outbox_swept") == 1)
    assert world.messages_told() == [said(1).message_id]
    assert await world.entries() == []


async def test_an_entry_of_more_messages_than_a_page_is_told_whole(world: World) -> None:
    messages = [said(seq) for seq in range(1, 301)]  # as many as one commit may have
    await world.commit(*messages, entry_id="large", created_at_ms=YOUNG_MS - 1)
    await world.start()
    await eventually(lambda: world.count("outbox_swept") == 1)
    assert len(world.messages_told()) == 300


async def test_the_sweeper_leaves_what_this_replica_holds(world: World) -> None:
    world.jobs.gate.clear()
    await world.start()
    world.followup.committed(await world.commit(said(1), entry_id="held", created_at_ms=YOUNG_MS - 1))
    await eventually(lambda: world.notices.holds("held"))
    tries = world.jobs.tries
    await world.commit(said(2), entry_id="left", created_at_ms=YOUNG_MS - 1)
    await eventually(lambda: world.jobs.tries > tries, what="the sweeper publishes the other one")
    world.jobs.gate.set()
    await eventually(lambda: len(world.messages_told()) >= 2)
    await eventually(lambda: not world.notices.holds("held"))
    assert world.messages_told().count(said(1).message_id) == 1
    await eventually(lambda: world.count("outbox_swept") == 1)


async def test_while_the_queue_is_away_nothing_is_swept_and_afterwards_everything(world: World) -> None:
    world.jobs.is_connected = False
    await world.commit(said(1), entry_id="dead", created_at_ms=YOUNG_MS - 1)
    await world.start()
    await eventually(lambda: world.jobs.looks > 3)
    assert (await world.entries(), world.jobs.tries) == (["dead"], 0)
    world.jobs.is_connected = True
    await eventually(lambda: world.count("outbox_swept") == 1)
    assert world.messages_told() == [said(1).message_id]


@pytest.mark.parametrize("error", [JobsUnavailable(), KeyError("a bug")], ids=["away", "bug"])
async def test_what_fails_under_the_sweep_is_swept_again(world: World, error: Exception) -> None:
    world.jobs.bug = error
    await world.commit(said(1), entry_id="dead", created_at_ms=YOUNG_MS - 1)
    await world.start()
    await eventually(lambda: world.count("outbox_swept") == 1)
    assert world.messages_told() == [said(1).message_id]


async def test_more_commits_than_fit_are_left_to_the_sweeper(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_WAITING", 1)
    bounded = World(world.store)
    commits = [await bounded.commit(said(seq), entry_id=f"e{seq}") for seq in (1, 2, 3)]
    for commit in commits:
        bounded.followup.committed(commit)
    assert bounded.count("followups_left") >= 1
    await bounded.followup.stop()
    await bounded.notices.stop()
    left = int(bounded.count("followups_left"))
    assert await bounded.entries() == [f"e{seq}" for seq in range(4 - left, 4)]


async def test_stopping_finishes_what_was_committed(world: World) -> None:
    await world.start()
    for seq in (1, 2, 3):
        world.followup.committed(await world.commit(said(seq), entry_id=f"e{seq}"))
    await world.followup.stop()
    await world.notices.stop()
    assert await world.entries() == []
    assert len(world.messages_told()) == 3
