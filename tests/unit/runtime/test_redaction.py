"""Nothing secret reaches a log."""

import pytest

from services.runtime.redaction import MASK, redact, redact_field, scrub


@pytest.mark.parametrize(
    "key",
    ["token", "refresh_token", "clientToken", "passcode", "Authorization", "content", "body", "password", "Set-Cookie"],
)
def test_a_value_under_a_telling_key_is_masked_whole(key: str) -> None:
    assert redact_field(key, {"any": "thing"}) == MASK


@pytest.mark.parametrize("key", ["content_type", "body_bytes", "tokens_per_s", "event", "url"])
def test_a_key_that_only_resembles_one_stays_readable(key: str) -> None:
    assert redact_field(key, "value") == "value"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mongodb://user:pw@host:1/db?x=1", "mongodb://***@host:1/db?x=1"),
        ("amqp://u:p%40@h/ and redis://:pw@r", "amqp://***@h/ and redis://***@r"),
        ("mongodb+srv://u:p@h", "mongodb+srv://***@h"),
        ("https://host/path", "https://host/path"),
        ("mail to a@b", "mail to a@b"),
        ("sent Bearer abc.def-123", "sent Bearer ***"),
        ("authorization:bearer abc", "authorization:bearer ***"),
        ("got eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln here", "got *** here"),
    ],
)
def test_credentials_inside_a_text_are_masked_where_they_stand(text: str, shown: str) -> None:
    assert scrub(text) == shown


def test_a_password_with_an_at_sign_is_masked_to_the_last_one() -> None:
    assert scrub("redis://u:p@ss@host") == "redis://***@host"


def test_nested_values_are_walked_and_bytes_never_shown() -> None:
    value = {"outer": [{"token": "t", "n": 1}, b"secret"], "url": "redis://:pw@r"}
    assert redact(value) == {"outer": [{"token": MASK, "n": 1}, "<6 bytes>"], "url": "redis://***@r"}


def test_an_unknown_object_is_scrubbed_as_text() -> None:
    assert redact(ValueError("cannot reach redis://:pw@r")) == "cannot reach redis://***@r"


def test_what_nests_too_deep_is_masked() -> None:
    value: object = "deep"
    for _ in range(20):
        value = [value]
    assert "deep" not in str(redact(value))
