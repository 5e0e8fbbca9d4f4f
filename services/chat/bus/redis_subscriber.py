"""The hearing half of the Redis bus: one connection, what it is subscribed to, and noticing that it is deaf.

What is wanted is one set; a connection is brought to agree with it by one task, in batches and in order, so that an
earlier unsubscribe cannot undo a later subscribe. A connection that ends or does not hear its own probes is replaced,
and once everything wanted is confirmed on the new one, the listener is told that it may have missed something.
"""

import asyncio
import random
from collections.abc import Callable, Iterable
from itertools import islice
from typing import cast

from services.chat.bus import BusListener
from services.chat.bus.redis_wire import BrokerLost, Channels, Connect, Connection, backoff_limit_s, find_event, pack
from services.chat.model import ConversationId
from services.runtime.log import logger

# How long `subscribe` and `start` wait for the broker (the Protocol promises a second).
_CONFIRM_S = 1.0
# A PING would prove that the connection answers; only an event of one's own proves that it delivers.
_PROBE_EVERY_S = 2.0
_PROBE_ANSWER_S = 3.0
# Probes sent within that time: the publishing connection may lose one, and a loop that was blocked finds its timers due
# before it finds what it was sent.
_PROBE_TRIES = 3
# Channels in one command: some 50 KB, so that events come through between two of them.
_MAX_CHANNELS = 1000
# A report makes the listener check every topic. Each of many replicas may announce a loss after an outage.
_REPORT_EVERY_S = 1.0

_log = logger(__name__)


class _Link:
    """One connection and how far it agrees with what is wanted."""

    def __init__(self, connection: Connection, channels: Iterable[bytes]) -> None:
        self.connection = connection
        # To be compared with what is wanted, oldest first.
        self.unchecked = dict.fromkeys(channels)
        # Whose confirmation somebody who no longer waits has to hear of.
        self.owed = set(self.unchecked)
        self.asked: set[bytes] = set()
        # Commands sent and not confirmed, by channel.
        self.unanswered: dict[bytes, int] = {}
        self.waiters: dict[bytes, asyncio.Future[None]] = {}
        self.has_unchecked = asyncio.Event()
        self.has_unchecked.set()
        self.heard = asyncio.Event()

    def check(self, channel: bytes) -> None:
        """This channel's wish changed."""
        self.unchecked[channel] = None
        self.has_unchecked.set()

    def is_confirmed(self, channel: bytes) -> bool:
        return channel in self.asked and channel not in self.unanswered

    def waiter(self, channel: bytes) -> asyncio.Future[None]:
        """Done when the channel is confirmed, no longer wanted, or the connection gone. Shared: never cancel it."""
        if channel not in self.waiters:
            self.waiters[channel] = asyncio.get_running_loop().create_future()
        return self.waiters[channel]

    def take_commands(self, is_wanted: Callable[[bytes], bool]) -> tuple[bytes, list[bytes]]:
        """The commands for the next unchecked channels, and those of them that need none."""
        channels = list(islice(self.unchecked, _MAX_CHANNELS))
        join: list[bytes] = []
        leave: list[bytes] = []
        agreed: list[bytes] = []
        for channel in channels:
            del self.unchecked[channel]
            if is_wanted(channel) == (channel in self.asked):
                agreed.append(channel)
                continue
            (leave if channel in self.asked else join).append(channel)
            self.unanswered[channel] = self.unanswered.get(channel, 0) + 1
        self.asked.difference_update(leave)
        self.asked.update(join)
        commands = (pack(b"UNSUBSCRIBE", *leave) if leave else b"") + (pack(b"SUBSCRIBE", *join) if join else b"")
        return commands, agreed

    def answered(self, channel: bytes) -> None:
        """The broker confirmed one command."""
        left = self.unanswered.get(channel, 1) - 1
        if left:
            self.unanswered[channel] = left
        else:
            self.unanswered.pop(channel, None)

    def settle(self, channel: bytes) -> bool:
        """Releases who waits for a channel that nothing is under way for; whether nothing is owed any more."""
        if channel not in self.unanswered and channel not in self.unchecked:
            self.owed.discard(channel)
            waiter = self.waiters.pop(channel, None)
            if waiter is not None:
                waiter.set_result(None)
        return not self.owed

    def abandon(self) -> None:
        for waiter in self.waiters.values():
            waiter.set_result(None)
        self.waiters.clear()


class RedisSubscriber:
    """Hears the wanted topics, for as long as it is started.

    Args:
        tag: what stands in front of what this replica published itself.
        probe: publishes an empty event to the given channel, at once.
    """

    def __init__(self, connect: Connect, channels: Channels, *, tag: bytes, probe: Callable[[bytes], None]) -> None:
        self.reconnects = 0
        self._connect = connect
        self._channels = channels
        self._tag = tag
        self._probe = probe
        self._probe_channel = channels.probe(tag)
        self._always = (self._probe_channel, channels.control)
        self._wanted: dict[bytes, ConversationId] = {}
        self._link: _Link | None = None
        self._settled = asyncio.Event()  # everything wanted at the time of connecting is confirmed
        self._has_missed = False  # since the last report
        self._report_not_before = 0.0
        self._report: asyncio.TimerHandle | None = None
        self._listener: BusListener | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        return self._settled.is_set()

    async def start(self, listener: BusListener) -> None:
        """Returns when it hears, or after a second."""
        self._listener = listener
        self._task = asyncio.create_task(self._keep_listening(), name="bus subscriber")
        if not await _is_set_within(self._settled, _CONFIRM_S):
            self._has_missed = True

    async def close(self) -> None:
        self._listener = None
        self._settled.clear()
        if self._report is not None:
            self._report.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def subscribe(self, conversation_id: ConversationId) -> None:
        channel = self._channels.topic(conversation_id)
        self._wanted[channel] = conversation_id
        link = self._link
        if link is None:
            self._has_missed = True
            return
        if link.is_confirmed(channel):
            return
        link.check(channel)
        done, _ = await asyncio.wait((link.waiter(channel),), timeout=_CONFIRM_S)
        if not done:
            self._has_missed = True
            link.owed.add(channel)

    def unsubscribe(self, conversation_id: ConversationId) -> None:
        channel = self._channels.topic(conversation_id)
        if self._wanted.pop(channel, None) is not None and self._link is not None:
            self._link.check(channel)

    async def _keep_listening(self) -> None:
        failures = 0
        while True:
            try:
                await self._listen()
            except Exception as error:  # the edge of this task: nothing may leave the replica deaf for good
                failures = 1 if self._settled.is_set() else failures + 1
                _log_lost(_first_cause(error), is_new=failures == 1)
            if self._listener is None:  # closing: a task group that fails loses the cancellation
                return
            self._settled.clear()
            self._has_missed = True
            await asyncio.sleep(random.uniform(0, backoff_limit_s(failures)))
            self.reconnects += 1

    async def _listen(self) -> None:
        """Only ends by raising."""
        connection = await self._connect("parley-bus-subscriber")
        link = self._link = _Link(connection, (*self._always, *self._wanted))
        try:
            async with asyncio.TaskGroup() as parts:
                parts.create_task(self._read(link), name="bus reader")
                parts.create_task(self._reconcile(link), name="bus subscriptions")
                parts.create_task(self._probe_for_ever(link), name="bus probe")
        finally:
            self._link = None
            link.abandon()
            await connection.close()

    async def _read(self, link: _Link) -> None:
        while True:
            kind, channel, payload = cast(tuple[bytes, bytes, bytes], await link.connection.receive())
            if kind == b"message":
                self._hear(link, channel, payload)
            else:
                link.answered(channel)
                self._settle(link, channel)

    async def _reconcile(self, link: _Link) -> None:
        while True:
            await link.has_unchecked.wait()
            link.has_unchecked.clear()
            while link.unchecked:
                commands, agreed = link.take_commands(self._is_wanted)
                for channel in agreed:
                    self._settle(link, channel)
                if commands:
                    await link.connection.send(commands)

    async def _probe_for_ever(self, link: _Link) -> None:
        if not link.is_confirmed(self._probe_channel):
            done, _ = await asyncio.wait((link.waiter(self._probe_channel),), timeout=_PROBE_ANSWER_S)
            if not done:
                raise TimeoutError("the broker did not confirm a subscription")
        while True:
            link.heard.clear()
            for _ in range(_PROBE_TRIES):
                self._probe(self._probe_channel)
                if await _is_set_within(link.heard, _PROBE_ANSWER_S / _PROBE_TRIES):
                    break
            else:
                raise TimeoutError("nothing is heard")
            await asyncio.sleep(_PROBE_EVERY_S)

    def _is_wanted(self, channel: bytes) -> bool:
        return channel in self._wanted or channel in self._always

    def _settle(self, link: _Link, channel: bytes) -> None:
        if link.settle(channel):
            if not self._settled.is_set():
                self._settled.set()
                _log.info("bus_connected", topics=len(self._wanted))
            if self._has_missed:
                self._has_missed = False
                self._report_soon()

    def _hear(self, link: _Link, channel: bytes, payload: bytes) -> None:
        if payload.startswith(self._tag):
            if channel == self._probe_channel:
                link.heard.set()
            return
        conversation_id = self._wanted.get(channel)
        if conversation_id is not None:
            event = find_event(payload)
            if event is not None and self._listener is not None:
                self._call(self._listener.bus_event, conversation_id, event)
        elif channel == self._channels.control:
            self._report_soon()

    def _report_soon(self) -> None:
        """At once, unless one was made within the last second: then when that is over, once for all."""
        if self._report is None:
            now = asyncio.get_running_loop().time()
            if now >= self._report_not_before:
                self._tell_deaf()
            else:
                self._report = asyncio.get_running_loop().call_at(self._report_not_before, self._tell_deaf)

    def _tell_deaf(self) -> None:
        self._report = None
        if not self._settled.is_set():
            self._has_missed = True  # a report follows when all of it works again
        elif self._listener is not None:
            self._report_not_before = asyncio.get_running_loop().time() + _REPORT_EVERY_S
            self._call(self._listener.bus_was_deaf)

    def _call(self, tell: Callable[..., None], *arguments: object) -> None:
        try:
            tell(*arguments)
        except Exception:  # the edge of the listener: one bad event must not cost the connection
            _log.exception("bus_listener_failed")


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):  # `wait_for` of Python 3.11 may swallow a cancellation
            await event.wait()
    except TimeoutError:
        return False
    return True


def _log_lost(cause: BaseException, *, is_new: bool) -> None:
    if not isinstance(cause, BrokerLost | TimeoutError):
        _log.error("bus_subscriber_failed", exc_info=cause)
    elif is_new:
        _log.warning("bus_lost", error=repr(cause))


def _first_cause(error: Exception) -> BaseException:
    cause: BaseException = error
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    return cause
