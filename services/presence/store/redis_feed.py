"""Hearing what was announced: one subscribed connection, and noticing that it is deaf.

A connection that ends, or on which this replica does not hear its own probes (PING would prove only that it answers),
is replaced. Whenever all channels are confirmed on a new one, the listener is told that changes may have been missed.
Knows the broker's protocol and not its library, which only `redis` does.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, cast

from services.presence.errors import StoreUnavailable
from services.runtime.log import logger

_CONFIRM_S = 3.0
_PROBE_EVERY_S = 2.0
_PROBE_ANSWER_S = 3.0
_MAX_PAUSE_S = 1.0

_log = logger(__name__)


class Connection(Protocol):
    """One connection, with the handshake done. `send` and `receive` may raise `StoreUnavailable`."""

    async def send(self, *words: str) -> None:
        """One command."""

    async def receive(self) -> object:
        """The next answer or event, whenever it comes."""

    async def close(self) -> None: ...


class RedisFeed:
    """
    Args:
        connect: a new connection, or `StoreUnavailable`.
        probe_channel: heard by this replica alone.
        probe: publishes to it.
        heard: gets each payload of `channels`.
        missed: see above.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        channels: Sequence[str],
        *,
        probe_channel: str,
        probe: Callable[[], Awaitable[None]],
        heard: Callable[[bytes], None],
        missed: Callable[[], None],
    ) -> None:
        self.is_hearing = False
        self._was_hearing = False
        self._connect = connect
        self._channels = (*channels, probe_channel)
        self._probe_channel = probe_channel.encode()
        self._probe = probe
        self._heard = heard
        self._missed = missed
        self._probed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_closing = False

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep_listening(), name="presence feed")

    async def close(self) -> None:
        self._is_closing = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _keep_listening(self) -> None:
        pause_s = 0.05
        while not self._is_closing:  # a task group that fails loses the cancellation
            began = asyncio.get_running_loop().time()
            try:
                await self._listen()
            except* (StoreUnavailable, TimeoutError) as group:
                if self._was_hearing:  # said once for each time that it was lost
                    _log.warning("presence_feed_lost", error=repr(group.exceptions[0]))
                self._was_hearing = False
            except* Exception as group:  # the edge of this task: nothing may leave the replica deaf for good
                _log.error("presence_feed_failed", exc_info=group)
            if asyncio.get_running_loop().time() - began > _CONFIRM_S:
                pause_s = 0.05
            await asyncio.sleep(random.uniform(0, pause_s))
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)

    async def _listen(self) -> None:
        """Only ends by raising."""
        connection = await self._connect()
        try:
            confirmed = asyncio.Event()
            async with asyncio.TaskGroup() as parts:
                parts.create_task(self._read(connection, confirmed), name="presence feed reader")
                await connection.send("SUBSCRIBE", *self._channels)
                async with asyncio.timeout(_CONFIRM_S):
                    await confirmed.wait()
                self.is_hearing = self._was_hearing = True
                self._missed()
                await self._probe_for_ever()
        finally:
            self.is_hearing = False
            await connection.close()

    async def _read(self, connection: Connection, confirmed: asyncio.Event) -> None:
        unconfirmed = len(self._channels)
        while True:
            kind, channel, payload = cast(tuple[bytes, bytes, bytes], await connection.receive())
            if kind == b"subscribe":
                unconfirmed -= 1
                if not unconfirmed:
                    confirmed.set()
            elif channel == self._probe_channel:
                self._probed.set()
            else:
                self._heard(payload)

    async def _probe_for_ever(self) -> None:
        while True:
            self._probed.clear()
            await self._probe()
            async with asyncio.timeout(_PROBE_ANSWER_S):
                await self._probed.wait()
            await asyncio.sleep(_PROBE_EVERY_S)
