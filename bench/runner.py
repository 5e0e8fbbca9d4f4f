"""Runs one scenario: sets it up over HTTP, starts the generator processes, gives them one clock, measures around them.

Owns the generator processes and every time-out around them: whatever hangs ends as a `BenchFailed` that says what was
waited for. Refuses: starting what is measured (`target`) and judging it (`report`).
"""

import asyncio
import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.cpu import CpuUse, read_cpu, used_between
from bench.gateway import Gateway, SetUpFailed
from bench.generator import MAX_LINE_BYTES
from bench.plan import Address, Answer, ConversationPlan, Failed, Latency, Outcome, Plan, Ready, Schedule
from bench.scenarios import Scenario, make_conversations
from bench.stats import Histogram

ROOT = Path(__file__).parents[1]

CONNECT_S = 10.0
"""One connection or one HTTP call; wire.md gives a client as long to CONNECT."""
READY_S = 45.0
"""All connections of one generator, some of which wait for their turn."""
DRAIN_S = 10.0
"""How long what is in flight at the end may take to be receipted and delivered."""
_LEAD_S = 0.3
"""From the order to the start: enough for it to reach every generator."""
_ANSWER_S = 10.0
_GENERATOR_EXIT_S = 5.0


class BenchFailed(Exception):
    """A scenario could not be run to its end."""


@dataclass(frozen=True, slots=True)
class ScenarioResult:
    """Rates and times of the measured window; `violations` and `refusals` of the whole run, set-up to drain."""

    label: str
    connections: int
    measured_s: float
    messages_per_s: float
    deliveries_per_s: float
    to_receipt: Histogram
    to_delivery: Histogram
    cpu: CpuUse
    messages: int
    deliveries: int
    violations: Mapping[str, int]
    examples: Sequence[str]
    refusals: Mapping[str, int]
    other_events: Mapping[str, int]

    @property
    def unit(self) -> str:
        """What its work is best counted in."""
        return "delivery" if self.deliveries > 1.5 * self.messages else "message"

    @property
    def units(self) -> int:
        return self.deliveries if self.unit == "delivery" else self.messages

    @property
    def problems(self) -> dict[str, int]:
        """Everything that makes the run red."""
        found = {**self.violations, **{f"refused {code}": times for code, times in self.refusals.items()}}
        found |= {f"{name} was not there all the time": 1 for name in self.cpu.gone}
        if not self.messages or not self.deliveries:
            found["nothing was measured"] = 1
        return found


@dataclass(frozen=True, slots=True)
class RunSettings:
    """`run_id` goes into the names of users and messages and must be new for every run."""

    run_id: str
    generators: int
    content_bytes: int


async def run_scenario(
    scenario: Scenario,
    edges: Sequence[Address],
    pids: Mapping[str, int],
    settings: RunSettings,
    *,
    say: Callable[[str], None],
) -> ScenarioResult:
    """`pids` are the processes whose CPU is told; those of the generators are added.

    Raises:
        BenchFailed: it could not be set up, or a generator failed or hung.
    """
    say(f"{scenario.label}: setting up {scenario.conversations} conversations, {scenario.clients} users")
    conversations = await _set_up(scenario, edges, settings.run_id)
    async with AsyncExitStack() as generators:
        started = [
            await generators.enter_async_context(_Generator(number))
            for number in range(1, min(settings.generators, len(conversations)) + 1)
        ]
        plans = _split(scenario, conversations, settings, len(started))
        ready = await asyncio.gather(*(one.prepare(plan) for one, plan in zip(started, plans, strict=True)))
        say(
            f"{scenario.label}: {sum(ready)} connections, {scenario.times.warm_up_s:g} s of warm-up, "
            f"then {scenario.times.measured_s:g} s measured"
        )
        watched = {**pids, **{one.name: one.pid for one in started}}
        outcomes, cpu = await _measure(scenario, started, watched)
    return _merged(scenario, sum(ready), outcomes, cpu)


async def _set_up(scenario: Scenario, edges: Sequence[Address], run_id: str) -> list[ConversationPlan]:
    try:
        async with Gateway(edges[0], timeout_s=CONNECT_S) as gateway:
            return await make_conversations(scenario, edges, gateway, user_prefix=f"bench-{run_id}-{scenario.name}")
    except SetUpFailed as failure:
        raise BenchFailed(f"{scenario.label}: {failure}") from failure


def _split(
    scenario: Scenario, conversations: Sequence[ConversationPlan], settings: RunSettings, generators: int
) -> list[Plan]:
    """A conversation is never divided: who checks it must see all of it."""
    return [
        Plan(
            run_id=settings.run_id,
            window=scenario.window,
            content_bytes=settings.content_bytes,
            paced_by=scenario.paced_by,
            connect_timeout_s=CONNECT_S,
            drain_timeout_s=DRAIN_S,
            conversations=tuple(conversations[at::generators]),
        )
        for at in range(generators)
    ]


async def _measure(
    scenario: Scenario, generators: Sequence["_Generator"], pids: Mapping[str, int]
) -> tuple[list[Outcome], CpuUse]:
    start_s = time.monotonic() + _LEAD_S
    from_s = start_s + scenario.times.warm_up_s
    until_s = from_s + scenario.times.measured_s
    schedule = Schedule(
        start_us=int(start_s * 1e6), measure_from_us=int(from_s * 1e6), measure_until_us=int(until_s * 1e6)
    )
    for generator in generators:
        await generator.begin(schedule)
    limit_s = until_s - time.monotonic() + DRAIN_S + _ANSWER_S
    results = asyncio.gather(*(generator.outcome(limit_s) for generator in generators))
    try:
        await asyncio.sleep(from_s - time.monotonic())
        before = read_cpu(pids)
        await asyncio.sleep(until_s - time.monotonic())
        cpu = used_between(before, read_cpu(pids))
        return list(await results), cpu
    finally:
        results.cancel()


def _merged(scenario: Scenario, connections: int, outcomes: Sequence[Outcome], cpu: CpuUse) -> ScenarioResult:
    messages = sum(outcome.messages for outcome in outcomes)
    deliveries = sum(outcome.deliveries for outcome in outcomes)
    return ScenarioResult(
        label=scenario.label,
        connections=connections,
        measured_s=scenario.times.measured_s,
        messages_per_s=messages / scenario.times.measured_s,
        deliveries_per_s=deliveries / scenario.times.measured_s,
        to_receipt=_merged_latency(outcome.to_receipt for outcome in outcomes),
        to_delivery=_merged_latency(outcome.to_delivery for outcome in outcomes),
        cpu=cpu,
        messages=messages,
        deliveries=deliveries,
        violations=_sum(outcome.violations for outcome in outcomes),
        examples=[example for outcome in outcomes for example in outcome.examples],
        refusals=_sum(outcome.refusals for outcome in outcomes),
        other_events=_sum(outcome.other_events for outcome in outcomes),
    )


def _merged_latency(latencies: Iterable[Latency]) -> Histogram:
    merged = Histogram()
    for latency in latencies:
        merged.merge(Histogram(latency.buckets, latency.largest))
    return merged


def _sum(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(total)


class _Generator:
    """One generator process, executed afresh (never forked from a process that has an event loop)."""

    def __init__(self, number: int) -> None:
        self.name = f"generator-{number}"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        return self._running.pid

    async def __aenter__(self) -> "_Generator":
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bench.generator",
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=MAX_LINE_BYTES,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        process = self._running
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(_GENERATOR_EXIT_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def prepare(self, plan: Plan) -> int:
        """Connect everybody; how many connections that made."""
        await self._write(plan)
        answer = await self._answer(READY_S, "to connect everybody")
        if not isinstance(answer, Ready):
            raise self._unexpected(answer)
        return answer.connections

    async def begin(self, schedule: Schedule) -> None:
        await self._write(schedule)

    async def outcome(self, limit_s: float) -> Outcome:
        answer = await self._answer(limit_s, "for its outcome")
        if not isinstance(answer, Outcome):
            raise self._unexpected(answer)
        return answer

    def _unexpected(self, answer: Answer) -> BenchFailed:
        return BenchFailed(f"{self.name}: {answer.reason if isinstance(answer, Failed) else type(answer).__name__}")

    async def _write(self, command: Plan | Schedule) -> None:
        stdin = self._running.stdin
        if stdin is None:
            raise BenchFailed(f"{self.name} has no pipe")
        stdin.write(msgspec.json.encode(command) + b"\n")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # `_answer` tells that it is gone
            await stdin.drain()

    async def _answer(self, limit_s: float, what: str) -> Answer:
        stdout = self._running.stdout
        if stdout is None:
            raise BenchFailed(f"{self.name} has no pipe")
        try:
            async with asyncio.timeout(limit_s):
                line = await stdout.readline()
        except TimeoutError:
            raise BenchFailed(f"{self.name}: waited {limit_s:.0f} s {what}") from None
        if not line:
            raise BenchFailed(f"{self.name} ended while the bench waited {what}")
        answer: Answer = msgspec.json.decode(line, type=Answer)
        return answer

    @property
    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise BenchFailed(f"{self.name} has not been started")
        return self._process
