"""Ten thousand small disasters: whatever fails, the promises of the chat core hold."""

import os
import subprocess
import sys
from collections import Counter

import pytest

from tests.simulation.deliberate import BUGS
from tests.simulation.run import simulate, simulate_many

_SEEDS = 10_000
# So many in one test that its cost is the seeds', so few that a failure is told before all have run.
_SEEDS_EACH = 2_500
_FOUND_WITHIN = 1_000
# Each seed takes some 6 ms of one core; a busy machine may give us a twentieth of one.
_PATIENCE_S = 300


@pytest.mark.timeout(_PATIENCE_S)
@pytest.mark.parametrize("first", range(0, _SEEDS, _SEEDS_EACH))
def test_the_promises_hold_whatever_fails(first: int) -> None:
    counts: Counter[str] = Counter()
    for run in simulate_many(range(first, first + _SEEDS_EACH)):
        assert not run.problems, run.report()
        counts.update(run.record.counts)
    # Runs in which nothing was acked, killed, repeated, resumed or lost would prove nothing.
    for what in ("acked", "repeat", "unknown", "unavailable", "refused", "resumed", "marked", "killed", "deafened"):
        assert counts[what] > _SEEDS_EACH / 10, counts
    assert counts["lost hints"] > _SEEDS_EACH / 10, counts


@pytest.mark.parametrize("bug", BUGS)
def test_a_deliberate_bug_is_found(bug: str) -> None:
    found = next((run for run in simulate_many(range(_FOUND_WITHIN), BUGS[bug]) if run.problems), None)
    assert found is not None, f"{bug}: not found within {_FOUND_WITHIN} seeds"
    assert simulate(found.seed, BUGS[bug]).record == found.record, (
        "the failing seed does not fail in the same way again"
    )


def test_a_seed_is_the_same_run_in_every_process() -> None:
    # Strings are hashed in another way in each of them, and so sets of strings have another order.
    digests = set()
    for hash_seed in ("0", "1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-m", "tests.simulation", "--seeds", "40", "--digest"]
        digests.add(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    assert len(digests) == 1
    assert digests == {"".join(run.digest() + "\n" for run in simulate_many(range(40)))}
