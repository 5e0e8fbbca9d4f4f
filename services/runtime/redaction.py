"""What must never reach a log, and how it is masked.

Two rules: a value under a telling key is masked whole, whatever it is; in every other text the credentials of
URLs, bearer tokens and JWTs are masked where they stand. A tail of the key decides (`refresh_token`,
`clientToken`), so that `content_type` and `body_bytes` stay readable.
"""

import re
from collections.abc import Mapping
from typing import Final

MASK: Final = "***"

SENSITIVE_TAILS: Final = (
    "token",
    "passcode",
    "authorization",
    "content",
    "body",
    "bodies",
    "preview",
    "password",
    "passwd",
    "passphrase",
    "secret",
    "cookie",
    "credential",
    "credentials",
    "api_key",
    "private_key",
)

# Deep enough for anything we log on purpose; deeper is somebody's whole document, which does not belong
# there.
MAX_DEPTH: Final = 6

_URL_CREDENTIALS = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s'\"<>]+@")
_BEARER = re.compile(r"(?i)\b(?P<word>bearer\s+)[A-Za-z0-9._~+/=-]+")
_JWT = re.compile(r"\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?")


def scrub(text: str) -> str:
    """`text` with URL credentials, bearer tokens and JWTs masked. The cheap tests keep this under 1 µs."""
    if "://" in text and "@" in text:
        text = _URL_CREDENTIALS.sub(rf"\g<scheme>{MASK}@", text)
    if "earer" in text or "EARER" in text:
        text = _BEARER.sub(rf"\g<word>{MASK}", text)
    if "eyJ" in text:
        text = _JWT.sub(MASK, text)
    return text


def is_sensitive(key: str) -> bool:
    return key.lower().replace("-", "_").endswith(SENSITIVE_TAILS)


def redact(value: object, *, depth: int = 0) -> object:
    """A copy of `value` that may be written: dicts and lists are walked, texts scrubbed, bytes not shown."""
    if isinstance(value, str):
        return scrub(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if depth >= MAX_DEPTH:
        return MASK
    if isinstance(value, Mapping):
        return {str(key): redact_field(str(key), item, depth=depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(item, depth=depth + 1) for item in value]
    return scrub(str(value))


def redact_field(key: str, value: object, *, depth: int = 0) -> object:
    return MASK if is_sensitive(key) else redact(value, depth=depth)
