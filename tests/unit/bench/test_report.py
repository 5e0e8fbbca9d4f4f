"""The figures that were measured are the figures that are shown; red is shown as red."""

import datetime
from collections.abc import Mapping
from pathlib import Path

import orjson
import pytest

from bench.cpu import CpuUse
from bench.floors import Floor
from bench.report import Report, as_text, write_json
from bench.runner import ScenarioResult
from bench.stats import Histogram


def test_rates_latencies_cpu_and_ratios_are_printed() -> None:
    text = as_text(_report(_result()))
    assert "pairs 100, window 16" in text
    assert "8,000" in text
    assert "12.5 (10%)" in text  # 1 s of CPU for 80,000 messages in 10 s
    assert "4.00" in text  # 8,000 messages/s over a floor of 2,000
    assert "green" in text


@pytest.mark.parametrize(
    "problems",
    [
        {"violations": {"seq missing": 3}},
        {"refusals": {"RATE_LIMITED": 1}},
        {"messages": 0},
        {"gone": ("edge-1",)},
    ],
)
def test_a_problem_makes_the_report_red(problems: Mapping[str, object]) -> None:
    report = _report(_result(**problems))  # type: ignore[arg-type] # each mapping names one parameter
    assert not report.is_green
    assert "RED" in as_text(report)
    assert "green" not in as_text(report)


def test_a_report_of_nothing_or_of_a_failure_is_red() -> None:
    assert not _report().is_green
    assert not _report(_result(), failure="generator-1 hung").is_green


def test_a_generator_at_its_limit_and_a_noisy_machine_are_pointed_out() -> None:
    text = as_text(_report(_result(generator_s=9.5)))
    assert "generator-1 used 95% of a core: it was the limit" in text
    assert "other processes used" in as_text(_report(_result(machine_busy_s=1000.0)))


def test_a_limit_that_was_met_is_explained() -> None:
    assert "PARLEY_EDGE_SENDS_PER_SECOND" in as_text(_report(_result(refusals={"RATE_LIMITED": 5})))


def test_fan_out_is_counted_per_delivery() -> None:
    text = as_text(_report(_result(deliveries=800_000)))
    assert "delivery" in text
    assert "1.2 (10%)" in text


def test_the_json_holds_the_same_figures(tmp_path: Path) -> None:
    path = write_json(_report(_result()), tmp_path / "reports")
    content = orjson.loads(path.read_bytes())
    scenario = content["scenarios"][0]
    assert path.name == "20261101T120000Z.json"
    assert content["isGreen"] is True
    assert scenario["messagesPerS"] == 8000
    assert scenario["cpuUsPerMessage"]["edge-1"] == 12.5
    assert scenario["toReceiptUs"] == {"p50": 20, "p90": 30, "p99": 30, "max": 30, "count": 3}
    assert content["floors"][0]["documentsPerS"] == 2000


def _report(*results: ScenarioResult, failure: str | None = None) -> Report:
    return Report(
        started_at=datetime.datetime(2026, 11, 1, 12, tzinfo=datetime.UTC),
        target="a stack",
        arguments={"pairs": "100"},
        results=results,
        floors=[Floor("insert_one, 64 tasks", 2000.0, 900, 4000, {"mongod": 500.0})],
        failure=failure,
    )


def _result(
    *,
    messages: int = 80_000,
    deliveries: int = 80_000,
    violations: Mapping[str, int] | None = None,
    refusals: Mapping[str, int] | None = None,
    gone: tuple[str, ...] = (),
    generator_s: float = 0.5,
    machine_busy_s: float = 2.0,
) -> ScenarioResult:
    histogram = Histogram()
    histogram.add([10, 20, 30])
    return ScenarioResult(
        label="pairs 100, window 16",
        connections=200,
        measured_s=10.0,
        messages_per_s=messages / 10,
        deliveries_per_s=deliveries / 10,
        to_receipt=histogram,
        to_delivery=histogram,
        cpu=CpuUse({"edge-1": 1.0, "generator-1": generator_s}, machine_busy_s, gone),
        messages=messages,
        deliveries=deliveries,
        violations=violations or {},
        examples=[],
        refusals=refusals or {},
        other_events={},
    )
