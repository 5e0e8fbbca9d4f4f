"""A client that has no connection, only requests: what waits for it, and a session that outlives each of them.

One request at a time listens (a poll, or a stream that ends after a while). Between two of them what the session writes
waits here and counts as not taken, so that the slow-reader ladder of `edge.outbox` holds for pollers too. Nobody
listening for a few seconds is the end, and so is a request that breaks off: what it carried may be lost, and only a
client that comes back and resumes knows.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edge.outbox import Transport
from edge.session import Session
from edge.sockjs.frames import HEARTBEAT, INTERRUPTED, OPEN, close_frame, messages_frame, quote
from services.runtime.clock import Clock

# One frame: so much may be lost with one answer, and a stream may overshoot its size by it.
_MAX_FRAME_BYTES = 64 << 10
# How long a client may take to read the last frame; as long as a WebSocket client may take to answer a close.
_CLOSE_TIMEOUT_S = 2.0


class Mailbox(Transport):
    """The session's end: what is written waits for the request that listens."""

    def __init__(self) -> None:
        self._messages: list[bytes] = []
        self._waiting_bytes = 0
        # With the listening request, and not yet with the network.
        self._taken_bytes = 0
        self._is_open_due = True
        self._is_beat_due = False
        self._news = asyncio.Event()
        self.goodbye: bytes | None = None
        self.is_goodbye_taken = False

    def write(self, frames: list[bytes]) -> None:
        if self.goodbye is not None:
            return
        quoted = [quote(frame.decode()) for frame in frames]
        self._messages.extend(quoted)
        self._waiting_bytes += sum(map(len, quoted))
        self._news.set()

    def buffered_bytes(self) -> int:
        return self._waiting_bytes + self._taken_bytes

    def close(self, code: int, reason: str) -> None:
        self.end(close_frame(code, reason))

    def end(self, goodbye: bytes) -> None:
        """The last frame, after what waits. Only the first one counts."""
        if self.goodbye is None:
            self.goodbye = goodbye
            self._news.set()

    def beat(self) -> None:
        self._is_beat_due = True
        self._news.set()

    async def next_frame(self) -> bytes:
        """Waits for one. What was taken before is with the network now."""
        self._taken_bytes = 0
        while True:
            if self._is_open_due:
                self._is_open_due = False
                return OPEN
            if self._messages:
                return self._take_messages()
            if self.goodbye is not None:
                self.is_goodbye_taken = True
                return self.goodbye
            if self._is_beat_due:
                self._is_beat_due = False
                return HEARTBEAT
            self._news.clear()
            await self._news.wait()

    def settle(self) -> None:
        """The request that listened has ended."""
        self._taken_bytes = 0
        self._is_beat_due = False

    def _take_messages(self) -> bytes:
        taken, size = 0, 0
        while taken < len(self._messages) and size < _MAX_FRAME_BYTES:
            size += len(self._messages[taken])
            taken += 1
        frame = messages_frame(self._messages[:taken])
        del self._messages[:taken]
        self._waiting_bytes -= size
        self._taken_bytes = size
        return frame


class PolledSession:
    """One client and its session; a `Connection`. `ended` is called once, when nobody will listen any more."""

    def __init__(
        self,
        open_session: Callable[[Transport], Session],
        ended: Callable[["PolledSession"], None],
        clock: Clock,
        *,
        heartbeat_s: float,
        disconnect_s: float,
    ) -> None:
        self.mailbox = Mailbox()
        self.session = open_session(self.mailbox)
        self._ended = ended
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._disconnect_s = disconnect_s
        self._listener: asyncio.Transport | None = None
        # When somebody last began or ceased to listen, or got a frame.
        self._last_seen = clock.monotonic()
        self._close_deadline: float | None = None
        self._receiving = asyncio.Lock()
        self._is_over = False

    @property
    def is_listened_to(self) -> bool:
        return self._listener is not None

    @property
    def is_told(self) -> bool:
        """The client has got the last frame."""
        return self.mailbox.is_goodbye_taken

    @contextmanager
    def listening(self, transport: asyncio.Transport) -> Iterator[None]:
        """For as long as the request on this transport listens. Nobody else may be.

        From here on the transport holds nothing back: to wait for its buffer is to wait until the network has all.
        Breaking off ends the session: CancelledError goes on, a ConnectionError ends here.
        """
        transport.set_write_buffer_limits(0)
        self._listener = transport
        self._last_seen = self._clock.monotonic()
        try:
            yield
        except asyncio.CancelledError:
            self._interrupt()
            raise
        except ConnectionError:
            self._interrupt()
        finally:
            self._listener = None
            self._last_seen = self._clock.monotonic()
            self.mailbox.settle()
            if self.is_told:
                self._end()

    async def next_frame(self) -> bytes:
        """For the request that listens."""
        frame = await self.mailbox.next_frame()
        self._last_seen = self._clock.monotonic()
        return frame

    async def receive(self, data: bytes) -> bool:
        """Bytes from the client, once there is room for what they ask; False: the session is over."""
        async with self._receiving:  # in the order in which they came
            if self.session.is_congested:
                await self.session.room()
            if self.session.is_over:
                return False
            try:
                self.session.receive(data)
            except Exception as error:
                self.session.bug(error)
            return True

    # ---- What the edge asks of every connection.

    def tick(self, now: float) -> None:
        if self._is_over:
            return
        if not self.session.is_over:
            self.session.tick(now)
        silent_s = now - self._last_seen
        if self._listener is None:
            if silent_s >= self._disconnect_s:
                self.session.lost()
                self._end()
        elif self.mailbox.goodbye is not None:
            if self._close_deadline is None:
                self._close_deadline = now + _CLOSE_TIMEOUT_S
            elif now >= self._close_deadline:
                self._listener.abort()  # which cancels the request
        elif silent_s >= self._heartbeat_s:
            self.mailbox.beat()

    def drain(self) -> None:
        self.session.drain()

    def bug(self, error: Exception) -> None:
        self.session.bug(error)

    # ---- The end.

    def _interrupt(self) -> None:
        self.mailbox.end(INTERRUPTED)
        self.session.lost()
        self._end()

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._ended(self)
