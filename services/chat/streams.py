"""One edge's topic stream on this replica: what waits to be written to it, bounded.

Events come in encoded (`convert`); several leave in one write, because a gRPC message costs the same whatever is in it.
An edge that does not keep up is cut off: it comes back and resumes each topic by position, so nothing is lost and
nobody else waits for it.
"""

import asyncio
from collections import deque

# One write. Well under the message limit of the channel, and large enough that its fixed cost does not count.
_MAX_WRITE_BYTES = 1 << 20
# Beyond this a replay waits for the stream to drain; live events may go on to the hard bound.
_REPLAY_PAUSE_BYTES = 2 << 20
_MAX_WAITING_BYTES = 32 << 20


class TopicStream:
    """A bounded queue of encoded events, with one reader (`take`) and many writers (`push`)."""

    def __init__(self) -> None:
        self._queue: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self.is_closed = False

    @property
    def waiting_bytes(self) -> int:
        return self._waiting_bytes

    def push(self, event: bytes) -> None:
        """Never waits. Past the bound the stream closes instead, and what waits is dropped."""
        if self.is_closed:
            return
        self._queue.append(event)
        self._waiting_bytes += len(event)
        self._news.set()
        if self._waiting_bytes > _REPLAY_PAUSE_BYTES:
            self._room.clear()
            if self._waiting_bytes > _MAX_WAITING_BYTES:
                self.close()

    async def room(self) -> None:
        """Waits until a replay may go on (or the stream is closed)."""
        await self._room.wait()

    async def take(self) -> bytes:
        """What waits, in order, as one write; waits for something. Empty: the stream is closed."""
        while not self._queue and not self.is_closed:
            self._news.clear()
            await self._news.wait()
        taken: list[bytes] = []
        size = 0
        while self._queue and (not taken or size + len(self._queue[0]) <= _MAX_WRITE_BYTES):
            event = self._queue.popleft()
            size += len(event)
            taken.append(event)
        self._waiting_bytes -= size
        if self._waiting_bytes <= _REPLAY_PAUSE_BYTES:
            self._room.set()
        return b"".join(taken)

    def close(self) -> None:
        """Ends the stream after what was taken; idempotent."""
        self.is_closed = True
        self._queue.clear()
        self._waiting_bytes = 0
        self._news.set()
        self._room.set()
