"""One gRPC server: its port, its health, its limits and its end.

What surrounds a call is in `interceptor`.
"""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, Self

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from structlog.typing import FilteringBoundLogger

from services.runtime import log as runtime_log
from services.runtime import wire
from services.runtime.clock import Clock, SystemClock
from services.runtime.config import RuntimeSettings
from services.runtime.health import SERVICE_NAME as HEALTH_SERVICE
from services.runtime.health import Health
from services.runtime.interceptor import CallInterceptor, remaining_s
from services.runtime.metrics import Metrics
from services.runtime.wire import Keepalive

# Pings that are more frequent than this are answered all the same (max_ping_strikes=0); it must be under the
# client's silence or the server would hold its pings against it.
MIN_PING_INTERVAL_MS: Final = 100

Registration = Callable[[grpc.aio.Server], None]


class GrpcServer:
    """A server on `address` ("host:port"; port 0 is any free one).

    `add` the services, then `start`, then `drain` (or `stop`) once. In production pass `credentials`.
    """

    def __init__(
        self,
        address: str,
        *,
        metrics: Metrics,
        logger: FilteringBoundLogger | None = None,
        clock: Clock | None = None,
        max_message_bytes: int = wire.MAX_MESSAGE_BYTES,
        maximum_concurrent_rpcs: int | None = None,
        max_connection_age_ms: int | None = None,
        max_connection_age_grace_ms: int = 10_000,
        keepalive: Keepalive | None = None,
        reflect: bool = False,
        drain_s: float = 10.0,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self._address = address
        self._metrics = metrics
        self._log = logger or runtime_log.logger(__name__)
        self._clock = clock or SystemClock()
        self._maximum_concurrent_rpcs = maximum_concurrent_rpcs or None
        self._reflect = reflect
        self._drain_s = drain_s
        self._credentials = credentials
        self._services: list[tuple[Registration, str]] = []
        self._server: grpc.aio.Server | None = None
        self._health: Health | None = None
        self._options: list[tuple[str, Any]] = [
            *(keepalive or Keepalive()).options(),
            *wire.message_options(max_message_bytes),
            ("grpc.so_reuseport", 0),  # otherwise a second server binds the same port without a word
            ("grpc.http2.min_recv_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
            ("grpc.http2.max_ping_strikes", 0),
        ]
        if max_connection_age_ms:
            self._options += [
                ("grpc.max_connection_age_ms", max_connection_age_ms),
                ("grpc.max_connection_age_grace_ms", max_connection_age_grace_ms),
            ]
        self.port = 0
        self.draining = asyncio.Event()
        """Set when the server begins to leave. A handler of a long stream waits for it and ends the stream,
        otherwise the stream is cut when the grace is over."""

    @classmethod
    def from_settings(
        cls,
        address: str,
        settings: RuntimeSettings,
        *,
        metrics: Metrics,
        logger: FilteringBoundLogger | None = None,
        credentials: grpc.ServerCredentials | None = None,
    ) -> Self:
        return cls(
            address,
            metrics=metrics,
            logger=logger,
            max_message_bytes=settings.grpc_max_message_bytes,
            maximum_concurrent_rpcs=settings.grpc_max_concurrent_rpcs,
            max_connection_age_ms=settings.grpc_max_connection_age_ms,
            max_connection_age_grace_ms=settings.grpc_max_connection_age_grace_ms,
            keepalive=Keepalive(
                silence=timedelta(milliseconds=settings.grpc_keepalive_time_ms),
                timeout=timedelta(milliseconds=settings.grpc_keepalive_timeout_ms),
            ),
            reflect=settings.environment != "production",
            drain_s=settings.drain_s,
            credentials=credentials,
        )

    def add(self, registration: Registration, service_name: str) -> None:
        """Add a service before `start`. `service_name` is its full name, for health and reflection.

        `server.add(lambda s: add_ThingServicer_to_server(servicer, s), "parley.thing.v1.Thing")`
        """
        if self._server is not None:
            raise RuntimeError("services are added before the server is started")
        self._services.append((registration, service_name))

    async def start(self) -> int:
        """Bind, serve, and only then be healthy; returns the bound port.

        Raises:
            RuntimeError: the address cannot be bound.
        """
        server = grpc.aio.server(
            interceptors=[CallInterceptor(metrics=self._metrics, clock=self._clock, logger=self._log)],
            options=self._options,
            maximum_concurrent_rpcs=self._maximum_concurrent_rpcs,
        )
        for registration, _ in self._services:
            registration(server)
        names = tuple(name for _, name in self._services)
        self._health = Health(names)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._reflect:
            reflection.enable_server_reflection((*names, HEALTH_SERVICE, reflection.SERVICE_NAME), server)
        if self._credentials is None:
            self.port = server.add_insecure_port(self._address)
        else:
            self.port = server.add_secure_port(self._address, self._credentials)
        self._server = server
        await server.start()
        self._health.serve()
        self._log.info("grpc_server_started", address=self._address, port=self.port, services=names)
        return self.port

    async def drain(self, grace_s: float, *, notice_s: float = 0.0) -> None:
        """Leave: NOT_SERVING at once, new calls refused after `notice_s`, running ones cut `grace_s` later.

        Returns as soon as no call is running. A second call returns at once.
        """
        if self._server is None or self.draining.is_set():
            return
        if self._health is not None:
            self._health.leave()
        self.draining.set()
        await asyncio.sleep(notice_s)
        await self._server.stop(grace_s)
        self._log.info("grpc_server_stopped", address=self._address, port=self.port)

    async def stop(self) -> None:
        """`drain` with the grace given to the constructor."""
        await self.drain(self._drain_s)


def time_left(context: grpc.aio.ServicerContext[Any, Any]) -> timedelta | None:
    """What remains of the caller's deadline; None when it set none. Deadlines are not handed on by
    themselves: give this to `Caller.call(..., budget=)`."""
    left_s = remaining_s(context)
    return None if left_s is None else timedelta(seconds=left_s)
