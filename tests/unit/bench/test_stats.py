"""Quantiles are right to a hundredth, merging is adding."""

import random

import pytest

from bench.stats import Histogram


def test_quantiles_are_within_one_per_cent_of_the_samples() -> None:
    generator = random.Random(7)
    samples = sorted(round(generator.lognormvariate(8, 2)) for _ in range(5_000))
    histogram = Histogram()
    histogram.add(samples)
    for fraction in (0.01, 0.5, 0.9, 0.99, 0.999):
        exact = samples[max(0, int(fraction * len(samples) + 0.999_999) - 1)]
        assert histogram.quantile(fraction) == pytest.approx(exact, rel=0.01, abs=1)
    assert histogram.quantile(1) == samples[-1] == histogram.largest


@pytest.mark.parametrize("value", [0, 1, 255, 256, 511, 512, 65_535, 65_536, 4_000_000_000])
def test_a_single_sample_is_every_quantile(value: int) -> None:
    histogram = Histogram()
    histogram.add([value])
    assert histogram.quantile(0.5) == histogram.quantile(0.99) == value


def test_without_samples_there_is_no_quantile() -> None:
    assert Histogram().quantile(0.5) is None


def test_merging_equals_adding_all_samples_to_one() -> None:
    whole, first, second = Histogram(), Histogram(), Histogram()
    whole.add([1, 300, 70_000, 5])
    first.add([1, 300])
    second.add([70_000, 5])
    first.merge(Histogram(second.buckets, second.largest))
    assert (first.buckets, first.largest) == (whole.buckets, whole.largest)
