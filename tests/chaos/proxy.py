"""A TCP proxy that makes a link as bad as one likes: late, slow, cut one way or both, reset, half-open; and good again.

For machines without `netem`. Owns the connections through one address; knows nothing of what passes. What a cut holds
back is kept, as TCP keeps and sends again what a lossy link drops, and comes through after the healing: nothing is lost
out of the middle of a stream. What a half-open link swallows is gone: those connections are reset when it heals.

Everything is bounded: each direction of a connection reads at most `_MAX_HELD_BYTES` ahead of what it has passed on,
and then leaves the rest to TCP's own flow control.
"""

import asyncio
import random
import socket
import struct
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

# Read at a time. Small, so that a slow link passes on little pieces and not one big one per while.
_CHUNK_BYTES = 16 << 10
# Held for each direction of a connection: more than a link's own buffers, far less than a slow reader may owe.
_MAX_HELD_BYTES = 256 << 10
# A throttled link passes on what it may in this time, at least a byte.
_TICK_S = 0.05
# Connections through one proxy, over which it refuses: a process of the suite may have 20,000 descriptors in all.
_MAX_CONNECTIONS = 4_000


class Direction(StrEnum):
    """As those see it who connect: `UP` is from them to the target."""

    UP = "up"
    DOWN = "down"


BOTH = frozenset(Direction)


@dataclass(frozen=True, slots=True)
class Conditions:
    """Of one direction. Each chunk is late by `latency_s` and up to `jitter_s` more, and never overtakes another."""

    latency_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: float | None = None
    is_cut: bool = False
    swallows: bool = False


GOOD = Conditions()


class Proxy:
    """One link: listens on `address`, and passes everything on to the target, under changing conditions.

    A change takes effect at once, also for what is held and for connections that are there already.
    """

    def __init__(self, target_host: str, target_port: int, *, seed: int = 0) -> None:
        self._target = (target_host, target_port)
        self._rng = random.Random(seed)
        self._conditions = dict.fromkeys(Direction, GOOD)
        self._changed = asyncio.Event()
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.refuses = False
        """New connections are reset at once."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to connect to instead of the target's; after `start`."""
        assert self._server is not None, "not started"
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    @property
    def connections(self) -> int:
        return len(self._connections)

    async def start(self, *, port: int = 0) -> None:
        """Listens on the loopback interface."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", port, limit=_CHUNK_BYTES)

    async def stop(self) -> None:
        """Ends every connection and stops listening. Idempotent."""
        if self._server is None:
            return
        self._server.close()
        self.reset()
        while self._tasks:
            tasks = tuple(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        await self._server.wait_closed()
        self._server = None

    # ---- The weather.

    def conditions(self, direction: Direction) -> Conditions:
        return self._conditions[direction]

    def slow(self, latency_s: float, *, jitter_s: float = 0.0, directions: frozenset[Direction] = BOTH) -> None:
        for direction in directions:
            self._change(direction, replace(self._conditions[direction], latency_s=latency_s, jitter_s=jitter_s))

    def throttle(self, bytes_per_s: float, *, directions: frozenset[Direction] = BOTH) -> None:
        for direction in directions:
            self._change(direction, replace(self._conditions[direction], bytes_per_s=bytes_per_s))

    def cut(self, *, directions: frozenset[Direction] = BOTH) -> None:
        """Nothing passes, nobody is told: bytes, ends of streams and new connections wait for the healing."""
        for direction in directions:
            self._change(direction, replace(self._conditions[direction], is_cut=True))

    def half_open(self) -> None:
        """Connections are accepted and bytes taken, as by a peer that is gone; nothing comes back, ever."""
        for direction in Direction:
            self._change(direction, replace(self._conditions[direction], swallows=True))

    def reset(self) -> None:
        """Ends every connection with RST, on both sides. New ones are as good as ever."""
        for connection in tuple(self._connections):
            connection.reset()

    def heal(self) -> None:
        """All is well again, also for new connections. Those that have lost bytes are reset."""
        for connection in tuple(self._connections):
            if connection.has_lost:
                connection.reset()
        self.refuses = False
        for direction in Direction:
            self._change(direction, GOOD)

    # ---- What connections ask.

    async def change(self) -> None:
        """Waits for the conditions to change."""
        await self._changed.wait()

    def late_s(self, direction: Direction) -> float:
        conditions = self._conditions[direction]
        return conditions.latency_s + conditions.jitter_s * self._rng.random()

    def _change(self, direction: Direction, conditions: Conditions) -> None:
        self._conditions[direction] = conditions
        self._changed.set()  # wakes all who wait now; who waits later waits for the next
        self._changed = asyncio.Event()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses or len(self._connections) >= _MAX_CONNECTIONS:
            _abort(writer)
            return
        connection = _Connection(self, reader, writer)
        self._connections.add(connection)
        task = asyncio.create_task(connection.run(*self._target))
        connection.task = task
        self._tasks.add(task)
        task.add_done_callback(lambda ended: self._ended(connection, ended))

    def _ended(self, connection: "_Connection", task: asyncio.Task[None]) -> None:
        self._connections.discard(connection)
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error  # a bug: the loop's exception handler tells


class _Connection:
    """A client, and the connection to the target that belongs to it."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._reader = reader
        self._writers = [writer]
        self.has_lost = False
        self.task: asyncio.Task[None] | None = None

    def reset(self) -> None:
        for writer in self._writers:
            _abort(writer)
        if self.task is not None:
            self.task.cancel()

    async def run(self, host: str, port: int) -> None:
        """Until both directions have ended, or one of them broke."""
        client = self._writers[0]
        try:
            while self._proxy.conditions(Direction.UP).is_cut:  # its SYN does not get through
                await self._proxy.change()
            reader, writer = await asyncio.open_connection(host, port, limit=_CHUNK_BYTES)
            self._writers.append(writer)
            await _all_or_first_failure(
                _Pipe(self, self._proxy, Direction.UP, self._reader, writer).run(),
                _Pipe(self, self._proxy, Direction.DOWN, reader, client).run(),
            )
        except OSError:  # either side reset it, or the target is not there: so it is for the other side
            for each in self._writers:
                _abort(each)
        finally:
            for each in self._writers:
                each.close()


class _Pipe:
    """One direction of one connection: reads ahead within the bound, and passes on when the time has come."""

    def __init__(
        self,
        connection: _Connection,
        proxy: Proxy,
        direction: Direction,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._connection = connection
        self._proxy = proxy
        self._direction = direction
        self._reader = reader
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        # What was read, with the time before which it does not pass; empty bytes are the end of the stream.
        self._held: deque[tuple[float, bytes]] = deque()
        self._held_bytes = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    async def run(self) -> None:
        await _all_or_first_failure(self._read(), self._write())

    async def _read(self) -> None:
        chunk = b"first"
        while chunk:
            await self._room.wait()
            chunk = await self._reader.read(_CHUNK_BYTES)
            self._held.append((self._loop.time() + self._proxy.late_s(self._direction), chunk))
            self._held_bytes += len(chunk)
            self._news.set()
            if self._held_bytes >= _MAX_HELD_BYTES:
                self._room.clear()

    async def _write(self) -> None:
        while True:
            while not self._held:
                self._news.clear()
                await self._news.wait()
            due_s, chunk = self._held[0]
            await self._wait_until(due_s)
            self._held.popleft()
            if not chunk:
                with suppress(OSError):  # the other side has closed it already
                    self._writer.write_eof()
                return
            await self._pass_on(chunk)
            self._held_bytes -= len(chunk)
            if self._held_bytes < _MAX_HELD_BYTES:
                self._room.set()

    async def _wait_until(self, due_s: float) -> None:
        """Waits for that time, and for a link that is not cut. A link that has healed is not late any more."""
        while True:
            conditions = self._proxy.conditions(self._direction)
            left_s = due_s - self._loop.time()
            if conditions.is_cut:
                await self._proxy.change()
            elif left_s > 0 and conditions.latency_s + conditions.jitter_s > 0:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._proxy.change(), left_s)
            else:
                return

    async def _pass_on(self, chunk: bytes) -> None:
        while chunk:
            conditions = self._proxy.conditions(self._direction)
            if conditions.swallows:
                self._connection.has_lost = True
                return
            if conditions.is_cut:
                await self._proxy.change()
                continue
            part = chunk
            if conditions.bytes_per_s is not None:
                part = chunk[: max(1, int(conditions.bytes_per_s * _TICK_S))]
            self._writer.write(part)
            await self._writer.drain()
            chunk = chunk[len(part) :]
            if conditions.bytes_per_s is not None:
                with suppress(TimeoutError):  # a change ends the wait
                    await asyncio.wait_for(self._proxy.change(), len(part) / conditions.bytes_per_s)


async def _all_or_first_failure(*works: Coroutine[Any, Any, None]) -> None:
    """Runs all of them; as soon as one fails the others are cancelled, and its failure raised."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _abort(writer: asyncio.StreamWriter) -> None:
    """Closes with RST: what was not read is thrown away, and the other side is told at once."""
    raw: socket.socket | None = writer.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
