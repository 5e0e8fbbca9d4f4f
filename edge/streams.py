"""One long-lived stream to each replica that is up, opened again for as long as the replica is there."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Generic, Protocol, TypeVar

from edge.replicas import Replica, Replicas
from services.runtime.errors import ServiceError
from services.runtime.log import logger
from services.runtime.tasks import Tasks

_REOPEN_S = (0.02, 0.5)

_log = logger(__name__)


class StreamCall(Protocol):
    def forget(self) -> None:
        """Drops what waits to go up: the stream that it was for is gone."""


Call = TypeVar("Call", bound=StreamCall)


class ReplicaStreams(Generic[Call]):
    """Args:
    name: in logs and tasks.
    make: a call that has not begun; what it is asked before it runs waits in it.
    run: follows it to its end. Raises `ServiceError` where it broke.
    lost: the stream ended; called before it is opened again.
    """

    def __init__(
        self,
        name: str,
        replicas: Replicas,
        tasks: Tasks,
        *,
        make: Callable[[Replica], Call],
        run: Callable[[Call], Awaitable[None]],
        lost: Callable[[Replica, Call], None],
    ) -> None:
        self._name = name
        self._replicas = replicas
        self._tasks = tasks
        self._make = make
        self._run = run
        self._lost = lost
        self._streams: dict[Replica, tuple[Call, asyncio.Task[None]]] = {}

    @property
    def calls(self) -> Collection[Call]:
        return [call for call, _ in self._streams.values()]

    def find(self, replica: Replica | None) -> Call | None:
        """The call to that replica, if it has one."""
        known = None if replica is None else self._streams.get(replica)
        return None if known is None else known[0]

    def open(self, replica: Replica) -> Call:
        """The call to that replica, made where there is none."""
        known = self._streams.get(replica)
        if known is None:
            call = self._make(replica)
            task = self._tasks.spawn(self._keep_open(replica, call), f"{self._name} {replica.address}")
            known = self._streams[replica] = (call, task)
        return known[0]

    def open_all(self) -> None:
        """To each replica that is up."""
        for replica in self._replicas.up:
            self.open(replica)

    def close_gone(self) -> Sequence[Call]:
        """Those of replicas that are not up; of these nothing more is heard."""
        gone = [self._streams.pop(replica) for replica in list(self._streams) if not replica.is_up]
        for _, task in gone:
            task.cancel()
        return [call for call, _ in gone]

    async def stop(self) -> None:
        tasks = [task for _, task in self._streams.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _keep_open(self, replica: Replica, call: Call) -> None:
        loop = asyncio.get_running_loop()
        delay_s, max_delay_s = _REOPEN_S
        while True:
            opened_at = loop.time()
            try:
                await self._run(call)
            except ServiceError as error:
                _log.info("stream_lost", stream=self._name, replica=replica.address, message=str(error))
            call.forget()
            if loop.time() - opened_at > max_delay_s:
                delay_s = _REOPEN_S[0]
            await asyncio.sleep(random.uniform(0, delay_s))
            delay_s = min(delay_s * 2, max_delay_s)
            self._lost(replica, call)
