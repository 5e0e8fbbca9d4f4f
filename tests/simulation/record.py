"""What happened in a run, as the clients saw it."""

from collections import Counter
from dataclasses import dataclass, field

from services.chat.model import ConversationId, Draft, Message, UserId, WatermarkKind


@dataclass(frozen=True, slots=True)
class Ack:
    """A send that was answered with a number."""

    draft: Draft
    message: Message
    # When it was asked for the first time, and when the answer came.
    asked_s: float
    acked_s: float


@dataclass(frozen=True, slots=True)
class Mark:
    """A watermark move that was answered."""

    conversation_id: ConversationId
    user_id: UserId
    kind: WatermarkKind
    seq: int


@dataclass(slots=True)
class Record:
    """Everything that the checks need, and a trace to look at."""

    # Each client's drafts in the order in which it sent them; without those that must be refused.
    sent: dict[tuple[ConversationId, UserId], list[Draft]] = field(default_factory=dict)
    acks: list[Ack] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    # What each watcher was given, in order, by its name.
    seen: dict[str, tuple[ConversationId, int, list[Message]]] = field(default_factory=dict)
    # What clients noticed by themselves: a gap, a repeat, a wrong answer, no end.
    problems: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    trace: list[tuple[float, str, str]] = field(default_factory=list)

    @property
    def drafts(self) -> list[Draft]:
        return [draft for drafts in self.sent.values() for draft in drafts]

    def note(self, at_s: float, what: str, detail: str) -> None:
        self.counts[what] += 1
        self.trace.append((at_s, what, detail))

    def problem(self, at_s: float, text: str) -> None:
        self.problems.append(f"{text} (at {at_s:.6f} s)")
        self.trace.append((at_s, "PROBLEM", text))
