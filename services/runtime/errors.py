"""Errors that a caller can act on, and their form on the wire between processes.

    ServiceError
    ├── InvalidArgument     INVALID_ARGUMENT     INVALID_ARGUMENT    ask differently
    │   └── TooLarge        INVALID_ARGUMENT     TOO_LARGE           ask for less
    ├── Unauthenticated     UNAUTHENTICATED      UNAUTHENTICATED     say who you are
    ├── Forbidden           PERMISSION_DENIED    FORBIDDEN           never, for this caller
    ├── NotFound            NOT_FOUND            NOT_FOUND           it is not there
    ├── Conflict            ALREADY_EXISTS       CONFLICT            it is there, and different
    ├── RateLimited         RESOURCE_EXHAUSTED   RATE_LIMITED        later, and slower
    ├── Aborted             ABORTED              ABORTED             the same again, at once
    ├── Unavailable         UNAVAILABLE          UNAVAILABLE         the same again, later
    ├── DeadlineExceeded    DEADLINE_EXCEEDED    DEADLINE_EXCEEDED   the outcome is unknown
    ├── Unimplemented       UNIMPLEMENTED        UNIMPLEMENTED       the peer is older or newer than we are
    └── Internal            INTERNAL             INTERNAL            a bug on the other side

Columns: class, gRPC code, reason. A service derives its own, each with its own reason, which is all that
crosses the wire besides the fields; the other side gets back its own class of that reason, or the class of
the code. Whatever is not a `ServiceError` is a bug and is told to nobody (see `interceptor`).

The wire form is `google.rpc.Status` with `ErrorInfo{reason, domain, metadata = fields}` and, where it
applies, `RetryInfo` (https://google.aip.dev/193).
"""

from collections import defaultdict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Final, Self

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped] # it has no stubs
from grpc_status import rpc_status

DOMAIN: Final = "parley"

_STATUS_KEY: Final = "grpc-status-details-bin"
_registry: defaultdict[str, list[type["ServiceError"]]] = defaultdict(list)


def owner(cls: type[object]) -> str:
    """The package that a class belongs to: `services.<name>`, or the top-level name."""
    parts = cls.__module__.split(".")
    return ".".join(parts[:2]) if parts[0] == "services" else parts[0]


def _register(cls: "type[ServiceError]") -> None:
    same = [known for known in _registry[cls.reason] if owner(known) == owner(cls)]
    for known in same:
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(f"{cls.__qualname__} and {known.__qualname__} have one reason: {cls.reason}")
        _registry[cls.reason].remove(known)
    _registry[cls.reason].append(cls)


class ServiceError(Exception):
    """A refusal or failure that the caller can act on.

    `code`, `reason` and `template` belong to the class, `fields` and `retry_after_ms` to the instance. The
    text is the template filled with the fields (`"no {what} of that name"`), else reason and fields. Fields
    cross the process boundary: nothing secret goes in.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    reason: ClassVar[str] = "INTERNAL"
    template: ClassVar[str] = ""

    fields: Mapping[str, str]
    retry_after_ms: int | None
    peer_reason: str
    """The reason as it came over the wire; the class's own where the error was raised here."""

    def __init__(self, *, retry_after_ms: int | None = None, **fields: object) -> None:
        self.fields = MappingProxyType({name: str(value) for name, value in fields.items()})
        self.retry_after_ms = retry_after_ms
        self.peer_reason = self.reason
        super().__init__(self._text())

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "reason" in cls.__dict__:
            _register(cls)

    @classmethod
    def restored(
        cls, fields: Mapping[str, str], *, retry_after_ms: int | None, peer_reason: str, text: str = ""
    ) -> Self:
        """An instance as its wire form describes it; a subclass's own `__init__` is not run.

        `text` is the peer's, for a class without a template of its own.
        """
        error = cls.__new__(cls)
        ServiceError.__init__(error, retry_after_ms=retry_after_ms, **fields)
        error.peer_reason = peer_reason
        if text and not cls.template:
            error.args = (text,)
        return error

    @classmethod
    def told(cls, text: str, *, retry_after_ms: int | None = None) -> Self:
        """An instance that a peer described in words alone, as batches do for one of their items."""
        return cls.restored({}, retry_after_ms=retry_after_ms, peer_reason=cls.reason, text=text)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_unpickle, (type(self), dict(self.fields), self.retry_after_ms, self.peer_reason))

    def _text(self) -> str:
        if self.template:
            return self.template.format_map(_Filled(self.fields))
        shown = ", ".join(f"{name}={value}" for name, value in self.fields.items())
        return f"{self.reason}: {shown}" if shown else self.reason


class InvalidArgument(ServiceError):
    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_ARGUMENT"


class TooLarge(InvalidArgument):
    reason = "TOO_LARGE"


class Unauthenticated(ServiceError):
    code = grpc.StatusCode.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"


class Forbidden(ServiceError):
    code = grpc.StatusCode.PERMISSION_DENIED
    reason = "FORBIDDEN"


class NotFound(ServiceError):
    code = grpc.StatusCode.NOT_FOUND
    reason = "NOT_FOUND"


class Conflict(ServiceError):
    code = grpc.StatusCode.ALREADY_EXISTS
    reason = "CONFLICT"


class RateLimited(ServiceError):
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "RATE_LIMITED"


class Aborted(ServiceError):
    code = grpc.StatusCode.ABORTED
    reason = "ABORTED"


class Unavailable(ServiceError):
    code = grpc.StatusCode.UNAVAILABLE
    reason = "UNAVAILABLE"


class DeadlineExceeded(ServiceError):
    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"


class Unimplemented(ServiceError):
    code = grpc.StatusCode.UNIMPLEMENTED
    reason = "UNIMPLEMENTED"


class Internal(ServiceError):
    code = grpc.StatusCode.INTERNAL
    reason = "INTERNAL"


# A failure that carries no reason of ours: the transport's, the gRPC library's, or a peer that is not ours.
# CANCELLED that we did not ask for is a server that ended the call while leaving, so it is like UNAVAILABLE.
_BY_CODE: Final[Mapping[grpc.StatusCode, type[ServiceError]]] = {
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.UNKNOWN: Internal,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.OUT_OF_RANGE: InvalidArgument,
    grpc.StatusCode.FAILED_PRECONDITION: InvalidArgument,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: Conflict,
    grpc.StatusCode.PERMISSION_DENIED: Forbidden,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.RESOURCE_EXHAUSTED: RateLimited,
    grpc.StatusCode.ABORTED: Aborted,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
    grpc.StatusCode.INTERNAL: Internal,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DATA_LOSS: Internal,
}


def to_status(error: ServiceError) -> grpc.Status:
    """What `context.abort_with_status` takes."""
    status = status_pb2.Status(code=error.code.value[0], message=str(error))
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=dict(error.fields))
    status.details.add().Pack(info)
    if error.retry_after_ms is not None:
        delay = Duration()
        delay.FromMilliseconds(error.retry_after_ms)
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return rpc_status.to_status(status)


def from_rpc_error(error: grpc.aio.AioRpcError, *, package: str = "") -> ServiceError:
    """What a failed call means here. Use as `raise from_rpc_error(error) from error`.

    Two packages of one process may each have a class for a reason (a service raises it, its caller knows it
    too); `package` (such as "edge" or "services.notify") says whose is wanted. A reason that nobody here
    knows gives the class of the code, with the fields and `peer_reason` kept. A failure with no reason at all
    shows only its code, as addresses stand in the transport's texts; those are in the cause.
    """
    status = _rich_status(error)
    info, retry_after_ms = _details(status) if status is not None else (None, None)
    text = status.message if status is not None else ""
    fallback = _BY_CODE.get(error.code(), Internal)
    if info is None:
        return fallback.restored(
            {"status": error.code().name}, retry_after_ms=retry_after_ms, peer_reason=fallback.reason
        )
    cls = _find_class(info.reason, error.code(), package) or fallback
    return cls.restored(dict(info.metadata), retry_after_ms=retry_after_ms, peer_reason=info.reason, text=text)


class _Filled(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "?"


def _find_class(reason: str, code: grpc.StatusCode, package: str) -> type[ServiceError] | None:
    candidates = [cls for cls in _registry.get(reason, ()) if cls.code == code]
    for wanted in (package, owner(ServiceError)):
        for cls in candidates:
            if owner(cls) == wanted:
                return cls
    return candidates[0] if len(candidates) == 1 else None


def _rich_status(error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    for key, value in error.trailing_metadata() or ():
        if key == _STATUS_KEY and isinstance(value, bytes):
            try:
                status = status_pb2.Status.FromString(value)
            except DecodeError:  # not ours, so as if it were absent
                return None
            return status if status.code == error.code().value[0] else None
    return None


def _details(status: status_pb2.Status) -> tuple[error_details_pb2.ErrorInfo | None, int | None]:
    info: error_details_pb2.ErrorInfo | None = None
    retry_after_ms: int | None = None
    for packed in status.details:
        if packed.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            candidate = error_details_pb2.ErrorInfo()
            packed.Unpack(candidate)
            info = candidate if candidate.domain == DOMAIN else None
        elif packed.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            packed.Unpack(retry)
            retry_after_ms = retry.retry_delay.ToMilliseconds()
    return info, retry_after_ms


def _unpickle(
    cls: type[ServiceError], fields: dict[str, str], retry_after_ms: int | None, peer_reason: str
) -> ServiceError:
    return cls.restored(fields, retry_after_ms=retry_after_ms, peer_reason=peer_reason)
