"""The queue to notify, as chat's tests see it: it takes, refuses or holds what is published."""

import asyncio
from collections.abc import Sequence

from services.chat.errors import JobsUnavailable
from services.chat.jobs import Job
from services.chat.model import ConversationId, Message, Seq, UserId


class FakeJobs:
    def __init__(self) -> None:
        self.published: list[str] = []
        self.tries = 0
        self.is_connected = True
        self.bug: BaseException | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def publish(self, jobs: Sequence[Job]) -> None:
        self.tries += 1
        await self.gate.wait()
        bug, self.bug = self.bug, None
        if bug is not None:
            raise bug
        if not self.is_connected:
            raise JobsUnavailable
        self.published += [job.job_id for job in jobs]


def message_of(conversation_id: ConversationId, seq: int, sender: UserId, content: str = "hello") -> Message:
    return Message(conversation_id, Seq(seq), sender, f"{sender}-{seq}", content, "text", 1_790_000_000_000 + seq)
