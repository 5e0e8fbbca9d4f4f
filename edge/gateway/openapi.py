"""The OpenAPI 3.1 description of the API, made from the very table that is served, so that the two cannot differ."""

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec

from edge.auth import USER_ID_PATTERN
from edge.bodies import LastMessage, MessageBody
from edge.gateway.routing import IDEMPOTENCY_KEY_PATTERN, Route
from edge.gateway.shapes import CONVERSATION_ID_PATTERN, DEVICE_ID_PATTERN, ErrorBody, Nothing

PREFIX: Final = "/api/v1"

_Json = dict[str, Any]

_ABOUT: Final = """\
Whatever is refused is answered with one error object. Unknown fields and parameters are to be ignored, in either \
direction. Times are RFC 3339 in UTC with milliseconds. Every answer carries `x-correlation-id`, which a request may \
set (1 to 64 of A-Z a-z 0-9 . _ : -). A path that does not exist is answered 404 and a method that it does not have \
405, both with the code INVALID_ARGUMENT."""
_REFUSALS: Final = {
    400: "INVALID_ARGUMENT: ask differently; the message names the field.",
    401: "UNAUTHENTICATED: no token, or one that proves nothing.",
    403: "FORBIDDEN: not for this caller, or it does not exist.",
    409: "CONFLICT: this clientMessageId was used for another message.",
    413: "TOO_LARGE: ask for less.",
    429: "RATE_LIMITED: slower; again after retryAfterMs, as Retry-After says in seconds.",
    500: "INTERNAL: a mistake of ours.",
    503: "UNAVAILABLE: again after retryAfterMs, as Retry-After says in seconds.",
}
_PATTERNS: Final = {
    "conversationId": f"^{CONVERSATION_ID_PATTERN}$",
    "userId": f"^{USER_ID_PATTERN}$",
    "deviceId": f"^{DEVICE_ID_PATTERN}$",
}
_path_parameters = re.compile(r"\{(\w+)\}").findall


def describe(routes: Sequence[Route[Any, Any]]) -> Mapping[str, Any]:
    shapes = _Shapes(routes)
    paths: dict[str, _Json] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, shapes)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Parley HTTP API", "version": "1", "description": _ABOUT},
        "servers": [{"url": PREFIX}],
        "paths": paths,
        "components": {
            "schemas": shapes.components,
            "responses": {_refusal_name(status): _refusal(status, shapes) for status in _REFUSALS},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


class _Shapes:
    """JSON Schemas of everything that goes in and out as a body."""

    def __init__(self, routes: Sequence[Route[Any, Any]]) -> None:
        kinds: list[type[Any]] = [ErrorBody, LastMessage, MessageBody]
        kinds += [route.body for route in routes if route.body is not Nothing]
        kinds += [answer.shape for route in routes for answer in route.answers.values() if answer.shape]
        kinds = list(dict.fromkeys(kinds))
        schemas, self.components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
        self._of = dict(zip(kinds, schemas, strict=True))

    def content(self, shape: type[Any]) -> _Json:
        return {"application/json": {"schema": self._of[shape]}}


def _operation(route: Route[Any, Any], shapes: _Shapes) -> _Json:
    operation: _Json = {"operationId": route.name, "summary": route.text}
    operation["security"] = [] if route.is_open else [{"token": []}]
    if parameters := [*_in_path(route), *_in_query(route), *_in_headers(route)]:
        operation["parameters"] = parameters
    if route.body is not Nothing:
        operation["requestBody"] = {"required": True, "content": shapes.content(route.body)}
    answers: _Json = {}
    for status, answer in route.answers.items():
        answers[str(status)] = {"description": answer.text}
        if answer.shape is not None:
            answers[str(status)]["content"] = shapes.content(answer.shape)
    for status in route.all_refusals:
        answers[str(status)] = {"$ref": f"#/components/responses/{_refusal_name(status)}"}
    operation["responses"] = answers
    return operation


def _in_path(route: Route[Any, Any]) -> list[_Json]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "pattern": _PATTERNS[name]}}
        for name in _path_parameters(route.path)
    ]


def _in_query(route: Route[Any, Any]) -> list[_Json]:
    schema = msgspec.json.schema_components([route.query])[1][route.query.__name__]
    parameters = []
    for name, given in schema["properties"].items():
        choices = [choice for choice in given.pop("anyOf", ()) if choice != {"type": "null"}]
        shape = given if not choices else choices[0]
        parameter = {"name": name, "in": "query", "required": name in schema["required"], "schema": shape}
        if description := shape.pop("description", ""):
            parameter["description"] = description
        parameters.append(parameter)
    return parameters


def _in_headers(route: Route[Any, Any]) -> list[_Json]:
    if not route.takes_idempotency_key:
        return []
    return [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "description": "The client's name for this request: a repeat with the same key does nothing twice.",
            "schema": {"type": "string", "pattern": f"^{IDEMPOTENCY_KEY_PATTERN}$"},
        }
    ]


def _refusal(status: int, shapes: _Shapes) -> _Json:
    return {"description": _REFUSALS[status], "content": shapes.content(ErrorBody)}


def _refusal_name(status: int) -> str:
    return HTTPStatus(status).name.title().replace("_", "")
