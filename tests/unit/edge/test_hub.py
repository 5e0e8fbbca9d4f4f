"""The hub against a chat that breaks, skips, moves and repeats: every subscription still sees one gapless sequence."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from prometheus_client import CollectorRegistry

from edge.clients import WatchRequest
from edge.hub import EncodedEvent, EncodedMessage, Hub
from edge.model import ConversationId, Message, Seq, UserId, WatermarkKind
from services.runtime.errors import Forbidden, ServiceError, Unavailable
from services.runtime.metrics import Metrics
from tests.e2e.waiting import eventually

C = ConversationId("c1")


def message(seq: int) -> Message:
    return Message(f"{C}-{seq:010d}", C, Seq(seq), UserId("alice"), f"k{seq}", f"text {seq}", "text", 0)


@dataclass(eq=False)
class Recorder:
    """A subscriber that writes down what it is given; drops, as a subscription does, what it has had."""

    user_id: UserId
    after: int | None
    is_active: bool = True
    seqs: list[int] = field(default_factory=list)
    head: int | None = None
    events: list[EncodedEvent] = field(default_factory=list)
    refusals: list[ServiceError] = field(default_factory=list)

    def deliver(self, messages: Sequence[EncodedMessage]) -> None:
        last = self.seqs[-1] if self.seqs else (self.head if self.head is not None else self.after) or 0
        self.seqs.extend(each.message.seq for each in messages if each.message.seq > last)

    def deliver_event(self, event: EncodedEvent) -> None:
        self.events.append(event)

    def joined(self, head: Seq) -> None:
        self.head = head

    def refused(self, error: ServiceError) -> None:
        self.refusals.append(error)


class Chat:
    """A chat replica as the hub sees it, one step at a time: a log, and per stream the watches it joined."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.head = 0
        self.asked: list[WatchRequest] = []
        self.joined = False
        self.unwatched: list[ConversationId] = []
        self.sent = 0

    def watch(self, request: WatchRequest) -> None:
        self.asked.append(request)

    def unwatch(self, conversation_id: ConversationId) -> None:
        self.unwatched.append(conversation_id)
        self.joined = False

    def answer(self, denied: Sequence[UserId] = ()) -> None:
        """Replays and joins the oldest watch."""
        self.catch_up()
        request = self.asked.pop(0)
        if request.after is not None and request.after < self.head:
            middle = (request.after + self.head + 1) // 2
            for first, last in ((request.after + 1, middle), (middle + 1, self.head)):
                if first <= last:
                    self.hub.replay(request.watch_id, [message(seq) for seq in range(first, last + 1)])
        self.joined, self.sent = True, self.head
        self.hub.joined(request.watch_id, Seq(self.head), denied)

    def store(self, count: int = 1) -> None:
        self.head += count

    def catch_up(self) -> None:
        """Sends what is stored to the topic, if anybody has joined it."""
        if self.joined and self.sent < self.head:
            self.hub.messages(C, [message(seq) for seq in range(self.sent + 1, self.head + 1)])
            self.sent = self.head

    def break_stream(self) -> None:
        self.asked.clear()
        self.joined = False
        self.hub.upstream_lost([C])


@pytest.fixture
def chat() -> Chat:
    hub = Hub(Metrics(CollectorRegistry()))
    chat = Chat(hub)
    hub.connect(chat)
    return chat


def subscribe(chat: Chat, user: str = "bob", after: int | None = None) -> Recorder:
    recorder = Recorder(UserId(user), after)
    chat.hub.subscribe(C, recorder, None if after is None else Seq(after))
    return recorder


def test_a_subscription_without_a_position_starts_live(chat: Chat) -> None:
    chat.store(5)
    bob = subscribe(chat)
    chat.answer()
    chat.store(2)
    chat.catch_up()
    assert (bob.head, bob.seqs) == (5, [6, 7])


def test_a_subscription_with_a_position_gets_what_came_after_it_and_then_live(chat: Chat) -> None:
    chat.store(5)
    bob = subscribe(chat, after=2)
    chat.answer()
    chat.store()
    chat.catch_up()
    assert (bob.head, bob.seqs) == (5, [3, 4, 5, 6])


def test_a_replay_goes_only_to_the_subscription_that_asked(chat: Chat) -> None:
    bob = subscribe(chat)
    chat.answer()
    chat.store(3)
    chat.catch_up()
    carol = subscribe(chat, "carol", after=0)
    chat.answer()
    assert bob.seqs == carol.seqs == [1, 2, 3]


def test_a_broken_stream_is_resumed_from_the_last_seq_without_a_gap(chat: Chat) -> None:
    bob = subscribe(chat)
    chat.answer()
    chat.store(2)
    chat.catch_up()
    chat.break_stream()
    chat.store(3)
    assert [request.after for request in chat.asked] == [2]
    chat.answer()
    chat.store()
    chat.catch_up()
    assert bob.seqs == [1, 2, 3, 4, 5, 6]


def test_a_skipped_message_is_read_again_and_nothing_overtakes_it(chat: Chat) -> None:
    bob = subscribe(chat)
    chat.answer()
    chat.store(5)
    chat.sent = 3  # 1 to 3 are lost on the way
    chat.catch_up()
    assert bob.seqs == []
    chat.answer()
    assert bob.seqs == [1, 2, 3, 4, 5]


def test_a_repeated_batch_is_delivered_once(chat: Chat) -> None:
    bob = subscribe(chat)
    chat.answer()
    chat.store(3)
    chat.catch_up()
    chat.hub.messages(C, [message(2), message(3), message(4)])
    assert bob.seqs == [1, 2, 3, 4]


def test_a_pending_subscription_survives_a_broken_stream(chat: Chat) -> None:
    chat.store(4)
    bob = subscribe(chat, after=1)
    chat.break_stream()
    chat.answer()
    assert (bob.head, bob.seqs) == (4, [2, 3, 4])


def test_a_removed_member_hears_nothing_more_and_is_told(chat: Chat) -> None:
    bob, carol = subscribe(chat), subscribe(chat, "carol")
    chat.answer()
    chat.answer()
    chat.hub.member_removed(C, UserId("bob"))
    chat.store()
    chat.catch_up()
    assert bob.seqs == []
    assert isinstance(bob.refusals[0], Forbidden)
    assert carol.seqs == [1]


def test_a_member_removed_while_his_watch_is_under_way_is_refused(chat: Chat) -> None:
    bob = subscribe(chat)
    chat.hub.member_removed(C, UserId("bob"))
    chat.answer()
    chat.store()
    chat.catch_up()
    assert bob.seqs == []
    assert isinstance(bob.refusals[0], Forbidden)


def test_a_member_removed_while_the_stream_was_broken_is_refused_when_it_resumes(chat: Chat) -> None:
    bob, carol = subscribe(chat), subscribe(chat, "carol")
    chat.answer()
    chat.answer()
    chat.break_stream()
    assert sorted(chat.asked[0].user_ids) == ["bob", "carol"]
    chat.answer(denied=[UserId("bob")])
    chat.store()
    chat.catch_up()
    assert isinstance(bob.refusals[0], Forbidden)
    assert carol.seqs == [1]


def test_the_topic_is_unwatched_when_the_last_subscription_ends_and_not_before(chat: Chat) -> None:
    bob, carol = subscribe(chat), subscribe(chat, "carol")
    chat.answer()
    bob.is_active = False
    chat.hub.unsubscribe(C, bob)
    assert chat.unwatched == []  # carol's watch is under way
    chat.answer()
    chat.hub.unsubscribe(C, carol)
    assert chat.unwatched == [C]


def test_an_unsubscribed_watch_is_unwatched_once_chat_has_answered_it(chat: Chat) -> None:
    bob = subscribe(chat)
    bob.is_active = False
    chat.hub.unsubscribe(C, bob)
    assert chat.unwatched == []
    chat.answer()
    assert bob.head is None
    assert chat.unwatched == [C]


def test_a_refused_watch_is_told_to_its_subscriber(chat: Chat) -> None:
    bob = subscribe(chat)
    chat.hub.refused(chat.asked.pop().watch_id, Forbidden())
    assert isinstance(bob.refusals[0], Forbidden)
    assert chat.unwatched == [C]


async def test_a_repair_that_chat_cannot_do_now_is_asked_again_later(chat: Chat) -> None:
    bob = subscribe(chat)
    chat.answer()
    chat.break_stream()
    chat.hub.refused(chat.asked.pop().watch_id, Unavailable())
    assert chat.asked == []
    assert bob.refusals == []
    await eventually(lambda: len(chat.asked) == 1)
    chat.store()
    chat.answer()
    assert bob.seqs == [1]


def test_typing_is_not_told_to_whoever_types(chat: Chat) -> None:
    bob, carol = subscribe(chat), subscribe(chat, "carol")
    chat.answer()
    chat.answer()
    chat.hub.typing(C, UserId("bob"), typing=True)
    chat.hub.status(C, UserId("bob"), WatermarkKind.SEEN, Seq(1), 0)
    assert (len(bob.events), len(carol.events)) == (1, 2)


def test_a_status_that_another_replica_tells_late_takes_nobody_back(chat: Chat) -> None:
    bob = subscribe(chat)
    chat.answer()
    dan = UserId("dan")
    for kind, seq in (
        (WatermarkKind.DELIVERED, 3),
        (WatermarkKind.DELIVERED, 2),
        (WatermarkKind.SEEN, 2),
        (WatermarkKind.SEEN, 5),
        (WatermarkKind.SEEN, 4),
        (WatermarkKind.DELIVERED, 4),
        (WatermarkKind.DELIVERED, 6),
    ):
        chat.hub.status(C, dan, kind, Seq(seq), 0)
    chat.hub.status(C, UserId("eve"), WatermarkKind.SEEN, Seq(1), 0)
    assert len(bob.events) == 5


@pytest.mark.parametrize("seed", range(200))
def test_whatever_happens_upstream_every_subscription_sees_one_gapless_sequence(chat: Chat, seed: int) -> None:
    rng = random.Random(seed)
    recorders: list[Recorder] = []
    for _ in range(60):
        match rng.randrange(8):
            case 0:
                after = rng.choice([None, rng.randint(0, chat.head + 2)])
                recorders.append(subscribe(chat, rng.choice(["bob", "carol"]), after))
            case 1 if chat.asked:
                chat.answer()
            case 2:
                chat.break_stream()
            case 3 if chat.joined and chat.sent < chat.head:
                chat.sent = rng.randint(chat.sent, chat.head - 1)  # lost on the way
                chat.catch_up()
            case 4 if recorders:
                leaving = rng.choice(recorders)
                leaving.is_active = False
                chat.hub.unsubscribe(C, leaving)
            case 5 if chat.head:
                repeated = range(1, rng.randint(1, chat.head) + 1)
                chat.hub.messages(C, [message(seq) for seq in repeated])
            case _:
                chat.store(rng.randint(1, 3))
                if rng.random() < 0.7:
                    chat.catch_up()
    chat.store()
    chat.catch_up()
    while chat.asked:
        chat.answer()
    for recorder in recorders:
        if recorder.seqs:
            assert recorder.seqs == list(range(recorder.seqs[0], recorder.seqs[-1] + 1))
            if recorder.after is not None:
                # A position beyond the head is the head.
                start = recorder.after if recorder.head is None else min(recorder.after, recorder.head)
                assert recorder.seqs[0] == start + 1
        if recorder.is_active:
            assert recorder.head is not None
            assert max(recorder.head, recorder.seqs[-1] if recorder.seqs else 0) == chat.head
