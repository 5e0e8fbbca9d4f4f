"""Whether a run proves anything: something failed over, something was acked, somebody resumed."""

from collections.abc import Iterator

from tests.chaos.checker.finding import NO_EFFECT, Finding
from tests.chaos.checker.sessions import all_sessions
from tests.chaos.entries import FaultBegan, Restarted, Send, Subscribe
from tests.chaos.history import History, Outcome


def has_effect(history: History) -> Iterator[Finding]:
    began_s = min((fault.at_s for fault in history.of(FaultBegan)), default=None)
    if began_s is None:
        yield Finding(NO_EFFECT, "no fault was injected")
        return
    if not _failed_over(history, began_s):
        yield Finding(NO_EFFECT, "nothing failed over: no client moved, nothing was tried again, nothing restarted")
    if not any(send.is_ok and send.ended_s > began_s for send in history.ops(Send)):
        yield Finding(NO_EFFECT, "nothing was acked after the first fault")
    if not any(op.is_ok and op.what.after_seq and op.invoked_s > began_s for op in history.ops(Subscribe)):
        yield Finding(NO_EFFECT, "nobody resumed after the first fault")
    unmarked = [op.op for op in history.ops(Send) if history.started.body_marker not in op.what.content]
    if unmarked:
        text = "bodies without the marker could be logged and not be noticed"
        yield Finding(NO_EFFECT, text, tuple(unmarked[:10]))


def _failed_over(history: History, began_s: float) -> bool:
    edges: dict[str, set[str]] = {}
    for session in all_sessions(history):
        if session.from_s < float("inf"):
            edges.setdefault(session.client, set()).add(session.edge)
    moved = any(len(each) > 1 for each in edges.values())
    failed = any(send.outcome is not Outcome.OK and send.invoked_s > began_s for send in history.ops(Send))
    return moved or failed or any(restart.at_s > began_s for restart in history.of(Restarted))
