"""Heart-beats: what was agreed, and when it is time. Source: STOMP 1.2, "Heart-beating".

Owns the arithmetic; the clock is the caller's. `now` is in seconds of any monotonic clock. No timer lives
here: ask `next_check_at` when to look again.
"""

from edge.stomp.errors import RemoteProtocolError

MAX_INTERVAL_MS = 3_600_000
"""What a client may ask for at most; more is taken as this. A beat rarer than hourly tells nothing."""

DEFAULT_MIN_INTERVAL_MS = 1_000
"""What we offer at least; below it the beats of 10,000 idle connections cost more than their messages."""

TOLERANCE = 2
"""A peer is dead after this many silent intervals. The spec asks for an error margin without naming one; the
clients that we know of wait one to two intervals."""

_SEND_AT = 0.9
"""We beat after this part of the interval: the spec says "at least every", and timers and queues are late."""


def parse_heart_beat(value: str | None) -> tuple[int, int]:
    """(can send, wants) in milliseconds, each at most MAX_INTERVAL_MS; nothing said means (0, 0).

    Raises:
        RemoteProtocolError: not two non-negative integers with a comma between.
    """
    if value is None:
        return 0, 0
    parts = value.split(",")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise RemoteProtocolError(
            "bad heart-beat",
            "heart-beat must be two whole numbers of milliseconds, not negative, with a comma between them, "
            "such as 10000,10000, or 0,0 for none.",
        )
    return _bounded(parts[0]), _bounded(parts[1])


def _bounded(digits: str) -> int:
    significant = digits.lstrip("0") or "0"
    if len(significant) > len(str(MAX_INTERVAL_MS)):
        return MAX_INTERVAL_MS
    return min(int(significant), MAX_INTERVAL_MS)


def bounded_offer(offer: tuple[int, int], min_interval_ms: int) -> tuple[int, int]:
    """Our own (can send, want), each 0 or from `min_interval_ms` to MAX_INTERVAL_MS.

    An interval is the longer of what both sides said, so this also keeps a client's tiny wish from us.
    """
    can_send, want = (0 if ms <= 0 else min(max(ms, min_interval_ms), MAX_INTERVAL_MS) for ms in offer)
    return can_send, want


def negotiate(client: tuple[int, int], offer: tuple[int, int]) -> "HeartBeat":
    """What both sides agree on; each pair is (can send, wants), and a 0 on either side means none."""
    return HeartBeat(send_ms=_agree(offer[0], client[1]), expect_ms=_agree(client[0], offer[1]))


def _agree(can_send: int, wanted: int) -> int:
    return max(can_send, wanted) if can_send and wanted else 0


class HeartBeat:
    """The beats of one connection. Tell it what was written and read, ask it what to do.

    Begin with one `sent` and one `received` when CONNECTED goes out: until then there is nothing to count
    from, so a beat is due at once and the peer is not dead.
    """

    __slots__ = ("_received_at_s", "_sent_at_s", "expect_ms", "send_ms")

    def __init__(self, send_ms: int, expect_ms: int) -> None:
        self.send_ms = send_ms
        self.expect_ms = expect_ms
        self._sent_at_s: float | None = None
        self._received_at_s: float | None = None

    def sent(self, now: float) -> None:
        """Any bytes were written."""
        self._sent_at_s = now

    def received(self, now: float) -> None:
        """Any bytes were read."""
        self._received_at_s = now

    def should_send(self, now: float) -> bool:
        """It is time to write a newline, unless something else is written now."""
        return self.send_ms > 0 and now >= self._send_due_at(now)

    def is_dead(self, now: float) -> bool:
        """The peer has been silent for TOLERANCE intervals."""
        return self.expect_ms > 0 and now >= self._dead_at(now)

    def next_check_at(self, now: float) -> float | None:
        """When an answer of `should_send` or `is_dead` changes if nothing happens; None is never.

        It lies in the past where something is due already.
        """
        due = []
        if self.send_ms > 0:
            due.append(self._send_due_at(now))
        if self.expect_ms > 0:
            due.append(self._dead_at(now))
        return min(due, default=None)

    def _send_due_at(self, now: float) -> float:
        return now if self._sent_at_s is None else self._sent_at_s + self.send_ms * _SEND_AT / 1000

    def _dead_at(self, now: float) -> float:
        since = now if self._received_at_s is None else self._received_at_s
        return since + self.expect_ms * TOLERANCE / 1000
