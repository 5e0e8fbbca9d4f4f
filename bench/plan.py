"""What the bench tells a generator process and what that answers: one JSON line each way.

Owns the values, no behaviour. Times are microseconds of the monotonic clock, which the processes of one machine share.
"""

from typing import Literal

import msgspec

Pacing = Literal["receipt", "delivery"]
"""When a message stops counting as in flight: at its RECEIPT, or when all watchers have it too."""


class Address(msgspec.Struct, frozen=True):
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class ClientPlan(msgspec.Struct, frozen=True):
    """One connection. Each has a user of its own: a user may have only eight."""

    user_id: str
    token: str
    edge: Address


class ConversationPlan(msgspec.Struct, frozen=True):
    conversation_id: str
    sender: ClientPlan
    sender_watches: bool
    watchers: tuple[ClientPlan, ...]


class Plan(msgspec.Struct, frozen=True):
    """The whole load of one generator process."""

    run_id: str
    window: int
    content_bytes: int
    paced_by: Pacing
    connect_timeout_s: float
    drain_timeout_s: float
    conversations: tuple[ConversationPlan, ...]


class Schedule(msgspec.Struct, frozen=True):
    """Sending begins at `start_us` and ends with the measured window; what is in flight is then waited for."""

    start_us: int
    measure_from_us: int
    measure_until_us: int


class Latency(msgspec.Struct, frozen=True):
    """A `stats.Histogram` on its way."""

    buckets: dict[int, int]
    largest: int


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    connections: int


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    reason: str


class Outcome(msgspec.Struct, frozen=True, tag="outcome"):
    """Counts of the measured window; violations and refusals of the whole run."""

    messages: int
    deliveries: int
    to_receipt: Latency
    to_delivery: Latency
    sent_in_all: int
    violations: dict[str, int]
    examples: list[str]
    refusals: dict[str, int]
    other_events: dict[str, int]


Answer = Ready | Failed | Outcome
