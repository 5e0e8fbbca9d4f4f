"""The load itself: who sends when, and whether everything that was promised arrives.

Owns: the window of each sender, the samples, and the checks: on every subscription the seqs go up by one; every seq
that a RECEIPT named reaches every watcher exactly once, with the same content and (compared on every sixteenth) the
same message id. A message is forgotten once all of that is settled, so a long run needs no more memory than a
short one. Refuses: I/O and setting up.

What runs per message is written for speed: this process shares its two cores with what it measures.
"""

import asyncio
import time
from array import array
from collections import Counter
from collections.abc import Callable

import orjson

from bench.plan import ConversationPlan, Latency, Outcome, Plan, Schedule
from bench.stats import Histogram
from bench.wire import MARK, NUMBER_DIGITS, STAMP_DIGITS, TOKEN_BYTES, SendTemplate, body_of, find_header, token_of

_MAX_EXAMPLES = 20
_ID_COMPARED_EVERY = 16
_RETRY_MS = 100
"""After a refusal that does not tell when to try again."""
_SEQ = b"\nx-seq:"
_RECEIPT_ID = b"\nreceipt-id:"
_MARK_BYTES = len(MARK)
_SEQ_BYTES = len(_SEQ)
_RECEIPT_ID_BYTES = len(_RECEIPT_ID)
_UNSCHEDULED = Schedule(start_us=0, measure_from_us=0, measure_until_us=0)


class Load:
    """What all conversations of one process have in common: the schedule and the tally."""

    def __init__(self) -> None:
        self.schedule = _UNSCHEDULED
        self.sending_until_us = 0
        self.to_receipt_us = array("I")
        self.to_delivery_us = array("I")
        self.sent = 0
        self.violations: Counter[str] = Counter()
        self.examples: list[str] = []
        self.refusals: Counter[str] = Counter()
        self.other_events: Counter[str] = Counter()

    def begin(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.sending_until_us = schedule.measure_until_us

    def violation(self, kind: str, detail: str) -> None:
        self.violations[kind] += 1
        if len(self.examples) < _MAX_EXAMPLES:
            self.examples.append(f"{kind}: {detail}")

    def outcome(self) -> Outcome:
        return Outcome(
            messages=len(self.to_receipt_us),
            deliveries=len(self.to_delivery_us),
            to_receipt=_latency(self.to_receipt_us),
            to_delivery=_latency(self.to_delivery_us),
            sent_in_all=self.sent,
            violations=dict(self.violations),
            examples=self.examples,
            refusals=dict(self.refusals),
            other_events=dict(self.other_events),
        )


def _latency(samples: "array[int]") -> Latency:
    histogram = Histogram()
    histogram.add(samples)
    return Latency(buckets=histogram.buckets, largest=histogram.largest)


class _Owed:
    """A numbered message that has not yet had its RECEIPT and all its deliveries."""

    __slots__ = ("message_id", "parts", "token")

    def __init__(self, token: bytes, parts: int, message_id: bytes) -> None:
        self.token = token
        self.parts = parts
        self.message_id = message_id


class ConversationLoad:
    """One conversation: its sender's window, and what its messages still owe."""

    def __init__(self, plan: ConversationPlan, settings: Plan, load: Load, *, write: Callable[[bytes], None]) -> None:
        """`write` puts bytes on the sender's connection."""
        self.plan = plan
        self.load = load
        self.unreceipted: dict[bytes, bytes] = {}
        self.owed: dict[int, _Owed] = {}
        self._write = write
        self._window = settings.window
        self._credit = 0
        self._number = 0
        self._parts = len(plan.watchers) + plan.sender_watches + 1
        self._paced_by_delivery = settings.paced_by == "delivery"
        self._template = SendTemplate(plan.conversation_id, settings.run_id, content_bytes=settings.content_bytes)

    @property
    def is_settled(self) -> bool:
        return not self.unreceipted and not self.owed

    def start(self) -> None:
        self._credit = self._window
        self.flush()

    def stop(self) -> None:
        """Send nothing more: the sender is gone."""
        self._window = 0

    def flush(self) -> None:
        """Send what the window allows, in one write."""
        credit = self._credit
        if not credit:
            return
        self._credit = 0
        now_us = time.monotonic_ns() // 1000
        load = self.load
        if now_us >= load.sending_until_us or not self._window:
            return
        frames = []
        for number in range(self._number, self._number + credit):
            digits = b"%08d" % number
            token = token_of(now_us, digits)
            self.unreceipted[digits] = token
            frames.append(self._template.frame(digits, token))
        self._number += credit
        load.sent += credit
        self._write(b"".join(frames))

    def receipted(self, seq: int, token: bytes, message_id: bytes) -> None:
        if not self._paced_by_delivery:
            self._credit += 1
        self.settle(seq, token, message_id)

    def refused(self, number: bytes, retry_ms: int) -> None:
        """A send that will have no RECEIPT; its place in the window is free again after `retry_ms`."""
        if self.unreceipted.pop(number, None) is not None:
            asyncio.get_running_loop().call_later(retry_ms / 1000, self._give_back)

    def settle(self, seq: int, token: bytes, message_id: bytes) -> None:
        """One part of what message `seq` owes has come: its RECEIPT, or its delivery to one watcher."""
        owed = self.owed.get(seq)
        if owed is None:
            if self._parts > 1:
                self.owed[seq] = _Owed(token, self._parts - 1, message_id)
                return
        else:
            if owed.token != token:
                self.load.violation("content under another seq", self._where(seq))
            if owed.message_id != message_id:
                self.load.violation("message id differs", self._where(seq))
            owed.parts -= 1
            if owed.parts:
                return
            del self.owed[seq]
        if self._paced_by_delivery:
            self._credit += 1

    def report_unsettled(self) -> None:
        """To be called when the time to drain is over."""
        for number in self.unreceipted:
            self.load.violation("no RECEIPT", f"conversation {self.plan.conversation_id}, message {int(number)}")
        for seq, owed in self.owed.items():
            self.load.violation("not settled", f"{self._where(seq)}: {owed.parts} of {self._parts} missing")

    def _give_back(self) -> None:
        self._credit += 1
        self.flush()

    def _where(self, seq: int) -> str:
        return f"conversation {self.plan.conversation_id}, seq {seq}"


class Member:
    """The listener of one connection: it sends, or watches, or both."""

    def __init__(self, user_id: str, conversation: ConversationLoad, *, head_seq: int = 0) -> None:
        """`head_seq` is the conversation's head at the time of the subscription, if there is one."""
        self._user_id = user_id
        self._conversation = conversation
        self._load = conversation.load
        self._expected = head_seq + 1

    def receipt(self, buffer: bytes, start: int, end: int, now_us: int) -> None:
        conversation = self._conversation
        at = buffer.find(_RECEIPT_ID, start, end) + _RECEIPT_ID_BYTES
        token = conversation.unreceipted.pop(buffer[at : at + NUMBER_DIGITS], None)
        if token is None:
            self._load.violation("unknown RECEIPT", f"{self._user_id}: {buffer[at : at + 40]!r}")
            return
        at = buffer.find(_SEQ, start, end)
        if at < 0:
            self._load.violation("RECEIPT without x-seq", self._user_id)
            return
        at += _SEQ_BYTES
        seq = int(buffer[at : buffer.find(b"\n", at, end)])
        message_id = _message_id(buffer, start, end) if seq % _ID_COMPARED_EVERY == 0 else b""
        conversation.receipted(seq, token, message_id)
        schedule = self._load.schedule
        if schedule.measure_from_us <= now_us < schedule.measure_until_us:
            self._load.to_receipt_us.append(now_us - int(token[:STAMP_DIGITS]))

    def message(self, buffer: bytes, start: int, end: int, now_us: int) -> None:
        at = buffer.find(MARK, start, end)
        if at < 0:
            self._other_event(buffer, start, end)
            return
        at += _MARK_BYTES
        token = buffer[at : at + TOKEN_BYTES]
        head = buffer.find(_SEQ, start, at) + _SEQ_BYTES
        seq = int(buffer[head : buffer.find(b"\n", head, at)])
        if seq != self._expected:
            self._out_of_order(seq)
            if seq < self._expected:
                return
        self._expected = seq + 1
        message_id = _message_id(buffer, start, end) if seq % _ID_COMPARED_EVERY == 0 else b""
        self._conversation.settle(seq, token, message_id)
        schedule = self._load.schedule
        if schedule.measure_from_us <= now_us < schedule.measure_until_us:
            self._load.to_delivery_us.append(now_us - int(token[:STAMP_DIGITS]))

    def chunk_done(self) -> None:
        self._conversation.flush()

    def lost(self, reason: str) -> None:
        self._conversation.stop()
        self._load.violation("connection lost", f"{self._user_id}: {reason}")

    def _out_of_order(self, seq: int) -> None:
        kind = "seq missing" if seq > self._expected else "seq repeated or reordered"
        where = self._conversation.plan.conversation_id
        self._load.violation(kind, f"{self._user_id} in {where}: {seq} instead of {self._expected}")

    def _other_event(self, buffer: bytes, start: int, end: int) -> None:
        event = orjson.loads(body_of(buffer, start, end))
        kind = str(event.get("event"))
        if kind == "error":
            self._refusal(event)
        elif kind == "gap":
            self._load.violation("gap: the edge gave up on a slow reader", f"{self._user_id}: {event}")
        else:
            self._load.other_events[kind] += 1

    def _refusal(self, event: dict[str, object]) -> None:
        self._load.refusals[str(event.get("code"))] += 1
        retry_ms = event.get("retryAfterMs")
        number = str(event.get("receiptId", "")).encode()
        self._conversation.refused(number, retry_ms if isinstance(retry_ms, int) else _RETRY_MS)


def _message_id(buffer: bytes, start: int, end: int) -> bytes:
    return find_header(buffer, b"message-id", start, end) or b"(none)"
