"""Builds the edge from its parts; the only place here that names concrete classes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web
from aiohttp.http import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from edge.attendance import Attendance
from edge.auth import DevTokens, TokenVerifier, check_identity_settings
from edge.clients import ChatClient
from edge.clients.chat import SERVICE_NAME as CHAT_SERVICE
from edge.clients.notify import SERVICE_NAME as NOTIFY_SERVICE
from edge.clients.notify import NotifyClient
from edge.clients.presence import SERVICE_NAME as PRESENCE_SERVICE
from edge.commands import Commands
from edge.config import EdgeSettings
from edge.connections import Connections
from edge.contacts import Contacts
from edge.delivered import Delivered
from edge.gateway import Gateway
from edge.gateway.pages import default_web_root, page_routes
from edge.hub import Hub
from edge.limits import ConnectionCounts, TokenBuckets
from edge.notifications import Notifications
from edge.origins import Origins
from edge.outbox import Writer
from edge.presence import EdgePresence
from edge.replicas import Replicas
from edge.session import Session
from edge.session_services import SessionMetrics, SessionServices
from edge.sockjs import SockJsEndpoint
from edge.topics import TopicStreams
from edge.users import Users
from edge.websocket import WebSocketEndpoint
from services.runtime.log import logger
from services.runtime.process import Process

# Connections that the kernel may hold before they are accepted: a reconnect storm comes all at once.
_BACKLOG = 4_096
# A leaving edge spreads its clients' reconnects over this.
_DRAIN_SPREAD_S = 3.0

_log = logger(__name__)


class PublicServer:
    """The public port: WebSocket, SockJS, HTTP API, health and pages. Leaves in order: not ready, no new clients, then
    the clients it has."""

    def __init__(
        self, app: web.Application, listen: str, connections: Connections, *, request_timeout_s: float
    ) -> None:
        self._host, _, port = listen.rpartition(":")
        self._asked_port = int(port)
        self._connections = connections
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
        await self._connections.drain(_DRAIN_SPREAD_S)
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
    replicas = _replicas("chat", CHAT_SERVICE, settings.chat_targets, process, settings)
    presence_replicas = _replicas("presence", PRESENCE_SERVICE, settings.presence_targets, process, settings)
    notify_replicas = _replicas("notify", NOTIFY_SERVICE, settings.notify_targets, process, settings)
    chat = ChatClient(replicas, clock, metrics)
    notify = NotifyClient(notify_replicas)
    hub = Hub(metrics)
    topics = TopicStreams(chat, replicas, hub, tasks, metrics)
    users = Users(metrics)
    attendance = Attendance(users, topics.say_attendance)
    notifications = Notifications(notify, notify_replicas, users, attendance, tasks, metrics)
    hub.listen(notifications)
    presence = EdgePresence(presence_replicas, clock, tasks, metrics)
    contacts = Contacts(chat, presence, topics, tasks)
    topics.contacts_changed.append(contacts.changed)
    delivered = Delivered(chat, metrics)
    send_limit = TokenBuckets(
        "sends", rate=settings.sends_per_second, burst=settings.sends_burst, clock=clock, metrics=metrics
    )
    writer = Writer()
    services = SessionServices(
        settings=settings,
        hub=hub,
        commands=Commands(chat, topics.send_typing, send_limit, max_content_bytes=settings.max_content_bytes),
        users=users,
        attendance=attendance,
        presence=presence,
        contacts=contacts,
        delivered=delivered,
        verifier=verifier,
        counts=ConnectionCounts(limit=settings.max_connections_per_user),
        writer=writer,
        clock=clock,
        metrics=SessionMetrics(metrics),
    )
    connections = Connections(limit=settings.max_connections, clock=clock, tasks=tasks, metrics=metrics)
    origins = Origins(settings.allowed_origins)
    websockets = WebSocketEndpoint(
        lambda transport: Session(transport, services), origins, connections, max_frame_bytes=settings.max_frame_bytes
    )
    sockjs = SockJsEndpoint(services, origins, connections, websockets, metrics)
    gateway = Gateway(chat, presence, notify, verifier, dev_tokens, send_limit, settings, clock, metrics)
    app = web.Application()
    app.router.add_get("/ws", websockets.handle)
    app.router.add_get("/healthz", _alive)
    app.router.add_get("/readyz", _ready(lambda: process.readiness.ready and bool(replicas.up)))
    gateway.mount(app)
    sockjs.mount(app)
    app.add_routes(page_routes(settings.web_root or default_web_root()))
    public = PublicServer(app, settings.listen, connections, request_timeout_s=settings.connect_timeout_s)

    process.readiness.add_check("chat", lambda: bool(replicas.up))
    process.add(replicas, "chat_replicas")
    process.on_stop(chat.close, "chat_client")
    process.add(topics, "topic_streams")
    process.add(presence_replicas, "presence_replicas")
    process.add(presence, "presence")
    process.add(contacts, "contacts")
    process.add(notify_replicas, "notify_replicas")
    process.add(notifications, "notifications")
    process.add(delivered, "delivered")
    process.on_stop(_closes(writer), "writer")
    process.add(connections, "connections")
    process.add(public, "public_server")
    return public


def _replicas(
    service: str, health_name: str, targets: Sequence[str], process: Process, settings: EdgeSettings
) -> Replicas:
    return Replicas(
        service,
        health_name,
        targets,
        resolve_every_s=settings.resolve_every_s,
        clock=process.clock,
        metrics=process.metrics,
        tasks=process.tasks,
    )


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
