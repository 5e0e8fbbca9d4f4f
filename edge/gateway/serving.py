"""The API as aiohttp serves it: reads and checks a request, calls its route, writes the answer or the refusal.

Nothing of a body is parsed before its size is known, and nothing of a request before it is known who asks. Whatever
goes wrong becomes the error object of wire.md through `edge.faults`; what is a bug is logged once and told to nobody.
Bodies are refused when compressed; the server that this is mounted in should not unpack them either
(`auto_decompress=False`).
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
from aiohttp import hdrs, web

from edge.auth import DevTokens, TokenVerifier, bearer
from edge.config import EdgeSettings
from edge.decoding import decode_body, decode_query
from edge.destinations import is_conversation_id
from edge.errors import BadRequest, BadToken, ContentTooLarge, NotAMember
from edge.faults import error_body, fault_of
from edge.gateway.api import Api, Chat
from edge.gateway.devices import Devices
from edge.gateway.errors import NoSuchMethod, NoSuchPath
from edge.gateway.openapi import PREFIX
from edge.gateway.presence import ReadPresence
from edge.gateway.routing import IDEMPOTENCY_KEY_PATTERN, Call, Reply, Route
from edge.gateway.shapes import DEVICE_ID_PATTERN, Nothing, user_id_from
from edge.limits import TokenBuckets
from edge.model import ConversationId, UserId
from services.runtime.clock import Clock
from services.runtime.errors import Internal, ServiceError, Unauthenticated
from services.runtime.log import CORRELATION_HEADER, bind_correlation, logger
from services.runtime.metrics import Metrics

_METHODS: Final = ("GET", "POST", "PUT", "DELETE")
_CORS_HEADERS: Final = f"authorization, content-type, idempotency-key, {CORRELATION_HEADER}"
_CORS_EXPOSED: Final = f"{CORRELATION_HEADER}, retry-after, x-stale-ms"
# The longest that Chromium remembers is 2 h; origins are taken away by a restart, so not that long.
_CORS_MAX_AGE_S: Final = 600

_is_idempotency_key = re.compile(IDEMPOTENCY_KEY_PATTERN).fullmatch
_is_device_id = re.compile(DEVICE_ID_PATTERN).fullmatch
_encode = msgspec.json.Encoder().encode
_log = logger(__name__)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Gateway:
    """The HTTP API of one edge; `application` is mounted at `PREFIX`."""

    def __init__(
        self,
        chat: Chat,
        presence: ReadPresence,
        devices: Devices,
        verifier: TokenVerifier,
        dev_tokens: DevTokens | None,
        send_limit: TokenBuckets,
        settings: EdgeSettings,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._verifier = verifier
        self._clock = clock
        self._origins = frozenset(settings.allowed_origins)
        self._body_timeout_s = settings.connect_timeout_s
        self._requests = metrics.counter(
            "edge_http_requests", "Requests to the HTTP API.", labels=("method", "route", "status")
        )
        self._seconds = metrics.histogram(
            "edge_http_seconds", "From a request's head to its answer.", labels=("method", "route")
        )
        self.routes = Api(chat, presence, devices, dev_tokens, send_limit, settings).routes

    def mount(self, app: web.Application) -> None:
        """Serves the API below `PREFIX` of `app`."""
        app.add_subapp(PREFIX, self.application())

    def application(self) -> web.Application:
        @web.middleware
        async def around(request: web.Request, handler: _Handler) -> web.StreamResponse:
            return await self._around(request, handler)

        app = web.Application(middlewares=[around])
        for route in self.routes:
            app.router.add_route(route.method, route.path, self._serve(route))
        return app

    # ---- Around every request, also one that no route fits.

    async def _around(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        started = self._clock.monotonic()
        bound = bind_correlation(request.headers.get(CORRELATION_HEADER))
        response = self._answer_preflight(request) or await self._answer(request, handler)
        headers = response.headers
        headers[CORRELATION_HEADER] = bound
        headers[hdrs.CACHE_CONTROL] = "no-store"
        headers["X-Content-Type-Options"] = "nosniff"
        self._allow_origin(request, response)
        method, route = _label(request)
        self._requests.labels(method, route, str(response.status)).inc()
        self._seconds.labels(method, route).observe(self._clock.monotonic() - started)
        return response

    async def _answer(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except ServiceError as error:
            fault = fault_of(error)
            if fault.code == "INTERNAL":  # the other side has logged what it was
                _log.error("http_request_failed", route=_label(request)[1], reason=error.peer_reason)
            return _refuse(error, fault.http_status, request)
        except web.HTTPMethodNotAllowed as refusal:
            allowed = ", ".join(sorted(refusal.allowed_methods))
            response = _refuse(NoSuchMethod(allowed=allowed), refusal.status, request)
            response.headers[hdrs.ALLOW] = allowed
            return response
        except web.HTTPNotFound as refusal:
            return _refuse(NoSuchPath(), refusal.status, request)
        except Exception:
            _log.exception("http_request_failed", route=_label(request)[1])
            return _refuse(Internal(), 500, request)

    def _answer_preflight(self, request: web.Request) -> web.Response | None:
        """The answer to a browser that asks whether a page of another origin may call (Fetch, 3.3.2)."""
        is_preflight = request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
        if not is_preflight or request.headers.get(hdrs.ORIGIN) not in self._origins:
            return None
        headers = {
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: ", ".join(_METHODS),
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: _CORS_HEADERS,
            hdrs.ACCESS_CONTROL_MAX_AGE: str(_CORS_MAX_AGE_S),
        }
        return web.Response(status=204, headers=headers)

    def _allow_origin(self, request: web.Request, response: web.StreamResponse) -> None:
        if not self._origins:
            return
        response.headers[hdrs.VARY] = hdrs.ORIGIN
        origin = request.headers.get(hdrs.ORIGIN)
        if origin in self._origins:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = _CORS_EXPOSED

    # ---- One route.

    def _serve(self, route: Route[Any, Any]) -> _Handler:
        async def serve(request: web.Request) -> web.Response:
            return _respond(await route.handle(await self._read_call(request, route)))

        return serve

    async def _read_call(self, request: web.Request, route: Route[Any, Any]) -> Call[Any, Any]:
        user_id = UserId("") if route.is_open else self._authenticate(request)
        path = request.match_info
        return Call(
            user_id=user_id,
            conversation_id=_read_conversation_id(path),
            member_id=_read_member_id(path),
            device_id=_read_device_id(path),
            query=decode_query(request.query, route.query),
            idempotency_key=_read_idempotency_key(request) if route.takes_idempotency_key else None,
            body=Nothing() if route.body is Nothing else await self._read_body(request, route),
        )

    def _authenticate(self, request: web.Request) -> UserId:
        given = request.headers.getall(hdrs.AUTHORIZATION, ())
        if len(given) > 1:
            raise BadToken(problem="there are several; expected one Authorization header")
        return self._verifier.verify(bearer(given[0] if given else None)).user_id

    async def _read_body(self, request: web.Request, route: Route[Any, Any]) -> msgspec.Struct:
        if request.content_type != "application/json":
            raise BadRequest(problem="Content-Type: expected application/json")
        if request.headers.get(hdrs.CONTENT_ENCODING, "identity") != "identity":
            raise BadRequest(problem="Content-Encoding: expected none")
        raw = await _read_at_most(request, route.max_body_bytes, self._body_timeout_s)
        body: msgspec.Struct = decode_body(raw, route.body)
        return body


async def _read_at_most(request: web.Request, limit: int, timeout_s: float) -> bytearray:
    """The body. What is refused is not kept: aiohttp reads it on into nothing, for ten seconds, and closes."""
    if (request.content_length or 0) > limit:
        raise ContentTooLarge(what="the body", limit=limit)
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            while chunk := await request.content.readany():
                body += chunk
                if len(body) > limit:
                    raise ContentTooLarge(what="the body", limit=limit)
    except TimeoutError as error:
        raise BadRequest(problem=f"body: expected within {timeout_s:g} s") from error
    except (web.RequestPayloadError, ConnectionError) as error:
        raise BadRequest(problem="body: it ends too early") from error
    return body


def _read_conversation_id(path: Mapping[str, str]) -> ConversationId:
    given = path.get("conversationId")
    if given is not None and not is_conversation_id(given):
        raise NotAMember
    return ConversationId(given or "")


def _read_member_id(path: Mapping[str, str]) -> UserId:
    given = path.get("userId")
    try:
        return UserId("") if given is None else user_id_from(given)
    except ValueError as error:
        raise BadRequest(problem=str(error)) from error


def _read_device_id(path: Mapping[str, str]) -> str:
    given = path.get("deviceId", "")
    if given and not _is_device_id(given):
        raise BadRequest(problem="deviceId: expected the id of a device, as it was given")
    return given


def _read_idempotency_key(request: web.Request) -> str | None:
    given = request.headers.get("Idempotency-Key")
    if given is not None and not _is_idempotency_key(given):
        raise BadRequest(problem="Idempotency-Key: expected 1 to 128 visible ASCII characters")
    return given


def _respond(reply: Reply) -> web.Response:
    if reply.body is None:
        return web.Response(status=reply.status)
    return web.Response(status=reply.status, body=_encode(reply.body), content_type="application/json")


def _refuse(error: ServiceError, status: int, request: web.Request) -> web.Response:
    body = error_body(error)
    response = web.Response(status=status, body=_encode(body), content_type="application/json")
    if isinstance(error, Unauthenticated):
        was_given = hdrs.AUTHORIZATION in request.headers
        response.headers[hdrs.WWW_AUTHENTICATE] = 'Bearer error="invalid_token"' if was_given else "Bearer"
    retry_after_ms = body.get("retryAfterMs")
    if isinstance(retry_after_ms, int):
        response.headers[hdrs.RETRY_AFTER] = str(-(-retry_after_ms // 1000))
    return response


def _label(request: web.Request) -> tuple[str, str]:
    """Method and route for metrics and logs: few values, whatever is asked for."""
    resource = request.match_info.route.resource
    method = request.method if request.method in (*_METHODS, "OPTIONS") else "other"
    return method, "none" if resource is None else resource.canonical
