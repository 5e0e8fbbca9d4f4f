"""The lines of a history: what clients ask for, what they are told, what is read back, and what happened to the run.

Values only; `history` records and reads them. Times are seconds of one monotonic clock, that of the machine on which
the whole suite runs.
"""

from enum import StrEnum

import msgspec


class Source(StrEnum):
    """The three ways in which everything is read back."""

    HTTP = "http"
    MONGODB = "mongodb"
    RESUME = "resume"


class Status(StrEnum):
    DELIVERED = "delivered"
    SEEN = "seen"


class Role(StrEnum):
    """What a fault hits: one of our processes, one of the servers behind them, or a link."""

    EDGE = "edge"
    CHAT = "chat"
    PRESENCE = "presence"
    NOTIFY = "notify"
    MONGODB = "mongodb"
    MONGODB_PRIMARY = "mongodb-primary"
    REDIS = "redis"
    RABBITMQ = "rabbitmq"
    LINK = "link"


OURS = frozenset((Role.EDGE, Role.CHAT, Role.PRESENCE, Role.NOTIFY))


class Fault(StrEnum):
    KILL = "kill"
    STOP = "stop"
    TERMINATE = "terminate"
    ROLLING_RESTART = "rolling-restart"
    FORGET = "forget"
    """A server loses its data: FLUSHALL."""
    CUT = "cut"
    SLOW = "slow"
    THROTTLE = "throttle"
    RESET = "reset"
    HALF_OPEN = "half-open"
    STALL = "stall"
    """A reader that does not read, or an event loop that is blocked."""
    OTHER = "other"


LOSSES = frozenset((Fault.KILL, Fault.STOP, Fault.TERMINATE))
"""What takes one process away."""


class Moment(StrEnum):
    """When the processes were measured: at rest, before the first fault and after the last."""

    BEFORE = "before"
    AFTER = "after"


class _Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Part of an entry."""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="entry", kw_only=True):
    """One line of a history."""

    at_s: float


class Message(_Value, frozen=True):
    """A message as somebody was shown it."""

    message_id: str
    seq: int
    sender: str
    key: str
    """Its `clientMessageId`."""
    content: str


# ---- What clients ask for.


class Operation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="operation"):
    """Something that a client asked an edge for."""


class Connect(Operation, frozen=True, tag="connect"):
    """A new session; it ends with `Disconnected`, or with the run."""


class Send(Operation, frozen=True, tag="send"):
    conversation: str
    key: str
    content: str


class Mark(Operation, frozen=True, tag="mark"):
    """Everything up to `seq` is delivered to, or seen by, the caller."""

    conversation: str
    seq: int
    status: Status


class Subscribe(Operation, frozen=True, tag="subscribe"):
    """The number of this operation names the subscription in what is observed on it."""

    conversation: str
    after_seq: int | None


class Read(Operation, frozen=True, tag="read"):
    """A page of history."""

    conversation: str
    after_seq: int


class AddMember(Operation, frozen=True, tag="add_member"):
    conversation: str
    user: str


class RemoveMember(Operation, frozen=True, tag="remove_member"):
    conversation: str
    user: str


class AddDevice(Operation, frozen=True, tag="add_device"):
    device: str


AnyOperation = Connect | Send | Mark | Subscribe | Read | AddMember | RemoveMember | AddDevice


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="result"):
    """What a success told."""


class Done(Result, frozen=True, tag="done"):
    """Nothing but that it is done."""


class Stored(Result, frozen=True, tag="stored"):
    """Of a `Send`: the RECEIPT's headers."""

    message_id: str
    seq: int


class Live(Result, frozen=True, tag="live"):
    """Of a `Subscribe`: the RECEIPT's `x-head-seq`."""

    head_seq: int


class Page(Result, frozen=True, tag="page"):
    """Of a `Read`."""

    messages: tuple[Message, ...]


AnyResult = Done | Stored | Live | Page


class Invoked(Entry, frozen=True, tag="invoked"):
    op: int
    client: str
    user: str
    session: int
    """Counts the connections of a client: what is pipelined within one keeps its order."""
    edge: str
    operation: AnyOperation


class Succeeded(Entry, frozen=True, tag="succeeded"):
    op: int
    result: AnyResult


class Refused(Entry, frozen=True, tag="refused"):
    """It certainly did not happen."""

    op: int
    code: str


class Unsure(Entry, frozen=True, tag="unsure"):
    """It may have happened, may happen later, or never."""

    op: int
    reason: str


# ---- What clients are told.


class Disconnected(Entry, frozen=True, tag="disconnected"):
    client: str
    session: int
    code: int


class Received(Entry, frozen=True, tag="received"):
    """A message event on a subscription."""

    subscription: int
    message: Message


class StatusTold(Entry, frozen=True, tag="status"):
    """Everything up to `seq` is delivered to, or seen by, `user`."""

    subscription: int
    user: str
    seq: int
    status: Status


class GapTold(Entry, frozen=True, tag="gap"):
    subscription: int
    from_seq: int
    to_seq: int


class Notified(Entry, frozen=True, tag="notified"):
    client: str
    user: str
    conversation: str
    seq: int
    sender: str
    unread_count: int


class UnreadTold(Entry, frozen=True, tag="unread"):
    client: str
    user: str
    conversation: str
    unread_count: int
    read_seq: int


class PresenceTold(Entry, frozen=True, tag="presence"):
    """`client` was told, or read, that `about` is `status`."""

    client: str
    about: str
    status: str


class Pushed(Entry, frozen=True, tag="pushed"):
    """The push service was handed a notification that the device shows, or (not `visible`) only takes note of."""

    device: str
    conversation: str
    seq: int
    visible: bool


# ---- What is read back at the end.


class FinalLog(Entry, frozen=True, tag="final_log"):
    """A conversation from `after_seq` on, read one of the three ways by or for one user."""

    source: Source
    reader: str
    conversation: str
    after_seq: int
    messages: tuple[Message, ...]


class FinalMarks(Entry, frozen=True, tag="final_marks"):
    """How far a member has come, as one of the reads shows it."""

    source: Source
    conversation: str
    user: str
    delivered_seq: int | None
    """None where that read does not tell it."""
    read_seq: int
    unread_count: int


# ---- The run itself.


class Limits(_Value, frozen=True):
    connections_per_user: int
    sends_per_s: float
    send_burst: int


class Conversation(_Value, frozen=True):
    conversation: str
    members: tuple[str, ...]


class Started(Entry, frozen=True, tag="started"):
    """The first entry."""

    seed: int
    body_marker: str
    """Stands in every content, and nowhere else: found in a log it gives a body away."""
    edges: tuple[str, ...]
    conversations: tuple[Conversation, ...]
    """With those who were members when the run began."""
    limits: Limits


class FaultBegan(Entry, frozen=True, tag="fault_began"):
    fault: Fault
    role: Role
    target: str


class Healed(Entry, frozen=True, tag="healed"):
    """The last fault is over, and what was killed is up again."""


class Restarted(Entry, frozen=True, tag="restarted"):
    process: str
    by_hand: bool
    """True where the process did not come back by itself or by its supervisor."""


class Measured(Entry, frozen=True, tag="measured"):
    moment: Moment
    process: str
    descriptors: int
    tasks: int
    memory_bytes: int
    queued: int
    """Items that wait in all of its queues."""


class Logged(Entry, frozen=True, tag="logged"):
    """A line of a process's log."""

    process: str
    line: str


AnyEntry = (
    Invoked
    | Succeeded
    | Refused
    | Unsure
    | Disconnected
    | Received
    | StatusTold
    | GapTold
    | Notified
    | UnreadTold
    | PresenceTold
    | Pushed
    | FinalLog
    | FinalMarks
    | Started
    | FaultBegan
    | Healed
    | Restarted
    | Measured
    | Logged
)
