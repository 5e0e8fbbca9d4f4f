"""A MESSAGE encoded once and completed for each subscriber."""

import pytest

from edge.stomp.errors import LocalProtocolError
from edge.stomp.frames import Version
from edge.stomp.message_template import MessageTemplate, subscription_prefix
from tests.unit.stomp.peer import read_server_frame


def template(version: Version, body: bytes = b'{"a":1}') -> MessageTemplate:
    return MessageTemplate(
        version=version,
        destination="/topic/conversation.1",
        message_id="m:1",
        body=body,
        headers=[("x-seq", "7")],
    )


@pytest.mark.parametrize("version", list(Version))
def test_each_subscriber_gets_its_own_whole_frame_from_the_same_template(version: Version) -> None:
    shared = template(version)
    for subscription in ("0", "sub-1"):
        data = shared.for_subscription(subscription_prefix(subscription, version))
        frame = read_server_frame(data, version)
        assert frame.command == "MESSAGE"
        assert frame.headers == [
            ("subscription", subscription),
            ("message-id", "m:1"),
            ("destination", "/topic/conversation.1"),
            ("content-type", "application/json"),
            ("x-seq", "7"),
            ("content-length", "7"),
        ]
        assert frame.body == b'{"a":1}'


def test_the_ack_line_is_written_in_1_2() -> None:
    data = template(Version.V1_2).for_subscription(subscription_prefix("0", Version.V1_2), b"7")
    frame = read_server_frame(data, Version.V1_2)
    assert frame.get("ack") == "7"
    assert frame.get("subscription") == "0"
    assert frame.get("message-id") == "m:1"
    assert frame.body == b'{"a":1}'


@pytest.mark.parametrize("version", [Version.V1_0, Version.V1_1])
def test_the_ack_line_is_left_out_before_1_2(version: Version) -> None:
    data = template(version).for_subscription(subscription_prefix("0", version), b"7")
    assert read_server_frame(data, version).get("ack") is None


@pytest.mark.parametrize("version", [Version.V1_1, Version.V1_2])
def test_a_strange_subscription_id_comes_back_literally(version: Version) -> None:
    subscription = "a:b\\c\nMESSAGE\n\nd"
    data = template(version).for_subscription(subscription_prefix(subscription, version))
    assert read_server_frame(data, version).get("subscription") == subscription


def test_a_content_length_is_there_even_without_a_body_and_with_nul_octets() -> None:
    prefix = subscription_prefix("0", Version.V1_2)
    empty = read_server_frame(template(Version.V1_2, b"").for_subscription(prefix), Version.V1_2)
    assert empty.get("content-length") == "0"
    binary = read_server_frame(template(Version.V1_2, b"\0\0").for_subscription(prefix), Version.V1_2)
    assert binary.body == b"\0\0"


def test_a_message_that_cannot_be_written_is_our_own_fault() -> None:
    with pytest.raises(LocalProtocolError):
        subscription_prefix("a\0b", Version.V1_2)
    with pytest.raises(LocalProtocolError):
        MessageTemplate(version=Version.V1_2, destination="\ud800", message_id="1", body=b"")
