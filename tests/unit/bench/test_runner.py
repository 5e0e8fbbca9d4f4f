"""The bench and its generator processes together, against an edge in this process."""

import asyncio
import os
import sys
from pathlib import Path

import msgspec
import orjson
import pytest

from bench import runner, scenarios
from bench.plan import Address, Answer, Failed, Plan, Ready
from bench.runner import ROOT, BenchFailed, RunSettings, ScenarioResult, run_scenario
from bench.scenarios import Scenario, Times
from tests.unit.bench.fake_edge import Faults, fake_edge

_SETTINGS = RunSettings(run_id="t", generators=2, content_bytes=100)
_PAIRS = scenarios.pairs(4, 8, Times(warm_up_s=0.1, measured_s=0.4))


async def test_two_generators_share_a_load_and_their_results_are_added_up() -> None:
    async with fake_edge() as (edge, address):
        result = await _run(_PAIRS, address)
    assert result.problems == {}
    assert result.connections == 8
    assert {"edge", "generator-1", "generator-2"} == set(result.cpu.seconds)
    assert 0 < result.messages <= edge.accepted
    assert result.to_receipt.count == result.messages
    assert result.to_delivery.count == result.deliveries


async def test_a_broken_promise_comes_back_from_the_generator() -> None:
    async with fake_edge(Faults(repeat_seq=2)) as (_, address):
        result = await _run(_PAIRS, address)
    assert "seq repeated or reordered" in result.problems
    assert result.examples


async def test_a_subscribe_that_hangs_ends_the_run_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "CONNECT_S", 0.3)
    async with fake_edge(Faults(is_silent=True)) as (_, address):
        with pytest.raises(BenchFailed, match=r"pairs 4, window 8: edge .* no answer in 0\.3 s"):
            await _run(_PAIRS, address)


async def test_generators_that_cannot_connect_end_the_run_with_a_reason() -> None:
    async with fake_edge() as (_, address):
        scenario_edges = [address, Address("127.0.0.1", 1)]
        with pytest.raises(BenchFailed, match=r"generator-\d: edge 127\.0\.0\.1:1: "):
            await run_scenario(_PAIRS, scenario_edges, {}, _SETTINGS, say=lambda line: None)


async def test_a_generator_ends_when_the_bench_is_gone() -> None:
    generator = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.generator", cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    plan = Plan("t", 1, 100, "receipt", 5, 5, ())
    output, _ = await asyncio.wait_for(generator.communicate(msgspec.json.encode(plan) + b"\n"), 20)
    answers: list[Answer] = [msgspec.json.decode(line, type=Answer) for line in output.splitlines()]
    assert generator.returncode == 0
    assert answers == [Ready(connections=0), Failed(reason="the bench went away")]


@pytest.mark.parametrize(("faults", "code"), [(Faults(), 0), (Faults(repeat_seq=3), 1)])
async def test_the_command_prints_a_table_writes_json_and_tells_by_its_code(
    faults: Faults, code: int, tmp_path: Path
) -> None:
    size = ["--pairs", "2", "--window", "2,4", "--subscribers", "3", "--seconds", "0.3", "--warm-up", "0.1"]
    flags = ["--scenario", "pairs,fanout", *size, "--reports", str(tmp_path)]
    async with fake_edge(faults) as (_, address):
        bench = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench", "--at", str(address), *flags),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await asyncio.wait_for(bench.communicate(), 60)
    text = output.decode()
    assert bench.returncode == code, text
    assert _labels_of_the_report_in(tmp_path) == ["pairs 2, window 2", "pairs 2, window 4", "fanout to 3"]
    assert "fanout to 3" in text
    assert ("RED" in text) == bool(code)


async def _run(scenario: Scenario, address: Address) -> ScenarioResult:
    lines: list[str] = []
    return await run_scenario(scenario, [address], {"edge": os.getpid()}, _SETTINGS, say=lines.append)


def _labels_of_the_report_in(directory: Path) -> list[str]:
    (report,) = directory.glob("*.json")
    return [scenario["label"] for scenario in orjson.loads(report.read_bytes())["scenarios"]]
