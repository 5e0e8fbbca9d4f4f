"""Fan-out in one replica: whatever hints are lost, late or repeated, each stream sees every message once, in order."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from protos.chat.v1 import chat_pb2
from services.chat.bus.memory import MemoryBus
from services.chat.convert import decode_events, encode_event
from services.chat.events import MemberRemoved, MessagesPassed
from services.chat.followers import Followers
from services.chat.members import Members
from services.chat.messages import Commit
from services.chat.model import Conversation, ConversationId, ConversationType, Message, Seq, UserId
from services.chat.store.sqlite import SqliteStore
from services.chat.streams import TopicStream
from services.chat.topics import Topics, Watch
from services.runtime.clock import SystemClock
from services.runtime.metrics import Metrics
from tests.e2e.waiting import eventually

ALICE, BOB, EVE = UserId("alice"), UserId("bob"), UserId("eve")
C = ConversationId("gc")


class Edge:
    """The other end of one topic stream: reads it all the time, and checks what every edge relies on."""

    def __init__(self, topics: Topics) -> None:
        self.topics = topics
        self.stream = TopicStream()
        self.reading = asyncio.create_task(self._read())
        self.watches: dict[int, Watch] = {}
        self.replayed: dict[int, list[int]] = {}
        self.joined: dict[int, int] = {}
        self.refused: dict[int, str] = {}
        self.denied: dict[int, list[str]] = {}
        self.removed: list[str] = []
        self.live: list[int] = []

    async def watch(self, *users: UserId, after: int | None = None) -> int:
        watch_id = len(self.watches) + 1
        watch = Watch(watch_id, C, users or (BOB,), None if after is None else Seq(after))
        self.watches[watch_id] = watch
        self.replayed[watch_id] = []
        await self.topics.watch(self.stream, watch)
        return watch_id

    async def _read(self) -> None:
        while raw := await self.stream.take():
            for event in chat_pb2.StreamTopicsResponse.FromString(raw).events:
                self._take(event)

    def _take(self, event: chat_pb2.TopicEvent) -> None:
        match event.WhichOneof("event"):
            case "messages":
                self.live.extend(message.seq for message in event.messages.messages)
            case "replay":
                assert event.replay.watch_id not in self.joined
                self.replayed[event.replay.watch_id].extend(message.seq for message in event.replay.messages)
            case "joined":
                self.joined[event.joined.watch_id] = event.joined.head_seq
                self.denied[event.joined.watch_id] = list(event.joined.denied_user_ids)
                # What is live from here on lies behind the head, and nothing lies between.
                assert not self.live or self.live[-1] == event.joined.head_seq
                if not self.live:
                    self.live = [event.joined.head_seq]
            case "refused":
                self.refused[event.refused.watch_id] = event.refused.refusal.reason
            case "member_removed":
                self.removed.append(event.member_removed.user_id)

    @property
    def head(self) -> int:
        return self.live[-1] if self.live else 0


class World:
    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.head = 0
        clock = SystemClock()
        self.members = Members(store, clock)
        bus = MemoryBus("test", replica_id="r1")
        metrics = Metrics(CollectorRegistry())
        self.topics = Topics(store, self.members, Followers(), bus, encode_event, decode_events, metrics)
        self.bus = bus
        self.edges: list[Edge] = []

    def edge(self) -> Edge:
        self.edges.append(Edge(self.topics))
        return self.edges[-1]

    async def store_messages(self, count: int = 1) -> list[Message]:
        messages = [
            Message(C, Seq(self.head + n), ALICE, f"k{self.head + n}", f"text {self.head + n}", "text", 0)
            for n in range(1, count + 1)
        ]
        await self.store.append(messages, None)
        self.head += count
        return messages

    async def commit(self, count: int = 1) -> None:
        self.topics.committed(Commit(await self.store_messages(count), None))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    store = SqliteStore(str(tmp_path / "chat.db"))
    await store.start()
    await store.create(Conversation(C, ConversationType.GROUP, None, (ALICE, BOB), 0))
    world = World(store)
    await world.bus.start(world.topics)
    await world.topics.start()
    yield world
    for edge in world.edges:
        edge.stream.close()
        await edge.reading
    await world.topics.stop()
    await world.bus.close()
    await store.close()


async def test_a_watch_without_a_position_joins_at_the_head(world: World) -> None:
    await world.commit(3)
    edge = world.edge()
    watch = await edge.watch()
    await world.commit(2)
    await eventually(lambda: edge.head == 5)
    assert (edge.joined[watch], edge.replayed[watch], edge.live) == (3, [], [3, 4, 5])


@pytest.mark.parametrize("after", [0, 1, 250, 499, 500, 9_999])
async def test_a_watch_with_a_position_is_replayed_exactly_what_came_after_it(world: World, after: int) -> None:
    await world.commit(500)
    edge = world.edge()
    watch = await edge.watch(after=after)
    await eventually(lambda: watch in edge.joined)
    assert edge.replayed[watch] == list(range(after + 1, 501))
    assert edge.joined[watch] == 500


async def test_nothing_is_missed_or_repeated_while_others_keep_sending(world: World) -> None:
    await world.commit(300)
    edge = world.edge()

    async def write() -> None:
        for _ in range(60):
            await world.commit(random.Random(3).randint(1, 5))

    writing = asyncio.create_task(write())
    watches = [await edge.watch(after=n * 60) for n in range(5)]
    await writing
    await eventually(lambda: edge.head == world.head)
    assert edge.live == list(range(edge.live[0], world.head + 1))
    for n, watch in enumerate(watches):
        assert edge.replayed[watch] == list(range(n * 60 + 1, edge.joined[watch] + 1))


async def test_a_stranger_is_refused_and_a_former_member_among_others_is_denied(world: World) -> None:
    edge = world.edge()
    stranger = await edge.watch(EVE)
    mixed = await edge.watch(BOB, EVE)
    await eventually(lambda: mixed in edge.joined)
    assert edge.refused == {stranger: "FORBIDDEN"}
    assert edge.denied[mixed] == ["eve"]


async def test_a_lost_hint_is_noticed_at_the_next_one_and_read_from_the_log(world: World) -> None:
    edge = world.edge()
    await edge.watch()
    await world.commit()
    await world.store_messages(4)  # another replica's, and its hint is lost
    await world.commit()
    await eventually(lambda: edge.head == 6)
    assert edge.live == [0, 1, 2, 3, 4, 5, 6]


async def test_after_deafness_every_watched_topic_is_checked_against_its_head(world: World) -> None:
    edge = world.edge()
    await edge.watch()
    await world.store_messages(3)
    world.topics.bus_was_deaf()
    await eventually(lambda: edge.head == 3)
    assert edge.live == [0, 1, 2, 3]


async def test_a_message_whose_writer_died_before_its_hint_is_found_by_the_regular_check(world: World) -> None:
    edge = world.edge()
    await edge.watch()
    await world.store_messages(1)
    await eventually(lambda: edge.head == 1)


async def test_after_an_uncertain_write_the_log_is_asked(world: World) -> None:
    edge = world.edge()
    await edge.watch()
    await world.store_messages(2)
    world.topics.uncertain([C])
    await eventually(lambda: edge.head == 2)


async def test_repeated_and_late_hints_change_nothing(world: World) -> None:
    edge = world.edge()
    await edge.watch()
    messages = await world.store_messages(5)
    for first, last in ((0, 3), (1, 2), (3, 5), (0, 5), (4, 5)):
        world.topics.bus_event(C, encode_event(MessagesPassed(C, messages[first:last])))
    await world.commit()
    await eventually(lambda: edge.head == 6)
    assert edge.live == [0, 1, 2, 3, 4, 5, 6]


async def test_a_removal_reaches_the_streams_that_watch_and_those_that_are_about_to(world: World) -> None:
    edge = world.edge()
    await edge.watch()
    world.topics.announce(MemberRemoved(C, BOB))
    await eventually(lambda: edge.removed == ["bob"])


async def test_an_unwatched_topic_sends_nothing_more(world: World) -> None:
    edge = world.edge()
    first = await edge.watch()
    await eventually(lambda: first in edge.joined)
    world.topics.unwatch(edge.stream, C)
    edge.live.clear()
    await world.commit(2)
    watch = await edge.watch()
    await eventually(lambda: watch in edge.joined)
    assert edge.joined[watch] == 2
    assert edge.live == [2]


async def test_a_stream_that_is_not_read_is_cut_off_and_holds_up_nobody(world: World) -> None:
    slow = TopicStream()
    await world.topics.watch(slow, Watch(1, C, (BOB,), None))
    edge = world.edge()
    await edge.watch()
    big = "x" * 16_000
    for seq in range(1, 2_301):  # beyond the bound of 32 MiB
        message = Message(C, Seq(seq), ALICE, f"k{seq}", big, "text", 0)
        world.topics.bus_event(C, encode_event(MessagesPassed(C, [message])))
        if seq % 100 == 0:
            await asyncio.sleep(0)
    assert slow.is_closed
    assert slow.waiting_bytes == 0
    await eventually(lambda: edge.head == 2_300)


@pytest.mark.parametrize("seed", range(25))
async def test_whatever_is_lost_every_stream_sees_one_gapless_sequence(world: World, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(40):
        match rng.randrange(6):
            case 0:
                await (world.edge() if len(world.edges) < 4 else rng.choice(world.edges)).watch(
                    after=rng.choice([None, rng.randint(0, world.head)])
                )
            case 1:
                await world.store_messages(rng.randint(1, 3))  # no hint
            case 2:
                messages = await world.store_messages(rng.randint(1, 4))
                late = encode_event(MessagesPassed(C, messages))
                asyncio.get_running_loop().call_later(rng.random() / 50, world.topics.bus_event, C, late)
            case 3:
                world.topics.bus_was_deaf()
            case _:
                await world.commit(rng.randint(1, 3))
    await world.commit()
    for edge in world.edges:
        await eventually(lambda edge=edge: edge.head == world.head)  # type: ignore[misc]  # bound at once
        assert edge.live == list(range(edge.live[0], world.head + 1))
        for watch_id, watch in edge.watches.items():
            start = watch.after_seq if watch.after_seq is not None else edge.joined[watch_id]
            assert edge.replayed[watch_id] == list(range(start + 1, edge.joined[watch_id] + 1))
