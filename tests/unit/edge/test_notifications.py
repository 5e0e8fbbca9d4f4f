"""What connected users are told of conversations that they do not watch, over any of notify's replicas."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from edge import notifications as module
from edge import streams
from edge.attendance import Attendance
from edge.clients import WatchRequest
from edge.clients.notify import NewMessage, UnreadChanged
from edge.hub import EncodedEvent, EncodedMessage, Hub
from edge.model import ConversationId, Seq, UserId, WatermarkKind
from edge.notifications import Notifications
from edge.users import Users
from services.runtime.errors import ServiceError, Unavailable
from services.runtime.metrics import Metrics
from services.runtime.tasks import Tasks
from tests.e2e.waiting import eventually
from tests.unit.edge.fake_streams import FakeReplicas, Open
from tests.unit.edge.sessions import FakeSession

ALICE, BOB = UserId("alice"), UserId("bob")
C, D = ConversationId("gc"), ConversationId("gd")
NEWS = NewMessage(C, "gc-0000000007", Seq(7), ALICE, "hello th", 3)


class FakeCall:
    """What is used of `NotificationCall`: what goes up stays here; it is open until a test ends it."""

    made: list["FakeCall"]

    def __init__(self, replica: Any) -> None:
        self.replica = replica
        self.attached: dict[UserId, bool] = {}
        self.opened: list[Open] = []
        self.made.append(self)

    def attach(self, user_id: UserId, *, attached: bool) -> None:
        self.attached[user_id] = attached

    def forget(self) -> None:
        self.attached.clear()

    async def run(self, listener: Notifications) -> None:
        self.opened.append(Open())
        await self.opened[-1].follow()


class FakeClient:
    def stub(self, replica: Any) -> Any:
        return replica


class World:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        metrics = Metrics(self.registry)
        self.replicas = FakeReplicas("n1", "n2")
        self.users = Users(metrics)
        self.tasks = Tasks()
        self.said: list[tuple[ConversationId, UserId, bool]] = []
        self.attendance = Attendance(self.users, self._say)
        client: Any = FakeClient()
        replicas: Any = self.replicas
        self.notifications = Notifications(client, replicas, self.users, self.attendance, self.tasks, metrics)

    def _say(self, conversation_id: ConversationId, user_id: UserId, *, attends: bool) -> None:
        self.said.append((conversation_id, user_id, attends))

    def connect(self, user: UserId = BOB, *watching: ConversationId) -> FakeSession:
        session = FakeSession(user, set(watching))
        self.users.enter(session)
        return session

    @property
    def calls(self) -> Any:
        """The streams, oldest first; they stand in for `NotificationCall`s."""
        return FakeCall.made


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(streams, "_REOPEN_S", (0.001, 0.01))
    monkeypatch.setattr(module, "NotificationCall", FakeCall)
    monkeypatch.setattr(FakeCall, "made", [], raising=False)
    world = World()
    await world.notifications.start()
    yield world
    await world.notifications.stop()
    assert world.tasks.failure is None
    await world.tasks.stop()


def told(session: FakeSession) -> list[tuple[str, dict[str, Any]]]:
    return [(event_id, json.loads(body)) for event_id, body in session.told]


# ---- Who is attached where.


async def test_every_user_is_attached_to_every_replica_for_as_long_as_he_has_a_connection(world: World) -> None:
    first, second = world.connect(), world.connect()
    world.connect(ALICE)
    assert [call.attached for call in world.calls] == [{BOB: True, ALICE: True}] * 2
    world.users.leave(first)
    assert [call.attached for call in world.calls] == [{BOB: True, ALICE: True}] * 2
    world.users.leave(second)
    assert [call.attached for call in world.calls] == [{BOB: False, ALICE: True}] * 2


async def test_a_replica_that_comes_later_has_everybody_attached(world: World) -> None:
    world.connect()
    world.users.leave(world.connect(ALICE))
    world.replicas.add("n3")
    assert [call.attached for call in world.calls][2] == {BOB: True}


async def test_a_stream_that_broke_attaches_everybody_again(world: World) -> None:
    world.connect()
    first = world.calls[0]
    await eventually(lambda: first.opened)
    first.attached.clear()  # it went up
    first.opened[-1].end(Unavailable())
    await eventually(lambda: len(first.opened) == 2)
    assert first.attached == {BOB: True}


async def test_the_stream_to_a_replica_that_is_gone_is_closed(world: World) -> None:
    world.replicas.set_up(world.replicas.all[0], is_up=False)
    await eventually(lambda: len(world.tasks) == 1)
    world.connect()
    assert [call.attached for call in world.calls] == [{}, {BOB: True}]


# ---- Elsewhere.


async def test_who_is_elsewhere_as_any_replica_says_has_no_only_connection(world: World) -> None:
    session = world.connect()
    one, other = world.calls
    world.notifications.elsewhere(one, BOB, elsewhere=True)
    world.notifications.elsewhere(other, BOB, elsewhere=True)
    assert world.users.find_only(BOB) is None
    world.notifications.elsewhere(one, BOB, elsewhere=False)
    world.notifications.elsewhere(one, BOB, elsewhere=False)
    assert world.users.find_only(BOB) is None
    world.notifications.elsewhere(other, BOB, elsewhere=False)
    assert world.users.find_only(BOB) is session


async def test_what_a_replica_said_ends_with_its_stream(world: World) -> None:
    session = world.connect()
    one, other = world.calls
    await eventually(lambda: one.opened)
    await eventually(lambda: other.opened)
    world.notifications.elsewhere(one, BOB, elsewhere=True)
    other.opened[-1].end()
    await eventually(lambda: len(other.opened) == 2)
    assert world.users.find_only(BOB) is None
    one.opened[-1].end()
    await eventually(lambda: world.users.find_only(BOB) is session)


async def test_what_a_replica_said_ends_with_it(world: World) -> None:
    session = world.connect()
    one, other = world.calls
    for call in (one, other):
        world.notifications.elsewhere(call, BOB, elsewhere=True)
    world.replicas.set_up(world.replicas.all[0], is_up=False)
    assert world.users.find_only(BOB) is None
    world.notifications.elsewhere(other, BOB, elsewhere=False)
    assert world.users.find_only(BOB) is session


async def test_who_comes_back_is_not_elsewhere_because_he_was(world: World) -> None:
    session = world.connect()
    world.notifications.elsewhere(world.calls[0], BOB, elsewhere=True)
    world.users.leave(session)
    world.users.enter(session)
    assert world.users.find_only(BOB) is session


async def test_a_word_that_comes_late_is_not_kept_of_who_has_left(world: World) -> None:
    session = world.connect()
    one, other = world.calls
    world.users.leave(session)
    world.notifications.elsewhere(one, BOB, elsewhere=True)
    world.users.enter(session)
    world.notifications.elsewhere(other, BOB, elsewhere=False)
    assert world.users.find_only(BOB) is session
    assert not world.notifications._elsewhere


# ---- What users are told.


async def test_a_new_message_is_told_on_each_connection_that_does_not_watch(world: World) -> None:
    watches, watches_another, watches_nothing = world.connect(BOB, C), world.connect(BOB, D), world.connect()
    other = world.connect(ALICE)
    world.notifications.new_message(BOB, NEWS)
    expected = (
        "gc-0000000007",
        {
            "event": "notification",
            "conversationId": "gc",
            "messageId": "gc-0000000007",
            "seq": 7,
            "senderId": "alice",
            "preview": "hello th",
            "unreadCount": 3,
        },
    )
    assert told(watches_another) == told(watches_nothing) == [expected]
    assert told(watches) == told(other) == []


async def test_an_unread_count_is_told_on_every_connection(world: World) -> None:
    sessions = [world.connect(BOB, C), world.connect(BOB)]
    world.notifications.unread_changed(BOB, UnreadChanged(C, 2, Seq(5)))
    for session in sessions:
        ((_, body),) = told(session)
        assert body == {"event": "unread", "conversationId": "gc", "unreadCount": 2, "readSeq": 5}


async def test_an_unread_count_that_comes_late_takes_nobody_back(world: World) -> None:
    session = world.connect()
    for conversation_id, read_seq in ((C, 7), (C, 5), (D, 5), (C, 7), (C, 8)):
        world.notifications.unread_changed(BOB, UnreadChanged(conversation_id, 10 - read_seq, Seq(read_seq)))
    assert [(body["conversationId"], body["readSeq"]) for _, body in told(session)] == [(C, 7), (D, 5), (C, 7), (C, 8)]


async def test_what_comes_for_who_is_gone_is_told_to_nobody(world: World) -> None:
    session = world.connect()
    world.users.leave(session)
    world.notifications.new_message(BOB, NEWS)
    world.notifications.unread_changed(BOB, UnreadChanged(C, 2, Seq(5)))
    assert session.told == []


# ---- What the hub says.


class Subscriber:
    """A subscription of the hub that is live at once."""

    is_active = True

    def __init__(self, user_id: UserId) -> None:
        self.user_id = user_id

    def deliver(self, messages: list[EncodedMessage]) -> None: ...

    def deliver_event(self, event: EncodedEvent) -> None: ...

    def joined(self, head: Seq) -> None: ...

    def refused(self, error: ServiceError) -> None: ...


class Upstream:
    """Chat, which answers when a test says so."""

    def __init__(self) -> None:
        self.asked: list[WatchRequest] = []

    def watch(self, request: WatchRequest) -> None:
        self.asked.append(request)

    def unwatch(self, conversation_id: ConversationId) -> None: ...


@pytest.fixture
def hub(world: World) -> Hub:
    """A hub that has joined `C` at the head 9."""
    hub = Hub(Metrics(CollectorRegistry()))
    upstream = Upstream()
    hub.connect(upstream)
    hub.listen(world.notifications)
    subscriber: Any = Subscriber(BOB)
    hub.subscribe(C, subscriber, None)
    hub.joined(upstream.asked[0].watch_id, Seq(9), ())
    return hub


async def test_who_attends_is_told_of_his_own_reading_from_the_status_event(world: World, hub: Hub) -> None:
    session = world.connect(BOB, C)
    hub.status(C, BOB, WatermarkKind.SEEN, Seq(7), 0)
    ((_, body),) = told(session)
    assert body == {"event": "unread", "conversationId": "gc", "unreadCount": 2, "readSeq": 7}
    hub.status(C, BOB, WatermarkKind.SEEN, Seq(11), 0)  # before the messages
    assert told(session)[1][1]["unreadCount"] == 0


async def test_who_does_not_attend_hears_of_his_reading_from_notify_alone(world: World, hub: Hub) -> None:
    watches, does_not = world.connect(BOB, C), world.connect(BOB)
    hub.status(C, BOB, WatermarkKind.SEEN, Seq(7), 0)
    assert watches.told == does_not.told == []


async def test_neither_a_delivery_nor_another_ones_reading_changes_what_is_unread(world: World, hub: Hub) -> None:
    session = world.connect(BOB, C)
    hub.status(C, BOB, WatermarkKind.DELIVERED, Seq(7), 0)
    hub.status(C, ALICE, WatermarkKind.SEEN, Seq(7), 0)
    hub.status(D, BOB, WatermarkKind.SEEN, Seq(7), 0)
    assert session.told == []


async def test_a_conversation_that_chat_has_again_has_those_who_attend_told_again(world: World, hub: Hub) -> None:
    world.connect(BOB, C)
    assert world.said == [(C, BOB, True)]
    hub.upstream_lost([C])
    upstream: Any = hub.upstream
    hub.joined(upstream.asked[-1].watch_id, Seq(9), ())
    assert world.said == [(C, BOB, True)] * 2
