"""One connection from CONNECT to the end: what it answers, when, and in which words."""

import pytest

from edge.stomp.connection import ServerConnection
from edge.stomp.errors import LocalProtocolError, RemoteProtocolError
from edge.stomp.events import (
    AckReceived,
    ConnectReceived,
    DisconnectReceived,
    SendReceived,
    SubscribeReceived,
    UnsubscribeReceived,
)
from edge.stomp.frames import Version
from edge.stomp.machine import State
from edge.stomp.parser import Limits
from tests.unit.stomp.peer import (
    connect_frame,
    connected,
    new_connection,
    pull_all,
    read_server_frame,
    receive,
    refused,
)

SEND = b"SEND\ndestination:/a\nreceipt:r-1\n\nhello\0"
SECRET = "hunter2"


def connecting(frame: bytes = connect_frame(Version.V1_2)) -> ServerConnection:
    connection = new_connection()
    connection.receive_data(frame)
    assert isinstance(connection.next_event(), ConnectReceived)
    return connection


# --- the handshake


@pytest.mark.parametrize(
    ("accepted", "version"), [("1.0", "1.0"), ("1.1", "1.1"), ("1.2", "1.2"), ("1.0,1.1,2.0", "1.1")]
)
def test_connected_carries_the_highest_common_version(accepted: str, version: str) -> None:
    connection = connecting(f"CONNECT\naccept-version:{accepted}\nhost:h\n\n\0".encode())
    connected_frame = read_server_frame(connection.accept(session="s-1", user="alice"), Version.V1_0)
    assert connected_frame.command == "CONNECTED"
    assert connected_frame.get("version") == version
    assert connected_frame.get("session") == "s-1"
    assert connected_frame.get("server") == "parley/0.1"
    assert connected_frame.get("user-name") == "alice"
    assert connected_frame.get("heart-beat") == (None if version == "1.0" else "10000,10000")
    assert connection.version.value == version
    assert connection.state is State.CONNECTED


def test_a_client_that_names_no_version_is_served_1_0() -> None:
    connection = connecting(b"CONNECT\nlogin:bob\npasscode:x\n\n\0")
    connection.accept(session="s-1", user="bob")
    assert connection.version is Version.V1_0


def test_connected_is_not_escaped() -> None:
    connection = ServerConnection(Limits(), server="a:b\\c")
    connection.receive_data(connect_frame(Version.V1_2))
    connection.next_event()
    assert b"\nserver:a:b\\c\n" in connection.accept(session="s", user="u")


def test_heart_beats_are_agreed_at_accept_and_never_below_our_minimum() -> None:
    connection = ServerConnection(Limits(), server="p", heart_beat_offer=(1, 20_000), heart_beat_min_ms=2_000)
    connection.receive_data(b"CONNECT\naccept-version:1.2\nhost:h\nheart-beat:5000,1\n\n\0")
    connection.next_event()
    assert b"\nheart-beat:2000,20000\n" in connection.accept(session="s", user="u")
    assert (connection.heart_beat.send_ms, connection.heart_beat.expect_ms) == (2_000, 20_000)


def test_no_common_version_is_answered_with_the_versions_that_we_speak() -> None:
    error = refused(new_connection(), b"CONNECT\naccept-version:2.0,3.0\nhost:h\n\n\0")
    frame = read_server_frame(error.frame, Version.V1_0)
    assert frame.command == "ERROR"
    assert frame.get("version") == "1.0,1.1,1.2"
    assert frame.get("content-type") == "text/plain"
    assert b"1.0 1.1 1.2" in frame.body


def test_what_follows_connect_in_the_same_chunk_waits_for_the_answer_to_connect() -> None:
    connection = connecting(connect_frame(Version.V1_1) + b"SEND\ndestination:a\\cb\n\nx\0\n")
    connection.accept(session="s", user="u")
    event = connection.next_event()
    assert isinstance(event, SendReceived)
    assert event.destination == "a:b"
    assert connection.next_event() is None


def test_the_rules_of_the_agreed_version_hold_after_connected() -> None:
    subscribe = b"SUBSCRIBE\ndestination: /a\\c \n\n\0"
    event = receive(connected(Version.V1_0), subscribe)
    assert isinstance(event, SubscribeReceived)
    assert (event.id, event.destination) == ("/a\\c", "/a\\c")
    assert refused(connected(Version.V1_1), subscribe).message == "missing header id"
    assert receive(connected(Version.V1_0), b"UNSUBSCRIBE\ndestination:/a\n\n\0") == (UnsubscribeReceived("/a", None))
    assert receive(connected(Version.V1_2), b"ACK\r\nid:7\r\n\r\n\0") == AckReceived("7", None, None)


# --- order


@pytest.mark.parametrize(
    "frame",
    [
        SEND,
        b"SUBSCRIBE\nid:0\ndestination:/a\nreceipt:r-1\n\n\0",
        b"UNSUBSCRIBE\nid:0\nreceipt:r-1\n\n\0",
        b"ACK\nid:0\nreceipt:r-1\n\n\0",
        b"NACK\nid:0\nreceipt:r-1\n\n\0",
        b"BEGIN\ntransaction:t\nreceipt:r-1\n\n\0",
        b"COMMIT\ntransaction:t\nreceipt:r-1\n\n\0",
        b"ABORT\ntransaction:t\nreceipt:r-1\n\n\0",
        b"DISCONNECT\nreceipt:r-1\n\n\0",
    ],
)
def test_no_frame_may_come_before_connect_is_answered(frame: bytes) -> None:
    before = refused(new_connection(), frame)
    assert before.message == "not connected"
    assert before.receipt_id == "r-1"
    meanwhile = refused(connecting(), frame)
    assert meanwhile.message == "not connected yet"
    assert read_server_frame(meanwhile.frame, Version.V1_0).get("receipt-id") == "r-1"


def test_a_second_connect_is_refused_before_and_after_the_first_is_answered() -> None:
    again = connect_frame(Version.V1_2)
    assert refused(connecting(), again).message == "not connected yet"
    assert refused(connected(), again).message == "already connected"


def test_nothing_may_follow_disconnect() -> None:
    connection = connected()
    assert receive(connection, b"DISCONNECT\nreceipt:bye\n\n\0") == DisconnectReceived("bye")
    assert connection.state is State.DISCONNECTING
    assert connection.receipt("bye") == b"RECEIPT\nreceipt-id:bye\n\n\0"
    assert refused(connection, SEND).message == "already disconnected"


@pytest.mark.parametrize("command", ["BEGIN", "COMMIT", "ABORT"])
def test_transactions_are_refused_in_clear_words(command: str) -> None:
    error = refused(connected(), f"{command}\ntransaction:t\nreceipt:r-1\n\n\0".encode())
    frame = read_server_frame(error.frame, Version.V1_2)
    assert frame.get("message") == "transactions are not supported"
    assert frame.get("receipt-id") == "r-1"
    assert command.encode() in frame.body


def test_a_frame_that_is_refused_does_not_move_the_state() -> None:
    """A DISCONNECT with a body is no DISCONNECT."""
    error = refused(connected(), b"DISCONNECT\n\nbody\0")
    assert error.message == "DISCONNECT with a body"


# --- errors


def test_the_error_frame_says_what_happened_and_names_the_receipt() -> None:
    error = refused(connected(), b"SEND\nreceipt:a\\cb\n\nhello\0")
    frame = read_server_frame(error.frame, Version.V1_2)
    assert frame.command == "ERROR"
    assert frame.get("message") == "missing header destination"
    assert frame.get("receipt-id") == "a:b"
    assert frame.get("content-type") == "text/plain"
    assert frame.body == error.detail.encode()
    assert error.receipt_id == "a:b"


def test_the_error_frame_has_no_receipt_id_where_none_was_asked_for() -> None:
    frame = read_server_frame(refused(connected(), b"SEND\n\nhello\0").frame, Version.V1_2)
    assert frame.get("receipt-id") is None


def test_before_a_version_is_agreed_the_receipt_id_comes_back_as_it_was_written() -> None:
    error = refused(new_connection(), b"SEND\nreceipt:a:b\\c\n\n\0")
    assert read_server_frame(error.frame, Version.V1_0).get("receipt-id") == "a:b\\c"


@pytest.mark.parametrize(
    "frame",
    [
        f"SEND\nAuthorization:Bearer {SECRET}\npasscode:{SECRET}\n\n{SECRET}\0",
        f"SEND\ndestination:/a\ncontent-length:1\n\n{SECRET}\0",
        f"SEND\ndestination:/a\n{SECRET}\n\n\0",
        f"{SECRET}\n\n\0",
        f"SEND\ntransaction:{SECRET}\ndestination:/a\n\n{SECRET}\0",
        f"SUBSCRIBE\nid:1\ndestination:{SECRET}\nack:{SECRET}\n\n\0",
        f"CONNECT\npasscode:{SECRET}\nAuthorization:{SECRET}\n\n\0",
        f"SEND\na:\\{SECRET}\n\n\0",
        f"DISCONNECT\n\n{SECRET}\0",
    ],
)
def test_an_error_never_repeats_what_the_client_wrote(frame: str) -> None:
    error = refused(connected(), frame.encode())
    assert SECRET.encode() not in error.frame
    assert SECRET not in f"{error!r} {error} {error.detail}"


def test_after_an_error_the_connection_is_closed_and_silent() -> None:
    connection = connected()
    refused(connection, b"NOPE\n\n\0" + SEND * 3)
    assert connection.is_closed
    assert connection.next_event() is None
    connection.receive_data(SEND)
    assert connection.next_event() is None
    assert connection.buffered_bytes == 0


def test_what_came_before_the_bad_frame_is_still_delivered() -> None:
    connection = connected()
    connection.receive_data(SEND + b"NOPE\n\n\0")
    assert isinstance(connection.next_event(), SendReceived)
    with pytest.raises(RemoteProtocolError):
        connection.next_event()


def test_the_limits_are_those_that_were_given() -> None:
    connection = connected(limits=Limits(max_frame_bytes=100))
    assert refused(connection, b"SEND\ndestination:/a\n\n" + b"x" * 100).message == "frame too large"


# --- what we say


@pytest.mark.parametrize(("version", "ack"), [(Version.V1_0, None), (Version.V1_1, None), (Version.V1_2, "a:7")])
def test_a_message_has_everything_that_its_subscriber_needs(version: Version, ack: str | None) -> None:
    data = connected(version).message(
        subscription="sub-0",
        message_id="m-1",
        destination="/topic/t",
        body=b"{}",
        ack="a:7",
        headers=[("x-seq", "7")],
    )
    frame = read_server_frame(data, version)
    assert frame.command == "MESSAGE"
    assert frame.get("subscription") == "sub-0"
    assert frame.get("message-id") == "m-1"
    assert frame.get("destination") == "/topic/t"
    assert frame.get("content-type") == "application/json"
    assert frame.get("content-length") == "2"
    assert frame.get("x-seq") == "7"
    assert frame.get("ack") == ack
    assert frame.body == b"{}"


def test_a_receipt_repeats_the_id_and_carries_more() -> None:
    frame = read_server_frame(connected().receipt("a:1", [("x-seq", "9")]), Version.V1_2)
    assert frame.headers == [("receipt-id", "a:1"), ("x-seq", "9")]
    assert frame.command == "RECEIPT"


def test_a_refusal_is_an_error_frame_and_the_end() -> None:
    connection = connected()
    data = connection.refuse("no: not here", "Because.", receipt_id="r-1", headers=[("code", "FORBIDDEN")])
    frame = read_server_frame(data, Version.V1_2)
    assert frame.command == "ERROR"
    assert frame.get("message") == "no: not here"
    assert frame.get("receipt-id") == "r-1"
    assert frame.get("code") == "FORBIDDEN"
    assert frame.get("content-type") == "text/plain"
    assert frame.body == b"Because."
    assert connection.is_closed


def test_a_refusal_may_carry_json() -> None:
    data = connected().refuse("no", b"{}", content_type="application/json")
    frame = read_server_frame(data, Version.V1_2)
    assert frame.get("content-type") == "application/json"
    assert frame.body == b"{}"


def test_connect_itself_can_be_refused() -> None:
    connection = connecting(connect_frame(Version.V1_2) + SEND)
    frame = read_server_frame(connection.refuse("who\nare you", "No token."), Version.V1_0)
    assert frame.get("message") == "who are you"
    assert connection.is_closed
    assert connection.next_event() is None


def test_silence_before_connect_and_a_failure_after_disconnect_can_be_refused() -> None:
    silent = new_connection()
    assert silent.refuse("too slow", "CONNECT did not come in time.").startswith(b"ERROR\n")
    leaving = connected()
    receive(leaving, b"DISCONNECT\nreceipt:bye\n\n\0")
    assert b"\nreceipt-id:r-1\n" in leaving.refuse("unavailable", "Not stored.", receipt_id="r-1")


# --- our own mistakes


def test_using_the_engine_out_of_order_is_our_own_fault() -> None:
    fresh = new_connection()
    with pytest.raises(LocalProtocolError):
        fresh.accept(session="s", user="u")
    with pytest.raises(LocalProtocolError):
        fresh.receipt("r")
    with pytest.raises(LocalProtocolError):
        fresh.message(subscription="s", message_id="m", destination="d", body=b"")
    with pytest.raises(LocalProtocolError):
        _ = fresh.version
    with pytest.raises(LocalProtocolError):
        _ = fresh.heart_beat
    with pytest.raises(LocalProtocolError):
        connected().accept(session="s", user="u")


def test_nothing_can_be_said_after_the_end() -> None:
    connection = connected()
    connection.close()
    connection.close()
    assert connection.is_closed
    with pytest.raises(LocalProtocolError):
        connection.receipt("r")
    with pytest.raises(LocalProtocolError):
        connection.refuse("m", "b")


def test_a_refusal_that_cannot_be_written_leaves_the_connection_open_for_a_better_one() -> None:
    connection = connected()
    with pytest.raises(LocalProtocolError):
        connection.refuse("nul\0", "b")
    with pytest.raises(LocalProtocolError):
        connection.refuse("m", "\ud800")
    assert not connection.is_closed
    assert connection.refuse("m", "b")


# --- what a transport needs to know


def test_heart_beats_from_the_client_are_no_events_and_leave_nothing_behind() -> None:
    connection = connected()
    connection.receive_data(b"\n\r\n\n")
    assert pull_all(connection) == []
    assert connection.buffered_bytes == 0
    assert not connection.in_frame


def test_an_unfinished_frame_can_be_seen_from_outside() -> None:
    connection = connected()
    connection.receive_data(b"SEND\ndestination:/a\ncontent-length:100\n\nshort\0")
    assert connection.next_event() is None
    assert connection.in_frame
    assert connection.buffered_bytes == 6


def test_the_credentials_are_let_go_once_connect_is_answered() -> None:
    frame = f"CONNECT\naccept-version:1.2\nhost:h\npasscode:{SECRET}\n\n\0".encode()
    accepted, refusing, failing = connecting(frame), connecting(frame), connecting(frame)
    accepted.accept(session="s", user="u")
    refusing.refuse("no", "No.")
    refused(failing, SEND)
    for connection in (accepted, refusing, failing):
        held = [getattr(connection, name) for name in ServerConnection.__slots__]
        assert not any(isinstance(value, ConnectReceived) for value in held)
