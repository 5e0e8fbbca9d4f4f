"""How far members have read, remembered where it is cheap to ask: a lower bound of what the store has.

What is found here was durable before it was recorded, and watermarks only grow: so whoever reads again what he has read
before, on another device say, costs the store nothing. A value that is missing or behind costs a write and is never
wrong. `memory` and `redis` keep the contract; tests/contract/chat/test_last_read.py runs over both.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from services.chat.model import ConversationId, Seq, UserId


class Member(NamedTuple):
    conversation_id: ConversationId
    user_id: UserId


class LastRead(Protocol):
    """Nothing here raises, and nothing waits for longer than a quarter of a second: it is away quickly."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def find(self, members: Sequence[Member]) -> Mapping[Member, Seq]:
        """Those of whom something is known."""

    async def record(self, reads: Mapping[Member, Seq]) -> None:
        """Each has read up to that seq, durably; moves forwards only."""


def open_last_read(url: str) -> LastRead:
    """What `url` names: `redis://…`, `rediss://…` or `memory://name` (this replica only).

    Raises:
        ValueError: no such kind.
    """
    if url.startswith(("redis://", "rediss://")):
        from services.chat.lastread.redis import RedisLastRead

        return RedisLastRead(url)
    if url.startswith("memory://"):
        from services.chat.lastread.memory import MemoryLastRead

        return MemoryLastRead()
    raise ValueError(f"last-read URL {url.split(':', 1)[0]!r}: expected redis://… or memory://…")
