"""Events are values, and safe to log."""

import dataclasses
from typing import Any, get_args

import pytest

from edge.stomp.events import AckMode, Event
from edge.stomp.frames import Version

SECRET = "hunter2"

VALUES: dict[str, Any] = {
    "version": Version.V1_2,
    "host": "parley",
    "login": "alice",
    "passcode": SECRET,
    "authorization": f"Bearer {SECRET}",
    "heart_beat": (0, 0),
    "headers": {"passcode": SECRET, "Authorization": SECRET},
    "body": SECRET.encode(),
    "destination": "/a",
    "content_type": "text/plain",
    "receipt": "r-1",
    "id": "sub-0",
    "ack": AckMode.AUTO,
    "subscription": "sub-0",
}


def make(event_type: Any) -> Any:
    return event_type(**{field.name: VALUES[field.name] for field in dataclasses.fields(event_type)})


@pytest.mark.parametrize("event_type", get_args(Event))
def test_no_repr_shows_a_credential_a_header_or_a_body(event_type: type[object]) -> None:
    assert SECRET not in repr(make(event_type))
    assert event_type.__name__ in repr(make(event_type))


@pytest.mark.parametrize("event_type", get_args(Event))
def test_an_event_cannot_be_changed_nor_grow(event_type: type[object]) -> None:
    event = make(event_type)
    for field in dataclasses.fields(event):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(event, field.name, "other")
    assert not hasattr(event, "__dict__")
    assert event == make(event_type)
