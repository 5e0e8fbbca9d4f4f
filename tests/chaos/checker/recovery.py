"""Invariant 13: sends work again soon after a loss, without anybody's help."""

import math
from collections.abc import Iterator

from tests.chaos.checker.finding import Finding
from tests.chaos.entries import LOSSES, OURS, FaultBegan, Restarted, Role, Send
from tests.chaos.history import History, Op, Outcome

_WITHIN_S = 2.0
_PRIMARY_WITHIN_S = 12.0
_UNAVAILABLE = frozenset(("UNAVAILABLE", "INTERNAL"))


def sends_work_again(history: History) -> Iterator[Finding]:
    """Within 2 s of losing any one of our processes, within 12 s of losing the MongoDB primary; no restart by hand."""
    faults = history.of(FaultBegan)
    for place, fault in enumerate(faults, 1):
        within_s = _bound(fault)
        if within_s is None:
            continue
        ends_s = faults[place].at_s if place < len(faults) else history.ended_s
        what = f"{within_s:g} s after the {fault.fault} of {fault.target}"
        tried = [send for send in history.ops(Send) if fault.at_s < send.invoked_s <= fault.at_s + within_s]
        if not tried:
            yield Finding(13, f"nobody tried to send within {what}", (), fault.at_s)
        elif not any(send.is_ok and send.ended_s <= fault.at_s + within_s for send in tried):
            yield Finding(13, f"no send was acked within {what}", tuple(send.op for send in tried), fault.at_s)
        for send in history.ops(Send):
            if fault.at_s + within_s < send.invoked_s < ends_s and _has_failed(send, ends_s):
                yield Finding(13, f"a send failed later than {what}", (send.op,), send.invoked_s)
    for restart in history.of(Restarted):
        if restart.by_hand:
            yield Finding(13, f"{restart.process} had to be restarted by hand", (), restart.at_s)


def _bound(fault: FaultBegan) -> float | None:
    if fault.fault not in LOSSES:
        return None
    if fault.role in OURS:
        return _WITHIN_S
    return _PRIMARY_WITHIN_S if fault.role is Role.MONGODB_PRIMARY else None


def _has_failed(send: Op[Send], next_fault_s: float) -> bool:
    """Failed by itself: neither refused for good, nor caught by the next fault."""
    if send.outcome is Outcome.REFUSED:
        return send.code in _UNAVAILABLE
    return send.outcome is Outcome.UNSURE and (math.isinf(send.ended_s) or send.ended_s < next_fault_s)
