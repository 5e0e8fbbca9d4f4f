"""Jobs, at least once: what a queue promises, as a Protocol, and what follows from each handling of a job.

`memory` and `rabbitmq` keep the contract; tests/contract/notify runs one suite over both. Bodies are bytes here: what
they mean is the handler's business (`convert` has the codec). The exchange, the queues and the properties that a
publisher in another process needs are in this service's README.

A job comes again when its consumer dies, when a confirm was lost, or when it was published twice: handlers are
idempotent. A failed try waits in a delay queue, longer each time; the last one leads to the dead letters, and so does
what a handler calls hopeless. A failure that is not the job's fault does not count as a try.
"""

import hashlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Protocol

from services.notify import rules

# Larger is no job of ours: 1,000 recipients are some 100 KB.
MAX_BODY_BYTES: Final = 1 << 20
# One listing or one replay; the operator repeats it.
MAX_DEAD: Final = 10_000
_MAX_REASON: Final = 200

NO_DELAY: Final = timedelta(0)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A job to be queued. `tries`: failed ones so far."""

    job_id: str
    body: bytes = field(repr=False)
    delay: timedelta = NO_DELAY
    tries: int = 0


@dataclass(frozen=True, slots=True)
class Arrived:
    job_id: str
    body: bytes = field(repr=False)
    tries: int


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing is left to do for this job."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The same job again. `after`: what the other side asked for; None: the queue's own delay."""

    reason: str
    after: timedelta | None = None
    counted: bool = True


@dataclass(frozen=True, slots=True)
class Dead:
    """No further try makes sense."""

    reason: str


Verdict = Done | Retry | Dead
Handler = Callable[[Arrived], Awaitable[Verdict]]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    job_id: str
    body: bytes = field(repr=False)
    reason: str
    tries: int
    died_at_ms: int


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """`retry_delays`: one for each try but the last, ascending. `delays`: every other delay that will be asked for;
    a delay is rounded up to the next one that is known, and what is longer than all of them is the longest."""

    retry_delays: tuple[timedelta, ...] = tuple(timedelta(seconds=s) for s in (1, 2, 4, 8))
    delays: tuple[timedelta, ...] = (
        rules.UNCOUNTED_DELAY,
        timedelta(seconds=30),
        timedelta(minutes=2),
        timedelta(minutes=15),
    )
    # Jobs under way at the same time.
    prefetch: int = 64
    # Names of queues and exchanges begin with it.
    prefix: str = "parley.notify."
    publish_timeout: timedelta = timedelta(seconds=5)
    # What is under way gets this long to end when the queue closes; then it is cancelled, and comes again.
    stop_grace: timedelta = timedelta(seconds=5)

    @property
    def max_tries(self) -> int:
        return len(self.retry_delays) + 1

    def levels(self) -> tuple[timedelta, ...]:
        """Every delay there is, ascending."""
        return tuple(sorted({*self.retry_delays, *self.delays} - {NO_DELAY}))

    def level(self, delay: timedelta) -> timedelta:
        """The delay that `delay` becomes."""
        levels = self.levels()
        return next((level for level in levels if level >= delay), levels[-1])


DEFAULT_OPTIONS: Final = QueueOptions()


class Queue(Protocol):
    """One queue: `start`, then `consume` (at most once), `close` at the end."""

    async def start(self) -> None:
        """Begins to connect. Does not wait for a broker that is away: it connects by itself as soon as it can."""

    async def close(self) -> None:
        """Takes no more jobs, lets those under way end within the grace, disconnects. What was not settled comes
        again (memory: is lost with the process). Harmless when repeated or before `start`."""

    @property
    def is_connected(self) -> bool: ...

    async def consume(self, handler: Handler) -> None:
        """Jobs come to `handler` from here on, at most `prefetch` at a time, also after every reconnection.

        A `ServiceError` that says UNAVAILABLE (or a deadline) is an uncounted retry; any other exception is a bug: it
        is logged and is a counted try.
        """

    async def publish(self, jobs: Sequence[Outgoing]) -> None:
        """Durably queued when this returns, in no particular order.

        Raises:
            QueueUnavailable: for at least one of them that is not known.
        """

    async def list_dead(self, *, limit: int) -> Sequence[DeadLetter]:
        """The oldest dead letters, oldest first; at most `limit` (1 to `MAX_DEAD`).

        Raises:
            QueueUnavailable: they could not be read.
        """

    async def replay_dead(self, job_ids: Collection[str]) -> int:
        """Queues dead letters again with fresh tries: those named, or all; looks at the oldest `MAX_DEAD`. How many.

        Raises:
            QueueUnavailable: some may have been queued; each still is here or there, or both.
        """


def settle(arrived: Arrived, verdict: Verdict, options: QueueOptions, *, now_ms: int) -> Outgoing | DeadLetter | None:
    """What has to be published before the job can be acknowledged."""
    match verdict:
        case Done():
            return None
        case Dead(reason):
            return DeadLetter(arrived.job_id, arrived.body, reason[:_MAX_REASON], arrived.tries, now_ms)
        case Retry(counted=False, after=after):
            delay = max(rules.UNCOUNTED_DELAY if after is None else after, options.levels()[0])
            return Outgoing(arrived.job_id, arrived.body, delay, arrived.tries)
        case Retry(reason, after):
            tries = arrived.tries + 1
            if tries >= options.max_tries:
                return DeadLetter(arrived.job_id, arrived.body, reason[:_MAX_REASON], tries, now_ms)
            delay = rules.retry_delay(tries, after, options.retry_delays)
            return Outgoing(arrived.job_id, arrived.body, delay, tries)


def job_id_of(body: bytes) -> str:
    """For a job that came without an id."""
    return "unnamed-" + hashlib.blake2b(body, digest_size=12).hexdigest()


def open_queue(url: str, options: QueueOptions = DEFAULT_OPTIONS) -> Queue:
    """The queue that `url` names: `amqp://…`, `amqps://…` or `memory://name` (this process only). Not yet started.

    Raises:
        ValueError: no such kind of queue.
    """
    if url.startswith(("amqp://", "amqps://")):
        from services.notify.queue.rabbitmq import RabbitQueue

        return RabbitQueue(url, options)
    if url.startswith("memory://"):
        from services.notify.queue.memory import MemoryQueue

        return MemoryQueue(options)
    raise ValueError(f"queue URL {url.split(':', 1)[0]!r}: expected amqp://…, amqps://… or memory://name")
