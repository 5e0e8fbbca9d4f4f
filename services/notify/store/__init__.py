"""What must last: devices, the keys of pushes, and how far people have read, as Protocols that every store keeps.

Owns the contract; `sqlite` and `mongo` keep it, and tests/contract/notify runs one suite over all. Every method may
raise `StoreUnavailable`; after a write that means "not known", after a read nothing. What returned is durable.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, NewType, Protocol

from services.notify.model import ConversationId, Device, DeviceId, Mark, MessageId, Seq, UserId

Holder = NewType("Holder", str)

# How long a key and a mark are remembered. A job can come again as long as somebody may replay it, which is days.
KEPT: Final = timedelta(days=14)


@dataclass(frozen=True, slots=True)
class Claimed:
    """The key is the holder's, until the lease ends."""


@dataclass(frozen=True, slots=True)
class Held:
    """Somebody else is at it; ask again when the lease is over."""

    left: timedelta


@dataclass(frozen=True, slots=True)
class Finished:
    """Pushed, or gone for good."""


Claim = Claimed | Held | Finished


class Devices(Protocol):
    async def register(self, device: Device, *, max_devices: int) -> tuple[Device, bool]:
        """Keeps it, or answers with what this user has under that id already; and whether it is new.

        An address that was another user's is this one's from now on. Beyond `max_devices` the user's oldest go.
        """

    async def find_devices(self, user_ids: Sequence[UserId]) -> Mapping[UserId, Sequence[Device]]:
        """The devices of each (at most 1,000), oldest first; users without any are left out."""

    async def find_device(self, device_id: DeviceId) -> Device | None: ...

    async def remove(self, user_id: UserId, device_id: DeviceId) -> bool:
        """Tells whether it was there, and this user's. Idempotent."""


class PushKeys(Protocol):
    """One key for each (message, device), taken durably before the provider is called.

    A lease, because its holder may die between taking it and the provider's answer: the next one takes it when the
    lease is over and pushes again, under the same collapse id, which replaces what may be shown already. Time that went
    back ends a lease rather than making it endless.
    """

    async def claim(
        self, message_id: MessageId, device_id: DeviceId, holder: Holder, *, now_ms: int, lease: timedelta
    ) -> Claim: ...

    async def finish(self, message_id: MessageId, device_id: DeviceId, *, now_ms: int) -> None:
        """For good, whoever holds it. Idempotent."""

    async def release(self, message_id: MessageId, device_id: DeviceId, holder: Holder) -> None:
        """Another may take it at once; nothing happens where it is not (or no longer) the holder's."""


class Marks(Protocol):
    """For each (conversation, member) how far he has read and what was pushed; both only move forwards."""

    async def move_read(self, conversation_id: ConversationId, user_id: UserId, seq: Seq, *, now_ms: int) -> Mark:
        """The mark as it was before."""

    async def record_pushed(
        self, conversation_id: ConversationId, user_ids: Sequence[UserId], seq: Seq, *, now_ms: int
    ) -> None: ...

    async def find_marks(self, conversation_id: ConversationId, user_ids: Sequence[UserId]) -> Mapping[UserId, Mark]:
        """At most 1,000 users; those without a mark are left out."""


class Store(Devices, PushKeys, Marks, Protocol):
    """One store: `start` before anything else, `close` at the end."""

    async def start(self) -> None:
        """
        Raises:
            StoreUnavailable: nothing answers within the start-up bound.
            ConfigError: it answers, but is not fit.
        """

    async def close(self) -> None:
        """Waits for what is under way, then disconnects. Harmless when repeated or before `start`."""


def open_store(url: str) -> Store:
    """The store that `url` names: `mongodb://…/name?replicaSet=…` or `sqlite:///path/to/file` (relative; with four
    slashes absolute). Not yet started.

    Raises:
        ValueError: no such kind of store.
    """
    if url.startswith(("mongodb://", "mongodb+srv://")):
        from services.notify.store.mongo import MongoStore

        return MongoStore(url)
    if url.startswith("sqlite:///"):
        from services.notify.store.sqlite import SqliteStore

        return SqliteStore(url.removeprefix("sqlite:///"))
    raise ValueError(f"store URL {url.split(':', 1)[0]!r}: expected mongodb://… or sqlite:///…")
