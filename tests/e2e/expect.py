"""What wire.md says about the form of things, written down once."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.e2e.api import Answer, Json
from tests.e2e.frames import Frame

STATUS_OF = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "FORBIDDEN": 403,
    "CONFLICT": 409,
    "RATE_LIMITED": 429,
    "TOO_LARGE": 413,
    "UNAVAILABLE": 503,
    "INTERNAL": 500,
}

_RFC_3339_UTC_MS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(Z|\+00:00)")


def assert_is_time(text: object, *, close_to_now: timedelta = timedelta(minutes=2)) -> None:
    assert isinstance(text, str)
    assert _RFC_3339_UTC_MS.fullmatch(text), text
    assert abs(datetime.now(UTC) - datetime.fromisoformat(text)) < close_to_now


def assert_is_message(value: Json, *, conversation: str, sender: str, content: str, seq: int) -> None:
    """The fields that a message has wherever it is shown; more are allowed."""
    assert value["conversationId"] == conversation
    assert value["senderId"] == sender
    assert value["content"] == content
    assert value["seq"] == seq
    assert type(value["seq"]) is int
    assert value["type"] == "text"
    assert isinstance(value["messageId"], str)
    assert value["messageId"]
    assert isinstance(value["clientMessageId"], str)
    assert value["clientMessageId"]
    assert_is_time(value["sentAt"])


def assert_is_message_frame(
    frame: Frame, *, subscription: str, conversation: str, sender: str, content: str, seq: int
) -> None:
    """A MESSAGE with the event `message`, every header and field of it."""
    body = frame.json()
    assert frame.command == "MESSAGE"
    assert frame.headers["subscription"] == subscription
    assert frame.headers["destination"] == f"/topic/conversation.{conversation}"
    assert frame.headers["message-id"] == body["messageId"]
    assert frame.headers["content-type"].partition(";")[0] == "application/json"
    assert frame.headers["content-length"] == str(len(frame.body.encode()))
    assert frame.headers["x-seq"] == str(seq)
    assert body["event"] == "message"
    assert body["status"] == "sent"
    assert_is_message(body, conversation=conversation, sender=sender, content=content, seq=seq)


def assert_is_error(value: Json, code: str) -> None:
    """The error object of refusals, over STOMP and over HTTP."""
    assert value["event"] == "error"
    assert value["code"] == code, value
    assert isinstance(value["message"], str)
    assert value["message"]
    assert ("retryAfterMs" in value) or code != "UNAVAILABLE", value


def assert_is_refusal(answer: Answer, code: str) -> Json:
    """An HTTP answer that refuses with this code, and the status that belongs to it."""
    assert answer.status == STATUS_OF[code], answer
    assert answer.headers["Content-Type"].partition(";")[0] == "application/json"
    assert_is_error(answer.json(), code)
    return answer.json()


def same_message(one: Json, other: Json) -> bool:
    """Whether two places show the same message; `event` and `status` belong to the place, not to the message."""
    return _of_the_message(one) == _of_the_message(other)


def _of_the_message(value: Json) -> dict[str, Any]:
    fields = ("messageId", "conversationId", "seq", "senderId", "content", "type", "clientMessageId", "sentAt")
    return {field: value[field] for field in fields}
