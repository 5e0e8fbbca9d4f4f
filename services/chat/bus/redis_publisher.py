"""The speaking half of the Redis bus: batches of PUBLISH on one connection, and owning up to what was lost.

An event that was dropped, or whose sending failed, is one that the other replicas may have missed without knowing. So
whatever is lost here is announced on the control channel as soon as the broker takes commands again, ahead of the
events that follow; every replica then checks its topics. Refuses to keep anything for later: an event is a hint, and
its content is in the log.
"""

import asyncio
import random
from collections.abc import Sequence
from typing import NamedTuple

from services.chat.bus.redis_wire import BrokerLost, Connect, Connection, backoff_limit_s, pack
from services.runtime.batching import Batcher, QueueFull
from services.runtime.log import logger

# One write: 5 to 10 ms of the broker's time for 500 events.
_MAX_BATCH = 500
_MAX_BATCH_BYTES = 256 * 1024
# About a second of events at full load; more are not waiting but lost.
_MAX_WAITING = 10_000
_MAX_WAITING_BYTES = 16 * 1024 * 1024
# Connecting, writing a batch and reading its answers; a broker that takes longer is frozen.
_SEND_S = 1.5
# What has waited longer is no news any more (typing, say) and the check that follows makes it superfluous.
_STALE_S = 5.0
# Each announcement makes every replica check every topic: not more often than this, however much is lost.
_ANNOUNCE_EVERY_S = 1.0
# What `close` allows for what still waits.
_CLOSE_S = 1.0

_log = logger(__name__)


class _Outgoing(NamedTuple):
    command: bytes
    taken_at: float


# Makes a batch happen that has no event in it.
_NOTHING = _Outgoing(b"", 0.0)


class RedisPublisher:
    """Sends in order, one batch at a time; never waits for the broker and never fails.

    `dropped` counts the events that nobody may have heard: too many waited, they waited for too long, or their batch
    failed (then some of them may have been heard after all).
    """

    def __init__(self, connect: Connect, *, tag: bytes, control: bytes) -> None:
        self.dropped = 0
        self._connect = connect
        self._tag = tag
        self._announcement = pack(b"PUBLISH", control, tag)
        self._connection: Connection | None = None
        self._outgoing = Batcher[_Outgoing](
            self._flush,
            failed=self._failed,
            max_items=_MAX_BATCH,
            max_waiting=_MAX_WAITING + 1,  # room for _NOTHING
            max_weight=_MAX_BATCH_BYTES,
            weigh=lambda outgoing: len(outgoing.command),
        )
        self._waiting_bytes = 0
        self._urgent: bytes | None = None
        self._announced = 0  # as much of `dropped` as the others know of
        self._announce_not_before = 0.0
        self._send_not_before = 0.0
        self._failures = 0
        self._reminder: asyncio.TimerHandle | None = None
        self._closing = asyncio.Event()
        self._give_up_at = float("inf")

    def publish(self, channel: bytes, event: bytes) -> None:
        """Takes an event, or drops and counts it."""
        command = pack(b"PUBLISH", channel, self._tag + event)
        has_room = self._outgoing.waiting < _MAX_WAITING and self._waiting_bytes + len(command) <= _MAX_WAITING_BYTES
        if not has_room or self._closing.is_set():
            self.dropped += 1
            return
        self._outgoing.submit(_Outgoing(command, asyncio.get_running_loop().time()))
        self._waiting_bytes += len(command)

    def publish_now(self, channel: bytes) -> None:
        """An empty event that goes ahead of all that waits. It is not counted, and lost without a word."""
        self._urgent = pack(b"PUBLISH", channel, self._tag)
        self._send_something()

    async def close(self) -> None:
        """Sends what was taken, within a second or so, and disconnects."""
        self._give_up_at = asyncio.get_running_loop().time() + _CLOSE_S
        if self._reminder is not None:
            self._reminder.cancel()
        if self.dropped > self._announced:
            self._send_something()
        self._closing.set()
        await self._outgoing.close()
        await self._disconnect()

    def _send_something(self) -> None:
        try:
            self._outgoing.submit(_NOTHING)
        except QueueFull:  # then a batch is about to go, or none will ever go again
            return

    async def _flush(self, batch: list[_Outgoing]) -> None:
        self._waiting_bytes -= sum(len(outgoing.command) for outgoing in batch)
        await self._pause()
        now = asyncio.get_running_loop().time()
        events = [outgoing for outgoing in batch if outgoing is not _NOTHING]
        fresh = [outgoing.command for outgoing in events if now - outgoing.taken_at < _STALE_S]
        self.dropped += len(events) - len(fresh)
        owed = self._owed(now)
        urgent, self._urgent = self._urgent, None
        commands = [*([urgent] if urgent else []), *([self._announcement] if owed else []), *fresh]
        try:
            if commands:
                await self._send(commands)
        except (BrokerLost, TimeoutError) as error:
            self._note_failure(error, lost=len(fresh))
        else:
            self._note_success(owed)
        self._remind()

    def _failed(self, batch: Sequence[_Outgoing], error: Exception) -> None:
        """A bug, not a broken broker."""
        _log.error("bus_batch_failed", exc_info=error)
        self.dropped += sum(outgoing is not _NOTHING for outgoing in batch)
        self._remind()

    async def _send(self, commands: list[bytes]) -> None:
        """The broker's answer to each, all of them or an error; after an error the connection is gone."""
        try:
            async with asyncio.timeout_at(min(asyncio.get_running_loop().time() + _SEND_S, self._give_up_at)):
                if self._connection is None:
                    self._connection = await self._connect("parley-bus-publisher")
                await self._connection.send(b"".join(commands))
                for _ in commands:
                    await self._connection.receive()
        except BaseException:  # answers may still come that belong to nobody
            await self._disconnect()
            raise

    async def _pause(self) -> None:
        """Until the broker may be tried again. What comes meanwhile waits, within its bounds."""
        pause_s = self._send_not_before - asyncio.get_running_loop().time()
        if pause_s > 0:
            try:
                async with asyncio.timeout(pause_s):
                    await self._closing.wait()
            except TimeoutError:
                return

    def _owed(self, now: float) -> int:
        """How many lost events an announcement in this batch would own up to; 0: no announcement."""
        is_due = now >= self._announce_not_before or self._closing.is_set()
        return self.dropped if is_due and self.dropped > self._announced else 0

    def _note_failure(self, error: Exception, *, lost: int) -> None:
        if self._failures == 0:
            _log.warning("bus_publishing_failed", error=repr(error))
        self.dropped += lost
        self._failures += 1
        pause_s = random.uniform(0, backoff_limit_s(self._failures))
        self._send_not_before = asyncio.get_running_loop().time() + pause_s

    def _note_success(self, owed: int) -> None:
        if self._failures:
            _log.info("bus_publishing_resumed", dropped=self.dropped)
            self._failures = 0
        if owed:
            self._announced = owed
            self._announce_not_before = asyncio.get_running_loop().time() + _ANNOUNCE_EVERY_S

    def _remind(self) -> None:
        """Sees to it that an announcement goes, though no event may come to go with it."""
        if self.dropped > self._announced and self._reminder is None and not self._closing.is_set():
            due_at = max(self._announce_not_before, self._send_not_before)
            self._reminder = asyncio.get_running_loop().call_at(due_at, self._reminded)

    def _reminded(self) -> None:
        self._reminder = None
        self._send_something()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
