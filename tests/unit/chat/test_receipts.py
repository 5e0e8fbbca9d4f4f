"""Watermarks: forwards only, told once durable, and cheap where nothing moves."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.chat.errors import BadRequest, NotAMember, StoreUnavailable
from services.chat.events import StatusMoved
from services.chat.lastread import Member
from services.chat.lastread.memory import MemoryLastRead
from services.chat.members import Members
from services.chat.model import (
    Conversation,
    ConversationId,
    ConversationType,
    Seq,
    UserId,
    WatermarkKind,
    Watermarks,
)
from services.chat.receipts import MAX_TOLD_MEMBERS, Move, Receipts
from services.chat.store.sqlite import SqliteStore
from services.runtime.clock import SystemClock
from services.runtime.errors import Internal, ServiceError
from services.runtime.metrics import Metrics
from tests.e2e.waiting import eventually
from tests.support.clock import ManualClock
from tests.unit.chat.fake_jobs import message_of

ALICE, BOB, EVE = UserId("alice"), UserId("bob"), UserId("eve")
C, CROWD = ConversationId("gc"), ConversationId("gcrowd")
DELIVERED, SEEN = WatermarkKind.DELIVERED, WatermarkKind.SEEN
HEAD = 9
NOW_MS = 1_790_000_000_000

Moves = Sequence[tuple[ConversationId, UserId, WatermarkKind, Seq]]


class Store(SqliteStore):
    """The SQLite store; remembers what it was asked to move, and fails or waits as told."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.asked: list[Moves] = []
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def move_watermarks(self, moves: Moves) -> Sequence[Watermarks | None]:
        self.asked.append(list(moves))
        await self.gate.wait()
        error, self.error = self.error, None
        if error is not None:
            raise error
        return await super().move_watermarks(moves)


class World:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.last_read = MemoryLastRead()
        self.announced: list[StatusMoved] = []
        self.read_notices: list[tuple[str, str, int, int]] = []
        self.members = Members(store, SystemClock())
        self.registry = CollectorRegistry()
        self.receipts = Receipts(
            store,
            self.members,
            self.last_read,
            self,
            self.announced.append,
            ManualClock(time_ms=NOW_MS),
            Metrics(self.registry),
        )

    def read(self, conversation_id: ConversationId, user_id: UserId, seq: Seq, *, head: Seq) -> None:
        self.read_notices.append((conversation_id, user_id, seq, head))

    async def move(
        self, user: UserId, kind: WatermarkKind, seq: int, conversation: ConversationId = C
    ) -> ServiceError | None:
        (outcome,) = await self.receipts.move([Move(conversation, user, kind, Seq(seq))])
        return outcome

    async def watermarks(self, user: UserId) -> Watermarks:
        membership = await self.store.find_membership(C, user)
        assert membership is not None
        return membership.watermarks

    async def known(self) -> Mapping[Member, Seq]:
        return await self.last_read.find([Member(C, ALICE), Member(C, BOB), Member(C, EVE)])


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    store = Store(str(tmp_path / "chat.db"))
    await store.start()
    await store.create(Conversation(C, ConversationType.GROUP, None, (ALICE, BOB), 0))
    crowd = tuple(UserId(f"u{n:02}") for n in range(MAX_TOLD_MEMBERS + 1))
    await store.create(Conversation(CROWD, ConversationType.GROUP, None, crowd, 0))
    for conversation in (C, CROWD):
        await store.append([message_of(conversation, seq, ALICE) for seq in range(1, HEAD + 1)], None)
    world = World(store)
    yield world
    store.gate.set()
    await world.receipts.close()
    await store.close()


async def test_a_read_is_durable_told_and_remembered_when_it_is_answered(world: World) -> None:
    assert await world.move(BOB, SEEN, 4) is None
    assert await world.watermarks(BOB) == Watermarks(Seq(4), Seq(4))
    assert world.announced == [StatusMoved(C, BOB, SEEN, Seq(4), NOW_MS)]
    assert world.read_notices == [(C, BOB, 4, HEAD)]
    assert await world.known() == {Member(C, BOB): 4}


async def test_a_delivery_is_told_to_the_watchers_and_to_nobody_else(world: World) -> None:
    assert await world.move(BOB, DELIVERED, 4) is None
    assert await world.watermarks(BOB) == Watermarks(Seq(4), Seq(0))
    assert world.announced == [StatusMoved(C, BOB, DELIVERED, Seq(4), NOW_MS)]
    assert world.read_notices == []
    assert await world.known() == {}


async def test_what_is_behind_is_no_news(world: World) -> None:
    await world.move(BOB, SEEN, 6)
    world.announced.clear()
    for seq in (5, 6):
        assert await world.move(BOB, DELIVERED, seq) is None
    assert await world.watermarks(BOB) == Watermarks(Seq(6), Seq(6))
    assert world.announced == []


async def test_who_has_read_that_far_before_costs_the_store_nothing(world: World) -> None:
    await world.move(BOB, SEEN, 6)
    await world.members.read(C)
    asked = len(world.store.asked)
    for seq in (6, 3):
        assert await world.move(BOB, SEEN, seq) is None
    assert len(world.store.asked) == asked
    assert len(world.announced) == 1
    assert world.registry.get_sample_value("parley_chat_watermarks_known_total") == 2


async def test_what_is_known_of_who_is_no_member_any_more_is_no_answer(world: World) -> None:
    await world.last_read.record({Member(C, EVE): Seq(9)})
    await world.members.read(C)
    assert isinstance(await world.move(EVE, SEEN, 3), NotAMember)


async def test_moves_of_one_member_that_wait_together_are_one(world: World) -> None:
    world.store.gate.clear()
    first = asyncio.create_task(world.move(BOB, DELIVERED, 1))
    await eventually(lambda: world.store.asked)
    later = asyncio.create_task(
        world.receipts.move([Move(C, BOB, SEEN, Seq(seq)) for seq in (3, 7, 5)] + [Move(C, ALICE, SEEN, Seq(2))])
    )
    await asyncio.sleep(0)  # until they wait
    world.store.gate.set()
    assert await first is None
    assert await later == [None] * 4
    assert world.store.asked[1] == [(C, BOB, SEEN, 7), (C, ALICE, SEEN, 2)]
    assert [(each.user_id, each.seq) for each in world.announced] == [(BOB, 1), (BOB, 7), (ALICE, 2)]


async def test_in_a_crowd_reads_are_told_and_deliveries_only_stored(world: World) -> None:
    assert await world.move(UserId("u00"), DELIVERED, 4, CROWD) is None
    assert world.announced == []
    membership = await world.store.find_membership(CROWD, UserId("u00"))
    assert membership is not None
    assert membership.watermarks == Watermarks(Seq(4), Seq(0))
    assert await world.move(UserId("u00"), SEEN, 5, CROWD) is None
    assert [each.seq for each in world.announced] == [5]


@pytest.mark.parametrize("seq", [0, HEAD + 1])
async def test_what_is_no_message_yet_is_refused_and_a_stranger_does_not_learn_the_head(world: World, seq: int) -> None:
    assert isinstance(await world.move(BOB, SEEN, seq), BadRequest)
    assert isinstance(await world.move(EVE, SEEN, seq), NotAMember)
    assert isinstance(await world.move(EVE, SEEN, 3), NotAMember)
    assert isinstance(await world.move(BOB, SEEN, 3, ConversationId("gnone")), NotAMember)
    assert (await world.watermarks(BOB), world.announced, world.read_notices) == (Watermarks(Seq(0), Seq(0)), [], [])


async def test_each_move_is_answered_at_its_place(world: World) -> None:
    outcomes = await world.receipts.move(
        [Move(C, EVE, SEEN, Seq(1)), Move(C, BOB, SEEN, Seq(1)), Move(C, ALICE, SEEN, Seq(HEAD + 1))]
    )
    assert [None if each is None else type(each) for each in outcomes] == [NotAMember, None, BadRequest]


async def test_what_could_not_be_written_is_refused_told_to_nobody_and_not_remembered(world: World) -> None:
    world.store.error = StoreUnavailable()
    assert isinstance(await world.move(BOB, SEEN, 4), StoreUnavailable)
    assert (world.announced, world.read_notices, await world.known()) == ([], [], {})
    assert await world.move(BOB, SEEN, 4) is None
    assert len(world.announced) == 1


async def test_a_bug_answers_everybody_and_stops_nothing(world: World) -> None:
    world.store.error = KeyError("a bug")
    assert isinstance(await world.move(BOB, SEEN, 4), Internal)
    assert await world.move(BOB, SEEN, 4) is None
