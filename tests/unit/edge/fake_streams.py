"""Replicas that come and go, and streams to them that a test opens and breaks."""

import asyncio
from collections.abc import Callable
from typing import Any

from services.runtime.errors import ServiceError


class FakeReplica:
    def __init__(self, address: str) -> None:
        self.address = address
        self.is_up = True


class FakeReplicas:
    """What is used of `edge.replicas.Replicas` by who keeps streams."""

    def __init__(self, *addresses: str) -> None:
        self.all = [FakeReplica(address) for address in addresses]
        self.changed: list[Callable[[], None]] = []

    @property
    def up(self) -> list[Any]:
        return [replica for replica in self.all if replica.is_up]

    def add(self, address: str) -> FakeReplica:
        self.all.append(FakeReplica(address))
        self._tell()
        return self.all[-1]

    def set_up(self, replica: FakeReplica, *, is_up: bool) -> None:
        replica.is_up = is_up
        self._tell()

    def _tell(self) -> None:
        for tell in list(self.changed):
            tell()


class Open:
    """A stream that is open until a test ends it."""

    def __init__(self) -> None:
        self._end: asyncio.Future[ServiceError | None] = asyncio.get_running_loop().create_future()

    async def follow(self) -> None:
        error = await self._end
        if error is not None:
            raise error

    def end(self, error: ServiceError | None = None) -> None:
        self._end.set_result(error)
