"""Who is attached to this replica, and the streams that lead there. Bounded, and nobody waits for a slow edge.

A live notification is a courtesy: the message itself is in the log, and whoever is cut off while one is under way is
looked at again when the grace is over.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Collection, Iterable
from typing import Final

from services.notify.model import Elsewhere, Live, LiveMessage, MessageId, UserId
from services.runtime.log import logger
from services.runtime.metrics import Metrics

# One write to an edge.
_MAX_AT_ONCE: Final = 500
# An edge that lets more wait is cut off; it comes back and attaches its users again.
_MAX_WAITING: Final = 20_000
# Several times what one edge holds (15,000 connections).
_MAX_ATTACHED: Final = 100_000
# Jobs come at least once; repeats within this many notifications are not shown twice by this replica.
_MAX_REMEMBERED: Final = 50_000

_log = logger(__name__)


class LiveStream:
    """What waits for one edge: one reader (`take`), many writers (`push`)."""

    def __init__(self) -> None:
        self.users: set[UserId] = set()
        self._queue: deque[Live | Elsewhere] = deque()
        self._news = asyncio.Event()
        self.is_closed = False

    def push(self, news: Live | Elsewhere) -> None:
        if self.is_closed:
            return
        if len(self._queue) >= _MAX_WAITING:
            _log.warning("edge_cut_off", waiting=len(self._queue))
            self.close()
            return
        self._queue.append(news)
        self._news.set()

    async def take(self) -> list[Live | Elsewhere]:
        """What waits, in order; waits for something. Empty: the stream is closed."""
        while not self._queue and not self.is_closed:
            self._news.clear()
            await self._news.wait()
        return [self._queue.popleft() for _ in range(min(len(self._queue), _MAX_AT_ONCE))]

    def close(self) -> None:
        """Idempotent. What waits is dropped."""
        self.is_closed = True
        self._queue.clear()
        self._news.set()


class LiveHub:
    """The streams of this replica. Used on one event loop; nothing here waits."""

    def __init__(self, metrics: Metrics) -> None:
        self._streams: dict[UserId, set[LiveStream]] = {}
        self._shown: OrderedDict[tuple[MessageId, UserId], None] = OrderedDict()
        self._sent = metrics.counter("notify_live", "Live notifications handed to edges")
        metrics.gauge("notify_attached_users", "Users with a connection, as the edges tell this replica").set_function(
            lambda: len(self._streams)
        )

    def attach(self, stream: LiveStream, user_ids: Iterable[UserId]) -> None:
        for user_id in user_ids:
            if stream.is_closed:
                return
            if len(stream.users) >= _MAX_ATTACHED:
                _log.warning("edge_cut_off", attached=len(stream.users))
                self.ended(stream)
                return
            stream.users.add(user_id)
            streams = self._streams.setdefault(user_id, set())
            if stream not in streams:
                streams.add(stream)
                self._tell_elsewhere(user_id, streams, came=stream)
            elif len(streams) > 1:  # he left it and came back at once, and it has forgotten what it was told
                stream.push(Elsewhere(user_id, elsewhere=True))

    def detach(self, stream: LiveStream, user_ids: Iterable[UserId]) -> None:
        for user_id in user_ids:
            stream.users.discard(user_id)
            if (streams := self._streams.get(user_id)) is not None and stream in streams:
                streams.discard(stream)
                if not streams:
                    del self._streams[user_id]
                elif len(streams) == 1:
                    next(iter(streams)).push(Elsewhere(user_id, elsewhere=False))

    def ended(self, stream: LiveStream) -> None:
        self.detach(stream, tuple(stream.users))
        stream.close()

    def is_attached(self, user_id: UserId) -> bool:
        return any(not stream.is_closed for stream in self._streams.get(user_id, ()))

    def tell(self, live: Live) -> bool:
        """Whether anybody is attached to tell it to (or it was told before)."""
        streams = [stream for stream in self._streams.get(live.user_id, ()) if not stream.is_closed]
        if not streams:
            return False
        if isinstance(live, LiveMessage) and self._is_repeat(live):
            return True
        for stream in streams:
            stream.push(live)
        self._sent.inc()
        return True

    def _tell_elsewhere(self, user_id: UserId, streams: Collection[LiveStream], *, came: LiveStream) -> None:
        """To whom it is news: the one that came is not alone, and of two the other one no longer is."""
        if len(streams) == 2:
            for stream in streams:
                stream.push(Elsewhere(user_id, elsewhere=True))
        elif len(streams) > 2:
            came.push(Elsewhere(user_id, elsewhere=True))

    def _is_repeat(self, live: LiveMessage) -> bool:
        key = (live.message.message_id, live.user_id)
        if key in self._shown:
            return True
        self._shown[key] = None
        if len(self._shown) > _MAX_REMEMBERED:
            self._shown.popitem(last=False)
        return False
