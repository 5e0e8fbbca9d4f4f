"""When members were last seen to write, told to presence in batches. A courtesy: nobody waits, and what presence does
not take within a few tries' time is older than what comes next."""

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Final

from services.chat.model import Message, UserId
from services.runtime.coalescing import Coalescer
from services.runtime.metrics import Metrics
from services.runtime.resilience import CallPolicy
from services.runtime.targets import Targets

_POLICY: Final = CallPolicy(deadline=timedelta(seconds=1))
# Writers that wait while presence is away, and those told in one call.
_MAX_WAITING: Final = 50_000
_MAX_BATCH: Final = 5_000
_PACE_S: Final = 0.2
_RETRY_S: Final = 2.0


class Activity:
    """A component with one task.

    Args:
        presence: its replicas; None: there are none here.
        encode: the request of `RecordActivity`, from times in ms since the epoch.
    """

    def __init__(
        self, presence: Targets | None, encode: Callable[[Mapping[UserId, int]], bytes], metrics: Metrics
    ) -> None:
        self._presence = presence
        self._encode = encode
        self._waiting: Coalescer[UserId, int] = Coalescer(
            "chat activity",
            self._tell,
            merge=max,
            max_keys=_MAX_WAITING,
            max_batch=_MAX_BATCH,
            pace_s=_PACE_S,
            retry_s=_RETRY_S,
        )
        self._dropped = metrics.counter("chat_activity_dropped", "Activity for which there was no room.")

    def record(self, messages: Iterable[Message]) -> None:
        if self._presence is None:
            return
        for message in messages:
            if not self._waiting.put(message.sender_id, message.sent_at_ms):
                self._dropped.inc()

    async def start(self) -> None:
        await self._waiting.start()

    async def stop(self) -> None:
        await self._waiting.stop()
        if self._presence is not None:
            await self._presence.close()

    async def _tell(self, activity: Mapping[UserId, int]) -> None:
        if self._presence is not None:
            await self._presence.call("RecordActivity", activity, encode=self._encode, decode=_nothing, policy=_POLICY)


def _nothing(_: bytes) -> None:
    return None
