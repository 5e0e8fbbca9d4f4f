"""grpc.health.v1 for one server.

The library's own servicer keeps every `Watch` open for ever, so that a leaving server would wait out its
whole grace for them; here a watcher is told NOT_SERVING and its stream ends.
"""

import asyncio
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVICE_NAME: Final = "grpc.health.v1.Health"

_Request = health_pb2.HealthCheckRequest
_Response = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):
    """The serving status by service name; "" is the server as a whole. Nothing is served before `serve`."""

    def __init__(self, services: tuple[str, ...] = ()) -> None:
        self._status: dict[str, int] = dict.fromkeys(("", *services), _Response.NOT_SERVING)
        self._leaving = False
        self._changed = asyncio.Event()

    def serve(self) -> None:
        """Every service is SERVING, unless the server is leaving already."""
        if not self._leaving:
            self._set_all(_Response.SERVING)

    def leave(self) -> None:
        """Every service is NOT_SERVING, for good."""
        self._leaving = True
        self._set_all(_Response.NOT_SERVING)

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckResponse:
        status = self._status.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service here")
        return _Response(status=status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        told: int | None = None
        while True:
            changed = self._changed
            status = self._status.get(request.service, _Response.SERVICE_UNKNOWN)
            if status != told:
                await context.write(_Response(status=status))
                told = status
            if self._leaving:
                return
            await changed.wait()

    def _set_all(self, status: int) -> None:
        self._status = dict.fromkeys(self._status, status)
        self._changed.set()
        self._changed = asyncio.Event()
