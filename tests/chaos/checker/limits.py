"""Invariant 12: limits hold across edges."""

import heapq
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.chaos.checker.finding import Finding
from tests.chaos.checker.sessions import Session, all_sessions
from tests.chaos.entries import FaultBegan, Role, Send
from tests.chaos.history import History, Op


def limits_hold(history: History) -> Iterator[Finding]:
    """No user has more connections, or gets more sends through, than he may; while Redis is away (design.md) each edge
    counts for itself."""
    limits = history.started.limits
    times = len(history.started.edges) if any(each.role is Role.REDIS for each in history.of(FaultBegan)) else 1
    yield from _connections(history, limits.connections_per_user * times)
    by_user: defaultdict[str, list[Op[Send]]] = defaultdict(list)
    for send in history.ops(Send):
        if send.is_ok:
            by_user[send.user].append(send)
    for user, sends in by_user.items():
        late = _find_impossible(sends, limits.sends_per_s * times, limits.send_burst * times)
        if late is not None:
            text = f"{user} got more sends through than {limits.sends_per_s:g}/s and a burst of {limits.send_burst}"
            yield Finding(12, f"{text} allow, whenever each of them was counted", (late.op,), late.ended_s)


def _connections(history: History, allowed: int) -> Iterator[Finding]:
    """Counts each session from its CONNECTED to the last answer that came over it: it was certainly alive so long."""
    alive_s: defaultdict[tuple[str, int], float] = defaultdict(float)
    for send in history.ops(Send):
        if send.is_ok:
            alive_s[send.client, send.session] = max(send.ended_s, alive_s[send.client, send.session])
    by_user: defaultdict[str, list[Session]] = defaultdict(list)
    for session in all_sessions(history):
        by_user[session.user].append(session)
    for user, sessions in by_user.items():
        ends: list[float] = []
        for session in sorted(sessions, key=lambda each: each.from_s):
            end_s = alive_s[session.client, session.session]
            if end_s <= session.from_s:
                continue
            while ends and ends[0] <= session.from_s:
                heapq.heappop(ends)
            heapq.heappush(ends, end_s)
            if len(ends) > allowed:
                text = f"{user} had {len(ends)} connections at once; {allowed} are allowed"
                yield Finding(12, text, (), session.from_s)
                break


@dataclass(slots=True)
class _Bucket:
    per_s: float
    burst: float
    tokens: float
    at_s: float

    def fill(self, at_s: float) -> None:
        self.tokens = min(self.burst, self.tokens + (at_s - self.at_s) * self.per_s)
        self.at_s = at_s


def _find_impossible(sends: Sequence[Op[Send]], per_s: float, burst: int) -> Op[Send] | None:
    """A send that no token was there for, at any moment between its invocation and its answer.

    Takes tokens as early as they can be taken, for what must be answered first: if that does not work, nothing does.
    """
    waiting: list[tuple[float, int, Op[Send]]] = []
    todo = sorted(sends, key=lambda send: send.invoked_s)
    bucket = _Bucket(per_s, burst, burst, todo[0].invoked_s)
    arrived = 0
    while waiting or arrived < len(todo):
        if not waiting:
            bucket.fill(max(bucket.at_s, todo[arrived].invoked_s))
        while arrived < len(todo) and todo[arrived].invoked_s <= bucket.at_s:
            heapq.heappush(waiting, (todo[arrived].ended_s, todo[arrived].op, todo[arrived]))
            arrived += 1
        # A rounding error must not stand for a missing token.
        if bucket.tokens < 1 - 1e-6:
            filled_s = bucket.at_s + (1 - bucket.tokens) / per_s
            next_s = todo[arrived].invoked_s if arrived < len(todo) else filled_s
            bucket.fill(min(filled_s, next_s))
            continue
        due_s, _, send = heapq.heappop(waiting)
        if due_s < bucket.at_s:
            return send
        bucket.tokens -= 1
    return None
