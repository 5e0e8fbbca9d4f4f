"""The contract of `services.chat.bus.Bus`: one suite, both buses."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import uuid4

import pytest

from services.chat.bus import Bus, open_bus
from services.chat.model import ConversationId
from tests.e2e.waiting import eventually

TOPIC = ConversationId("topic")
OTHER = ConversationId("other")


class Recorder:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[ConversationId, bytes]] = []
        self.deaf = 0

    def bus_event(self, conversation_id: ConversationId, event: bytes) -> None:
        self.events.append((conversation_id, event))

    def bus_was_deaf(self) -> None:
        self.deaf += 1


class Replica:
    """A started bus, what it heard, and topics of its test alone (the broker is shared)."""

    def __init__(self, bus: Bus, namespace: str) -> None:
        self.bus = bus
        self._namespace = namespace
        self._recorder = Recorder()

    @property
    def listener(self) -> Recorder:
        return self._recorder

    @property
    def deaf(self) -> int:
        return self._recorder.deaf

    @property
    def dropped(self) -> int:
        dropped = getattr(self.bus, "dropped", None)
        assert isinstance(dropped, int)
        return dropped

    def heard(self, topic: ConversationId = TOPIC) -> list[bytes]:
        return [event for conversation_id, event in self._recorder.events if conversation_id == self._id(topic)]

    async def subscribe(self, topic: ConversationId = TOPIC) -> None:
        await self.bus.subscribe(self._id(topic))

    def unsubscribe(self, topic: ConversationId = TOPIC) -> None:
        self.bus.unsubscribe(self._id(topic))

    def publish(self, event: bytes, topic: ConversationId = TOPIC) -> None:
        self.bus.publish(self._id(topic), event)

    def _id(self, topic: ConversationId) -> ConversationId:
        return ConversationId(f"{self._namespace}-{topic}")


Open = Callable[..., Awaitable[Replica]]


@pytest.fixture(params=["memory", "redis"])
def bus_url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return f"memory://{uuid4().hex}"
    url = request.getfixturevalue("redis_url")
    assert isinstance(url, str)
    return url


@pytest.fixture
async def open_replica(bus_url: str) -> AsyncIterator[Open]:
    """Opens and starts buses, closes them afterwards and looks for what they left behind."""
    namespace = uuid4().hex
    before = asyncio.all_tasks()
    replicas: list[Replica] = []

    async def open_one(url: str = bus_url, *, replica_id: str | None = None) -> Replica:
        replica = Replica(open_bus(url, replica_id=replica_id or f"chat-{len(replicas)}"), namespace)
        replicas.append(replica)
        await replica.bus.start(replica.listener)
        return replica

    yield open_one
    for replica in replicas:
        await replica.bus.close()
    assert asyncio.all_tasks() <= before | {asyncio.current_task()}


async def test_event_reaches_every_other_subscribed_replica(open_replica: Open) -> None:
    one, two, three = [await open_replica() for _ in range(3)]
    await asyncio.gather(two.subscribe(), three.subscribe(OTHER))
    one.publish(b"hello")
    one.publish(b"to the others", OTHER)
    await eventually(lambda: two.heard() and three.heard(OTHER))
    assert two.heard() == [b"hello"]
    assert three.heard(OTHER) == [b"to the others"]
    assert not two.heard(OTHER)
    assert not three.heard()


async def test_replica_does_not_hear_itself(open_replica: Open) -> None:
    one, two = [await open_replica() for _ in range(2)]
    await asyncio.gather(one.subscribe(), two.subscribe())
    one.publish(b"from one")
    two.publish(b"from two")
    await eventually(lambda: one.heard() and two.heard())
    assert one.heard() == [b"from two"]
    assert two.heard() == [b"from one"]


async def test_replica_hears_another_incarnation_of_itself(open_replica: Open) -> None:
    before = await open_replica(replica_id="chat-a")
    after = await open_replica(replica_id="chat-a")
    await after.subscribe()
    before.publish(b"the last words")
    await eventually(after.heard)


async def test_events_of_a_conversation_keep_their_order(open_replica: Open) -> None:
    one, two = [await open_replica() for _ in range(2)]
    await asyncio.gather(two.subscribe(), two.subscribe(OTHER))
    numbers = [b"%d" % number for number in range(3000)]
    for number in numbers:
        one.publish(number)
        one.publish(number, OTHER)
        if random.random() < 0.01:
            await asyncio.sleep(0)
    await eventually(lambda: len(two.heard()) == len(two.heard(OTHER)) == len(numbers))
    assert two.heard() == numbers
    assert two.heard(OTHER) == numbers
    assert (one.dropped, two.deaf) == (0, 0)


async def test_any_bytes_pass_unchanged(open_replica: Open) -> None:
    one, two = [await open_replica() for _ in range(2)]
    await two.subscribe()
    events = [b"", b"\n", b"\r\n$5\r\n", b"chat-1\n", bytes(range(256)), random.randbytes(1_000_000)]
    for event in events:
        one.publish(event)
    await eventually(lambda: len(two.heard()) == len(events))
    assert two.heard() == events


async def test_nobody_hears_anything_inside_publish(open_replica: Open) -> None:
    one, two = [await open_replica() for _ in range(2)]
    await two.subscribe()
    one.publish(b"soon")
    assert not two.heard()
    await eventually(two.heard)


async def test_subscribing_twice_is_subscribing_once(open_replica: Open) -> None:
    one, two = [await open_replica() for _ in range(2)]
    await asyncio.gather(*(two.subscribe() for _ in range(5)))
    await two.subscribe()
    one.publish(b"once")
    await eventually(two.heard)
    two.unsubscribe()
    await two.subscribe(OTHER)
    one.publish(b"not any more")
    one.publish(b"last", OTHER)
    await eventually(lambda: two.heard(OTHER))
    assert two.heard() == [b"once"]


async def test_unsubscribed_replica_hears_no_more(open_replica: Open) -> None:
    one, two = [await open_replica() for _ in range(2)]
    await asyncio.gather(two.subscribe(), two.subscribe(OTHER))
    two.unsubscribe()
    two.unsubscribe()
    for number in range(10):
        one.publish(b"%d" % number)
    one.publish(b"last", OTHER)
    await eventually(lambda: two.heard(OTHER))
    assert not two.heard()


async def test_unsubscribed_replica_does_not_hear_what_was_under_way(open_replica: Open) -> None:
    one, two = [await open_replica() for _ in range(2)]
    await asyncio.gather(two.subscribe(), two.subscribe(OTHER))
    one.publish(b"under way")
    two.unsubscribe()
    one.publish(b"last", OTHER)
    await eventually(lambda: two.heard(OTHER))
    assert not two.heard()


async def test_subscribe_is_not_undone_by_an_earlier_unsubscribe(open_replica: Open) -> None:
    one, two = [await open_replica() for _ in range(2)]
    sent: list[bytes] = []
    for number in range(50):
        await two.subscribe()
        sent.append(b"%d" % number)
        one.publish(sent[-1])
        await eventually(lambda: two.heard() == sent)
        two.unsubscribe()
        for _ in range(random.randrange(3)):
            await asyncio.sleep(0)
            if random.random() < 0.5:
                abandoned = asyncio.create_task(two.subscribe())
                await asyncio.sleep(0)
                two.unsubscribe()
                await abandoned
    assert two.deaf == 0


async def test_many_subscribe_at_once_and_each_hears_from_then_on(open_replica: Open) -> None:
    one, two = [await open_replica() for _ in range(2)]
    topics = [ConversationId(f"topic-{number}") for number in range(2500)]

    async def watch(topic: ConversationId) -> None:
        await two.subscribe(topic)
        one.publish(b"after it", topic)

    await asyncio.gather(*map(watch, topics))
    await eventually(lambda: len(two.listener.events) == len(topics))
    assert all(two.heard(topic) for topic in random.sample(topics, 50))
    assert two.deaf == 0


async def test_publishing_to_nobody_is_no_error(open_replica: Open) -> None:
    one = await open_replica()
    await one.subscribe()
    one.publish(b"is anybody there?")
    await asyncio.sleep(0)
    assert one.bus.is_connected
    assert (one.dropped, one.deaf) == (0, 0)


async def test_closing_sends_what_was_published(open_replica: Open) -> None:
    one, two = [await open_replica() for _ in range(2)]
    await two.subscribe()
    numbers = [b"%d" % number for number in range(3000)]
    for number in numbers:
        one.publish(number)
    await one.bus.close()
    await eventually(lambda: len(two.heard()) == len(numbers))
    assert two.heard() == numbers


async def test_closed_bus_is_silent_and_harmless(open_replica: Open) -> None:
    one, two, three = [await open_replica() for _ in range(3)]
    await asyncio.gather(two.subscribe(), three.subscribe())
    await two.bus.close()
    await two.bus.close()
    assert not two.bus.is_connected
    two.publish(b"from beyond")
    await two.subscribe(OTHER)
    two.unsubscribe()
    one.publish(b"hello")
    await eventually(three.heard)
    assert three.heard() == [b"hello"]
    assert not two.heard()
    assert two.deaf == 0


async def test_bus_may_be_closed_without_having_started(bus_url: str) -> None:
    await open_bus(bus_url, replica_id="chat-a").close()


async def test_flood_is_bounded_and_those_who_missed_something_are_told(open_replica: Open) -> None:
    one, two, three = [await open_replica() for _ in range(3)]
    await asyncio.gather(two.subscribe(), three.subscribe())
    for number in range(50_000):
        one.publish(b"%d" % number)
    await eventually(lambda: one.dropped >= 30_000)
    await eventually(lambda: two.deaf and three.deaf)
    one.publish(b"last")
    await eventually(lambda: two.heard()[-1] == three.heard()[-1] == b"last")
    assert two.heard() == [*sorted(two.heard()[:-1], key=int), b"last"]
    assert one.deaf == 0


async def test_installations_do_not_hear_one_another(open_replica: Open, bus_url: str) -> None:
    elsewhere = bus_url.removesuffix("/0") + "/1" if bus_url.startswith("redis") else f"{bus_url}-other"
    one, two, stranger = await open_replica(), await open_replica(), await open_replica(elsewhere)
    await asyncio.gather(two.subscribe(), stranger.subscribe())
    one.publish(b"private")
    await eventually(two.heard)
    stranger.publish(b"nobody hears this")
    await stranger.bus.close()
    one.publish(b"last")
    await eventually(lambda: len(two.heard()) > 1)
    assert two.heard() == [b"private", b"last"]
    assert not stranger.heard()


@pytest.mark.parametrize("url", ["amqp://localhost", "localhost:6379", "redis://localhost:port", "redis://h/0?wings=2"])
def test_unusable_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        open_bus(url, replica_id="chat-a")
