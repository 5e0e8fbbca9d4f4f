"""Jobs inside one process: handed to the notify service that lives in it too, or to nobody."""

from collections.abc import Sequence

from services.chat.errors import JobsUnavailable
from services.chat.jobs import Job, TakeJobs
from services.runtime.errors import ServiceError

_RETRY_AFTER_MS = 500


class MemoryJobs:
    """See `services.chat.jobs.JobQueue`. Without `take` there is no notify service to tell, and jobs end here."""

    def __init__(self, take: TakeJobs | None) -> None:
        self._take = take
        self._is_open = False

    @property
    def is_connected(self) -> bool:
        return self._is_open

    async def start(self) -> None:
        self._is_open = True

    async def close(self) -> None:
        self._is_open = False

    async def publish(self, jobs: Sequence[Job]) -> None:
        if not self._is_open:
            raise JobsUnavailable(retry_after_ms=_RETRY_AFTER_MS)
        if self._take is None or not jobs:
            return
        try:
            await self._take(jobs)
        except ServiceError as error:
            raise JobsUnavailable(retry_after_ms=_RETRY_AFTER_MS) from error
