"""The 15 invariants of a run, as pure functions over its history. Each tells what it found in words.

    durability   1 acked is durable · 2 no phantom · 3 once
    order        4 one order · 5 real time and session order · 6 resume has no gap
    receipts     7 status never goes back · 8 unread is derived
    push         9
    presence    10
    membership  11
    limits      12
    recovery    13
    leftovers   14 all is as before · 15 logs are clean
    effect       0 a run in which nothing failed over, nothing was acked or nobody resumed proves nothing

A check says only what is certain: whatever can be explained by an answer that came late, or not at all, is no finding.
"""

from collections.abc import Callable, Iterator, Sequence

from tests.chaos.checker.durability import acked_is_durable, no_phantom, once
from tests.chaos.checker.effect import has_effect
from tests.chaos.checker.finding import NO_EFFECT, Finding
from tests.chaos.checker.leftovers import all_is_as_before, logs_are_clean
from tests.chaos.checker.limits import limits_hold
from tests.chaos.checker.membership import nothing_after_removal
from tests.chaos.checker.order import one_order, real_time_order, resume_has_no_gap
from tests.chaos.checker.presence import presence_is_true
from tests.chaos.checker.push import pushes
from tests.chaos.checker.receipts import status_never_goes_back, unread_is_derived
from tests.chaos.checker.recovery import sends_work_again
from tests.chaos.history import History

__all__ = ["CHECKS", "NO_EFFECT", "Finding", "check"]

CHECKS: Sequence[tuple[int, Callable[[History], Iterator[Finding]]]] = (
    (NO_EFFECT, has_effect),
    (1, acked_is_durable),
    (2, no_phantom),
    (3, once),
    (4, one_order),
    (5, real_time_order),
    (6, resume_has_no_gap),
    (7, status_never_goes_back),
    (8, unread_is_derived),
    (9, pushes),
    (10, presence_is_true),
    (11, nothing_after_removal),
    (12, limits_hold),
    (13, sends_work_again),
    (14, all_is_as_before),
    (15, logs_are_clean),
)


def check(history: History) -> list[Finding]:
    """Everything that is wrong, by invariant; an empty list means that the run held."""
    return [finding for _, each in CHECKS for finding in each(history)]
