"""Every connection of this edge, whatever it came over: how many there may be, their ticks, and how they leave.

Knows neither bytes nor HTTP requests; `websocket` and `sockjs` add what they have accepted and take it away again.
"""

import asyncio
from typing import Protocol

from aiohttp import web

from services.runtime.clock import Clock
from services.runtime.metrics import Metrics
from services.runtime.tasks import Tasks

_TICK_S = 1.0
# Connections looked at before other work gets its turn.
_TURN_CONNECTIONS = 500


class Connection(Protocol):
    """What is asked of each; a `Session` is one."""

    def tick(self, now: float) -> None:
        """About once a second."""

    def drain(self) -> None:
        """This edge is leaving: answer what was accepted, then end."""

    def bug(self, error: Exception) -> None:
        """A tick raised what it should not have."""


class Connections:
    """A component: its task looks after heart-beats and time limits."""

    def __init__(self, *, limit: int, clock: Clock, tasks: Tasks, metrics: Metrics) -> None:
        self._limit = limit
        self._clock = clock
        self._tasks = tasks
        self._connections: dict[Connection, None] = {}
        self._ticking: asyncio.Task[None] | None = None
        self._empty = asyncio.Event()
        self._leaving = asyncio.Event()
        self._opened = metrics.counter("edge_connections_opened", "Connections accepted: WebSocket and SockJS.")
        metrics.gauge("edge_connections", "Connections open: WebSocket and SockJS.").set_function(
            lambda: len(self._connections)
        )

    async def start(self) -> None:
        self._ticking = self._tasks.spawn(self._tick_for_ever(), "connection ticks")

    async def stop(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()

    def check_room(self) -> None:
        """
        Raises:
            web.HTTPServiceUnavailable: there are as many as there may be, or this edge is leaving.
        """
        if self._leaving.is_set() or len(self._connections) >= self._limit:
            raise web.HTTPServiceUnavailable(
                text="this edge takes no more connections: try again", headers={"Retry-After": "1"}
            )

    def add(self, connection: Connection) -> None:
        self._connections[connection] = None
        self._opened.inc()
        if self._leaving.is_set():  # it began to while the handshake was answered
            connection.drain()

    def remove(self, connection: Connection) -> None:
        del self._connections[connection]
        if not self._connections:
            self._empty.set()

    async def drain(self, over_s: float) -> None:
        """Takes no new client and sends the others away (1012), spread over `over_s`; waits until they are gone."""
        self._leaving.set()
        leaving = list(self._connections)
        for index, connection in enumerate(leaving):
            connection.drain()
            if over_s and index % 50 == 49:
                await asyncio.sleep(over_s * 50 / len(leaving))
        while self._connections:
            self._empty.clear()
            await self._empty.wait()

    async def _tick_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            now = self._clock.monotonic()
            for index, connection in enumerate(list(self._connections)):
                try:
                    connection.tick(now)
                except Exception as error:
                    connection.bug(error)
                if index % _TURN_CONNECTIONS == _TURN_CONNECTIONS - 1:
                    await asyncio.sleep(0)
