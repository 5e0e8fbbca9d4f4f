"""Metrics in Prometheus form. The registry is passed in: no metric lives in a module.

Names are `parley_<what>_<unit>`; labels have few values (never an id). Asking twice for a metric of one
registry gives the same object, so that two components of one process may share it.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from services.runtime.admin import AdminServer, Readiness

__all__ = ["SECONDS_BUCKETS", "SIZE_BUCKETS", "AdminServer", "Metrics", "Readiness"]

# Upper bounds in seconds. Most calls take 1 to 20 ms on a 2-core machine; deadlines end at some 10 s.
SECONDS_BUCKETS: Final = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)

# Upper bounds for sizes of batches and queues.
SIZE_BUCKETS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

M = TypeVar("M")
_Shape = tuple[type[object], tuple[str, ...], tuple[float, ...]]

# What each registry holds already; an entry goes when its registry goes.
_held: WeakKeyDictionary[CollectorRegistry, dict[str, tuple[_Shape, Any]]] = WeakKeyDictionary()


class Metrics:
    """Makes metrics in one registry.

    Asking again for a name as another kind, with other labels or with other buckets raises ValueError.
    """

    def __init__(self, registry: CollectorRegistry, namespace: str = "parley") -> None:
        self.registry = registry
        self._namespace = namespace
        self._known = _held.setdefault(registry, {})

    def counter(self, name: str, doc: str, labels: Sequence[str] = ()) -> Counter:
        """Only goes up. `name` comes without `_total`, which is added."""

        def make() -> Counter:
            return Counter(name, doc, tuple(labels), namespace=self._namespace, registry=self.registry)

        return self._once(name, (Counter, tuple(labels), ()), make)

    def gauge(self, name: str, doc: str, labels: Sequence[str] = ()) -> Gauge:
        """Goes up and down."""

        def make() -> Gauge:
            return Gauge(name, doc, tuple(labels), namespace=self._namespace, registry=self.registry)

        return self._once(name, (Gauge, tuple(labels), ()), make)

    def histogram(
        self, name: str, doc: str, labels: Sequence[str] = (), buckets: Sequence[float] = SECONDS_BUCKETS
    ) -> Histogram:
        """`buckets` are upper bounds, ascending, in the unit that `name` ends in."""

        def make() -> Histogram:
            return Histogram(
                name,
                doc,
                tuple(labels),
                namespace=self._namespace,
                registry=self.registry,
                buckets=tuple(buckets),
            )

        return self._once(name, (Histogram, tuple(labels), tuple(buckets)), make)

    def process_metrics(self) -> None:
        """CPU, memory, start time and descriptors of this process, as `process_*`. May be called again."""
        self._once("process", (ProcessCollector, (), ()), lambda: ProcessCollector(registry=self.registry))

    def _once(self, name: str, shape: _Shape, make: Callable[[], M]) -> M:
        full_name = f"{self._namespace}_{name}"
        held = self._known.get(full_name)
        if held is None:
            held = self._known[full_name] = (shape, make())
        if held[0] != shape:
            raise ValueError(f"{full_name} exists already as {held[0]}, not {shape}")
        metric: M = held[1]
        return metric
