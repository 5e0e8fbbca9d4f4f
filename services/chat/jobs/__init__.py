"""Where chat hands over what notify has to know: jobs, durably queued, at least once.

`rabbitmq` and `memory` keep the contract; tests/contract/chat/test_jobs.py runs one suite over both. Bodies are bytes
here (`convert` has the codec); the exchange and the properties are those of notify's README.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Job:
    """`job_id` names the same job for ever, so that a repeat is known as one."""

    job_id: str
    body: bytes = field(repr=False)


# Who takes the jobs inside one process. Raises `ServiceError`: none of them, or not all, were taken.
TakeJobs = Callable[[Sequence[Job]], Awaitable[None]]


class JobQueue(Protocol):
    async def start(self) -> None:
        """Begins to connect. A broker that is away does not fail the start."""

    async def close(self) -> None:
        """Harmless when repeated or before `start`."""

    @property
    def is_connected(self) -> bool: ...

    async def publish(self, jobs: Sequence[Job]) -> None:
        """Durably queued when this returns, in no particular order.

        Raises:
            JobsUnavailable: for at least one of them that is not known; publish them again.
        """


def open_jobs(url: str, *, prefix: str, take: TakeJobs | None = None) -> JobQueue:
    """The queue that `url` names: `amqp://…`, `amqps://…`, or `memory://name`, which hands jobs to `take`. Not yet
    started.

    Raises:
        ValueError: no such kind of queue.
    """
    if url.startswith(("amqp://", "amqps://")):
        from services.chat.jobs.rabbitmq import RabbitJobs

        return RabbitJobs(url, prefix=prefix)
    if url.startswith("memory://"):
        from services.chat.jobs.memory import MemoryJobs

        return MemoryJobs(take)
    raise ValueError(f"queue URL {url.split(':', 1)[0]!r}: expected amqp://…, amqps://… or memory://name")
