"""What waits to be written to one client, bounded; several frames leave in one write.

Every outbox of the edge shares one `Writer`: whoever pushes marks the outbox, and at the end of the loop's turn each
marked one is written once. A client that does not read is not waited for: what its socket has not taken is counted, and
the session decides by `waiting_bytes` what it still gets (the ladder of design.md: first gaps, then the end).
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

# Past this much in the socket's own buffer nothing more goes into it: it could not be taken back.
_SOCKET_BYTES = 64 << 10
# How often a client that does not keep up is looked at again. Nothing waits on it that keeps up.
_LOOK_AGAIN_S = 0.02
# One write: above this copying costs more than another system call saves.
_MAX_WRITE_BYTES = 256 << 10


class Transport(Protocol):
    """Moves frames to one client. Never blocks; writing after the end is ignored."""

    def write(self, frames: list[bytes]) -> None:
        """Each item is one STOMP frame (or a heart-beat)."""

    def buffered_bytes(self) -> int:
        """Written, and not yet taken by the network."""

    def close(self, code: int, reason: str) -> None:
        """Ends the connection after what was written, with a WebSocket close code. Idempotent."""


class Writer:
    """Writes the outboxes that have something, once in each turn of the loop; looks at slow ones again."""

    def __init__(self) -> None:
        self._marked: list[Outbox] = []
        self._slow: dict[Outbox, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def slow_outboxes(self) -> int:
        return len(self._slow)

    def mark(self, outbox: "Outbox") -> None:
        if not self._marked:
            asyncio.get_running_loop().call_soon(self._write_marked)
        self._marked.append(outbox)

    def keep_slow(self, outbox: "Outbox") -> None:
        self._slow[outbox] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_AGAIN_S, self._look_again)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._slow.clear()

    def _write_marked(self) -> None:
        marked, self._marked = self._marked, []
        for outbox in marked:
            outbox.write_out()

    def _look_again(self) -> None:
        self._timer = None
        slow, self._slow = self._slow, {}
        for outbox in slow:
            outbox.write_out()


class Outbox:
    """The frames of one client, in order.

    `drained` is called whenever everything that waited has been given to the socket (which may hold some of it).
    """

    __slots__ = ("_drained", "_frames", "_marked", "_queued_bytes", "_transport", "_writer", "is_closed")

    def __init__(self, transport: Transport, writer: Writer, drained: Callable[[], None]) -> None:
        self._transport = transport
        self._writer = writer
        self._drained = drained
        self._frames: list[bytes] = []
        self._queued_bytes = 0
        self._marked = False
        self.is_closed = False

    @property
    def queued_bytes(self) -> int:
        """Not yet given to the socket."""
        return self._queued_bytes

    def waiting_bytes(self) -> int:
        """Everything that the client has not taken yet."""
        return self._queued_bytes + self._transport.buffered_bytes()

    def push(self, frame: bytes) -> None:
        if self.is_closed:
            return
        self._frames.append(frame)
        self._queued_bytes += len(frame)
        if not self._marked:
            self._marked = True
            self._writer.mark(self)

    def expect_drain(self) -> None:
        """Has `drained` called again soon, also where nothing more is pushed."""
        self._writer.keep_slow(self)

    def write_out(self) -> None:
        """Gives the socket what it may hold; the writer's business."""
        self._marked = False
        if self.is_closed:
            return
        if not self._frames:
            self._drained()
            return
        room = _SOCKET_BYTES - self._transport.buffered_bytes()
        if self._queued_bytes <= min(room, _MAX_WRITE_BYTES):
            frames, self._frames = self._frames, []
            self._queued_bytes = 0
            self._transport.write(frames)
            self._drained()
            return
        taken, size = 0, 0
        while taken < len(self._frames) and size < room:
            size += len(self._frames[taken])
            taken += 1
        if taken:
            self._queued_bytes -= size
            self._transport.write(self._frames[:taken])
            del self._frames[:taken]
        if self._frames:
            self._marked = True
            self._writer.keep_slow(self)
        else:
            self._drained()

    def flush(self) -> None:
        """Writes all there is, whatever the socket holds: the last words before a close."""
        if self._frames and not self.is_closed:
            frames, self._frames = self._frames, []
            self._queued_bytes = 0
            self._transport.write(frames)

    def close(self, code: int, reason: str) -> None:
        """Drops what waits and ends the connection."""
        if not self.is_closed:
            self.is_closed = True
            self._frames.clear()
            self._queued_bytes = 0
            self._transport.close(code, reason)
