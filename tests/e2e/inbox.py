"""What one client has heard, whichever library it was, waiting to be taken by a test."""

import asyncio
from collections.abc import Callable

from tests.e2e.frames import Frame, Matcher
from tests.e2e.waiting import PATIENCE_S


class Inbox:
    """Frames in the order of arrival, and how the connection ended.

    Not thread-safe: a client that lives in threads hands over with `call_soon_threadsafe`.
    """

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.frames: list[Frame] = []
        """Everything that ever arrived; `take` does not remove from it."""
        self.close_code: int | None = None
        self.close_reason = ""
        self._waiting: list[Frame] = []
        self._changed = asyncio.Event()

    def put(self, frame: Frame) -> None:
        self.frames.append(frame)
        self._waiting.append(frame)
        self._changed.set()

    def close(self, code: int, reason: str = "") -> None:
        if self.close_code is None:
            self.close_code = code
            self.close_reason = reason
            self._changed.set()

    async def take(self, wanted: Matcher, *, timeout_s: float = PATIENCE_S) -> Frame:
        """The first frame not yet taken that matches; those before it stay.

        Raises:
            AssertionError: none came in time, or the connection ended without one.
        """
        found: list[Frame] = []

        def look() -> bool:
            for index, frame in enumerate(self._waiting):
                if wanted(frame):
                    found.append(self._waiting.pop(index))
                    return True
            return False

        if not await self._until(look, timeout_s):
            raise AssertionError(self._story("what was wanted did not come"))
        return found[0]

    async def closed(self, *, timeout_s: float = PATIENCE_S) -> int:
        """The close code of the WebSocket, once it has ended."""
        await self._until(lambda: False, timeout_s)
        if self.close_code is None:
            raise AssertionError(self._story("the connection stays open"))
        return self.close_code

    def taken_all(self, wanted: Matcher) -> list[Frame]:
        """Take every matching frame that is there now."""
        taken = [frame for frame in self._waiting if wanted(frame)]
        self._waiting = [frame for frame in self._waiting if not wanted(frame)]
        return taken

    async def _until(self, done: Callable[[], bool], timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                while not done():
                    if self.close_code is not None:
                        return False
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def _story(self, headline: str) -> str:
        end = "open" if self.close_code is None else f"closed {self.close_code} {self.close_reason!r}"
        last = [f"  {frame}" for frame in self._waiting[-10:]]
        return "\n".join([f"{self.owner}: {headline}; the connection is {end}; not yet taken:", *last])
