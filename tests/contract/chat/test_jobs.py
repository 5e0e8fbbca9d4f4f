"""The contract of `services.chat.jobs.JobQueue`: one suite, in memory and on RabbitMQ; and what only RabbitMQ promises.

What is published is held against notify's own queue and its README, which is what the other side relies on.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import aio_pika
import pytest

from scripts.servers import RabbitNode
from services.chat.convert import job_of
from services.chat.errors import JobsUnavailable
from services.chat.jobs import Job, JobQueue, open_jobs
from services.chat.jobs.rabbitmq import RabbitJobs
from services.chat.model import Seq
from services.chat.notices import MessageNotice, ReadNotice, Recipient
from services.notify.convert import decode_job
from services.notify.model import MessageStored, ReadMoved
from services.notify.queue import Arrived, Done, QueueOptions, Verdict
from services.notify.queue.rabbitmq import RabbitQueue
from services.runtime.errors import Unavailable
from tests.contract.chat.samples import BOB, CID, ROOM, message
from tests.e2e.waiting import eventually

# A publish that is refused at once; the rest is a busy machine.
A_MOMENT_S = 0.7
RESTART_S = 90.0


class Notify:
    """The other side: what has arrived there. In memory it refuses while `is_away`."""

    def __init__(self) -> None:
        self.arrived: dict[str, bytes] = {}
        self.is_away = False

    async def take(self, jobs: Sequence[Job]) -> None:
        if self.is_away:
            raise Unavailable
        self.arrived.update((job.job_id, job.body) for job in jobs)

    async def handle(self, arrived: Arrived) -> Verdict:
        self.arrived[arrived.job_id] = arrived.body
        return Done()


def jobs(count: int) -> list[Job]:
    return [Job(f"job-{number}", b"body %d" % number) for number in range(count)]


# ---- Both.


@pytest.fixture
def notify() -> Notify:
    return Notify()


@pytest.fixture(params=["memory", "rabbitmq"])
async def make_queue(
    request: pytest.FixtureRequest, notify: Notify, amqp_prefix: str
) -> AsyncIterator[Callable[[], JobQueue]]:
    """Makes a queue that leads to `notify`, not started."""
    if request.param == "memory":
        yield lambda: open_jobs("memory://notify", prefix=amqp_prefix, take=notify.take)
        return
    url: str = request.getfixturevalue("amqp_url")
    consumer = RabbitQueue(url, QueueOptions(prefix=amqp_prefix))
    await consumer.start()
    await consumer.consume(notify.handle)
    yield lambda: open_jobs(url, prefix=amqp_prefix)
    await consumer.close()


@pytest.fixture
async def queue(make_queue: Callable[[], JobQueue]) -> AsyncIterator[JobQueue]:
    queue = make_queue()
    await queue.start()
    yield queue
    await queue.close()
    assert not queue.is_connected


async def test_what_is_published_arrives_under_its_name(queue: JobQueue, notify: Notify) -> None:
    assert queue.is_connected
    await queue.publish(jobs(3))
    await eventually(lambda: len(notify.arrived) == 3)
    assert notify.arrived == {job.job_id: job.body for job in jobs(3)}


async def test_many_jobs_are_published_at_once(queue: JobQueue, notify: Notify) -> None:
    await queue.publish(jobs(600))
    await eventually(lambda: len(notify.arrived) == 600)


async def test_no_jobs_are_no_work(queue: JobQueue, notify: Notify) -> None:
    await queue.publish([])
    assert notify.arrived == {}


async def test_what_is_published_again_keeps_its_name(queue: JobQueue, notify: Notify) -> None:
    await queue.publish(jobs(1))
    await queue.publish(jobs(2))
    await eventually(lambda: len(notify.arrived) == 2)


async def test_before_the_start_and_after_the_end_nothing_is_taken(make_queue: Callable[[], JobQueue]) -> None:
    queue = make_queue()
    assert not queue.is_connected
    with pytest.raises(JobsUnavailable):
        await queue.publish(jobs(1))
    await queue.close()
    await queue.start()
    await queue.publish(jobs(1))
    await queue.close()
    await queue.close()
    with pytest.raises(JobsUnavailable):
        await queue.publish(jobs(1))


async def test_notify_reads_what_chat_has_to_tell(queue: JobQueue, notify: Notify) -> None:
    told = message(7, content="x" * 300)
    notices = (
        MessageNotice(told, (Recipient(BOB, 3, False), Recipient(CID, 7, True))),
        ReadNotice(ROOM, BOB, Seq(7), 2),
    )
    await queue.publish([job_of(notice) for notice in notices])
    await eventually(lambda: len(notify.arrived) == 2)
    read = {job_id: decode_job(body) for job_id, body in notify.arrived.items()}
    stored, moved = read[told.message_id], read["groom/read/bob/7"]
    assert isinstance(stored, MessageStored)
    assert (stored.message.message_id, stored.message.seq, stored.message.sender_id) == ("groom-0000000007", 7, "ann")
    assert stored.message.preview == "x" * 200
    assert [(each.user_id, each.unread_count, each.muted) for each in stored.recipients] == [
        ("bob", 3, False),
        ("cid", 7, True),
    ]
    assert isinstance(moved, ReadMoved)
    assert (moved.conversation_id, moved.user_id, moved.read_seq, moved.unread_count) == ("groom", "bob", 7, 2)


# ---- In memory.


async def test_in_memory_what_notify_does_not_take_is_refused(notify: Notify) -> None:
    queue = open_jobs("memory://notify", prefix="", take=notify.take)
    await queue.start()
    notify.is_away = True
    with pytest.raises(JobsUnavailable):
        await queue.publish(jobs(1))
    notify.is_away = False
    await queue.publish(jobs(1))
    assert len(notify.arrived) == 1


async def test_where_there_is_no_notify_jobs_end_quietly() -> None:
    queue = open_jobs("memory://notify", prefix="")
    await queue.start()
    await queue.publish(jobs(1))
    await queue.close()


def test_a_job_shows_its_body_in_no_log() -> None:
    assert "secret" not in repr(Job("job", b"secret"))


def test_another_kind_of_queue_is_refused() -> None:
    with pytest.raises(ValueError, match="expected amqp://") as refusal:
        open_jobs("kafka://user:secret@host", prefix="")
    assert "secret" not in str(refusal.value)


# ---- On RabbitMQ.


async def test_a_job_has_the_properties_that_notify_asks_for(amqp_url: str, amqp_prefix: str) -> None:
    consumer = RabbitQueue(amqp_url, QueueOptions(prefix=amqp_prefix))
    await consumer.start()  # declares, and consumes nothing
    queue = RabbitJobs(amqp_url, prefix=amqp_prefix)
    await queue.start()
    await queue.publish(jobs(1))
    async with await aio_pika.connect(amqp_url) as connection, connection.channel() as channel:
        waiting = await channel.get_queue(f"{amqp_prefix}jobs")
        arrived = await eventually(lambda: waiting.get(no_ack=True, fail=False))
    assert arrived.body == b"body 0"
    assert (arrived.exchange, arrived.routing_key) == (f"{amqp_prefix}exchange", "job")
    assert arrived.content_type == "application/x-protobuf"
    assert arrived.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
    assert arrived.message_id == "job-0"
    assert set(arrived.headers) <= {"x-delivery-count"}  # the broker's own, of a quorum queue
    await queue.close()
    await consumer.close()


@pytest.mark.parametrize("declared", ["nothing", "an exchange without a queue"])
async def test_before_notifys_first_start_jobs_are_refused_and_afterwards_taken(
    amqp_url: str, amqp_prefix: str, notify: Notify, declared: str
) -> None:
    if declared != "nothing":
        async with await aio_pika.connect(amqp_url) as connection, connection.channel() as channel:
            await channel.declare_exchange(f"{amqp_prefix}exchange", aio_pika.ExchangeType.DIRECT, durable=True)
    queue = RabbitJobs(amqp_url, prefix=amqp_prefix)
    await queue.start()
    for _ in range(3):
        await eventually(lambda: queue.is_connected)
        with pytest.raises(JobsUnavailable):
            await queue.publish(jobs(3))
    consumer = RabbitQueue(amqp_url, QueueOptions(prefix=amqp_prefix))
    await consumer.start()
    await consumer.consume(notify.handle)
    await eventually(lambda: _was_published(queue))
    await eventually(lambda: len(notify.arrived) == 3)
    await queue.close()
    await consumer.close()


async def test_without_a_broker_the_start_goes_on_and_publishing_is_refused_at_once() -> None:
    queue = RabbitJobs("amqp://guest:guest@127.0.0.1:1/", prefix="test.")
    starting = asyncio.create_task(queue.start())
    started = time.monotonic()
    with pytest.raises(JobsUnavailable):
        await queue.publish(jobs(1))
    assert time.monotonic() - started < A_MOMENT_S
    await queue.close()
    starting.cancel()
    await asyncio.wait((starting,))


@pytest.fixture(scope="module")
def own_node(session_directory: Path) -> Iterator[RabbitNode]:
    """One that may be hurt."""
    with RabbitNode(session_directory / "chat-jobs-rabbitmq") as node:
        yield node


@pytest.mark.timeout(240)
async def test_what_was_confirmed_survives_a_broker_that_is_killed_and_jobs_go_on_when_it_is_back(
    own_node: RabbitNode, notify: Notify
) -> None:
    options = QueueOptions(prefix="test.")
    consumer, queue = RabbitQueue(own_node.url, options), RabbitJobs(own_node.url, prefix="test.")
    await consumer.start()  # declares, and consumes nothing yet
    await queue.start()
    await queue.publish(jobs(100))
    await asyncio.to_thread(own_node.kill)
    await eventually(lambda: not queue.is_connected)
    started = time.monotonic()
    with pytest.raises(JobsUnavailable):
        await queue.publish(jobs(101))
    assert time.monotonic() - started < A_MOMENT_S
    await asyncio.to_thread(own_node.restart)
    await eventually(lambda: queue.is_connected and consumer.is_connected, timeout_s=RESTART_S)
    await queue.publish(jobs(102)[101:])
    await consumer.consume(notify.handle)
    await eventually(lambda: len(notify.arrived) >= 101, timeout_s=RESTART_S)
    assert {f"job-{number}" for number in (*range(100), 101)} <= notify.arrived.keys()
    await queue.close()
    await consumer.close()


async def _was_published(queue: JobQueue) -> bool:
    try:
        await queue.publish(jobs(3))
    except JobsUnavailable:
        return False
    return True
