"""The writer of the log: numbering, idempotency and group commit, over a real store whose failures can be chosen."""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.chat.errors import ClientMessageIdReused, NotAMember, StoreUnavailable
from services.chat.members import Members
from services.chat.messages import Commit, Messages, Sent
from services.chat.model import (
    Conversation,
    ConversationId,
    ConversationType,
    Draft,
    Message,
    Seq,
    UserId,
)
from services.chat.store import Appended, OutboxEntry
from services.chat.store.sqlite import SqliteStore
from services.runtime.clock import SystemClock
from services.runtime.errors import ServiceError
from services.runtime.metrics import Metrics

ALICE, BOB, EVE = UserId("alice"), UserId("bob"), UserId("eve")
C, D = ConversationId("gc"), ConversationId("gd")


class FaultyStore(SqliteStore):
    """The SQLite store; `faults` are taken by the next appends, one each: before, or after, the real one."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.fail_before: deque[Exception | None] = deque()
        self.fail_after: deque[Exception | None] = deque()
        self.gate = asyncio.Event()
        self.gate.set()
        self.appends: list[int] = []
        self.appending = asyncio.Event()

    async def append(self, messages: Sequence[Message], outbox: OutboxEntry | None) -> Appended:
        if self.fail_before and (error := self.fail_before.popleft()) is not None:
            raise error
        self.appends.append(len(messages))
        self.appending.set()
        appended = await super().append(messages, outbox)
        await self.gate.wait()
        if self.fail_after and (error := self.fail_after.popleft()) is not None:
            raise error
        return appended


class Followers:
    def __init__(self) -> None:
        self.commits: list[Commit] = []
        self.uncertain_in: list[ConversationId] = []

    def committed(self, commit: Commit) -> None:
        self.commits.append(commit)

    def uncertain(self, conversation_ids: Sequence[ConversationId]) -> None:
        self.uncertain_in.extend(conversation_ids)

    @property
    def seqs(self) -> list[tuple[str, int]]:
        return [(message.conversation_id, message.seq) for commit in self.commits for message in commit.messages]


class Replica:
    def __init__(self, store: FaultyStore) -> None:
        self.store = store
        self.followers = Followers()
        clock = SystemClock()
        self.messages = Messages(store, Members(store, clock), self.followers, clock, Metrics(CollectorRegistry()))

    async def send(self, *drafts: Draft) -> Sequence[Sent | ServiceError]:
        return await self.messages.send(drafts)

    async def send_one(self, draft: Draft) -> Sent:
        (outcome,) = await self.send(draft)
        assert isinstance(outcome, Sent), outcome
        return outcome


def draft(key: str, content: str = "hello", *, sender: UserId = ALICE, conversation: ConversationId = C) -> Draft:
    return Draft(conversation, sender, key, content, "text")


@pytest.fixture
async def make_replica(tmp_path: Path) -> AsyncIterator[Callable[[], "asyncio.Future[Replica]"]]:
    stores: list[FaultyStore] = []
    replicas: list[Replica] = []

    async def make() -> Replica:
        store = FaultyStore(str(tmp_path / "chat.db"))
        await store.start()
        for conversation in (C, D):
            await store.create(Conversation(conversation, ConversationType.GROUP, None, (ALICE, BOB), 0))
        stores.append(store)
        replicas.append(Replica(store))
        return replicas[-1]

    yield lambda: asyncio.ensure_future(make())
    for replica in replicas:
        replica.store.gate.set()
        await replica.messages.close()
    for store in stores:
        await store.close()


Make = Callable[[], "asyncio.Future[Replica]"]


async def test_messages_are_numbered_from_one_in_the_order_they_were_sent(make_replica: Make) -> None:
    replica = await make_replica()
    outcomes = await replica.send(*(draft(f"k{n}") for n in range(5)))
    assert [each.message.seq for each in outcomes if isinstance(each, Sent)] == [1, 2, 3, 4, 5]


async def test_each_conversation_counts_for_itself(make_replica: Make) -> None:
    replica = await make_replica()
    await replica.send(draft("a"), draft("b", conversation=D), draft("c"))
    assert (await replica.send_one(draft("d", conversation=D))).message.seq == 2
    assert (await replica.send_one(draft("e"))).message.seq == 3


async def test_nobody_is_answered_before_the_message_is_durable(make_replica: Make) -> None:
    replica = await make_replica()
    replica.store.gate.clear()
    sending = asyncio.create_task(replica.send_one(draft("k")))
    await replica.store.appending.wait()
    await asyncio.sleep(0.02)
    assert not sending.done()
    assert replica.followers.commits == []
    replica.store.gate.set()
    assert (await sending).message.seq == 1
    assert replica.followers.seqs == [(C, 1)]


async def test_what_arrives_while_a_commit_is_under_way_leaves_in_one_batch(make_replica: Make) -> None:
    replica = await make_replica()
    replica.store.gate.clear()
    first = asyncio.create_task(replica.send_one(draft("first")))
    await replica.store.appending.wait()
    rest = [asyncio.create_task(replica.send_one(draft(f"k{n}"))) for n in range(50)]
    await asyncio.sleep(0.02)
    replica.store.gate.set()
    await asyncio.gather(first, *rest)
    assert replica.store.appends == [1, 50]


async def test_a_repeat_gets_the_original_answer_at_once_and_later(make_replica: Make) -> None:
    replica = await make_replica()
    first, twin = await replica.send(draft("k"), draft("k"))
    assert isinstance(first, Sent)
    assert isinstance(twin, Sent)
    later = await replica.send_one(draft("k"))
    assert first.message == twin.message == later.message
    assert (first.repeat, twin.repeat, later.repeat) == (False, True, True)
    assert (await replica.send_one(draft("next"))).message.seq == 2


async def test_a_repeat_at_another_replica_gets_the_original_answer(make_replica: Make) -> None:
    one, other = await make_replica(), await make_replica()
    original = await one.send_one(draft("k"))
    outcomes = await other.send(draft("a"), draft("k"), draft("b"))
    assert [each.message.seq for each in outcomes if isinstance(each, Sent)] == [2, 1, 3]
    repeat = outcomes[1]
    assert isinstance(repeat, Sent)
    assert repeat.repeat
    assert repeat.message == original.message


async def test_a_repeat_is_passed_on_again_in_case_its_writer_died_before_doing_so(make_replica: Make) -> None:
    one, other = await make_replica(), await make_replica()
    await one.send_one(draft("k"))
    await other.send_one(draft("k"))
    assert other.followers.seqs == [(C, 1)]


@pytest.mark.parametrize("at_once", [True, False])
async def test_the_same_key_with_another_body_is_a_conflict_and_changes_nothing(
    make_replica: Make, at_once: bool
) -> None:
    replica = await make_replica()
    if at_once:
        first, second = await replica.send(draft("k", "one"), draft("k", "two"))
    else:
        (first,), (second,) = await replica.send(draft("k", "one")), await replica.send(draft("k", "two"))
    assert isinstance(first, Sent)
    assert isinstance(second, ClientMessageIdReused)
    assert [m.content for m in await replica.store.read_after(C, Seq(0), limit=10)] == ["one"]


async def test_another_users_same_key_is_another_message(make_replica: Make) -> None:
    replica = await make_replica()
    await replica.send_one(draft("k"))
    assert (await replica.send_one(draft("k", sender=BOB))).message.seq == 2


async def test_a_stranger_and_a_conversation_that_is_not_there_get_the_same_refusal(make_replica: Make) -> None:
    replica = await make_replica()
    stranger, nowhere, member = await replica.send(
        draft("k", sender=EVE), draft("k", conversation=ConversationId("gx")), draft("k")
    )
    assert isinstance(stranger, NotAMember)
    assert isinstance(nowhere, NotAMember)
    assert str(stranger) == str(nowhere)
    assert isinstance(member, Sent)


async def test_an_unknown_outcome_is_told_as_unavailable_and_resolved_by_the_repeat(make_replica: Make) -> None:
    replica = await make_replica()
    replica.store.fail_after.append(StoreUnavailable())  # stored, but nobody learns of it
    (outcome,) = await replica.send(draft("k"))
    assert isinstance(outcome, StoreUnavailable)
    assert replica.followers.uncertain_in == [C]
    repeat = await replica.send_one(draft("k"))
    assert (repeat.message.seq, repeat.repeat) == (1, True)
    assert (await replica.send_one(draft("next"))).message.seq == 2


async def test_what_follows_a_given_up_draft_of_the_same_request_is_given_up_too(make_replica: Make) -> None:
    replica = await make_replica()
    replica.store.gate.clear()
    blocker = asyncio.create_task(replica.send_one(draft("blocker")))
    await replica.store.appending.wait()
    replica.store.fail_before.append(StoreUnavailable())
    # More than one batch of the same conversation in one request: the first fails, the second must not overtake it.
    sending = asyncio.create_task(replica.send(*(draft(f"k{n}") for n in range(400))))
    await asyncio.sleep(0.02)
    replica.store.gate.set()
    await blocker
    outcomes = await sending
    assert all(isinstance(each, StoreUnavailable) for each in outcomes)
    again = await replica.send(*(draft(f"k{n}") for n in range(400)))
    assert [each.message.seq for each in again if isinstance(each, Sent)] == list(range(2, 402))


async def test_a_caller_that_goes_away_does_not_stop_the_commit(make_replica: Make) -> None:
    replica = await make_replica()
    replica.store.gate.clear()
    sending = asyncio.create_task(replica.send_one(draft("k")))
    await replica.store.appending.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    replica.store.gate.set()
    await replica.messages.close()
    assert replica.followers.seqs == [(C, 1)]


async def test_replicas_that_race_for_one_conversation_leave_no_hole_and_no_repeat(make_replica: Make) -> None:
    replicas = [await make_replica() for _ in range(3)]
    rng = random.Random(7)

    async def sender(name: str) -> None:
        for n in range(20):
            # Now and then twice at the same moment through two replicas.
            copies = rng.sample(replicas, 1 + (rng.random() < 0.3))
            sent = await asyncio.gather(*(replica.send_one(draft(f"{name}-{n}", f"{name} {n}")) for replica in copies))
            assert len({each.message.seq for each in sent}) == 1

    await asyncio.gather(*(sender(f"s{n}") for n in range(8)))
    stored = await replicas[0].store.read_after(C, Seq(0), limit=1000)
    assert [message.seq for message in stored] == list(range(1, 161))
    assert len({message.client_message_id for message in stored}) == 160
    for name in range(8):  # each sender's own order is kept
        mine = [m.client_message_id for m in stored if m.client_message_id.startswith(f"s{name}-")]
        assert mine == [f"s{name}-{n}" for n in range(20)]


async def test_every_commit_leaves_an_outbox_entry_that_names_its_messages(make_replica: Make) -> None:
    replica = await make_replica()
    await replica.send(draft("a"), draft("b", conversation=D), draft("c"))
    (entry,) = await replica.store.read_entries(created_before_ms=1 << 50, limit=10)
    assert sorted(entry.ranges) == [(C, 1, 2), (D, 1, 1)]
    assert replica.followers.commits[0].entry_id == entry.entry_id
