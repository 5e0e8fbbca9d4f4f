"""The table of states: what may happen in each, and whose fault it is when it may not."""

from typing import get_args

import pytest

from edge.stomp.errors import LocalProtocolError, RemoteProtocolError
from edge.stomp.events import (
    AckReceived,
    ConnectReceived,
    DisconnectReceived,
    Event,
    NackReceived,
    SendReceived,
    SubscribeReceived,
    UnsubscribeReceived,
)
from edge.stomp.machine import Action, State, TransactionRequested, after_action, after_event

CLIENT_DOES: list[type[object]] = [*get_args(Event), TransactionRequested]

ALLOWED_EVENTS = {
    (State.AWAITING_CONNECT, ConnectReceived): State.CONNECTING,
    (State.CONNECTED, SendReceived): State.CONNECTED,
    (State.CONNECTED, SubscribeReceived): State.CONNECTED,
    (State.CONNECTED, UnsubscribeReceived): State.CONNECTED,
    (State.CONNECTED, AckReceived): State.CONNECTED,
    (State.CONNECTED, NackReceived): State.CONNECTED,
    (State.CONNECTED, DisconnectReceived): State.DISCONNECTING,
}

ALLOWED_ACTIONS: dict[Action, dict[State, State]] = {
    Action.ACCEPT: {State.CONNECTING: State.CONNECTED},
    Action.REPLY: {State.CONNECTED: State.CONNECTED, State.DISCONNECTING: State.DISCONNECTING},
    Action.REFUSE: {state: State.CLOSED for state in State if state is not State.CLOSED},
    Action.CLOSE: dict.fromkeys(State, State.CLOSED),
}

MESSAGES = {
    State.AWAITING_CONNECT: "not connected",
    State.CONNECTING: "not connected yet",
    State.CONNECTED: "already connected",
    State.DISCONNECTING: "already disconnected",
}


@pytest.mark.parametrize("event_type", CLIENT_DOES)
@pytest.mark.parametrize("state", list(MESSAGES))
def test_a_client_may_do_only_what_its_state_allows(state: State, event_type: type[object]) -> None:
    following = ALLOWED_EVENTS.get((state, event_type))
    if following is not None:
        assert after_event(state, event_type, "FRAME", "r") is following
        return
    with pytest.raises(RemoteProtocolError) as caught:
        after_event(state, event_type, "FRAME", "r")
    asked_for_transaction = event_type is TransactionRequested and state is State.CONNECTED
    expected = "transactions are not supported" if asked_for_transaction else MESSAGES[state]
    assert caught.value.message == expected
    assert caught.value.receipt_id == "r"
    assert "FRAME" in caught.value.detail


@pytest.mark.parametrize("action", list(Action))
@pytest.mark.parametrize("state", list(State))
def test_our_side_may_do_only_what_the_state_allows(state: State, action: Action) -> None:
    following = ALLOWED_ACTIONS[action].get(state)
    if following is not None:
        assert after_action(state, action) is following
        return
    with pytest.raises(LocalProtocolError, match=action.value):
        after_action(state, action)
