"""Latencies as a histogram: small enough to cross a pipe, mergeable, and exact to better than one per cent.

Owns the buckets and the quantiles; knows nothing of where a sample came from.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping

_SIGNIFICANT_BITS = 8
"""A bucket is at most 1/128 of its value wide; below 256 µs every microsecond has one of its own."""


class Histogram:
    """Counts of non-negative whole numbers, in buckets that grow with the value."""

    def __init__(self, buckets: Mapping[int, int] | None = None, largest: int = 0) -> None:
        """`buckets` and `largest` as another histogram had them."""
        self.buckets: dict[int, int] = dict(buckets or {})
        self.largest = largest

    @property
    def count(self) -> int:
        return sum(self.buckets.values())

    def add(self, samples: Iterable[int]) -> None:
        for value, times in Counter(samples).items():
            bucket = _bucket_of(value)
            self.buckets[bucket] = self.buckets.get(bucket, 0) + times
            self.largest = max(self.largest, value)

    def merge(self, other: "Histogram") -> None:
        for bucket, times in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + times
        self.largest = max(self.largest, other.largest)

    def quantile(self, fraction: float) -> int | None:
        """A value that at least `fraction` of the samples do not exceed; None without samples."""
        wanted = math.ceil(fraction * self.count)
        seen = 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= wanted:
                return min(_upper_end(bucket), self.largest)
        return None


def _bucket_of(value: int) -> int:
    """Buckets are numbered so that their order is the order of values."""
    shift = max(0, value.bit_length() - _SIGNIFICANT_BITS)
    return (shift << _SIGNIFICANT_BITS) + (value >> shift)


def _upper_end(bucket: int) -> int:
    shift, top = bucket >> _SIGNIFICANT_BITS, bucket & ((1 << _SIGNIFICANT_BITS) - 1)
    return ((top + 1) << shift) - 1
