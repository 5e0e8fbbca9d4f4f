"""The queue on RabbitMQ (3.10 or later): the only module that knows aio-pika.

    <prefix>exchange          direct, durable. Publishers use routing key "job".
    <prefix>jobs              quorum. Consumed with prefetch and manual acknowledgement.
    <prefix>delay.<ms>        quorum, one for each delay: x-message-ttl, then dead-lettered back to "job".
    <prefix>dead              quorum. What was given up, with the reason in its headers.

Nothing that was confirmed is lost: every publish is mandatory and waits for its confirm (quorum: a majority has it); a
job is acknowledged only after what follows from it was confirmed; expired delays are handed over at least once
(x-dead-letter-strategy, which wants reject-publish). So a job may come twice, never not at all.

The connection is kept by `services.runtime.amqp`.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import aio_pika
from aio_pika import DeliveryMode, ExchangeType
from aio_pika.abc import (
    AbstractChannel,
    AbstractConnection,
    AbstractExchange,
    AbstractIncomingMessage,
    AbstractQueue,
)

from services.notify.errors import QueueUnavailable
from services.notify.queue import (
    DEFAULT_OPTIONS,
    MAX_BODY_BYTES,
    MAX_DEAD,
    NO_DELAY,
    Arrived,
    Dead,
    DeadLetter,
    Handler,
    Outgoing,
    QueueOptions,
    job_id_of,
    settle,
)
from services.notify.queue.handling import judge
from services.runtime.amqp import CLOSE_S, CONNECT_S, MISFORTUNES, AmqpKeeper, Ended, translated
from services.runtime.clock import Clock, SystemClock
from services.runtime.log import logger

CONTENT_TYPE: Final = "application/x-protobuf"
TRIES: Final = "x-parley-tries"
REASON: Final = "x-parley-reason"
DIED_AT: Final = "x-parley-died-at-ms"
JOB_KEY: Final = "job"
DEAD_KEY: Final = "dead"

_RETRY_AFTER_MS: Final = 500
# While the broker blocks publishers, or has lost its majority.
_REPUBLISH_S: Final = 1.0
# Publishes of one call that wait for their confirms together: measured, 680/s one by one, 3,400/s with 256 in flight.
_MAX_IN_FLIGHT: Final = 128

# A job that was under way when its consumer's connection ended counts one. Twenty in a row means that the job ends its
# consumers; fewer may just be a broker, a network or a replica with a bad day.
_DELIVERY_LIMIT: Final = 20
# Beyond these the broker refuses: chat's outbox then keeps what is new.
_MAX_JOBS: Final = 1_000_000
_MAX_DELAYED: Final = 1_000_000
# Beyond it the oldest dead letter goes.
_MAX_DEAD_KEPT: Final = 100_000
# Listing takes and returns each dead letter; a broker of version 4 drops it at the 20th time unless told otherwise.
_DEAD_DELIVERY_LIMIT: Final = 1_000_000_000

_log = logger(__name__)


@dataclass(slots=True, eq=False)
class _Link:
    """One life of the connection."""

    connection: AbstractConnection
    publishing: AbstractChannel
    consuming: AbstractChannel
    exchange: AbstractExchange
    jobs: AbstractQueue
    ended: Ended
    consumer_tag: str | None = None


class RabbitQueue:
    """See `services.notify.queue.Queue`."""

    def __init__(self, url: str, options: QueueOptions = DEFAULT_OPTIONS, *, clock: Clock | None = None) -> None:
        self._options = options
        self._clock = clock or SystemClock()
        self._keeper = AmqpKeeper(url, "notify", self._set_up, self._consume_if_asked)
        self._handler: Handler | None = None
        self._handling: set[asyncio.Task[None]] = set()
        self._is_closing = False

    @property
    def is_connected(self) -> bool:
        return self._keeper.link is not None

    async def start(self) -> None:
        await self._keeper.start()

    async def close(self) -> None:
        self._is_closing = True
        link = self._keeper.link
        if link is not None and link.consumer_tag is not None:
            with contextlib.suppress(QueueUnavailable), translated(_unavailable):
                await link.jobs.cancel(link.consumer_tag, timeout=CLOSE_S)
        await self._end_handling()
        await self._keeper.close()

    async def consume(self, handler: Handler) -> None:
        self._handler = handler
        if (link := self._keeper.link) is not None:
            try:
                with translated(_unavailable):
                    await self._consume_on(link)
            except QueueUnavailable:
                link.ended.set()  # it is consumed from as soon as there is a connection again

    async def publish(self, jobs: Sequence[Outgoing]) -> None:
        link = self._get_link()
        room = asyncio.Semaphore(_MAX_IN_FLIGHT)

        async def one(job: Outgoing) -> None:
            async with room:
                await self._publish_job(link, job)

        outcomes = await asyncio.gather(*(one(job) for job in jobs), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def list_dead(self, *, limit: int) -> Sequence[DeadLetter]:
        async with self._open_dead() as dead:
            return [_dead_letter(message) for message in await _take(dead, limit)]

    async def replay_dead(self, job_ids: Collection[str]) -> int:
        link = self._get_link()
        replayed = 0
        async with self._open_dead() as dead:
            for message in await _take(dead, MAX_DEAD):
                letter = _dead_letter(message)
                if not job_ids or letter.job_id in job_ids:
                    await self._publish_job(link, Outgoing(letter.job_id, letter.body))
                    with translated(_unavailable):
                        await message.ack()
                    replayed += 1
        return replayed

    # ---- The connection.

    def _get_link(self) -> _Link:
        if self._keeper.link is None:
            raise _unavailable()
        return self._keeper.link

    async def _set_up(self, connection: AbstractConnection, ended: Ended) -> _Link:
        publishing = await connection.channel(publisher_confirms=True, on_return_raises=True)
        consuming = await connection.channel(publisher_confirms=False)
        for channel in (publishing, consuming):
            ended.watch(channel)
        await consuming.set_qos(prefetch_count=self._options.prefetch)
        exchange = await self._declare(publishing)
        jobs = await consuming.get_queue(self._name("jobs"))
        return _Link(connection, publishing, consuming, exchange, jobs, ended)

    async def _declare(self, channel: AbstractChannel) -> AbstractExchange:
        """Idempotent. A queue that is there with other properties is refused by the broker, and told in the log."""
        exchange = await channel.declare_exchange(self._name("exchange"), ExchangeType.DIRECT, durable=True)
        onwards: dict[str, Any] = {
            "x-queue-type": "quorum",
            "x-dead-letter-exchange": self._name("exchange"),
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }
        dead: dict[str, Any] = {
            "x-queue-type": "quorum",
            "x-max-length": _MAX_DEAD_KEPT,
            "x-delivery-limit": _DEAD_DELIVERY_LIMIT,
        }
        jobs = onwards | {
            "x-dead-letter-routing-key": DEAD_KEY,
            "x-delivery-limit": _DELIVERY_LIMIT,
            "x-max-length": _MAX_JOBS,
        }
        queues: list[tuple[str, str, dict[str, Any]]] = [("dead", DEAD_KEY, dead), ("jobs", JOB_KEY, jobs)]
        for level in self._options.levels():
            delay: dict[str, Any] = {
                "x-dead-letter-routing-key": JOB_KEY,
                "x-message-ttl": _ms(level),
                "x-max-length": _MAX_DELAYED,
            }
            queues.append((_delay_key(level), _delay_key(level), onwards | delay))
        for name, key, arguments in queues:
            queue = await channel.declare_queue(self._name(name), durable=True, arguments=arguments)
            await queue.bind(exchange, key)
        return exchange

    def _name(self, name: str) -> str:
        return f"{self._options.prefix}{name}"

    # ---- Handling.

    async def _consume_if_asked(self, link: _Link) -> None:
        if self._handler is not None and not self._is_closing:
            await self._consume_on(link)

    async def _consume_on(self, link: _Link) -> None:
        async def arrived(message: AbstractIncomingMessage) -> None:
            task = asyncio.get_running_loop().create_task(self._handle(link, message), name="notify job")
            self._handling.add(task)
            task.add_done_callback(self._handling.discard)

        link.consumer_tag = await link.jobs.consume(arrived)

    async def _handle(self, link: _Link, message: AbstractIncomingMessage) -> None:
        """Without an acknowledgement (the link ends, or we are cancelled) the broker delivers it again."""
        handler = self._handler
        if handler is None:
            return
        arrived = Arrived(message.message_id or job_id_of(message.body), message.body, _number(message, TRIES))
        if len(message.body) > MAX_BODY_BYTES:
            verdict = await judge(_too_large, arrived)
        else:
            verdict = await judge(handler, arrived)
        follows = settle(arrived, verdict, self._options, now_ms=self._clock.time_ms())
        while not link.ended.is_set():
            try:
                if isinstance(follows, DeadLetter):
                    await self._publish_dead(link, follows)
                elif follows is not None:
                    await self._publish_job(link, follows)
                with translated(_unavailable):
                    await message.ack()
                return
            except QueueUnavailable:
                await asyncio.sleep(_REPUBLISH_S)

    async def _end_handling(self) -> None:
        if not self._handling:
            return
        _, late = await asyncio.wait(self._handling, timeout=self._options.stop_grace.total_seconds())
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)

    # ---- Publishing.

    async def _publish_job(self, link: _Link, job: Outgoing) -> None:
        key = JOB_KEY if job.delay <= NO_DELAY else _delay_key(self._options.level(job.delay))
        headers: dict[str, int | str] = {TRIES: job.tries} if job.tries else {}
        await self._publish(link, key, job.job_id, job.body, headers)

    async def _publish_dead(self, link: _Link, letter: DeadLetter) -> None:
        headers: dict[str, int | str] = {TRIES: letter.tries, REASON: letter.reason, DIED_AT: letter.died_at_ms}
        await self._publish(link, DEAD_KEY, letter.job_id, letter.body, headers)
        _log.warning("job_dead", job_id=letter.job_id, tries=letter.tries, reason=letter.reason)

    async def _publish(self, link: _Link, key: str, job_id: str, body: bytes, headers: dict[str, int | str]) -> None:
        message = aio_pika.Message(
            body,
            content_type=CONTENT_TYPE,
            delivery_mode=DeliveryMode.PERSISTENT,
            message_id=job_id,
            timestamp=datetime.now(UTC),
            headers=dict(headers),
        )
        with translated(_unavailable):
            async with asyncio.timeout(self._options.publish_timeout.total_seconds()):
                await link.exchange.publish(message, key, mandatory=True)

    # ---- Dead letters.

    @contextlib.asynccontextmanager
    async def _open_dead(self) -> AsyncIterator[AbstractQueue]:
        """The dead letters on a channel of their own: when it closes, whatever was not acknowledged is back."""
        link = self._get_link()
        with translated(_unavailable):
            async with asyncio.timeout(CONNECT_S):
                channel = await link.connection.channel(publisher_confirms=False)
                dead = await channel.get_queue(self._name("dead"))
        try:
            yield dead
        finally:
            with contextlib.suppress(*MISFORTUNES):
                async with asyncio.timeout(CLOSE_S):
                    await channel.close()


async def _take(dead: AbstractQueue, limit: int) -> list[AbstractIncomingMessage]:
    taken: list[AbstractIncomingMessage] = []
    with translated(_unavailable):
        while len(taken) < limit:
            message = await dead.get(no_ack=False, fail=False, timeout=CONNECT_S)
            if message is None:
                break
            taken.append(message)
    return taken


def _dead_letter(message: AbstractIncomingMessage) -> DeadLetter:
    """Ours carry the reason; those that the broker itself moved carry `x-death`."""
    reason = message.headers.get(REASON)
    return DeadLetter(
        message.message_id or job_id_of(message.body),
        message.body,
        str(reason) if reason is not None else "ended its consumers",
        _number(message, TRIES),
        _number(message, DIED_AT) or _dead_since_ms(message),
    )


def _dead_since_ms(message: AbstractIncomingMessage) -> int:
    deaths = message.headers.get("x-death")
    if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict):
        since = deaths[0].get("time")
        if isinstance(since, datetime):
            return int(since.timestamp() * 1000)
    return 0


def _number(message: AbstractIncomingMessage, header: str) -> int:
    value = message.headers.get(header)
    return value if isinstance(value, int) and value >= 0 else 0


async def _too_large(_: Arrived) -> Dead:
    return Dead("too large")


def _ms(delay: timedelta) -> int:
    return round(delay / timedelta(milliseconds=1))


def _delay_key(level: timedelta) -> str:
    return f"delay.{_ms(level)}"


def _unavailable() -> QueueUnavailable:
    return QueueUnavailable(retry_after_ms=_RETRY_AFTER_MS)
