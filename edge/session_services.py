"""What every session of an edge is given, and what all of them count together."""

from dataclasses import dataclass
from typing import get_args

from edge.attendance import Attendance
from edge.auth import TokenVerifier
from edge.commands import Commands
from edge.config import EdgeSettings
from edge.contacts import Contacts
from edge.delivered import Delivered
from edge.hub import Hub
from edge.limits import ConnectionCounts
from edge.outbox import Writer
from edge.presence import EdgePresence
from edge.stomp.events import Event
from edge.users import Users
from services.runtime.clock import Clock
from services.runtime.metrics import Metrics


class SessionMetrics:
    """What all sessions of an edge count together."""

    def __init__(self, metrics: Metrics) -> None:
        self.refused = metrics.counter("edge_refused", "Requests and frames that were refused.", labels=("code",))
        self.protocol_errors = metrics.counter("edge_protocol_errors", "Connections ended for breaking the protocol.")
        frames = metrics.counter("edge_frames_received", "STOMP frames received.", labels=("kind",))
        # Looked up once: `labels` costs as much as parsing a header.
        self.frames = {kind: frames.labels(kind.__name__.removesuffix("Received").lower()) for kind in get_args(Event)}
        self.gaps = metrics.counter("edge_slow_reader_gaps", "Conversations that became a gap for a slow reader.")
        self.closed_slow = metrics.counter("edge_slow_readers_closed", "Connections closed for reading too slowly.")
        self.closed = metrics.counter("edge_sessions_closed", "Sessions ended by the edge.", labels=("close_code",))


@dataclass(frozen=True, slots=True)
class SessionServices:
    settings: EdgeSettings
    hub: Hub
    commands: Commands
    users: Users
    attendance: Attendance
    presence: EdgePresence
    contacts: Contacts
    delivered: Delivered
    verifier: TokenVerifier
    counts: ConnectionCounts
    writer: Writer
    clock: Clock
    metrics: SessionMetrics
