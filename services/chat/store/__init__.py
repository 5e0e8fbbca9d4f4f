"""What must last: the message log, the conversations and the outbox, as Protocols that every store keeps.

Owns the contract; `sqlite` and `mongo` keep it, and tests/contract/chat runs one suite over both. Nothing outside a
store's own module knows which database it is. Writes run in tasks that the store owns, bounded by its own timeouts and
never by the caller's cancellation: a caller that goes away leaves no half-done batch behind.

Every method may raise `StoreUnavailable`; after a write that means "not known", after a read nothing. What was
acknowledged is seen by every later read, of any replica; what is read has been made durable and cannot be undone.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from services.chat.model import (
    Conversation,
    ConversationId,
    ConversationView,
    Message,
    MessageId,
    Seq,
    UserId,
    WatermarkKind,
    Watermarks,
)


class IdempotencyKey(NamedTuple):
    """What makes a repeat harmless: unique for ever, by an index."""

    conversation_id: ConversationId
    sender_id: UserId
    client_message_id: str


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of an ordered append.

    `stored` messages from the front of the batch are durable. Where that is not all of them, `refused_by` tells what
    stopped the first one that is not; nothing behind it was stored.
    """

    stored: int
    refused_by: "AppendConflict | None" = None


@dataclass(frozen=True, slots=True)
class AppendConflict:
    """`seq_taken`: a message with that number is there (reload the head, number again). Otherwise the idempotency key
    is taken: the message is there already, or another one under its key. Where both hold, it is `seq_taken`."""

    seq_taken: bool


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """Names the messages of one commit until what follows from them (metadata, notifications) is done."""

    entry_id: str
    created_at_ms: int
    # For each conversation the first and the last seq.
    ranges: tuple[tuple[ConversationId, Seq, Seq], ...]


@dataclass(frozen=True, slots=True)
class Membership:
    user_id: UserId
    watermarks: Watermarks
    muted: bool


class MessageLog(Protocol):
    """The numbered messages of each conversation."""

    async def append(self, messages: Sequence[Message], outbox: OutboxEntry | None) -> Appended:
        """Stores messages in order, stopping at the first that an index refuses, and the outbox entry beside them.

        At most 1,000 messages, of any conversations; those of one conversation must be numbered consecutively. With
        no messages only the entry is stored. An entry that is there already stays as it is.

        When this returns, the `stored` prefix, the entry and the message that refused the next one are durable
        (MongoDB: majority and journal; SQLite: fsync). A crash keeps a prefix. The entry may name messages that were
        then refused. After `StoreUnavailable` a prefix may be there, or come to be there within the store's own
        bound on writes; it is found by its keys, or by the refusal of the next append.
        """

    async def find_head(self, conversation_id: ConversationId) -> Seq:
        """The seq of the latest message; 0 when there is none (or no such conversation)."""

    async def find_heads(self, conversation_ids: Sequence[ConversationId]) -> Mapping[ConversationId, Seq]:
        """The head of each; every id asked for is a key."""

    async def find_by_keys(self, keys: Sequence[IdempotencyKey]) -> Mapping[IdempotencyKey, Message]:
        """The stored messages among these keys; at most 1,000 keys, in a bounded number of round trips."""

    async def read_after(self, conversation_id: ConversationId, seq: Seq, *, limit: int) -> Sequence[Message]:
        """Messages later than `seq` (0 or more), ascending, with no holes; at most `limit` (1 to 1,000).

        An empty result means that `seq` is at or past the head.
        """

    async def read_before(self, conversation_id: ConversationId, seq: Seq, *, limit: int) -> Sequence[Message]:
        """The `limit` (1 to 1,000) messages just before `seq`, ascending; `seq` may be past the head."""

    async def find_message(self, message_id: MessageId) -> Message | None:
        """None also for what is no message id at all."""


class Outbox(Protocol):
    """Entries that `MessageLog.append` wrote and nobody has yet finished."""

    async def delete_entries(self, entry_ids: Sequence[str]) -> None:
        """Idempotent."""

    async def read_entries(self, *, created_before_ms: int, limit: int) -> Sequence[OutboxEntry]:
        """The oldest entries made before that time, oldest first."""

    async def count_entries(self) -> int:
        """How many wait; an estimate is enough."""


class Conversations(Protocol):
    """Conversations and who is in them."""

    async def create(self, conversation: Conversation) -> bool:
        """Stores it with its members, or leaves what has that id as it is. Tells whether it was created.

        Members become visible before the conversation does, or with it: a reader never sees one without members.
        Of two at the same time one wins whole: members and title are of the same call.
        """

    async def find(self, conversation_id: ConversationId) -> Conversation | None: ...

    async def find_membership(self, conversation_id: ConversationId, user_id: UserId) -> Membership | None: ...

    async def read_memberships(self, conversation_id: ConversationId) -> Sequence[Membership]:
        """Every member, sorted by user id."""

    async def read_memberships_of(
        self, conversation_ids: Collection[ConversationId]
    ) -> Mapping[ConversationId, Sequence[Membership]]:
        """The same of several in one round trip; every id asked for is a key."""

    async def add_member(
        self, conversation_id: ConversationId, user_id: UserId, *, read_seq: Seq, max_members: int
    ) -> bool:
        """Adds a member; tells whether he was new. Nobody is added to a conversation that does not exist (False).

        His watermarks start at `read_seq`, or where they were when he was a member before, if that is further: they
        never go back, not even through leaving. `muted` is as he left it.

        Raises:
            TooManyMembers: the conversation has `max_members` already. Holds under concurrent additions.
        """

    async def remove_member(self, conversation_id: ConversationId, user_id: UserId) -> bool:
        """Tells whether he was a member. Durable when this returns; what is left under way cannot bring him back."""

    async def read_page(
        self, user_id: UserId, *, before: tuple[int, ConversationId] | None, limit: int
    ) -> Sequence[tuple[int, ConversationView]]:
        """The user's conversations by activity, newest first, each with its activity time in ms.

        `before` is the (activity, id) of the last one of the page before; ties go by id, descending. Activity is the
        latest message's time, or the creation's; it may lag behind the log by what the outbox still holds. Heads and
        last messages come from the log itself.
        """

    async def record_activity(self, latest: Sequence[Message]) -> None:
        """Moves each conversation's last activity forwards to its message's time, never back; at most one message
        for each. What does not exist is passed over."""

    async def move_watermarks(
        self, moves: Sequence[tuple[ConversationId, UserId, WatermarkKind, Seq]]
    ) -> Sequence[Watermarks | None]:
        """Moves watermarks forwards, never back; SEEN moves both. Durable when this returns.

        Answers for each move, in order, with the member's watermarks after all of them; None: not a member.
        """

    async def read_contacts(self, user_id: UserId) -> Sequence[UserId]:
        """Everybody who shares a conversation with the user, sorted, without the user."""

    async def set_muted(self, conversation_id: ConversationId, user_id: UserId, *, muted: bool) -> bool:
        """Tells whether he is a member."""


class Store(MessageLog, Outbox, Conversations, Protocol):
    """One store: `start` before anything else, `close` at the end."""

    async def start(self) -> None:
        """Connects, creates the indexes, warms the pool; refuses what cannot keep the guarantees.

        Raises:
            StoreUnavailable: nothing answers within the start-up bound.
            ConfigError: it answers, but is not fit (a standalone mongod, a refused login, a file that is not ours).
        """

    async def close(self) -> None:
        """Waits for what is under way, then disconnects. Whatever is asked afterwards is `StoreUnavailable`.

        Harmless when `start` failed or `close` was called before.
        """

    async def ping(self) -> None:
        """Cheap; for readiness."""


def open_store(url: str) -> Store:
    """The store that `url` names: `mongodb://…/name?replicaSet=…` or `sqlite:///path/to/file` (relative; with four
    slashes absolute). Not yet started.

    Raises:
        ValueError: no such kind of store.
    """
    if url.startswith(("mongodb://", "mongodb+srv://")):
        from services.chat.store.mongo import MongoStore

        return MongoStore(url)
    if url.startswith("sqlite:///"):
        from services.chat.store.sqlite import SqliteStore

        return SqliteStore(url.removeprefix("sqlite:///"))
    raise ValueError(f"store URL {url.split(':', 1)[0]!r}: expected mongodb://… or sqlite:///…")
