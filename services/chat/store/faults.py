"""What a store does with a failure of its database: one error for the caller, one line for the operator.

The caller learns nothing of the cause, as the error crosses processes; the log tells it, at most once in a while,
because a database that is away fails every call.
"""

from services.chat.errors import StoreUnavailable
from services.runtime.clock import Clock, SystemClock
from services.runtime.log import logger

# The first repeat comes soon after most interruptions are over (a lost connection, a step-down that was asked for).
_RETRY_AFTER_MS = 500
_LOG_EVERY_S = 10.0

_log = logger(__name__)


def unavailable() -> StoreUnavailable:
    return StoreUnavailable(retry_after_ms=_RETRY_AFTER_MS)


class Faults:
    """Translates the failures of one store. Use as `raise faults.translated(failure) from failure`."""

    def __init__(self, store: str, clock: Clock | None = None) -> None:
        self._store = store
        self._clock = clock or SystemClock()
        self._quiet_until_s = float("-inf")
        self._unlogged = 0

    def translated(self, failure: Exception) -> StoreUnavailable:
        now = self._clock.monotonic()
        if now < self._quiet_until_s:
            self._unlogged += 1
        else:
            kind = type(failure).__name__
            _log.warning("store_failed", store=self._store, kind=kind, error=str(failure), unlogged=self._unlogged)
            self._quiet_until_s = now + _LOG_EVERY_S
            self._unlogged = 0
        return unavailable()
