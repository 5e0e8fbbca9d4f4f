"""What both ends of a gRPC connection must agree on: keepalive, message size, one retry layer.

Measured with grpcio 1.85: without `grpc.http2.ping_timeout_ms` a peer that is frozen, or whose network is
gone, is noticed after 60 s; with it, after the silence and the timeout set here.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

# Room for a batch of 200 of the largest bodies that any service accepts, twice over.
MAX_MESSAGE_BYTES: Final = 8 * 1024 * 1024

Options = list[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Keepalive:
    """Ping a connection that was silent for `silence`; drop it when `timeout` passes without an answer.

    The answer comes from gRPC's own threads: a peer whose event loop is busy is not taken for dead.
    """

    silence: timedelta = timedelta(seconds=1)
    timeout: timedelta = timedelta(seconds=1)

    def options(self) -> Options:
        timeout_ms = milliseconds(self.timeout)
        return [
            ("grpc.keepalive_time_ms", milliseconds(self.silence)),
            ("grpc.keepalive_timeout_ms", timeout_ms),
            ("grpc.http2.ping_timeout_ms", timeout_ms),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
        ]


def message_options(max_message_bytes: int) -> Options:
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
    ]


def milliseconds(duration: timedelta) -> int:
    return round(duration / timedelta(milliseconds=1))
