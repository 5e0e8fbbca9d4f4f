"""The results as a table for people and as JSON for comparisons.

Owns both shapes. Every ratio that is printed names the floor it was divided by.
"""

import datetime
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from bench.cpu import CpuUse
from bench.floors import Floor
from bench.runner import ScenarioResult
from bench.stats import Histogram

_QUANTILES = ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"))
_BOTTLENECK = 0.9
"""A generator that used this much of a core limited what it measured."""
_NOISE = 0.1
"""So much of the machine used by others and the figures mean little."""


@dataclass(frozen=True, slots=True)
class Report:
    """One invocation. `failure` tells why it ended early."""

    started_at: datetime.datetime
    target: str
    arguments: Mapping[str, Any]
    results: Sequence[ScenarioResult]
    floors: Sequence[Floor]
    failure: str | None = None

    @property
    def is_green(self) -> bool:
        return self.failure is None and bool(self.results) and not any(one.problems for one in self.results)


def as_text(report: Report) -> str:
    lines = [
        "",
        f"Parley on {report.target}, {os.cpu_count()} cores, generator included (all of one machine)",
        "",
        *_table(
            ("scenario", "durable/s", "delivered/s", *_latency_titles("RECEIPT"), *_latency_titles("delivery")),
            [_result_row(result) for result in report.results],
        ),
        "",
        "CPU in µs (and share of one core)",
        *_cpu_table(report.results),
    ]
    if report.floors:
        lines += ["", "MongoDB alone (w: majority, j: true; same mongod, same run)", *_floor_table(report)]
    lines += ["", *_notes(report)]
    return "\n".join(lines)


def _latency_titles(end: str) -> list[str]:
    return [f"→{end} ms p50", *(name for _, name in _QUANTILES[1:]), "max"]


def _result_row(result: ScenarioResult) -> list[str]:
    return [
        result.label,
        f"{result.messages_per_s:,.0f}",
        f"{result.deliveries_per_s:,.0f}",
        *_latency_cells(result.to_receipt),
        *_latency_cells(result.to_delivery),
    ]


def _latency_cells(histogram: Histogram) -> list[str]:
    values = [*(histogram.quantile(fraction) for fraction, _ in _QUANTILES), histogram.largest or None]
    return [_ms(value) for value in values]


def _ms(value_us: int | None) -> str:
    return "-" if value_us is None else f"{value_us / 1000:.1f}"


def _cpu_table(results: Sequence[ScenarioResult]) -> list[str]:
    names = list(dict.fromkeys(name for result in results for name in result.cpu.seconds))
    rows = [["per", *(result.unit for result in results)]]
    rows += [[name, *(_cpu_cell(result, result.cpu.seconds.get(name)) for result in results)] for name in names]
    rows.append(["all of these", *(_cpu_cell(result, sum(result.cpu.seconds.values())) for result in results)])
    rows.append(["other processes", *(_share(result, result.cpu.others_s) for result in results)])
    return _table(("process", *(result.label for result in results)), rows)


def _cpu_cell(result: ScenarioResult, seconds: float | None) -> str:
    if seconds is None:
        return "-"
    each = f"{seconds * 1e6 / result.units:.1f}" if result.units else "-"
    return f"{each} {_share(result, seconds)}"


def _share(result: ScenarioResult, seconds: float) -> str:
    return f"({seconds / result.measured_s:.0%})"


def _floor_table(report: Report) -> list[str]:
    throughput = [result for result in report.results if result.label.startswith("pairs")]
    titles = (
        "floor",
        "documents/s",
        "write ms p50",
        "p99",
        *("CPU µs " + name for name in _names(floor.cpu_us_per_document for floor in report.floors)),
        *(f"{result.label} ÷ it" for result in throughput),
    )
    rows = [
        [
            floor.label,
            f"{floor.documents_per_s:,.0f}",
            _ms(floor.write_p50_us),
            _ms(floor.write_p99_us),
            *(f"{each:.1f}" for each in floor.cpu_us_per_document.values()),
            *(f"{result.messages_per_s / floor.documents_per_s:.2f}" for result in throughput),
        ]
        for floor in report.floors
    ]
    return _table(titles, rows)


def _names(mappings: Iterable[Mapping[str, object]]) -> list[str]:
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))


def _notes(report: Report) -> list[str]:
    lines = []
    for result in report.results:
        lines += [f"RED  {result.label}: {problem}: {times}" for problem, times in result.problems.items()]
        lines += [f"     {example}" for example in result.examples]
        lines += [f"note {result.label}: {note}" for note in _cautions(result)]
    if report.failure is not None:
        lines.append(f"RED  {report.failure}")
    if report.is_green:
        lines.append("green: every seq contiguous on every subscription, every RECEIPT's message delivered, no refusal")
    return lines


def _cautions(result: ScenarioResult) -> list[str]:
    notes = []
    for name, seconds in result.cpu.seconds.items():
        if name.startswith("generator") and seconds > _BOTTLENECK * result.measured_s:
            notes.append(f"{name} used {seconds / result.measured_s:.0%} of a core: it was the limit")
    machine_s = result.measured_s * (os.cpu_count() or 1)
    if result.cpu.others_s > _NOISE * machine_s:
        notes.append(f"other processes used {result.cpu.others_s / machine_s:.0%} of the machine")
    if "RATE_LIMITED" in result.refusals:
        notes.append("the limits of this target were not lifted: see PARLEY_EDGE_SENDS_PER_SECOND")
    if result.other_events:
        events = ", ".join(f"{name} {times:,}" for name, times in sorted(result.other_events.items()))
        notes.append(f"further events: {events}")
    return notes


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[at]) for row in (titles, *rows)) for at in range(len(titles))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in (titles, *rows)
    ]


def write_json(report: Report, directory: Path) -> Path:
    """Write the report under a name made of its time; the path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{report.started_at:%Y%m%dT%H%M%SZ}.json"
    path.write_bytes(orjson.dumps(as_json(report), option=orjson.OPT_INDENT_2))
    return path


def as_json(report: Report) -> dict[str, Any]:
    return {
        "startedAt": report.started_at.isoformat(),
        "isGreen": report.is_green,
        "failure": report.failure,
        "target": report.target,
        "arguments": dict(report.arguments),
        "machine": {
            "cores": os.cpu_count(),
            "python": sys.version.split()[0],
            "kernel": platform.release(),
        },
        "scenarios": [_result_json(result) for result in report.results],
        "floors": [
            {
                "label": floor.label,
                "documentsPerS": floor.documents_per_s,
                "writeP50Us": floor.write_p50_us,
                "writeP99Us": floor.write_p99_us,
                "cpuUsPerDocument": dict(floor.cpu_us_per_document),
            }
            for floor in report.floors
        ],
    }


def _result_json(result: ScenarioResult) -> dict[str, Any]:
    return {
        "label": result.label,
        "connections": result.connections,
        "measuredS": result.measured_s,
        "messages": result.messages,
        "deliveries": result.deliveries,
        "messagesPerS": result.messages_per_s,
        "deliveriesPerS": result.deliveries_per_s,
        "toReceiptUs": _latency_json(result.to_receipt),
        "toDeliveryUs": _latency_json(result.to_delivery),
        "cpuS": _cpu_json(result.cpu),
        "cpuUsPerMessage": {
            name: seconds * 1e6 / result.messages for name, seconds in result.cpu.seconds.items() if result.messages
        },
        "problems": result.problems,
        "examples": list(result.examples),
        "otherEvents": dict(result.other_events),
    }


def _latency_json(histogram: Histogram) -> dict[str, int | None]:
    quantiles = {name: histogram.quantile(fraction) for fraction, name in _QUANTILES}
    return {**quantiles, "max": histogram.largest, "count": histogram.count}


def _cpu_json(cpu: CpuUse) -> dict[str, Any]:
    return {**cpu.seconds, "otherProcesses": cpu.others_s, "machine": cpu.machine_busy_s}
