"""How often and how much one user may: token buckets and counts, on this edge.

Everything is bounded in memory: a bucket that is full again is forgotten.
"""

from collections import Counter
from typing import Final

from edge.errors import TooFast, TooMany
from edge.model import UserId
from services.runtime.clock import Clock
from services.runtime.metrics import Metrics

# Buckets are looked through for full ones when this many are kept.
_MAX_BUCKETS: Final = 50_000


class TokenBuckets:
    """One bucket for each user: `rate` a second, `burst` at once."""

    def __init__(self, what: str, *, rate: float, burst: float, clock: Clock, metrics: Metrics) -> None:
        self._what = what
        self._rate = rate
        self._burst = burst
        self._clock = clock
        # user → (tokens left, when that was)
        self._buckets: dict[UserId, tuple[float, float]] = {}
        self._refused = metrics.counter(
            "edge_rate_limited", "Requests refused for their rate.", labels=("what",)
        ).labels(what)

    def take(self, user: UserId) -> None:
        """
        Raises:
            TooFast: the bucket is empty; `retry_after_ms` is when it holds one again.
        """
        now = self._clock.monotonic()
        tokens, then = self._buckets.get(user, (self._burst, now))
        tokens = min(self._burst, tokens + (now - then) * self._rate)
        if tokens < 1:
            self._buckets[user] = (tokens, now)
            self._refused.inc()
            raise TooFast(
                what=self._what, limit=f"{self._rate:g}", retry_after_ms=int((1 - tokens) / self._rate * 1000) + 1
            )
        if user not in self._buckets and len(self._buckets) >= _MAX_BUCKETS:
            self._forget_full(now)
        self._buckets[user] = (tokens - 1, now)

    def _forget_full(self, now: float) -> None:
        refill_s = self._burst / self._rate
        self._buckets = {user: bucket for user, bucket in self._buckets.items() if now - bucket[1] < refill_s}


class ConnectionCounts:
    """Connections of each user. The new one too many is refused; an old one is never thrown out."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._counts: Counter[UserId] = Counter()

    def enter(self, user: UserId) -> None:
        """
        Raises:
            TooMany: the user has as many as are allowed.
        """
        if self._counts[user] >= self._limit:
            raise TooMany(what="connections of this user", limit=self._limit)
        self._counts[user] += 1

    def leave(self, user: UserId) -> None:
        self._counts[user] -= 1
        if not self._counts[user]:
            del self._counts[user]
