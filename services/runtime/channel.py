"""The client's end of a gRPC connection.

There is one retry layer (`resilience.Caller`), so gRPC's own is off. A peer that restarted is found within
about a second: that is the longest pause between two attempts to connect.
"""

from datetime import timedelta
from typing import Final

import grpc

from services.runtime import wire
from services.runtime.log import CORRELATION_HEADER, correlation_id
from services.runtime.wire import Keepalive, milliseconds

INITIAL_BACKOFF: Final = timedelta(milliseconds=100)
MAX_BACKOFF: Final = timedelta(seconds=1)

# How long one attempt to connect may take. gRPC calls it the minimum backoff; its 20 s would sit out a black
# hole.
CONNECT_TIMEOUT: Final = timedelta(seconds=2)

# gRPC resolves a name again only when a connection breaks, and then not more often than this (its own: 30 s).
RESOLVE_AT_MOST_EVERY: Final = timedelta(seconds=1)


def open_channel(
    target: str,
    *,
    max_message_bytes: int = wire.MAX_MESSAGE_BYTES,
    keepalive: Keepalive | None = None,
    max_backoff: timedelta = MAX_BACKOFF,
    credentials: grpc.ChannelCredentials | None = None,
) -> grpc.aio.Channel:
    """A channel to `target` ("host:port", "dns:///name:port", "unix:path"). Connects at the first call.

    Each channel has its own connection, also where two have one target. The caller closes it. Calls carry no
    correlation id by themselves: see `outgoing_metadata`.
    """
    options = [
        *(keepalive or Keepalive()).options(),
        *wire.message_options(max_message_bytes),
        ("grpc.enable_retries", 0),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", milliseconds(min(INITIAL_BACKOFF, max_backoff))),
        ("grpc.max_reconnect_backoff_ms", milliseconds(max_backoff)),
        ("grpc.min_reconnect_backoff_ms", milliseconds(CONNECT_TIMEOUT)),
        ("grpc.dns_min_time_between_resolutions_ms", milliseconds(RESOLVE_AT_MOST_EVERY)),
    ]
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, credentials, options=options)


def outgoing_metadata() -> tuple[tuple[str, str], ...]:
    """The correlation id of this task as call metadata; nothing outside a call.

    `resilience.Caller` adds it to every unary call; whoever opens a stream adds it themselves. (Not a client
    interceptor: in grpc.aio those cost one task per call and hide the call's own cancellation.)
    """
    bound = correlation_id.get()
    return ((CORRELATION_HEADER, bound),) if bound else ()
