"""`python -m bench`: measure Parley, or as much of it as a flag asks for. See `--help`.

Ends with 0 when everything was correct, 1 when a check failed, 2 when it could not be run.
"""

import argparse
import asyncio
import datetime
import os
import sys
import time
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import uvloop

from bench import scenarios
from bench.floors import SHAPES, FloorFailed, measure_floors
from bench.report import Report, as_text, write_json
from bench.runner import ROOT, BenchFailed, RunSettings, ScenarioResult, run_scenario
from bench.scenarios import Scenario, Times
from bench.target import NoTarget, Target, addressed, attached, embedded, parse_address, started_stack

_LOCAL = ROOT / ".local"
_ALL = ("pairs", "latency", "fanout", "groups")
_LONG = Times(warm_up_s=2.0, measured_s=10.0)
"""Of `pairs`."""
_SHORT = Times(warm_up_s=1.0, measured_s=3.0)
"""Of the other scenarios: all of them, with the start of a stack, stay under 90 s."""
_FLOOR_S = 1.5
_REST_S = 1.0
"""Between two scenarios: what the first left to be done afterwards must not be charged to the second."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure Parley: throughput, latency and CPU per message, beside what MongoDB alone does.",
    )
    choice = parser.add_argument
    choice("--scenario", default=",".join(_ALL), help=f"some of {', '.join(_ALL)}, with commas (default: all)")
    choice("--pairs", type=_positive, default=100, help="conversations of two in `pairs`")
    choice(
        "--window", type=_windows, default=(16,), help="messages in flight per sender in `pairs`; 1,16,64: three runs"
    )
    choice("--subscribers", type=_positive, default=200, help="watchers in `fanout`")
    choice("--groups", type=_positive, default=20, help="groups of ten in `groups`")
    choice("--seconds", type=float, help="measured, per scenario (default: 10 in pairs, else 3)")
    choice("--warm-up", type=float, help="seconds of load before that (default: 2 in pairs, else 1)")
    choice("--content-bytes", type=_positive, default=128, help="length of a message's content")
    choice("--generators", type=_positive, default=1, help="processes that make the load")
    choice("--edges", type=_positive, default=1, help="edges of the stack that is started")
    choice("--chats", type=_positive, default=1, help="chat replicas of the stack that is started")
    choice("--no-floors", action="store_true", help="leave MongoDB alone")
    choice("--reports", type=Path, default=_LOCAL / "bench", help="where the JSON goes (default: .local/bench)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--attach", action="store_true", help="the stack that runs (.local/stack/state.json)")
    where.add_argument("--embedded", action="store_true", help="start `python -m services` instead of a stack")
    where.add_argument("--at", action="append", type=parse_address, metavar="HOST:PORT", help="an edge that runs")
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _windows(text: str) -> tuple[int, ...]:
    return tuple(_positive(part) for part in text.split(","))


def _scenarios(arguments: argparse.Namespace) -> list[Scenario]:
    long = _times(arguments, _LONG)
    short = _times(arguments, _SHORT)
    known = {
        "pairs": [scenarios.pairs(arguments.pairs, window, long) for window in arguments.window],
        "latency": [scenarios.latency(short)],
        "fanout": [scenarios.fanout(arguments.subscribers, short)],
        "groups": [scenarios.groups(arguments.groups, short)],
    }
    chosen = arguments.scenario.split(",")
    unknown = [name for name in chosen if name not in known]
    if unknown:
        _refuse(f"no such scenario: {', '.join(unknown)}; there are {', '.join(_ALL)}")
    return [scenario for name in chosen for scenario in known[name]]


def _times(arguments: argparse.Namespace, default: Times) -> Times:
    return Times(
        warm_up_s=default.warm_up_s if arguments.warm_up is None else arguments.warm_up,
        measured_s=default.measured_s if arguments.seconds is None else arguments.seconds,
    )


def _target(arguments: argparse.Namespace) -> AbstractContextManager[Target]:
    if arguments.at:
        return addressed(arguments.at)
    if arguments.attach:
        return attached(_LOCAL / "stack")
    if arguments.embedded:
        return embedded(_LOCAL / "bench" / "embedded")
    _say("starting a stack")
    return started_stack(_LOCAL / "bench" / "stack", edges=arguments.edges, chats=arguments.chats)


async def _measure(target: Target, chosen: list[Scenario], arguments: argparse.Namespace, report: Report) -> Report:
    """`report` with what was measured, up to the first failure."""
    run_id = f"{int(time.time()):x}"
    results: list[ScenarioResult] = []
    floors = report.floors
    try:
        for number, scenario in enumerate(chosen, start=1):
            if results:
                await asyncio.sleep(_REST_S)
            # New users each time: a second load on the conversations of the first would repeat its message ids.
            settings = RunSettings(f"{run_id}-{number}", arguments.generators, arguments.content_bytes)
            results.append(await run_scenario(scenario, target.edges, target.pids, settings, say=_say))
        if target.mongo_url is not None and not arguments.no_floors:
            _say("floors: MongoDB alone")
            clients = {name: pid for name, pid in target.pids.items() if name.startswith("mongod")}
            floors = await measure_floors(
                target.mongo_url,
                SHAPES,
                {**clients, "client": os.getpid()},
                seconds=_FLOOR_S,
                content_bytes=arguments.content_bytes,
            )
    except (BenchFailed, FloorFailed) as failure:
        return replace(report, results=results, floors=floors, failure=str(failure))
    return replace(report, results=results, floors=floors)


def main() -> int:
    arguments = _arguments()
    chosen = _scenarios(arguments)
    report = Report(
        started_at=datetime.datetime.now(datetime.UTC),
        target="",
        arguments={name: str(value) for name, value in vars(arguments).items() if value is not None},
        results=(),
        floors=(),
    )
    try:
        with _target(arguments) as target:
            _say(f"measuring {target.description}")
            report = replace(report, target=target.description)
            report = uvloop.run(_measure(target, chosen, arguments, report))
            _say("done")
    except NoTarget as missing:
        _refuse(str(missing))
    print(as_text(report))
    print(f"\nJSON: {write_json(report, arguments.reports)}")
    return 0 if report.is_green else 1


_began = time.monotonic()


def _say(line: str) -> None:
    print(f"[{time.monotonic() - _began:5.1f} s] {line}", flush=True)


def _refuse(reason: str) -> NoReturn:
    print(f"bench: {reason}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    raise SystemExit(main())
