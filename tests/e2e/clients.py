"""What the tests ask of a STOMP client that nobody here wrote: one vocabulary for two libraries.

Each wrapper only calls its library's public functions, as an application would. The library decides what is sent
and what is made of the answers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from tests.e2e.frames import Frame
from tests.e2e.inbox import Inbox

VERSIONS = ("1.0", "1.1", "1.2")


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a client offers in its `heart-beat` header, milliseconds; 0: none."""

    outgoing_ms: int = 0
    incoming_ms: int = 0


NO_HEARTBEAT = Heartbeat()


class StompClient(Protocol):
    """One connection of one library."""

    inbox: Inbox
    heartbeats_received: int
    heartbeats_sent: int

    async def connect(
        self,
        base_url: str,
        *,
        version: str,
        headers: Mapping[str, str],
        heartbeat: Heartbeat = NO_HEARTBEAT,
    ) -> Frame:
        """Connect with these extra CONNECT headers; gives CONNECTED or ERROR, whichever comes."""
        ...

    async def subscribe(
        self, destination: str, id: str, headers: Mapping[str, str] | None = None, *, ack: str = "auto"
    ) -> Frame:
        """Gives the RECEIPT."""
        ...

    async def unsubscribe(self, id: str) -> Frame:
        """Gives the RECEIPT."""
        ...

    async def send(self, destination: str, body: str, headers: Mapping[str, str]) -> None: ...

    async def acknowledge(self, message: Frame) -> Frame:
        """ACK a message from a subscription that asked for it; gives the RECEIPT."""
        ...

    async def disconnect(self) -> Frame:
        """The orderly way out: DISCONNECT with a receipt. Gives the RECEIPT."""
        ...

    def freeze(self) -> None:
        """Keep the connection and stop doing anything, heart-beats included."""
        ...

    def thaw(self) -> None: ...

    async def close(self) -> None:
        """Let go of everything, connected or not."""
        ...
