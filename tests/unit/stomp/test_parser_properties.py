"""Any bytes, cut anywhere: the same frames, the same error, and never another exception."""

from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge.stomp.errors import RemoteProtocolError
from edge.stomp.events import Event
from edge.stomp.frames import Frame, Version, encode_frame
from edge.stomp.parser import FrameParser, Limits
from tests.unit.stomp.peer import connect_frame, new_connection, pull, pull_all, read_server_frame

SMALL = Limits(max_frame_bytes=120, max_headers=4, max_header_bytes=24)
TIGHT = Limits(max_frame_bytes=40, max_headers=4, max_header_bytes=40)

versions = st.sampled_from([None, *Version])

texts = st.text(st.characters(exclude_characters="\0\n\r:", exclude_categories=["Cs"]), min_size=1, max_size=6)
headers = st.lists(st.tuples(texts, texts | st.just("a:b\\c\nd")), max_size=4)
bodies = st.binary(max_size=40)
valid_frames = st.builds(
    lambda headers, body, eols: encode_frame("SEND", headers, body, version=Version.V1_2) + eols,
    headers,
    bodies,
    st.sampled_from([b"", b"\n", b"\r\n", b"\n\n\n"]),
)

shards = st.sampled_from(
    [
        *(b"SEND\n", b"SEND\r\n", b"CONNECT\n", b"\n", b"\r\n", b"\r", b"\0", b":", b"\\", b"\\n", b"\\t"),
        *(b"a:b\n", b"a:b\r\n", b"receipt:r\n", b"content-length:3\n", b"content-length:-1\n"),
        *(b"content-length:70\n", b"abc", b"x" * 23, b"x" * 60, b"\xc3\xbc", b"\xff", b"\n\n"),
    ]
)
nearly_valid = st.lists(shards | valid_frames | st.binary(max_size=4), max_size=14).map(b"".join)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[begin:end] for begin, end in pairwise(bounds)]


def parse(pieces: list[bytes], version: Version | None, limits: Limits) -> tuple[list[Frame], object]:
    """All frames, and the error that ended them, where there was one."""
    parser = FrameParser(limits)
    parser.version = version
    found: list[Frame] = []
    try:
        for piece in pieces:
            parser.feed(piece)
            while (frame := parser.next_frame()) is not None:
                found.append(frame)
    except RemoteProtocolError as error:
        return found, (error.message, error.detail, error.receipt_id)
    return found, (parser.in_frame, parser.buffered_bytes > 0)


places = st.lists(st.integers(min_value=0, max_value=10_000), max_size=8)
limits = st.sampled_from([SMALL, TIGHT, Limits()])


@settings(max_examples=600, deadline=None)
@given(data=nearly_valid, places=places, version=versions, limits=limits)
@example(data=b"SEND\n" + b"a:12345678901234\n" * 2 + b"\n", places=[], version=None, limits=TIGHT)
@example(data=b"SEND\na:b\0" + b"x" * 60 + b"\n", places=[], version=None, limits=SMALL)
@example(data=b"SEND\ncontent-length:-1\na:34567890123456\n\n", places=[], version=None, limits=TIGHT)
def test_the_same_bytes_give_the_same_frames_and_the_same_error_however_they_are_cut(
    data: bytes, places: list[int], version: Version | None, limits: Limits
) -> None:
    """Identical errors too: the answer may not depend on how the network cut the stream."""
    whole = parse([data], version, limits)
    by_octet = parse([data[i : i + 1] for i in range(len(data))], version, limits)
    cut_anywhere = parse(cut(data, places), version, limits)
    assert frames_and_error(by_octet) == frames_and_error(whole)
    assert frames_and_error(cut_anywhere) == frames_and_error(whole)


def frames_and_error(result: tuple[list[Frame], object]) -> tuple[list[Frame], object]:
    """`buffered_bytes` may differ: a piece of a frame is used as soon as it is understood."""
    found, end = result
    return found, end if isinstance(end, tuple) and len(end) == 3 else None


@settings(max_examples=200, deadline=None)
@given(stream=st.lists(valid_frames, min_size=1, max_size=5), places=places)
def test_a_valid_stream_cut_anywhere_is_read_to_its_end(stream: list[bytes], places: list[int]) -> None:
    found, end = parse(cut(b"".join(stream), places), Version.V1_2, Limits())
    assert len(found) == len(stream)
    assert end == (False, False)


@settings(max_examples=400, deadline=None)
@given(data=st.binary(max_size=300) | nearly_valid, version=versions)
def test_arbitrary_bytes_give_frames_or_a_protocol_error_and_nothing_else(data: bytes, version: Version | None) -> None:
    found, _ = parse([data], version, Limits())
    assert all(isinstance(frame, Frame) for frame in found)


commands = st.sampled_from(
    [
        b"SEND\ndestination:/a\nreceipt:r\n\nhello\0",
        b"SEND\ndestination:/a\ncontent-length:3\n\na\0b\0",
        b"SUBSCRIBE\nid:0\ndestination:/t\nack:client\n\n\0",
        b"UNSUBSCRIBE\nid:0\n\n\0",
        b"ACK\nid:1\nmessage-id:1\nsubscription:0\n\n\0",
        b"NACK\nid:1\nmessage-id:1\nsubscription:0\n\n\0",
        b"DISCONNECT\nreceipt:bye\n\n\0",
        b"BEGIN\ntransaction:t\n\n\0",
        b"CONNECT\naccept-version:1.2\nhost:a\n\n\0",
        b"SEND\n\n\0",
        b"\n",
        b"NOPE\n\n\0",
    ]
)


def converse(pieces: list[bytes]) -> tuple[list[Event], bytes | None]:
    """All events, and the ERROR that ended them."""
    connection = new_connection()
    events: list[Event] = []
    for piece in pieces:
        connection.receive_data(piece)
        try:
            for event in pull(connection):
                events.append(event)  # one by one: what came before an error is kept
        except RemoteProtocolError as error:
            return events, error.frame
    return events, None


@settings(max_examples=200, deadline=None)
@given(
    version=st.sampled_from(list(Version)),
    stream=st.lists(commands, max_size=6),
    places=places,
)
def test_a_conversation_cut_anywhere_gives_the_same_events_and_the_same_answer(
    version: Version, stream: list[bytes], places: list[int]
) -> None:
    data = connect_frame(version) + b"".join(stream)
    whole = converse([data])
    assert converse([data[i : i + 1] for i in range(len(data))]) == whole
    assert converse(cut(data, places)) == whole


@settings(max_examples=200, deadline=None)
@given(version=st.sampled_from(list(Version)), data=nearly_valid)
def test_a_connection_answers_arbitrary_bytes_with_an_error_frame_or_not_at_all(version: Version, data: bytes) -> None:
    connection = new_connection()
    connection.receive_data(connect_frame(version) + data)
    answer: bytes | None = None
    try:
        pull_all(connection)
    except RemoteProtocolError as error:
        answer = error.frame
    assert connection.is_closed is (answer is not None)
    if answer is not None:
        assert read_server_frame(answer, version).command == "ERROR"
        assert connection.next_event() is None
