"""One registry per process, passed in; metrics may be asked for twice."""

from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from services.runtime.admin import Readiness
from services.runtime.metrics import Metrics


def test_two_components_of_one_process_share_a_metric() -> None:
    registry = CollectorRegistry()
    Metrics(registry).counter("things", "Things", ("kind",)).labels("a").inc()
    Metrics(registry).counter("things", "Things", ("kind",)).labels("a").inc()
    assert registry.get_sample_value("parley_things_total", {"kind": "a"}) == 2


def test_two_registries_share_nothing() -> None:
    first, second = CollectorRegistry(), CollectorRegistry()
    Metrics(first).counter("things", "Things").inc()
    Metrics(second).counter("things", "Things")
    assert second.get_sample_value("parley_things_total") == 0


@pytest.mark.parametrize(
    "again",
    [
        lambda metrics: metrics.gauge("thing_seconds", "Time", ("kind",)),
        lambda metrics: metrics.histogram("thing_seconds", "Time", buckets=(1, 2)),
        lambda metrics: metrics.histogram("thing_seconds", "Time", ("kind",), buckets=(1, 3)),
    ],
    ids=["another kind", "other labels", "other buckets"],
)
def test_one_name_cannot_mean_two_things(again: Callable[[Metrics], object]) -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.histogram("thing_seconds", "Time", ("kind",), buckets=(1, 2))
    with pytest.raises(ValueError, match="parley_thing_seconds exists already"):
        again(metrics)


def test_process_metrics_can_be_asked_for_twice() -> None:
    registry = CollectorRegistry()
    Metrics(registry).process_metrics()
    Metrics(registry).process_metrics()
    assert b"process_resident_memory_bytes" in generate_latest(registry)
    assert b"process_open_fds" in generate_latest(registry)


def test_a_process_is_not_ready_before_it_says_so() -> None:
    readiness = Readiness()
    assert readiness.failing() == ["process"]
    readiness.set(True)
    assert readiness.ready


def test_readiness_names_each_check_that_fails() -> None:
    readiness = Readiness()
    readiness.set(True)
    up = {"store": True}
    readiness.add_check("store", lambda: up["store"])
    readiness.add_check("other", lambda: True)
    assert readiness.ready
    up["store"] = False
    assert readiness.failing() == ["store"]
    assert not readiness.ready
