"""Builds the edge from its parts; the only place here that names concrete classes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web
from aiohttp.http import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from edge.auth import DevTokens, TokenVerifier, check_identity_settings
from edge.clients import ChatClient
from edge.clients.chat import SERVICE_NAME as CHAT_SERVICE
from edge.commands import Commands
from edge.config import EdgeSettings
from edge.gateway import Gateway
from edge.gateway.pages import page_routes
from edge.hub import Hub
from edge.limits import ConnectionCounts, TokenBuckets
from edge.origins import Origins
from edge.outbox import Writer
from edge.replicas import Replicas
from edge.session import Session, SessionMetrics, SessionServices
from edge.topics import TopicStreams
from edge.websocket import WebSocketEndpoint
from services.runtime.log import logger
from services.runtime.process import Process

# Connections that the kernel may hold before they are accepted: a reconnect storm comes all at once.
_BACKLOG = 4_096
# A leaving edge spreads its clients' reconnects over this.
_DRAIN_SPREAD_S = 3.0

_PAGES = Path(__file__).parents[1] / "web" / "plain"

_log = logger(__name__)


class PublicServer:
    """The public port: WebSocket, HTTP API, health and pages. Leaves in order: not ready, no new clients, then the
    clients it has."""

    def __init__(
        self, app: web.Application, listen: str, websockets: WebSocketEndpoint, *, request_timeout_s: float
    ) -> None:
        self._host, _, port = listen.rpartition(":")
        self._asked_port = int(port)
        self._websockets = websockets
        self._request_timeout_s = request_timeout_s
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, auto_decompress=False, shutdown_timeout=2.0
        )
        self._listener: asyncio.Server | None = None
        # Connections that have not had a whole request yet.
        self._silent: set[RequestHandler] = set()
        self.port = 0
        app.middlewares.append(self._note_request)

    async def start(self) -> None:
        logging.getLogger("aiohttp.server").addFilter(_is_our_fault)
        await self._runner.setup()
        self._listener = await asyncio.get_running_loop().create_server(
            self._accept, self._host.strip("[]"), self._asked_port, backlog=_BACKLOG
        )
        self.port = self._listener.sockets[0].getsockname()[1]
        _log.info("edge_listening", host=self._host, port=self.port)

    async def stop(self) -> None:
        assert self._listener is not None
        self._listener.close()
        await self._websockets.drain(_DRAIN_SPREAD_S)
        await self._runner.cleanup()

    def _accept(self) -> asyncio.Protocol:
        """aiohttp's protocol for one connection; it waits for a whole request for ever, and we do not."""
        assert self._runner.server is not None
        protocol = self._runner.server()
        self._silent.add(protocol)
        asyncio.get_running_loop().call_later(self._request_timeout_s, self._close_if_silent, protocol)
        return protocol

    def _close_if_silent(self, protocol: RequestHandler) -> None:
        if protocol in self._silent:
            self._silent.discard(protocol)
            if protocol.transport is not None:
                protocol.transport.close()

    @web.middleware
    async def _note_request(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self._silent.discard(request.protocol)
        return await handler(request)


async def build(process: Process, settings: EdgeSettings) -> PublicServer:
    """Adds the edge's components to `process`, in start order; the public port comes last and leaves first."""
    clock, metrics, tasks = process.clock, process.metrics, process.tasks
    check_identity_settings(settings, process.settings.environment)
    dev_tokens = DevTokens(settings, clock) if settings.dev_tokens else None
    verifier = TokenVerifier(settings, clock, dev_tokens)
    replicas = Replicas(
        "chat",
        CHAT_SERVICE,
        settings.chat_targets,
        resolve_every_s=settings.resolve_every_s,
        clock=clock,
        metrics=metrics,
        tasks=tasks,
    )
    chat = ChatClient(replicas, clock, metrics)
    hub = Hub(metrics)
    topics = TopicStreams(chat, replicas, hub, tasks, metrics)
    send_limit = TokenBuckets(
        "sends", rate=settings.sends_per_second, burst=settings.sends_burst, clock=clock, metrics=metrics
    )
    writer = Writer()
    services = SessionServices(
        settings=settings,
        hub=hub,
        commands=Commands(chat, topics.send_typing, send_limit, max_content_bytes=settings.max_content_bytes),
        verifier=verifier,
        counts=ConnectionCounts(limit=settings.max_connections_per_user),
        writer=writer,
        clock=clock,
        metrics=SessionMetrics(metrics),
    )
    websockets = WebSocketEndpoint(
        lambda transport: Session(transport, services),
        Origins(settings.allowed_origins),
        max_frame_bytes=settings.max_frame_bytes,
        max_connections=settings.max_connections,
        clock=clock,
        tasks=tasks,
        metrics=metrics,
    )
    gateway = Gateway(chat, verifier, dev_tokens, send_limit, settings, clock, metrics)
    app = web.Application()
    app.router.add_get("/ws", websockets.handle)
    app.router.add_get("/healthz", _alive)
    app.router.add_get("/readyz", _ready(lambda: process.readiness.ready and bool(replicas.up)))
    gateway.mount(app)
    app.add_routes(page_routes(settings.web_root or str(_PAGES)))
    public = PublicServer(app, settings.listen, websockets, request_timeout_s=settings.connect_timeout_s)

    process.readiness.add_check("chat", lambda: bool(replicas.up))
    process.add(replicas, "chat_replicas")
    process.on_stop(chat.close, "chat_client")
    process.add(topics, "topic_streams")
    process.on_stop(_closes(writer), "writer")
    process.add(websockets, "websockets")
    process.add(public, "public_server")
    return public


def _is_our_fault(record: logging.LogRecord) -> bool:
    """Whether an error of the HTTP server is worth a line: not a client's malformed request, which has its 400."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


async def _alive(_: web.Request) -> web.Response:
    return web.json_response({"alive": True})


def _ready(is_ready: Callable[[], bool]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def ready(_: web.Request) -> web.Response:
        holds = is_ready()
        return web.json_response({"ready": holds}, status=200 if holds else 503)

    return ready


def _closes(writer: Writer) -> Callable[[], Awaitable[None]]:
    async def close() -> None:
        writer.close()

    return close
