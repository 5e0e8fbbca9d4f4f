"""From a frame to what it means: required headers, and what each version calls them.

Owns the content of each frame; whether it may come now is `machine`. Pure functions of frame and version.
Source: STOMP 1.0, 1.1 and 1.2, one section for each command. STOMP 1.0's own examples pad header values
(`destination: /queue/foo`), so values of a 1.0 client lose their surrounding spaces; from 1.1 on nothing is
ever trimmed.
"""

from collections.abc import Callable

from edge.stomp.errors import RemoteProtocolError
from edge.stomp.events import (
    AckMode,
    AckReceived,
    ConnectReceived,
    DisconnectReceived,
    Event,
    NackReceived,
    SendReceived,
    SubscribeReceived,
    UnsubscribeReceived,
)
from edge.stomp.frames import TRANSACTION_COMMANDS, Frame, Version, receipt_of
from edge.stomp.heartbeat import parse_heart_beat
from edge.stomp.machine import TransactionRequested, transactions_unsupported

_ACK_MODES = {mode.value: mode for mode in AckMode}

EVENT_TYPES: dict[str, type[object]] = {
    "CONNECT": ConnectReceived,
    "STOMP": ConnectReceived,
    "SEND": SendReceived,
    "SUBSCRIBE": SubscribeReceived,
    "UNSUBSCRIBE": UnsubscribeReceived,
    "ACK": AckReceived,
    "NACK": NackReceived,
    "DISCONNECT": DisconnectReceived,
    **dict.fromkeys(TRANSACTION_COMMANDS, TransactionRequested),
}
"""Which event each command is, to ask the machine before anything else is looked at."""


def interpret(frame: Frame, version: Version) -> Event:
    """The event that this frame is, to a connection of this version (for CONNECT it has no say).

    Raises:
        RemoteProtocolError: a header is missing or has a value that it may not have, the frame has a body and
            may not, or it asks for something that is not supported.
    """
    read = _READERS[frame.command]
    if read is _connect:
        version = _highest_common(frame)
    if version is Version.V1_0:
        frame = _unpadded(frame)
    elif frame.body and frame.command != "SEND":
        raise _refusal(
            frame,
            f"{frame.command} with a body",
            f"Only SEND may have a body. Put the NUL of {frame.command} right after its blank line.",
        )
    return read(frame, version)


def _unpadded(frame: Frame) -> Frame:
    headers = {name: value.strip(" ") for name, value in frame.headers.items()}
    return Frame(frame.command, headers, frame.body)


def _connect(frame: Frame, version: Version) -> ConnectReceived:
    headers = frame.headers
    return ConnectReceived(
        version=version,
        # 1.1 and 1.2 say that a client MUST name the host; @stomp/stompjs does only where it is told to, and a server
        # with one host has no use for it.
        host=headers.get("host"),
        login=headers.get("login"),
        passcode=headers.get("passcode"),
        authorization=headers.get("Authorization"),
        heart_beat=(0, 0) if version is Version.V1_0 else parse_heart_beat(headers.get("heart-beat")),
        headers=headers,
    )


def _highest_common(frame: Frame) -> Version:
    accepted = frame.headers.get("accept-version")
    if accepted is None:
        return Version.V1_0
    offered = {version.strip(" ") for version in accepted.split(",")}
    for version in (Version.V1_2, Version.V1_1, Version.V1_0):
        if version.value in offered:
            return version
    supported = [version.value for version in Version]
    raise RemoteProtocolError(
        "no common protocol version",
        f"Supported protocol versions are {' '.join(supported)}. Name at least one of them in "
        "accept-version, with commas between them.",
        headers=[("version", ",".join(supported))],
    )


def _send(frame: Frame, version: Version) -> SendReceived:
    headers = frame.headers
    if "transaction" in headers:
        raise transactions_unsupported(frame.command, headers.get("receipt"))
    return SendReceived(
        _required(frame, "destination"),
        headers,
        frame.body,
        headers.get("content-type"),
        headers.get("receipt"),
    )


def _subscribe(frame: Frame, version: Version) -> SubscribeReceived:
    headers = frame.headers
    destination = _required(frame, "destination")
    subscription_id = headers.get("id", destination) if version is Version.V1_0 else _required(frame, "id")
    if "selector" in headers:
        raise _refusal(
            frame,
            "selectors are not supported",
            "A SUBSCRIBE frame had a selector header. Leave it out and select in the client.",
        )
    return SubscribeReceived(subscription_id, destination, _ack_mode(frame, version), headers, headers.get("receipt"))


def _ack_mode(frame: Frame, version: Version) -> AckMode:
    mode = _ACK_MODES.get(frame.headers.get("ack", "auto"))
    if mode is None or (mode is AckMode.CLIENT_INDIVIDUAL and version is Version.V1_0):
        allowed = "auto or client" if version is Version.V1_0 else "auto, client or client-individual"
        raise _refusal(
            frame,
            "bad ack mode",
            f"In STOMP {version.value} the ack header of SUBSCRIBE must be {allowed}. Leave it out for auto.",
        )
    return mode


def _unsubscribe(frame: Frame, version: Version) -> UnsubscribeReceived:
    subscription_id = frame.headers.get("id")
    if subscription_id is None and version is Version.V1_0:
        subscription_id = frame.headers.get("destination")
    if subscription_id is None:
        raise _missing(frame, "id")
    return UnsubscribeReceived(subscription_id, frame.headers.get("receipt"))


def _ack(frame: Frame, version: Version) -> AckReceived:
    return AckReceived(*_acknowledged(frame, version))


def _nack(frame: Frame, version: Version) -> NackReceived:
    if version is Version.V1_0:
        raise _refusal(frame, "unknown command", "STOMP 1.0 has no NACK. Offer 1.1 or 1.2 in accept-version to use it.")
    return NackReceived(*_acknowledged(frame, version))


def _acknowledged(frame: Frame, version: Version) -> tuple[str, str | None, str | None]:
    """(id, subscription, receipt) of an ACK or NACK."""
    headers = frame.headers
    receipt = headers.get("receipt")
    if "transaction" in headers:
        raise transactions_unsupported(frame.command, receipt)
    if version is Version.V1_2:
        return _required(frame, "id"), None, receipt
    message_id = _required(frame, "message-id")
    if version is Version.V1_1:
        return message_id, _required(frame, "subscription"), receipt
    return message_id, headers.get("subscription"), receipt


def _disconnect(frame: Frame, version: Version) -> DisconnectReceived:
    return DisconnectReceived(frame.headers.get("receipt"))


_READERS: dict[str, Callable[[Frame, Version], Event]] = {
    "CONNECT": _connect,
    "STOMP": _connect,
    "SEND": _send,
    "SUBSCRIBE": _subscribe,
    "UNSUBSCRIBE": _unsubscribe,
    "ACK": _ack,
    "NACK": _nack,
    "DISCONNECT": _disconnect,
}


def _required(frame: Frame, name: str) -> str:
    value = frame.headers.get(name)
    if value is None:
        raise _missing(frame, name)
    return value


def _missing(frame: Frame, name: str) -> RemoteProtocolError:
    return _refusal(
        frame,
        f"missing header {name}",
        f"A {frame.command} frame must have the header {name}. Add it; header names are case-sensitive.",
    )


def _refusal(frame: Frame, message: str, detail: str) -> RemoteProtocolError:
    return RemoteProtocolError(message, detail, receipt_of(frame.command, frame.headers))
