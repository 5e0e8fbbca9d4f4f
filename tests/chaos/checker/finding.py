"""What a check says when it found something."""

from dataclasses import dataclass

NO_EFFECT = 0
"""Stands for the number of an invariant where the run itself proves nothing."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`ops` and `at_s` lead to the lines of the history."""

    invariant: int
    text: str
    ops: tuple[int, ...] = ()
    at_s: float | None = None

    def __str__(self) -> str:
        number = "no effect" if self.invariant == NO_EFFECT else f"invariant {self.invariant}"
        when = "" if self.at_s is None else f" at {self.at_s:.3f} s"
        which = f" (operations {', '.join(map(str, self.ops))})" if self.ops else ""
        return f"{number}{when}: {self.text}{which}"
