"""What only the RabbitMQ queue promises: brokers that die, consumers that die, publishers that are told the truth."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import aio_pika
import pytest

from scripts.servers import RabbitNode
from services.notify.errors import QueueUnavailable
from services.notify.queue import MAX_BODY_BYTES, Arrived, Done, Outgoing, QueueOptions, Verdict
from services.notify.queue.rabbitmq import RabbitQueue
from tests.e2e.waiting import eventually

RESTART_S = 90.0


@pytest.fixture(scope="module")
def own_node(session_directory: Path) -> Iterator[RabbitNode]:
    """One that may be hurt."""
    with RabbitNode(session_directory / "notify-rabbitmq") as node:
        yield node


@pytest.fixture
def options() -> QueueOptions:
    return QueueOptions(
        delays=(timedelta(milliseconds=300), timedelta(seconds=3)),
        prefix=f"test-{uuid4().hex}.",
        publish_timeout=timedelta(seconds=2),
        stop_grace=timedelta(milliseconds=200),
    )


@pytest.fixture
async def queue(own_node: RabbitNode, options: QueueOptions) -> AsyncIterator[RabbitQueue]:
    opened = RabbitQueue(own_node.url, options)
    await opened.start()
    yield opened
    await opened.close()


class Seen:
    def __init__(self) -> None:
        self.names: set[str] = set()
        self.count = 0

    async def __call__(self, arrived: Arrived) -> Verdict:
        self.names.add(arrived.job_id)
        self.count += 1
        return Done()


@pytest.mark.timeout(240)
async def test_nothing_confirmed_is_lost_when_the_broker_is_killed_and_comes_back(
    own_node: RabbitNode, queue: RabbitQueue
) -> None:
    seen = Seen()
    await queue.consume(seen)
    confirmed: set[str] = set()
    stop = asyncio.Event()

    async def publish() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            delay = timedelta(seconds=3) if number % 3 == 0 else timedelta(0)
            try:
                await queue.publish([Outgoing(f"job-{number}", b"x", delay)])
            except QueueUnavailable:
                await asyncio.sleep(0.05)
            else:
                confirmed.add(f"job-{number}")

    publishing = asyncio.create_task(publish())
    await eventually(lambda: len(confirmed) > 100)
    await asyncio.to_thread(own_node.kill)
    await eventually(lambda: not queue.is_connected)
    before = len(confirmed)
    await asyncio.to_thread(own_node.restart)
    await eventually(lambda: len(confirmed) > before + 50, timeout_s=RESTART_S)
    stop.set()
    await publishing

    assert queue.is_connected
    await eventually(lambda: confirmed <= seen.names, timeout_s=RESTART_S, what="every confirmed job arrives")


async def test_a_job_whose_consumer_dies_comes_to_another(own_node: RabbitNode, options: QueueOptions) -> None:
    first, second = RabbitQueue(own_node.url, options), RabbitQueue(own_node.url, options)
    await first.start()
    await second.start()
    started = asyncio.Event()

    async def never_ends(_: Arrived) -> Verdict:
        started.set()
        await asyncio.sleep(600)
        return Done()

    await first.consume(never_ends)
    await second.publish([Outgoing("job", b"x")])
    await started.wait()
    await first.close()
    seen = Seen()
    await second.consume(seen)

    await eventually(lambda: seen.names == {"job"})
    await second.close()


async def test_a_publish_that_nobody_would_get_is_refused(
    own_node: RabbitNode, queue: RabbitQueue, options: QueueOptions
) -> None:
    connection = await aio_pika.connect(own_node.url)
    channel = await connection.channel()
    await channel.queue_delete(f"{options.prefix}jobs")
    await connection.close()

    with pytest.raises(QueueUnavailable):
        await queue.publish([Outgoing("job", b"x")])


async def test_a_job_of_another_publisher_needs_no_headers_and_no_id(
    own_node: RabbitNode, queue: RabbitQueue, options: QueueOptions
) -> None:
    seen = Seen()
    await queue.consume(seen)
    connection = await aio_pika.connect(own_node.url)
    channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
    exchange = await channel.get_exchange(f"{options.prefix}exchange")
    await exchange.publish(aio_pika.Message(b"x", headers={"x-parley-tries": "many"}), "job", mandatory=True)
    await exchange.publish(aio_pika.Message(b"y", message_id="named"), "job", mandatory=True)
    await connection.close()

    await eventually(lambda: seen.count == 2)
    assert "named" in seen.names


async def test_a_body_that_is_too_large_goes_to_the_dead_letters_unread(queue: RabbitQueue) -> None:
    seen = Seen()
    await queue.consume(seen)
    await queue.publish([Outgoing("huge", b"x" * (MAX_BODY_BYTES + 1))])

    (dead,) = await eventually(lambda: queue.list_dead(limit=10))
    assert (dead.job_id, dead.reason, seen.count) == ("huge", "too large", 0)


async def test_a_channel_that_the_broker_closes_is_opened_again(own_node: RabbitNode, queue: RabbitQueue) -> None:
    seen = Seen()
    await queue.consume(seen)
    link = queue._keeper.link
    assert link is not None
    with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
        await link.publishing.get_queue("there is no such queue")

    await eventually(lambda: queue._keeper.link not in (None, link))
    await queue.publish([Outgoing("job", b"x")])
    await eventually(lambda: seen.names == {"job"})


async def test_without_a_broker_the_start_goes_on_and_publishing_says_so(options: QueueOptions) -> None:
    queue = RabbitQueue("amqp://guest:guest@127.0.0.1:1/", options)
    starting = asyncio.create_task(queue.start())
    with pytest.raises(QueueUnavailable):
        await queue.publish([Outgoing("job", b"x")])
    with pytest.raises(QueueUnavailable):
        await queue.list_dead(limit=1)
    await queue.close()
    await starting
