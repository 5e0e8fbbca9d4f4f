"""One table: what went wrong → what a STOMP client, an HTTP client and the socket are told.

Everything that the edge refuses is a `ServiceError`; the table goes by class, so a service's own kinds need no line of
their own. Whatever is not one is a bug: INTERNAL, with no detail.
"""

from dataclasses import dataclass

from services.runtime.errors import (
    Aborted,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    Internal,
    InvalidArgument,
    NotFound,
    RateLimited,
    ServiceError,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)

# Where a refusal says "later" without saying when.
_DEFAULT_RETRY_MS = 1_000


@dataclass(frozen=True, slots=True)
class Fault:
    """`code` as wire.md lists it; `close_code` where the connection must end because of it."""

    code: str
    http_status: int
    close_code: int
    retried: bool = False


# The first class that fits counts, so the narrower ones come first.
_TABLE: tuple[tuple[type[ServiceError], Fault], ...] = (
    (TooLarge, Fault("TOO_LARGE", 413, 1009)),
    (InvalidArgument, Fault("INVALID_ARGUMENT", 400, 1008)),
    (Unauthenticated, Fault("UNAUTHENTICATED", 401, 1008)),
    (Forbidden, Fault("FORBIDDEN", 403, 1008)),
    (NotFound, Fault("FORBIDDEN", 403, 1008)),
    (Conflict, Fault("CONFLICT", 409, 1008)),
    (RateLimited, Fault("RATE_LIMITED", 429, 1008, retried=True)),
    (Unavailable, Fault("UNAVAILABLE", 503, 1013, retried=True)),
    (DeadlineExceeded, Fault("UNAVAILABLE", 503, 1013, retried=True)),
    (Aborted, Fault("UNAVAILABLE", 503, 1013, retried=True)),
    (Unimplemented, Fault("INTERNAL", 500, 1011)),
    (Internal, Fault("INTERNAL", 500, 1011)),
)
_BUG = Fault("INTERNAL", 500, 1011)


def fault_of(error: ServiceError) -> Fault:
    for kind, fault in _TABLE:
        if isinstance(error, kind):
            return fault
    return _BUG


def error_body(
    error: ServiceError,
    *,
    receipt_id: str | None = None,
    client_message_id: str | None = None,
    conversation_id: str | None = None,
) -> dict[str, object]:
    """The `error` object of wire.md, for STOMP and HTTP alike."""
    fault = fault_of(error)
    body: dict[str, object] = {"event": "error", "code": fault.code, "message": _text(error, fault)}
    if receipt_id is not None:
        body["receiptId"] = receipt_id
    if client_message_id is not None:
        body["clientMessageId"] = client_message_id
    if conversation_id is not None:
        body["conversationId"] = conversation_id
    if fault.retried:
        body["retryAfterMs"] = error.retry_after_ms or _DEFAULT_RETRY_MS
    return body


def _text(error: ServiceError, fault: Fault) -> str:
    if fault.code == "UNAVAILABLE":  # what is away inside is nobody's business outside
        return "the service cannot take this just now: try again after retryAfterMs"
    if fault.code == "INTERNAL":
        return "something went wrong on our side"
    return str(error)
