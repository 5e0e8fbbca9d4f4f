"""How far somebody had come at a time: seqs with their times, asked for the highest until then."""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate


class Reach:
    def __init__(self, steps: Iterable[tuple[float, int]]) -> None:
        ordered = sorted(steps)
        self._times = [at_s for at_s, _ in ordered]
        self._highest = list(accumulate((seq for _, seq in ordered), max))

    def by(self, at_s: float) -> int:
        """The highest seq until then, and just then; 0 where there was none."""
        place = bisect_right(self._times, at_s)
        return self._highest[place - 1] if place else 0
