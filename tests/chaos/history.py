"""What happened in a run, as JSON lines: recorded once, checked as often as one likes.

Owns writing the entries (`Recorder`) and reading them as a whole (`History`). Knows nothing of what is right or wrong;
`checker` does. Every operation is an `Invoked`, and later a `Succeeded`, a `Refused` (it certainly did not happen) or
an `Unsure`; one without an end is unsure too. A history holds message bodies, because the checker compares them: its
users, contents and devices are made up.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from services.runtime.clock import Clock
from tests.chaos.entries import (
    AnyEntry,
    AnyOperation,
    AnyResult,
    Entry,
    Healed,
    Invoked,
    Live,
    Message,
    Operation,
    Page,
    Refused,
    Started,
    Stored,
    Succeeded,
    Unsure,
)

E = TypeVar("E", bound=Entry)
O = TypeVar("O", bound=Operation)  # noqa: E741  # an operation; there is no zero beside it

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(AnyEntry)


class Recorder:
    """Writes a history as it happens; a run that dies leaves what was written until then."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._file = path.open("wb", buffering=0)
        self._clock = clock
        self._ops = 0

    def now_s(self) -> float:
        """The time of an entry that is made just now."""
        return self._clock.monotonic()

    def invoke(self, client: str, user: str, session: int, edge: str, operation: AnyOperation) -> int:
        """Call it before the request leaves; the number is for the outcome."""
        self._ops += 1
        self.add(
            Invoked(
                at_s=self.now_s(),
                op=self._ops,
                client=client,
                user=user,
                session=session,
                edge=edge,
                operation=operation,
            )
        )
        return self._ops

    def succeeded(self, op: int, result: AnyResult) -> None:
        self.add(Succeeded(at_s=self.now_s(), op=op, result=result))

    def refused(self, op: int, code: str) -> None:
        self.add(Refused(at_s=self.now_s(), op=op, code=code))

    def unsure(self, op: int, reason: str) -> None:
        self.add(Unsure(at_s=self.now_s(), op=op, reason=reason))

    def add(self, entry: AnyEntry) -> None:
        self._file.write(_encoder.encode(entry) + b"\n")

    def close(self) -> None:
        self._file.close()


class BrokenHistory(Exception):
    """The file is no history, or not a whole one: nothing can be said about the run."""


class Outcome(StrEnum):
    OK = "ok"
    REFUSED = "refused"
    UNSURE = "unsure"


@dataclass(frozen=True, slots=True)
class Op(Generic[O]):
    """An operation with its outcome. `ended_s` is infinite where no answer came; `result` is there when it is ok."""

    op: int
    client: str
    user: str
    session: int
    edge: str
    what: O
    invoked_s: float
    ended_s: float
    outcome: Outcome
    result: AnyResult | None
    code: str

    @property
    def is_ok(self) -> bool:
        return self.outcome is Outcome.OK

    @property
    def stored(self) -> Stored | None:
        """Of a send: where it is."""
        return self.result if isinstance(self.result, Stored) else None

    @property
    def head_seq(self) -> int | None:
        """Of a subscription: where it joined."""
        return self.result.head_seq if isinstance(self.result, Live) else None

    @property
    def messages(self) -> Sequence[Message]:
        """Of a read."""
        return self.result.messages if isinstance(self.result, Page) else ()


class History:
    """A whole run: its entries by kind, each in its order.

    Raises:
        BrokenHistory: it does not begin with `Started`, time goes back, or an operation ends twice or never began.
    """

    def __init__(self, entries: Iterable[AnyEntry]) -> None:
        self.entries = tuple(entries)
        self._by_kind: defaultdict[type[Entry], list[Entry]] = defaultdict(list)
        if not self.entries or not isinstance(self.entries[0], Started):
            raise BrokenHistory("a history begins with a `started` entry")
        self.started = self.entries[0]
        last_s = -math.inf
        for number, entry in enumerate(self.entries, 1):
            if entry.at_s < last_s:
                raise BrokenHistory(f"entry {number}: {entry.at_s} s comes after {last_s} s")
            last_s = entry.at_s
            self._by_kind[type(entry)].append(entry)
        self.ended_s = last_s
        self._ops = self._join()

    @classmethod
    def load(cls, path: Path) -> "History":
        """
        Raises:
            BrokenHistory: as above, or a line is no entry.
        """
        entries = []
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            try:
                entries.append(_decoder.decode(line))
            except msgspec.DecodeError as error:
                raise BrokenHistory(f"{path.name}, line {number}: {error}") from error
        return cls(entries)

    def of(self, kind: type[E]) -> Sequence[E]:
        """The entries of one kind."""
        return [entry for entry in self._by_kind[kind] if isinstance(entry, kind)]

    def ops(self, kind: type[O]) -> Sequence["Op[O]"]:
        """The operations of one kind, as they were invoked."""
        return [op for op in self._ops.values() if isinstance(op.what, kind)]  # type: ignore[misc]  # what is checked

    def op(self, number: int) -> "Op[AnyOperation]":
        """
        Raises:
            BrokenHistory: no operation has that number.
        """
        try:
            return self._ops[number]
        except KeyError:
            raise BrokenHistory(f"operation {number} was never invoked") from None

    @cached_property
    def healed_s(self) -> float:
        """When everything was well again: the last `Healed`; where there is none, the end."""
        return max((entry.at_s for entry in self.of(Healed)), default=self.ended_s)

    def _join(self) -> dict[int, "Op[AnyOperation]"]:
        ends: dict[int, Succeeded | Refused | Unsure] = {}
        invoked = {entry.op: entry for entry in self.of(Invoked)}
        if len(invoked) < len(self.of(Invoked)):
            raise BrokenHistory("two operations have one number")
        outcomes: list[Succeeded | Refused | Unsure] = [*self.of(Succeeded), *self.of(Refused), *self.of(Unsure)]
        for entry in outcomes:
            if entry.op in ends or entry.op not in invoked:
                raise BrokenHistory(f"operation {entry.op} ended twice, or was never invoked")
            ends[entry.op] = entry
        return {number: _joined(entry, ends.get(number)) for number, entry in invoked.items()}


def _joined(invoked: Invoked, end: Succeeded | Refused | Unsure | None) -> Op[AnyOperation]:
    return Op(
        op=invoked.op,
        client=invoked.client,
        user=invoked.user,
        session=invoked.session,
        edge=invoked.edge,
        what=invoked.operation,
        invoked_s=invoked.at_s,
        ended_s=math.inf if end is None else end.at_s,
        outcome=Outcome.OK
        if isinstance(end, Succeeded)
        else Outcome.REFUSED
        if isinstance(end, Refused)
        else Outcome.UNSURE,
        result=end.result if isinstance(end, Succeeded) else None,
        code=end.code if isinstance(end, Refused) else "",
    )
