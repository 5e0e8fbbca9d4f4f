"""A clock that stands still until a test moves it."""


class ManualClock:
    """Both clocks move together, and only by `advance`, `sleep` or `jump_wall_ms`."""

    def __init__(self, *, monotonic_s: float = 1_000.0, time_ms: int = 1_700_000_000_000) -> None:
        self._monotonic_s = monotonic_s
        self._time_ms = time_ms
        self.slept_s: list[float] = []

    def monotonic(self) -> float:
        return self._monotonic_s

    def time_ms(self) -> int:
        return self._time_ms

    def advance(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError("a monotonic clock does not go back; see jump_wall_ms")
        self._monotonic_s += seconds
        self._time_ms += round(seconds * 1000)

    def jump_wall_ms(self, delta_ms: int) -> None:
        """Move only the wall clock, as an operator or NTP may."""
        self._time_ms += delta_ms

    async def sleep(self, seconds: float) -> None:
        """Stands in for `asyncio.sleep`: returns at once with the clock moved; remembered in `slept_s`."""
        self.slept_s.append(seconds)
        self.advance(seconds)
