"""What can go wrong in the STOMP engine, and whose fault it is.

    ProtocolError
     ├─ LocalProtocolError    our own code misused the engine: a bug, nothing to send
     └─ RemoteProtocolError   the peer broke the protocol: `frame` is the ERROR to send before closing
         └─ FrameTooLarge     what it sent, or announced, is above the limit

No text in here ever quotes a client's body, passcode or Authorization: these texts reach logs.
"""

from collections.abc import Iterable


class ProtocolError(Exception):
    """Base of both."""


class LocalProtocolError(ProtocolError):
    """The engine was called in a state, or with a value, in which that cannot work."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol; the connection ends with an ERROR frame.

    `message` is short and becomes the `message` header; `detail` becomes the body and says what happened,
    what was expected and what to do; `headers` are added to the frame. `receipt_id` is what the offending
    frame asked a receipt for, where that could be read. `frame` holds the bytes to send; the connection
    sets it before the error leaves the engine.
    """

    def __init__(
        self,
        message: str,
        detail: str,
        receipt_id: str | None = None,
        *,
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.receipt_id = receipt_id
        self.headers = tuple(headers)
        self.frame = b""


class FrameTooLarge(RemoteProtocolError):
    """The frame is, or says that it will be, larger than the limit; the transport may have a code for that."""
