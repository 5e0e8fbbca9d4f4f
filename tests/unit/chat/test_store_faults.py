"""`services.chat.store.faults`: a database that is away fails every call, and is logged now and then."""

from structlog.testing import capture_logs

from services.chat.errors import StoreUnavailable
from services.chat.store.faults import Faults
from tests.support.clock import ManualClock


def test_the_first_failure_is_logged_with_its_cause_and_the_caller_is_not_told_it() -> None:
    faults = Faults("mongodb", ManualClock())

    with capture_logs() as lines:
        error = faults.translated(OSError("connection refused by 10.0.0.7"))

    assert isinstance(error, StoreUnavailable)
    assert error.retry_after_ms is not None
    assert "10.0.0.7" not in str(error)
    assert [(line["event"], line["error"]) for line in lines] == [("store_failed", "connection refused by 10.0.0.7")]


def test_further_failures_are_counted_until_the_next_line() -> None:
    clock = ManualClock()
    faults = Faults("mongodb", clock)

    with capture_logs() as lines:
        for _ in range(5):
            faults.translated(OSError("away"))
            clock.advance(1)
        clock.advance(10)
        faults.translated(OSError("still away"))

    assert [(line["error"], line["unlogged"]) for line in lines] == [("away", 0), ("still away", 4)]
