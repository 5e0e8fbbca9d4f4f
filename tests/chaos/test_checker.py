"""The checker itself: finds what is planted, for every invariant, and nothing in what is clean."""

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.chaos.checker import CHECKS, check
from tests.chaos.entries import Invoked, Send, Succeeded
from tests.chaos.history import BrokenHistory, History, Outcome, Recorder
from tests.chaos.perfect import perfect_history
from tests.chaos.plants import PLANTS, Plant, clean
from tests.support.clock import ManualClock


@pytest.mark.parametrize(("invariant", "what", "plant"), PLANTS, ids=[f"{each[0]}: {each[1]}" for each in PLANTS])
def test_a_planted_violation_is_found(invariant: int, what: str, plant: Plant) -> None:
    findings = check(History(plant(clean())))
    assert invariant in {finding.invariant for finding in findings}, f"{what}: only {findings}"


def test_every_invariant_has_at_least_three_planted_violations() -> None:
    planted = Counter(invariant for invariant, _, _ in PLANTS)
    assert {invariant: planted[invariant] >= 3 for invariant, _ in CHECKS} == dict.fromkeys(range(16), True)


@settings(max_examples=80, deadline=None)
@given(st.integers(min_value=0))
def test_a_clean_history_passes(seed: int) -> None:
    assert check(History(perfect_history(random.Random(seed)))) == []


def test_a_finding_names_the_invariant_the_time_and_the_operations() -> None:
    (plant,) = [plant for _, what, plant in PLANTS if what == "pipelined sends change places"]
    told = [str(finding) for finding in check(History(plant(clean()))) if finding.invariant == 5]
    assert any(each.startswith("invariant 5 at ") and "(operations " in each for each in told), told


def test_a_recorded_history_is_read_back_as_it_was(tmp_path: Path) -> None:
    path, clock = tmp_path / "history.jsonl", ManualClock()
    recorder = Recorder(path, clock)
    first = clean()
    recorder.add(first[0])
    op = recorder.invoke("a", "alice", 1, "edge-1", Send("groom", "k", "body-7c1e text"))
    clock.advance(0.5)
    recorder.refused(op, "RATE_LIMITED")
    lost = recorder.invoke("a", "alice", 1, "edge-1", Send("groom", "l", "body-7c1e text"))
    recorder.close()
    history = History.load(path)
    refused, unsure = history.ops(Send)
    assert (refused.outcome, refused.code, refused.ended_s - refused.invoked_s) == (
        Outcome.REFUSED,
        "RATE_LIMITED",
        0.5,
    )
    assert (unsure.op, unsure.outcome, unsure.ended_s) == (lost, Outcome.UNSURE, float("inf"))
    assert len(history.of(Invoked)) == 2


def test_a_whole_history_survives_the_file(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    recorder = Recorder(path, ManualClock())
    for entry in clean():
        recorder.add(entry)
    recorder.close()
    assert list(History.load(path).entries) == clean()


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (b"", "begins with"),
        (b'{"entry": "healed", "at_s": 1}\n', "begins with"),
        (b"not json\n", "line 1"),
        (b'{"entry": "unheard of", "at_s": 1}\n', "line 1"),
    ],
)
def test_what_is_no_history_is_not_checked(tmp_path: Path, lines: bytes, told: str) -> None:
    path = tmp_path / "history.jsonl"
    path.write_bytes(lines)
    with pytest.raises(BrokenHistory, match=told):
        History.load(path)


def test_an_operation_that_ends_twice_or_never_began_breaks_the_history() -> None:
    entries = clean()
    end = next(entry for entry in entries if isinstance(entry, Succeeded))
    again = replace(end, at_s=entries[-1].at_s)
    for wrong in (again, replace(again, op=10_000_000)):
        with pytest.raises(BrokenHistory, match="ended twice, or was never invoked"):
            History([*entries, wrong])


def test_time_that_goes_back_breaks_the_history() -> None:
    entries = clean()
    with pytest.raises(BrokenHistory, match="comes after"):
        History([*entries, entries[5]])
