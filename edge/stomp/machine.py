"""The states of one connection, and what may happen in each: the whole of it is the table.

    AWAITING_CONNECT ──CONNECT──▶ CONNECTING ──accept──▶ CONNECTED ──DISCONNECT──▶ DISCONNECTING
          └─────────────────────────── an ERROR, or the end ─────────────────────────▶ CLOSED

Owns the order of frames, not their content. An event without an entry is the peer's fault and becomes an
ERROR; an action without an entry is ours and becomes a LocalProtocolError.
"""

from enum import Enum

from edge.stomp.errors import LocalProtocolError, RemoteProtocolError
from edge.stomp.events import (
    AckReceived,
    ConnectReceived,
    DisconnectReceived,
    NackReceived,
    SendReceived,
    SubscribeReceived,
    UnsubscribeReceived,
)


class State(Enum):
    """Where a connection is in its life."""

    AWAITING_CONNECT = "awaiting CONNECT"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    DISCONNECTING = "disconnecting"
    CLOSED = "closed"


class Action(Enum):
    """What our side does."""

    ACCEPT = "accept"
    REPLY = "reply"
    REFUSE = "refuse"
    CLOSE = "close"


class TransactionRequested:
    """BEGIN, COMMIT and ABORT: the client may ask, but no state has an entry for it."""


_S = State

TRANSITIONS: dict[tuple[State, type[object] | Action], State] = {
    (_S.AWAITING_CONNECT, ConnectReceived): _S.CONNECTING,
    (_S.AWAITING_CONNECT, Action.REFUSE): _S.CLOSED,
    (_S.AWAITING_CONNECT, Action.CLOSE): _S.CLOSED,
    (_S.CONNECTING, Action.ACCEPT): _S.CONNECTED,
    (_S.CONNECTING, Action.REFUSE): _S.CLOSED,
    (_S.CONNECTING, Action.CLOSE): _S.CLOSED,
    (_S.CONNECTED, SendReceived): _S.CONNECTED,
    (_S.CONNECTED, SubscribeReceived): _S.CONNECTED,
    (_S.CONNECTED, UnsubscribeReceived): _S.CONNECTED,
    (_S.CONNECTED, AckReceived): _S.CONNECTED,
    (_S.CONNECTED, NackReceived): _S.CONNECTED,
    (_S.CONNECTED, DisconnectReceived): _S.DISCONNECTING,
    (_S.CONNECTED, Action.REPLY): _S.CONNECTED,
    (_S.CONNECTED, Action.REFUSE): _S.CLOSED,
    (_S.CONNECTED, Action.CLOSE): _S.CLOSED,
    (_S.DISCONNECTING, Action.REPLY): _S.DISCONNECTING,
    (_S.DISCONNECTING, Action.REFUSE): _S.CLOSED,
    (_S.DISCONNECTING, Action.CLOSE): _S.CLOSED,
    (_S.CLOSED, Action.CLOSE): _S.CLOSED,
}

_OUT_OF_ORDER = {
    _S.AWAITING_CONNECT: (
        "not connected",
        "The first frame must be CONNECT or STOMP. Connect again, wait for CONNECTED, then send this frame.",
    ),
    _S.CONNECTING: (
        "not connected yet",
        "CONNECT has not been answered. Wait for CONNECTED before sending any other frame.",
    ),
    _S.CONNECTED: (
        "already connected",
        "A connection takes one CONNECT. To be somebody else, open another connection.",
    ),
    _S.DISCONNECTING: (
        "already disconnected",
        "No frame may follow DISCONNECT. Open another connection.",
    ),
}


def after_event(state: State, event_type: type[object], command: str, receipt_id: str | None = None) -> State:
    """The state after the client did this.

    Raises:
        RemoteProtocolError: it may not be done in this state.
    """
    following = TRANSITIONS.get((state, event_type))
    if following is None:
        raise _out_of_order(state, event_type, command, receipt_id)
    return following


def after_action(state: State, action: Action) -> State:
    """The state after our side did this.

    Raises:
        LocalProtocolError: it may not be done in this state.
    """
    following = TRANSITIONS.get((state, action))
    if following is None:
        raise LocalProtocolError(f"cannot {action.value} while {state.value}")
    return following


def _out_of_order(state: State, event_type: type[object], command: str, receipt_id: str | None) -> RemoteProtocolError:
    if event_type is TransactionRequested and state is State.CONNECTED:
        return transactions_unsupported(command, receipt_id)
    message, expected = _OUT_OF_ORDER[state]
    return RemoteProtocolError(message, f"A {command} frame came out of order. {expected}", receipt_id)


def transactions_unsupported(command: str, receipt_id: str | None) -> RemoteProtocolError:
    """The answer to anything that asks for a transaction."""
    return RemoteProtocolError(
        "transactions are not supported",
        f"A {command} frame asked for a transaction. There are none here: leave out BEGIN, COMMIT, ABORT and "
        "the transaction header. A RECEIPT to a SEND already promises that its effect is durable.",
        receipt_id,
    )
