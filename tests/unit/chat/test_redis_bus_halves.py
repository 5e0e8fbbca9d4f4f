"""The two halves of the Redis bus against a broker that does what a real one can hardly be made to do."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

import hiredis
import pytest

from services.chat.bus import redis_publisher, redis_subscriber
from services.chat.bus.redis_publisher import RedisPublisher
from services.chat.bus.redis_subscriber import RedisSubscriber
from services.chat.bus.redis_wire import BrokerLost, Channels, pack
from services.chat.model import ConversationId
from tests.e2e.waiting import eventually

TAG = b"me/1\n"
OTHERS_TAG = b"you/1\n"
CONTROL = b"parley:control"
TOPIC = b"parley:topic:t"


class Broker:
    """All connections to it. What it is told is in `commands`; what it says is put into `answers`."""

    def __init__(self) -> None:
        self.commands: list[list[bytes]] = []
        self.answers: asyncio.Queue[object] = asyncio.Queue()
        self.connections = 0
        self.is_away = False
        self.answers_publish = True
        self.answers_subscribe = True

    async def connect(self, _name: str) -> "Broker":
        self.connections += 1
        if self.is_away:
            raise BrokerLost("away")
        self.answers = asyncio.Queue()
        return self

    async def send(self, commands: bytes) -> None:
        if self.is_away:
            raise BrokerLost("away")
        reader = hiredis.Reader()
        reader.feed(commands)
        while command := reader.gets():
            assert isinstance(command, list)
            self.commands.append(command)
            if command[0] == b"PUBLISH" and self.answers_publish:
                self.answers.put_nowait(1)
            elif command[0] != b"PUBLISH" and self.answers_subscribe:
                for channel in command[1:]:
                    self.confirm(command[0], channel)

    async def receive(self) -> object:
        answer = await self.answers.get()
        if isinstance(answer, BrokerLost):
            raise answer
        return answer

    async def close(self) -> None:
        self.answers = asyncio.Queue()

    def confirm(self, command: bytes, channel: bytes) -> None:
        self.answers.put_nowait([command.lower(), channel, 1])

    def say(self, channel: bytes, payload: bytes) -> None:
        self.answers.put_nowait([b"message", channel, payload])

    def published(self, channel: bytes) -> list[bytes]:
        return [command[2] for command in self.commands if command[:2] == [b"PUBLISH", channel]]


class Listener:
    def __init__(self) -> None:
        self.events: list[tuple[str, bytes]] = []
        self.deaf = 0

    def bus_event(self, conversation_id: ConversationId, event: bytes) -> None:
        self.events.append((conversation_id, event))

    def bus_was_deaf(self) -> None:
        self.deaf += 1


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
async def publisher(broker: Broker) -> AsyncIterator[RedisPublisher]:
    publisher = RedisPublisher(broker.connect, tag=TAG, control=CONTROL)
    yield publisher
    broker.is_away = True
    await publisher.close()


@pytest.fixture
def probes() -> deque[bytes]:
    return deque(maxlen=100)


@pytest.fixture
async def subscriber(broker: Broker, probes: deque[bytes]) -> AsyncIterator[RedisSubscriber]:
    """Its probes are heard, unless a test clears `answers_publish`."""

    def probe(channel: bytes) -> None:
        probes.append(channel)
        if broker.answers_publish:
            broker.say(channel, TAG)

    subscriber = RedisSubscriber(broker.connect, Channels(0), tag=TAG, probe=probe)
    yield subscriber
    await subscriber.close()


async def test_loss_is_announced_ahead_of_what_follows_it(broker: Broker, publisher: RedisPublisher) -> None:
    broker.is_away = True
    publisher.publish(TOPIC, b"lost")
    await eventually(lambda: publisher.dropped)
    publisher.publish(TOPIC, b"next")
    broker.is_away = False
    await eventually(lambda: broker.published(TOPIC))
    assert [command[1:] for command in broker.commands] == [[CONTROL, TAG], [TOPIC, TAG + b"next"]]


async def test_loss_is_announced_though_nothing_follows_it(broker: Broker, publisher: RedisPublisher) -> None:
    broker.is_away = True
    publisher.publish(TOPIC, b"lost")
    await eventually(lambda: publisher.dropped)
    broker.is_away = False
    await eventually(lambda: broker.published(CONTROL))
    assert publisher.dropped == 1


async def test_loss_is_announced_at_the_last_moment_when_closing(broker: Broker, publisher: RedisPublisher) -> None:
    broker.is_away = True
    publisher.publish(TOPIC, b"lost")
    await eventually(lambda: publisher.dropped)
    broker.is_away = False
    await publisher.close()
    assert broker.published(CONTROL) == [TAG]


async def test_losing_all_the_time_is_announced_now_and_then(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_publisher, "_MAX_WAITING", 10)
    monkeypatch.setattr(redis_publisher, "_ANNOUNCE_EVERY_S", 0.3)
    publisher = RedisPublisher(broker.connect, tag=TAG, control=CONTROL)
    loop = asyncio.get_running_loop()
    began = loop.time()
    while len(broker.published(CONTROL)) < 3:
        for _ in range(20):
            publisher.publish(TOPIC, b"")
        await asyncio.sleep(0.001)
        assert loop.time() - began < 10
    assert loop.time() - began >= 0.6
    await publisher.close()


async def test_broker_that_is_away_is_not_asked_for_each_event(broker: Broker, publisher: RedisPublisher) -> None:
    broker.is_away = True
    loop = asyncio.get_running_loop()
    until = loop.time() + 0.6
    while loop.time() < until:
        publisher.publish(TOPIC, b"")
        await asyncio.sleep(0.001)
    assert 1 <= broker.connections < 50


async def test_failed_batch_is_counted_once_and_the_rest_goes_on(broker: Broker, publisher: RedisPublisher) -> None:
    broker.answers_publish = False
    publisher.publish(TOPIC, b"unanswered")
    await eventually(lambda: broker.commands)
    for number in range(3):
        publisher.publish(TOPIC, b"%d" % number)
    broker.answers_publish = True
    await eventually(lambda: len(broker.published(TOPIC)) == 4, timeout_s=4)
    assert publisher.dropped == 1
    assert broker.connections == 2, "answers to the lost batch may still come on the first"


async def test_large_events_are_bounded_by_their_size(broker: Broker, publisher: RedisPublisher) -> None:
    for _ in range(100):
        publisher.publish(TOPIC, bytes(1_000_000))
    assert 80 <= publisher.dropped <= 90
    kept = 100 - publisher.dropped
    await eventually(lambda: len(broker.published(TOPIC)) == kept)
    for _ in range(10):
        publisher.publish(TOPIC, bytes(1_000_000))
    await eventually(lambda: len(broker.published(TOPIC)) == kept + 10)


async def test_what_waited_for_too_long_is_not_sent(
    broker: Broker, publisher: RedisPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_publisher, "_STALE_S", 0.0)
    publisher.publish(TOPIC, b"old")
    await eventually(lambda: broker.published(CONTROL))
    assert not broker.published(TOPIC)
    assert publisher.dropped == 1


async def test_probe_overtakes_what_waits(broker: Broker, publisher: RedisPublisher) -> None:
    broker.answers_publish = False
    publisher.publish(TOPIC, b"under way")
    await eventually(lambda: broker.commands)
    publisher.publish(TOPIC, b"waits")
    publisher.publish_now(b"probe")
    broker.answers_publish = True
    broker.answers.put_nowait(1)
    await eventually(lambda: len(broker.commands) == 3)
    assert [command[1] for command in broker.commands] == [TOPIC, b"probe", TOPIC]


async def test_connection_that_does_not_deliver_is_replaced(
    broker: Broker, subscriber: RedisSubscriber, probes: deque[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_subscriber, "_PROBE_ANSWER_S", 0.05)
    monkeypatch.setattr(redis_subscriber, "_PROBE_EVERY_S", 0.05)
    listener = Listener()
    await subscriber.start(listener)
    await eventually(lambda: len(probes) > 3)
    assert (broker.connections, listener.deaf) == (1, 0)
    broker.answers_publish = False  # it still answers commands
    await eventually(lambda: broker.connections > 1)
    broker.answers_publish = True
    await eventually(lambda: listener.deaf)
    assert subscriber.is_connected


async def test_one_lost_probe_costs_no_connection(
    broker: Broker, subscriber: RedisSubscriber, probes: deque[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_subscriber, "_PROBE_ANSWER_S", 0.6)
    broker.answers_publish = False
    await subscriber.start(Listener())
    await eventually(lambda: probes)
    broker.answers_publish = True
    await eventually(lambda: len(probes) == 2)
    await asyncio.sleep(0.7)
    assert broker.connections == 1


async def test_connection_that_does_not_confirm_is_replaced(
    broker: Broker, subscriber: RedisSubscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_subscriber, "_PROBE_ANSWER_S", 0.05)
    broker.answers_subscribe = False
    listener = Listener()
    await subscriber.start(listener)
    assert broker.connections > 1
    assert not subscriber.is_connected
    broker.answers_subscribe = True
    await eventually(lambda: listener.deaf == 1)


async def test_subscribing_waits_for_its_own_confirmation_not_for_an_earlier_one(
    broker: Broker, subscriber: RedisSubscriber
) -> None:
    await subscriber.start(Listener())
    broker.answers_subscribe = False
    topic = ConversationId("t")
    first = asyncio.create_task(subscriber.subscribe(topic))
    await eventually(lambda: broker.commands[-1] == [b"SUBSCRIBE", TOPIC])
    subscriber.unsubscribe(topic)
    await eventually(lambda: broker.commands[-1] == [b"UNSUBSCRIBE", TOPIC])
    second = asyncio.create_task(subscriber.subscribe(topic))
    await eventually(lambda: broker.commands[-1] == [b"SUBSCRIBE", TOPIC])
    for command in (b"SUBSCRIBE", b"UNSUBSCRIBE"):
        broker.confirm(command, TOPIC)
        await asyncio.sleep(0.02)
        assert not second.done()
    broker.confirm(b"SUBSCRIBE", TOPIC)
    await asyncio.gather(first, second)


async def test_confirmed_unsubscribing_is_not_taken_for_subscribing(
    broker: Broker, subscriber: RedisSubscriber
) -> None:
    await subscriber.start(Listener())
    topic = ConversationId("t")
    await subscriber.subscribe(topic)
    broker.answers_subscribe = False
    subscriber.unsubscribe(topic)
    await eventually(lambda: broker.commands[-1] == [b"UNSUBSCRIBE", TOPIC])
    again = asyncio.create_task(subscriber.subscribe(topic))
    broker.confirm(b"UNSUBSCRIBE", TOPIC)  # heard before the new wish is sent
    await eventually(lambda: broker.commands[-1] == [b"SUBSCRIBE", TOPIC])
    assert not again.done()
    broker.confirm(b"SUBSCRIBE", TOPIC)
    await again


async def test_late_confirmation_is_reported_and_not_before_it_came(
    broker: Broker, subscriber: RedisSubscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Listener()
    await subscriber.start(listener)
    monkeypatch.setattr(redis_subscriber, "_CONFIRM_S", 0.02)
    broker.answers_subscribe = False
    await asyncio.gather(subscriber.subscribe(ConversationId("t")), subscriber.subscribe(ConversationId("u")))
    broker.confirm(b"SUBSCRIBE", b"parley:topic:u")
    await asyncio.sleep(0.02)
    assert listener.deaf == 0
    broker.confirm(b"SUBSCRIBE", TOPIC)
    await eventually(lambda: listener.deaf == 1)


async def test_subscribing_does_not_wait_for_a_connection_that_is_lost(
    broker: Broker, subscriber: RedisSubscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Listener()
    await subscriber.start(listener)
    monkeypatch.setattr(redis_subscriber, "_CONFIRM_S", 60)
    broker.answers_subscribe = False
    subscribing = asyncio.create_task(subscriber.subscribe(ConversationId("t")))
    await eventually(lambda: broker.commands[-1] == [b"SUBSCRIBE", TOPIC])
    broker.answers.put_nowait(BrokerLost("hung up"))
    await asyncio.wait_for(subscribing, 5)
    broker.answers_subscribe = True
    await eventually(lambda: listener.deaf == 1, what="confirmed on the next connection")


async def test_unsubscribed_before_it_was_asked_for_asks_for_nothing(
    broker: Broker, subscriber: RedisSubscriber
) -> None:
    await subscriber.start(Listener())
    told = len(broker.commands)
    subscribing = asyncio.create_task(subscriber.subscribe(ConversationId("t")))
    await asyncio.sleep(0)
    subscriber.unsubscribe(ConversationId("t"))
    await subscribing
    assert len(broker.commands) == told


async def test_one_caller_that_goes_away_does_not_take_the_others_along(
    broker: Broker, subscriber: RedisSubscriber
) -> None:
    await subscriber.start(Listener())
    broker.answers_subscribe = False
    callers = [asyncio.create_task(subscriber.subscribe(ConversationId("t"))) for _ in range(3)]
    await eventually(lambda: broker.commands[-1] == [b"SUBSCRIBE", TOPIC])
    callers[0].cancel()
    await asyncio.sleep(0)
    assert callers[0].cancelled()
    assert not callers[1].done()
    broker.confirm(b"SUBSCRIBE", TOPIC)
    await asyncio.gather(*callers[1:])


async def test_closing_at_any_moment_is_quick(broker: Broker) -> None:
    def probe(channel: bytes) -> None:
        broker.say(channel, TAG)

    loop = asyncio.get_running_loop()
    for moment in range(30):
        subscriber = RedisSubscriber(broker.connect, Channels(0), tag=TAG, probe=probe)
        starting = asyncio.create_task(subscriber.start(Listener()))
        for _ in range(moment):
            await asyncio.sleep(0)
        began = loop.time()
        await subscriber.close()
        assert loop.time() - began < 1, moment
        starting.cancel()
        await asyncio.wait((starting,))


async def test_announcements_of_many_replicas_make_few_reports(
    broker: Broker, subscriber: RedisSubscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_subscriber, "_REPORT_EVERY_S", 0.2)
    listener = Listener()
    await subscriber.start(listener)
    for _ in range(20):
        broker.say(CONTROL, OTHERS_TAG)
    await eventually(lambda: listener.deaf == 1)
    await eventually(lambda: listener.deaf == 2)
    broker.say(CONTROL, TAG)
    await asyncio.sleep(0.3)
    assert listener.deaf == 2, "one's own announcement is for the others"


async def test_all_topics_are_asked_for_again_in_several_commands(broker: Broker, subscriber: RedisSubscriber) -> None:
    broker.is_away = True
    listener = Listener()
    await subscriber.start(listener)
    for number in range(2_500):
        await subscriber.subscribe(ConversationId(f"t{number}"))
    broker.is_away = False
    await eventually(lambda: listener.deaf == 1)
    asked = [command for command in broker.commands if command[0] == b"SUBSCRIBE"]
    assert len(asked) == 3
    assert sum(len(command) - 1 for command in asked) == 2_502


def test_command_is_packed_as_the_protocol_says() -> None:
    assert pack(b"PUBLISH", b"ch", b"") == b"*3\r\n$7\r\nPUBLISH\r\n$2\r\nch\r\n$0\r\n\r\n"
