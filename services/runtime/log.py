"""Logs: one JSON object per line on stderr, for our own events and for those of every library.

An event is a snake_case name with fields: `log.info("breaker_changed", breaker=name)`. Every line
carries the time, the level, the process, the source and, inside a call, the correlation id. Everything passes
`redaction` last. Nothing else may write to stderr once `configure` has run.
"""

import hashlib
import logging
import re
import secrets
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, BinaryIO, Final, cast

import orjson
import structlog
import uuid_utils
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from services.runtime.config import RuntimeSettings
from services.runtime.redaction import redact_field

CORRELATION_HEADER: Final = "x-correlation-id"

correlation_id: ContextVar[str] = ContextVar("correlation_id", default="")
"""The id of the call that this task works for; empty outside one. Tasks inherit it when they are created."""

# What comes from another process is written into our lines, so it may be neither long nor strange.
_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def new_correlation_id() -> str:
    """Unique and sortable by time (a UUIDv7)."""
    return str(uuid_utils.uuid7())


def bind_correlation(value: str | None) -> str:
    """Bind `value`, or a new id where it is absent or unacceptable, to this task; returns what was bound."""
    bound = value if value is not None and _ACCEPTED_ID.fullmatch(value) else new_correlation_id()
    correlation_id.set(bound)
    return bound


def logger(name: str) -> FilteringBoundLogger:
    """The logger of a module. May be made at import: what `configure` sets applies at each event."""
    return cast(FilteringBoundLogger, structlog.get_logger(source=name))


def configure(settings: RuntimeSettings, process_name: str, *, stream: BinaryIO | None = None) -> None:
    """Send all logs, the libraries' included, to `stream` (stderr). The last call holds."""
    level = _LEVELS[settings.log_level]
    processors: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _adds(process_name),
        structlog.processors.format_exc_info,
    ]
    if settings.hash_ids:
        processors.append(_id_hasher(settings.hash_ids_key.get_secret_value()))
    processors += [_redacts, _to_console if settings.log_format == "console" else _to_json]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.BytesLoggerFactory(file=stream or sys.stderr.buffer),
        cache_logger_on_first_use=False,  # tests and re-configuration need it; costs 2 µs a line
    )
    logging.captureWarnings(True)
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, LibraryLogs)]:
        root.removeHandler(handler)
    root.addHandler(LibraryLogs())
    root.setLevel(max(level, logging.INFO))  # libraries at debug level print frames, bodies included


class LibraryLogs(logging.Handler):
    """Passes what libraries log to our pipeline, as the event `library_message`."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # the library's format and arguments do not match
            message = str(record.msg)
        fields: dict[str, Any] = {"message": message}
        if record.exc_info and record.exc_info[0] is not None:
            fields["exc_info"] = record.exc_info
        level = min(record.levelno, logging.ERROR) // 10 * 10 or logging.DEBUG
        logger(record.name).log(level, "library_message", **fields)


def _adds(process_name: str) -> Processor:
    def add(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event["process"] = process_name
        if bound := correlation_id.get():
            event.setdefault("correlation_id", bound)
        return event

    return add


def _id_hasher(key: str) -> Processor:
    digest_key = hashlib.blake2b(key.encode()).digest()[:32] if key else secrets.token_bytes(32)

    def digest(value: object) -> str:
        return hashlib.blake2s(str(value).encode(), key=digest_key, digest_size=8).hexdigest()

    def hash_ids(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        for name, value in event.items():
            if value is None or name == "correlation_id":
                continue
            if name.endswith("_id"):
                event[name] = digest(value)
            elif name.endswith("_ids"):
                event[name] = [digest(item) for item in value]
        return event

    return hash_ids


def _redacts(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Also puts first what people look for first."""
    ordered = {name: event.pop(name) for name in ("time", "level", "event") if name in event}
    return {name: redact_field(name, value) for name, value in {**ordered, **event}.items()}


def _to_json(_: WrappedLogger, __: str, event: EventDict) -> bytes:
    try:
        return orjson.dumps(event)
    except TypeError:  # an integer beyond 64 bits or a lone surrogate; the line is worth more than its exact value
        return orjson.dumps({name: ascii(value) for name, value in event.items()})


_render_text: Callable[[WrappedLogger, str, EventDict], str] = structlog.dev.ConsoleRenderer(colors=False)


def _to_console(wrapped: WrappedLogger, method: str, event: EventDict) -> bytes:
    return _render_text(wrapped, method, event).encode("utf-8", "replace")
