"""The admin port: what an operator and an orchestrator ask a process. Never on the public port.

`/metrics` is the registry in Prometheus text; `/healthz` says that the event loop turns; `/readyz` says
whether new work may be sent here, and if not, why.
"""

from collections.abc import Callable

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from services.runtime import log as runtime_log

_log = runtime_log.logger(__name__)


class Readiness:
    """Whether this process may take traffic: it was told so, and every check holds.

    A check is a cheap function of memory (no I/O): it runs at each question.
    """

    def __init__(self) -> None:
        self._on = False
        self._checks: dict[str, Callable[[], bool]] = {}

    def set(self, ready: bool, /) -> None:
        self._on = ready

    def add_check(self, name: str, holds: Callable[[], bool]) -> None:
        """Replaces an earlier check of that name."""
        self._checks[name] = holds

    def failing(self) -> list[str]:
        """Why not; empty when ready. "process" stands for starting or leaving."""
        told = [] if self._on else ["process"]
        return told + [name for name, holds in self._checks.items() if not holds()]

    @property
    def ready(self) -> bool:
        return not self.failing()


class AdminServer:
    """One small HTTP server. `start` and `stop` may each be called once.

    Raises OSError from `start` when the port is taken.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry, readiness: Readiness) -> None:
        self._host = host
        self._port = port
        self._registry = registry
        self._readiness = readiness
        self._runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        """The bound port once started (where 0 was asked for, the one that was given)."""
        return self._port

    async def start(self) -> None:
        app = web.Application()
        app.add_routes(
            [
                web.get("/metrics", self._metrics),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
            ]
        )
        # 1 s is enough for an answer from memory; a client that never finishes must not hold the exit up.
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()
        self._port = self._runner.addresses[0][1]
        _log.info("admin_started", host=self._host, port=self._port)

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"alive": True})

    async def _readyz(self, _: web.Request) -> web.Response:
        failing = self._readiness.failing()
        body = orjson.dumps({"ready": not failing, "failing": failing})
        return web.Response(body=body, content_type="application/json", status=503 if failing else 200)
