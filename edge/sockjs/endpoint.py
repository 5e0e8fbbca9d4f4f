"""SockJS as aiohttp serves it, at `/sockjs` and below: each request to its session, each frame to its answer.

Transports: websocket, xhr-streaming, xhr-polling, eventsource. htmlfile, jsonp and the iframe page are not served: all
three let a page of another origin run or read what it should not, and browsers that need them are gone.

A client chooses its session's id, and whoever knows it is that client: so ids have a least length, and a session
belongs to the origin that opened it. The same id from another allowed origin is another session.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import formatdate
from typing import Final

import orjson
from aiohttp import hdrs, web

from edge.connections import Connections
from edge.origins import Origins
from edge.session import Session
from edge.session_services import SessionServices
from edge.sockjs.frames import (
    ANOTHER_LISTENS,
    EVENTSOURCE,
    XHR,
    XHR_STREAMING,
    BadPayload,
    Framing,
    TooManyMessages,
    join_messages,
)
from edge.sockjs.polled import PolledSession
from edge.sockjs.socket import SocketSession
from edge.websocket import WebSocketEndpoint
from services.runtime.clock import Clock
from services.runtime.metrics import Metrics

PREFIX: Final = "/sockjs"
# Longer than any client's; an id is kept and compared.
_MAX_SESSION_ID: Final = 128
_NEVER_CACHED: Final = "no-store, no-cache, must-revalidate, max-age=0"
# What the protocol asks for. Origins are checked at every request, so that a browser may remember this.
_YEAR_S: Final = 31_536_000
# A client that was told the end may ask once more, and is told the same for this long.
_FAREWELL_S: Final = 5.0
# 2 MiB of them at most.
_MAX_FAREWELLS: Final = 10_000

_origin_that_may = web.RequestKey("origin_that_may", str)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class _Key:
    """Which session is meant: `origin` is that of a foreign page, or empty."""

    session_id: str
    origin: str


class SockJsEndpoint:
    """`/sockjs` of one edge, and the sessions on it that are polled."""

    def __init__(
        self,
        services: SessionServices,
        origins: Origins,
        connections: Connections,
        raw_websockets: WebSocketEndpoint,
        metrics: Metrics,
    ) -> None:
        self._services = services
        self._settings = services.settings
        self._origins = origins
        self._connections = connections
        self._raw_websockets = raw_websockets
        self._websockets = WebSocketEndpoint(
            lambda socket: SocketSession(socket, services),
            origins,
            connections,
            max_frame_bytes=services.settings.sockjs_max_body_bytes,
        )
        self._polled: dict[_Key, PolledSession] = {}
        self._farewells = _Farewells(services.clock)
        metrics.gauge("edge_sockjs_polled", "SockJS sessions without a WebSocket.").set_function(
            lambda: len(self._polled)
        )

    def mount(self, app: web.Application) -> None:
        app.add_subapp(PREFIX, self._application())

    def _application(self) -> web.Application:
        @web.middleware
        async def check_origin(request: web.Request, handler: _Handler) -> web.StreamResponse:
            self._origins.check(request)
            request[_origin_that_may] = request.headers.get(hdrs.ORIGIN, "")
            return await handler(request)

        app = web.Application(middlewares=[check_origin])
        app.on_response_prepare.append(_write_head)
        get, post = hdrs.METH_GET, hdrs.METH_POST
        # The server part is for load balancers and means nothing here.
        lengths = f"{{{self._settings.sockjs_min_session_id},{_MAX_SESSION_ID}}}"
        session = f"/{{server:[^/.]+}}/{{session:[A-Za-z0-9_-]{lengths}}}"
        for method, path, handler in (
            (get, "", _greet),
            (get, "/", _greet),
            (get, "/info", _inform),
            (get, "/websocket", self._raw_websockets.handle),
            (get, f"{session}/websocket", self._websockets.handle),
            (post, f"{session}/xhr", self._poll),
            (post, f"{session}/xhr_streaming", self._streams(XHR_STREAMING)),
            (get, f"{session}/eventsource", self._streams(EVENTSOURCE)),
            (post, f"{session}/xhr_send", self._send),
        ):
            app.router.add_route(method, path, handler)
            app.router.add_route(hdrs.METH_OPTIONS, path, _answers_preflight(method, self._services.clock))
        return app

    # ---- From the edge to a client.

    async def _poll(self, request: web.Request) -> web.StreamResponse:
        session = self._receiver(request)
        response = web.Response(headers={hdrs.CONTENT_TYPE: XHR.content_type})
        if isinstance(session, bytes):
            response.body = XHR.wrap(session)
            return response
        with session.listening(_transport_of(request)):
            response.body = XHR.wrap(await session.next_frame())
            await response.prepare(request)
            await response.write_eof()
            await request.writer.drain()
        return response

    def _streams(self, framing: Framing) -> _Handler:
        async def stream(request: web.Request) -> web.StreamResponse:
            session = self._receiver(request)
            # nginx would keep it until it is whole.
            headers = {hdrs.CONTENT_TYPE: framing.content_type, "X-Accel-Buffering": "no"}
            if isinstance(session, bytes):
                return web.Response(headers=headers, body=framing.prelude + framing.wrap(session))
            response = web.StreamResponse(headers=headers)
            with session.listening(_transport_of(request)):
                await response.prepare(request)
                await response.write(framing.prelude)
                await self._stream(session, framing, request, response)
                await response.write_eof()
            return response

        return stream

    async def _stream(
        self, session: PolledSession, framing: Framing, request: web.Request, response: web.StreamResponse
    ) -> None:
        """Frames until the last one, or until there are so many that the client should begin a new answer."""
        sent_bytes = 0
        while sent_bytes < self._settings.sockjs_response_bytes and not session.is_told:
            data = framing.wrap(await session.next_frame())
            await response.write(data)
            await request.writer.drain()
            sent_bytes += len(data)

    def _receiver(self, request: web.Request) -> PolledSession | bytes:
        """The session that this request may listen to, a new one where there was none; or the frame it gets instead.

        Raises:
            web.HTTPServiceUnavailable: there are too many connections for a new one.
        """
        key = _key_of(request)
        session = self._polled.get(key)
        if session is not None:
            return ANOTHER_LISTENS if session.is_listened_to else session
        return self._farewells.find(key) or self._open(key)

    # ---- From a client to the edge.

    async def _send(self, request: web.Request) -> web.Response:
        key = _key_of(request)
        if key not in self._polled:
            raise web.HTTPNotFound(text="no such session")
        try:
            messages = join_messages(await self._read_body(request))
        except TooManyMessages as error:
            raise web.HTTPRequestEntityTooLarge(self._settings.sockjs_max_body_bytes, text=str(error)) from error
        except BadPayload as error:
            raise web.HTTPInternalServerError(text=str(error)) from error
        session = self._polled.get(key)
        if session is None or not await session.receive(messages):
            raise web.HTTPNotFound(text="no such session")
        return web.Response(status=204, headers={hdrs.CONTENT_TYPE: "text/plain; charset=UTF-8"})

    async def _read_body(self, request: web.Request) -> bytes:
        limit = self._settings.sockjs_max_body_bytes
        timeout_s = self._settings.connect_timeout_s
        if (request.content_length or 0) > limit:
            raise web.HTTPRequestEntityTooLarge(limit)
        try:
            async with asyncio.timeout(timeout_s):
                return await request.clone(client_max_size=limit).read()
        except TimeoutError as error:
            raise web.HTTPRequestTimeout(text=f"the body was expected within {timeout_s:g} s") from error
        except (web.RequestPayloadError, ConnectionError) as error:
            raise web.HTTPBadRequest(text="the body ends too early") from error

    # ---- Sessions.

    def _open(self, key: _Key) -> PolledSession:
        self._connections.check_room()

        def ended(session: PolledSession) -> None:
            self._connections.remove(session)
            del self._polled[key]
            if session.mailbox.goodbye is not None:
                self._farewells.add(key, session.mailbox.goodbye)

        session = PolledSession(
            lambda mailbox: Session(mailbox, self._services),
            ended,
            self._services.clock,
            heartbeat_s=self._settings.sockjs_heartbeat_s,
            disconnect_s=self._settings.sockjs_disconnect_s,
        )
        self._polled[key] = session
        self._connections.add(session)
        return session


class _Farewells:
    """The last frames of sessions that are over; for a while, and not too many."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # In the order of their end. Until when, and what.
        self._frames: dict[_Key, tuple[float, bytes]] = {}

    def add(self, key: _Key, frame: bytes) -> None:
        self._frames[key] = (self._clock.monotonic() + _FAREWELL_S, frame)
        self._forget()

    def find(self, key: _Key) -> bytes | None:
        self._forget()
        found = self._frames.get(key)
        return None if found is None else found[1]

    def _forget(self) -> None:
        now = self._clock.monotonic()
        while self._frames:
            key, (until, _) = next(iter(self._frames.items()))
            if now < until and len(self._frames) <= _MAX_FAREWELLS:
                return
            del self._frames[key]


def _key_of(request: web.Request) -> _Key:
    """A page of our own sends its origin with some requests and not with others, and is the same all the time."""
    origin = request[_origin_that_may]
    is_foreign = origin.partition("://")[2] != request.host
    return _Key(request.match_info["session"], origin if is_foreign else "")


def _transport_of(request: web.Request) -> asyncio.Transport:
    transport = request.transport
    assert transport is not None  # else this request has been cancelled
    return transport


async def _write_head(request: web.Request, response: web.StreamResponse) -> None:
    """What every answer says: who may read it, and that nobody may keep it."""
    headers = response.headers
    headers.setdefault(hdrs.CACHE_CONTROL, _NEVER_CACHED)
    headers["X-Content-Type-Options"] = "nosniff"
    headers[hdrs.VARY] = hdrs.ORIGIN
    if origin := request.get(_origin_that_may):
        headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
        headers[hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS] = "true"  # sockjs-client asks with credentials
        if wanted := request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS):
            headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = wanted


def _answers_preflight(method: str, clock: Clock) -> _Handler:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(
            status=204,
            headers={
                hdrs.ACCESS_CONTROL_ALLOW_METHODS: f"OPTIONS, {method}",
                hdrs.ACCESS_CONTROL_MAX_AGE: str(_YEAR_S),
                hdrs.CACHE_CONTROL: f"public, max-age={_YEAR_S}",
                hdrs.EXPIRES: formatdate(clock.time_ms() / 1000 + _YEAR_S, usegmt=True),
            },
        )

    return answer


async def _greet(_: web.Request) -> web.Response:
    return web.Response(body=b"Welcome to SockJS!\n", headers={hdrs.CONTENT_TYPE: "text/plain; charset=UTF-8"})


async def _inform(_: web.Request) -> web.Response:
    body = {
        "websocket": True,
        "cookie_needed": False,
        "origins": ["*:*"],  # clients do not look at it; who may connect is seen at every request
        "entropy": secrets.randbits(32),
    }
    return web.Response(body=orjson.dumps(body), headers={hdrs.CONTENT_TYPE: "application/json; charset=UTF-8"})
