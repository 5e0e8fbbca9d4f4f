"""Invariants 14 and 15: afterwards all is as before, and the logs tell nothing that they must not."""

import re
from collections.abc import Iterator

from tests.chaos.checker.finding import Finding
from tests.chaos.entries import Logged, Measured, Moment
from tests.chaos.history import History

# Pools keep a few connections, and each connection a task or two, for the next time.
_MORE_DESCRIPTORS = 32
_MORE_TASKS = 32
# Caches fill and allocators keep what they had: a leak is more than that.
_TIMES_MEMORY = 1.5
_MORE_MEMORY_BYTES = 64 << 20

# A JWT: three base64url parts, of which the first is a JSON object.
_TOKEN = re.compile(r"eyJ[\w-]{5,}\.[\w-]{5,}\.[\w-]{5,}")
_TRACEBACK = "Traceback (most recent call last)"
_SHOWN_CHARS = 160


def all_is_as_before(history: History) -> Iterator[Finding]:
    """File descriptors, tasks, memory and queues are back where they were."""
    after = {each.process: each for each in history.of(Measured) if each.moment is Moment.AFTER}
    before = {each.process: each for each in history.of(Measured) if each.moment is Moment.BEFORE}
    if not before:
        yield Finding(14, "nothing was measured before the faults")
    for process, was in before.items():
        now = after.get(process)
        if now is None:
            yield Finding(14, f"{process} was not measured at the end")
            continue
        memory_bound = was.memory_bytes * _TIMES_MEMORY + _MORE_MEMORY_BYTES
        for what, is_now, had, bound in (
            ("descriptors", now.descriptors, was.descriptors, was.descriptors + _MORE_DESCRIPTORS),
            ("tasks", now.tasks, was.tasks, was.tasks + _MORE_TASKS),
            ("bytes of memory", now.memory_bytes, was.memory_bytes, memory_bound),
            ("items in queues", now.queued, was.queued, was.queued),
        ):
            if is_now > bound:
                yield Finding(14, f"{process} has {is_now} {what}, and had {had} at rest", (), now.at_s)


def logs_are_clean(history: History) -> Iterator[Finding]:
    """No token, no message body, no traceback that nobody handles. What is found is not repeated here in full."""
    marker = history.started.body_marker
    lines = history.of(Logged)
    if not lines:
        yield Finding(15, "no log was read")
    for logged in lines:
        for what, is_there in (
            ("a token", _TOKEN.search(logged.line) is not None),
            ("a message body", marker in logged.line),
            ("a traceback", _TRACEBACK in logged.line),
        ):
            if is_there:
                shown = _TOKEN.sub("<token>", logged.line.replace(marker, "<body>"))[:_SHOWN_CHARS]
                yield Finding(15, f"{logged.process} logged {what}: {shown}", (), logged.at_s)
