"""What each frame means in each version, from the sections of the three specifications."""

import pytest

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
from edge.stomp.frames import Frame, Version
from edge.stomp.interpret import interpret

V10, V11, V12 = Version.V1_0, Version.V1_1, Version.V1_2
ALL = list(Version)


def frame(command: str, body: bytes = b"", /, **headers: str) -> Frame:
    """Header names are written with `_` for `-` here."""
    return Frame(command, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def refusal(given: Frame, version: Version) -> RemoteProtocolError:
    with pytest.raises(RemoteProtocolError) as caught:
        interpret(given, version)
    return caught.value


UNDERSTOOD: list[tuple[Version, Frame, Event]] = [
    *(
        (
            version,
            frame("SEND", b"hi", destination="/a", content_type="text/plain", receipt="r", x="y"),
            SendReceived(
                "/a",
                {"destination": "/a", "content-type": "text/plain", "receipt": "r", "x": "y"},
                b"hi",
                "text/plain",
                "r",
            ),
        )
        for version in ALL
    ),
    (V12, frame("SEND", destination=""), SendReceived("", {"destination": ""}, b"", None, None)),
    (
        V10,
        frame("SUBSCRIBE", destination="/a"),
        SubscribeReceived("/a", "/a", AckMode.AUTO, {"destination": "/a"}, None),
    ),
    (
        V10,
        frame("SUBSCRIBE", b"ignored", destination=" /a ", id="1", ack=" client"),
        SubscribeReceived("1", "/a", AckMode.CLIENT, {"destination": "/a", "id": "1", "ack": "client"}, None),
    ),
    *(
        (
            version,
            frame("SUBSCRIBE", destination="/a", id=" 1", ack=mode.value, receipt=""),
            SubscribeReceived(
                " 1", "/a", mode, {"destination": "/a", "id": " 1", "ack": mode.value, "receipt": ""}, ""
            ),
        )
        for version in (V11, V12)
        for mode in AckMode
    ),
    (V10, frame("UNSUBSCRIBE", destination="/a"), UnsubscribeReceived("/a", None)),
    (V10, frame("UNSUBSCRIBE", destination="/a", id="1"), UnsubscribeReceived("1", None)),
    (V11, frame("UNSUBSCRIBE", id="1", receipt="r"), UnsubscribeReceived("1", "r")),
    (V12, frame("UNSUBSCRIBE", id="1"), UnsubscribeReceived("1", None)),
    (V10, frame("ACK", message_id="m"), AckReceived("m", None, None)),
    (V10, frame("ACK", message_id="m", subscription="1"), AckReceived("m", "1", None)),
    (V11, frame("ACK", message_id="m", subscription="1", receipt="r"), AckReceived("m", "1", "r")),
    (V11, frame("NACK", message_id="m", subscription="1", receipt="r"), NackReceived("m", "1", "r")),
    (V12, frame("ACK", id="a", receipt="r"), AckReceived("a", None, "r")),
    (V12, frame("ACK", id="a", message_id="m", subscription="1"), AckReceived("a", None, None)),
    (V12, frame("NACK", id="a"), NackReceived("a", None, None)),
    *((version, frame("DISCONNECT"), DisconnectReceived(None)) for version in ALL),
    *((version, frame("DISCONNECT", receipt="77"), DisconnectReceived("77")) for version in ALL),
]


@pytest.mark.parametrize(("version", "given", "event"), UNDERSTOOD)
def test_a_frame_is_the_event_that_its_version_says(version: Version, given: Frame, event: Event) -> None:
    assert interpret(given, version) == event


REFUSED = [
    *((version, frame("SEND", b"x"), "missing header destination") for version in ALL),
    *((version, frame("SUBSCRIBE", id="1"), "missing header destination") for version in ALL),
    (V11, frame("SUBSCRIBE", destination="/a"), "missing header id"),
    (V12, frame("SUBSCRIBE", destination="/a"), "missing header id"),
    (V10, frame("UNSUBSCRIBE"), "missing header id"),
    (V11, frame("UNSUBSCRIBE", destination="/a"), "missing header id"),
    (V12, frame("UNSUBSCRIBE", destination="/a"), "missing header id"),
    (V10, frame("ACK", id="a"), "missing header message-id"),
    (V11, frame("ACK", id="a", subscription="1"), "missing header message-id"),
    (V11, frame("ACK", message_id="m"), "missing header subscription"),
    (V11, frame("NACK", message_id="m"), "missing header subscription"),
    (V12, frame("ACK", message_id="m", subscription="1"), "missing header id"),
    (V12, frame("NACK", message_id="m", subscription="1"), "missing header id"),
    (V10, frame("NACK", message_id="m"), "unknown command"),
    (V10, frame("SUBSCRIBE", destination="/a", ack="client-individual"), "bad ack mode"),
    (V12, frame("SUBSCRIBE", destination="/a", id="1", ack="Auto"), "bad ack mode"),
    (V12, frame("SUBSCRIBE", destination="/a", id="1", ack=" client"), "bad ack mode"),
    (V12, frame("SUBSCRIBE", destination="/a", id="1", ack=""), "bad ack mode"),
    *(
        (version, frame("SUBSCRIBE", destination="/a", id="1", selector=""), "selectors are not supported")
        for version in ALL
    ),
    *(
        (version, frame(command, **headers, transaction="t"), "transactions are not supported")
        for version, command, headers in [
            *((version, "SEND", {"destination": "/a"}) for version in ALL),
            (V10, "ACK", {"message_id": "m"}),
            (V11, "ACK", {"message_id": "m", "subscription": "1"}),
            (V11, "NACK", {"message_id": "m", "subscription": "1"}),
            (V12, "ACK", {"id": "a"}),
            (V12, "NACK", {"id": "a"}),
        ]
    ),
    *(
        (version, frame(command, b"x", id="1", destination="/a"), f"{command} with a body")
        for version in (V11, V12)
        for command in ("SUBSCRIBE", "UNSUBSCRIBE", "ACK", "NACK", "DISCONNECT")
    ),
]


@pytest.mark.parametrize(("version", "given", "message"), REFUSED)
def test_a_frame_that_its_version_does_not_allow_is_refused_with_its_receipt(
    version: Version, given: Frame, message: str
) -> None:
    asked = Frame(given.command, {**given.headers, "receipt": "r-9"}, given.body)
    assert refusal(given, version).message == message
    assert refusal(given, version).receipt_id is None
    assert refusal(asked, version).message == message
    assert refusal(asked, version).receipt_id == "r-9"


@pytest.mark.parametrize(
    ("accepted", "version"),
    [
        (None, V10),
        ("1.0", V10),
        ("1.1", V11),
        ("1.2", V12),
        ("1.0,1.1,1.2", V12),
        ("1.2,1.1,1.0", V12),
        ("1.0,1.1,2.0", V11),
        ("2.0, 1.1", V11),
        ("9.9,1.0", V10),
    ],
)
@pytest.mark.parametrize("command", ["CONNECT", "STOMP"])
def test_the_highest_common_version_is_chosen(accepted: str | None, version: Version, command: str) -> None:
    offered = {} if accepted is None else {"accept_version": accepted}
    event = interpret(frame(command, host="a", **offered), V10)
    assert isinstance(event, ConnectReceived)
    assert event.version is version


@pytest.mark.parametrize("accepted", ["", "2.0", "1", "1.20", "1.1.2", "01.2", "1.2;1.1", "one"])
def test_no_common_version_is_refused_with_the_list_of_ours(accepted: str) -> None:
    error = refusal(frame("CONNECT", host="a", accept_version=accepted), V10)
    assert error.message == "no common protocol version"
    assert error.headers == (("version", "1.0,1.1,1.2"),)
    assert "1.0 1.1 1.2" in error.detail


def test_connect_tells_who_calls_and_with_what() -> None:
    given = frame("CONNECT", accept_version="1.2", host="h", login="l", passcode="p", heart_beat="1,2", x="y")
    given.headers["Authorization"] = "Bearer t"
    event = interpret(given, V10)
    assert event == ConnectReceived(V12, "h", "l", "p", "Bearer t", (1, 2), given.headers)


def test_connect_without_anything_is_1_0_with_nobody_and_no_heart_beats() -> None:
    event = interpret(frame("CONNECT"), V10)
    assert event == ConnectReceived(V10, None, None, None, None, (0, 0), {})


def test_1_0_headers_lose_their_padding_and_its_unknown_heart_beat_is_ignored() -> None:
    event = interpret(frame("CONNECT", login=" bob ", heart_beat="a,b"), V10)
    assert event == ConnectReceived(V10, None, "bob", None, None, (0, 0), {"login": "bob", "heart-beat": "a,b"})


@pytest.mark.parametrize("accepted", ["1.1", "1.2"])
def test_connect_without_a_host_is_accepted_because_stompjs_sends_none(accepted: str) -> None:
    event = interpret(frame("CONNECT", accept_version=accepted), V10)
    assert isinstance(event, ConnectReceived)
    assert event.host is None


@pytest.mark.parametrize("accepted", ["1.1", "1.2"])
def test_a_bad_heart_beat_is_refused_from_1_1_on(accepted: str) -> None:
    given = frame("CONNECT", accept_version=accepted, host="a", heart_beat="-1,0")
    assert refusal(given, V10).message == "bad heart-beat"


def test_connect_with_a_body_is_refused_from_1_1_on() -> None:
    assert refusal(frame("CONNECT", b"x", accept_version="1.2", host="a"), V10).message == ("CONNECT with a body")
    assert interpret(frame("CONNECT", b"x"), V10)


def test_connect_cannot_ask_for_a_receipt() -> None:
    given = frame("CONNECT", accept_version="1.2", receipt="r", heart_beat="no")
    assert refusal(given, V10).receipt_id is None
