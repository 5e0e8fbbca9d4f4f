"""The replicas of one service: which there are, which are up, and which one a conversation belongs to.

Names are looked up again and again (gRPC never polls DNS), and each replica's own health service is watched, so a dead
or leaving one is avoided at once. A conversation goes to the replica that rendezvous hashing names among those that are
up: every edge comes to the same answer without asking anybody, and when a replica comes or goes only its own
conversations move. Routing is for speed only; the message log is right whoever writes.
"""

import asyncio
import contextlib
import hashlib
import random
import socket
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from edge.errors import NoReplica
from services.runtime.channel import open_channel
from services.runtime.clock import Clock
from services.runtime.log import logger
from services.runtime.metrics import Metrics
from services.runtime.resilience import Breaker, Caller
from services.runtime.tasks import Tasks

# Five failures in a row open the breaker; health already keeps us from what is known to be down.
_FAIL_MAX = 5
_RESET_AFTER = timedelta(seconds=1)
_HEALTH_RETRY_S = (0.05, 0.5)
# A dead process refuses the connection at once; a frozen one has been silent for seconds already.
_STILL_SERVES_S = 0.2
# Routes remembered between changes; forgetting one costs a few hashes.
_MAX_ROUTES = 100_000
_RETRY_AFTER_MS = 500

_log = logger(__name__)


class Replica:
    """One address: a channel, a breaker and a caller of its own. Hashable by identity."""

    def __init__(self, service: str, address: str, clock: Clock, metrics: Metrics) -> None:
        self.address = address
        self.is_up = False
        self.channel = open_channel(address)
        self.breaker = Breaker(
            f"{service}@{address}", fail_max=_FAIL_MAX, reset_after=_RESET_AFTER, clock=clock, metrics=metrics
        )
        self.caller = Caller(self.breaker, clock, metrics, package="edge")
        self.watching: asyncio.Task[None] | None = None

    def score(self, key: str) -> bytes:
        return hashlib.blake2b(key.encode(), key=self.address.encode()[:64], digest_size=8).digest()


class Replicas:
    """A component: it starts by resolving and waits for nothing to be up.

    Args:
        service: the name in metrics and errors.
        targets: host:port each; every address that a host resolves to is a replica.
    """

    def __init__(
        self,
        service: str,
        health_name: str,
        targets: Sequence[str],
        *,
        resolve_every_s: float,
        clock: Clock,
        metrics: Metrics,
        tasks: Tasks,
    ) -> None:
        self._service = service
        self._health_name = health_name
        self._targets = targets
        self._resolve_every_s = resolve_every_s
        self._clock = clock
        self._metrics = metrics
        self._tasks = tasks
        self._replicas: dict[str, Replica] = {}
        self._up: list[Replica] = []
        self._routes: dict[str, Replica] = {}
        self._resolving: asyncio.Task[None] | None = None
        self.changed: list[Callable[[], None]] = []
        metrics.gauge("edge_replicas_up", "Replicas that are up, as this edge sees it.", labels=("service",)).labels(
            service
        ).set_function(lambda: len(self._up))

    @property
    def up(self) -> Sequence[Replica]:
        return self._up

    def route(self, key: str) -> Replica:
        """The replica that `key` belongs to just now.

        Raises:
            NoReplica: none is up.
        """
        replica = self._routes.get(key)
        if replica is None:
            if not self._up:
                raise NoReplica(service=self._service, retry_after_ms=_RETRY_AFTER_MS)
            replica = max(self._up, key=lambda candidate: candidate.score(key))
            if len(self._routes) >= _MAX_ROUTES:
                self._routes.clear()
            self._routes[key] = replica
        return replica

    def any(self) -> Replica:
        """Any replica that is up, evenly."""
        if not self._up:
            raise NoReplica(service=self._service, retry_after_ms=_RETRY_AFTER_MS)
        return random.choice(self._up)

    async def start(self) -> None:
        await self._resolve()
        self._resolving = self._tasks.spawn(self._resolve_for_ever(), f"resolve {self._service}")

    async def stop(self) -> None:
        tasks = [task for task in (self._resolving, *(r.watching for r in self._replicas.values())) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for replica in self._replicas.values():
            await replica.channel.close()

    async def _resolve_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._resolve_every_s)
            await self._resolve()

    async def _resolve(self) -> None:
        found: set[str] = set()
        loop = asyncio.get_running_loop()
        for target in self._targets:
            host, _, port = target.rpartition(":")
            try:
                infos = await loop.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
            except OSError as error:
                _log.warning("resolve_failed", service=self._service, target=target, message=str(error))
                return  # keep what we have: a name server that is away takes no replica with it
            found.update(
                f"[{info[4][0]}]:{port}" if ":" in str(info[4][0]) else f"{info[4][0]}:{port}" for info in infos
            )
        for address in sorted(found - self._replicas.keys()):
            replica = Replica(self._service, address, self._clock, self._metrics)
            self._replicas[address] = replica
            replica.watching = self._tasks.spawn(self._watch_health(replica), f"health {address}")
        for address in sorted(self._replicas.keys() - found):
            await self._retire(self._replicas.pop(address))

    async def _retire(self, replica: Replica) -> None:
        if replica.watching is not None:
            replica.watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await replica.watching
        self._set_up(replica, up=False)
        await replica.channel.close(grace=10)

    async def _watch_health(self, replica: Replica) -> None:
        stub: Any = health_pb2_grpc.HealthStub(replica.channel)  # its type stub lacks Watch
        request = health_pb2.HealthCheckRequest(service=self._health_name)
        delay_s, max_delay_s = _HEALTH_RETRY_S
        while True:
            try:
                async for answer in stub.Watch(request, wait_for_ready=True):
                    self._set_up(replica, up=answer.status == health_pb2.HealthCheckResponse.SERVING)
                    delay_s = _HEALTH_RETRY_S[0]
                # The server ended the watch: it is leaving.
                self._set_up(replica, up=False)
            except grpc.aio.AioRpcError as error:
                _log.debug("health_lost", replica=replica.address, code=error.code().name)
                self._set_up(replica, up=replica.is_up and await self._still_serves(stub, request))
            if not replica.is_up:
                await asyncio.sleep(random.uniform(0, delay_s))
                delay_s = min(delay_s * 2, max_delay_s)

    async def _still_serves(self, stub: Any, request: health_pb2.HealthCheckRequest) -> bool:
        """A connection that reached its age is cut with its streams; the replica behind it is as well as before."""
        try:
            answer = await stub.Check(request, timeout=_STILL_SERVES_S)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def _set_up(self, replica: Replica, *, up: bool) -> None:
        if replica.is_up == up:
            return
        replica.is_up = up
        self._up = [each for each in self._replicas.values() if each.is_up]
        self._routes.clear()
        _log.info("replica_up" if up else "replica_down", service=self._service, replica=replica.address)
        for tell in self.changed:
            tell()
