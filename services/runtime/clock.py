"""Time, as something that is passed in.

Code that waits, expires or measures takes a `Clock`; tests pass one that they move by hand.
"""

import time
from typing import Protocol


class Clock(Protocol):
    """Where time comes from."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never goes back. For deadlines and intervals."""

    def time_ms(self) -> int:
        """UTC milliseconds since 1970. For what people read; it may jump either way."""


class SystemClock:
    """The machine's own clocks."""

    __slots__ = ()

    def monotonic(self) -> float:
        return time.monotonic()

    def time_ms(self) -> int:
        return time.time_ns() // 1_000_000
