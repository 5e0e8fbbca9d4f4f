"""Web Push: RFC 8030 (delivery), RFC 8291 (encryption), RFC 8292 (VAPID).

Encryption by http_ece, the VAPID token by PyJWT. (pywebpush puts both together, writes `aud` and `exp` into its
caller's claims, and logs what it sends; the two calls here are less than its options.)
"""

import base64
from datetime import timedelta
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import http_ece
import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from services.notify.model import Device, MessageNote, Note, Platform, WebPushAddress
from services.notify.providers import (
    LIFETIME,
    Delivered,
    Gone,
    Outcome,
    Refused,
    RetryLater,
    collapse_id,
    payload_bytes,
    retry_after,
)
from services.notify.providers.endpoints import EndpointForbidden, PublicResolver, problem_of
from services.runtime.clock import Clock

# RFC 8292 allows a day; services refuse what is near it when clocks differ.
_TOKEN_LIFETIME: Final = timedelta(hours=12)
_MAX_CONNECTIONS: Final = 64
# Read of an answer, so that a connection can be used again; nobody looks at it.
_MAX_ANSWER_BYTES: Final = 4_096
# A push service is one of these, or "other": one endpoint of somebody's own that never answers must not open the
# breaker of a service that millions use. (A suffix of the host, and the name of its breaker.)
_KNOWN_SERVICES: Final = (
    ("fcm.googleapis.com", "google"),
    ("push.services.mozilla.com", "mozilla"),
    ("push.apple.com", "apple"),
    ("notify.windows.com", "microsoft"),
)


class WebPush:
    """See `services.notify.providers.Provider`.

    Args:
        private_key: the VAPID key, PEM or the 32 raw bytes in base64url, P-256.
        subject: who runs this: `mailto:…` or `https://…`.
        private_endpoints: for tests and closed networks: also http, and also addresses that are not public.
    """

    platform = Platform.WEBPUSH

    def __init__(self, private_key: str, subject: str, *, clock: Clock, private_endpoints: bool = False) -> None:
        self._key = load_key(private_key)
        self._subject = subject
        self._clock = clock
        self._private_endpoints = private_endpoints
        self._session: aiohttp.ClientSession | None = None
        point = self._key.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
        self._public_key = _encoded(point)

    @property
    def public_key(self) -> str:
        return self._public_key

    def target_of(self, device: Device) -> str:
        host = urlsplit(_address(device).endpoint).hostname or ""
        known = (name for suffix, name in _KNOWN_SERVICES if host == suffix or host.endswith(f".{suffix}"))
        return f"webpush-{next(known, 'other')}"

    async def start(self) -> None:
        resolver = None if self._private_endpoints else PublicResolver()
        connector = aiohttp.TCPConnector(limit=_MAX_CONNECTIONS, resolver=resolver)
        # No proxies and no cookies: what an endpoint sets is nobody's business.
        self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def push(self, device: Device, note: Note) -> Outcome:
        if self._session is None:
            raise RuntimeError("not started")
        address = _address(device)
        if not self._private_endpoints and problem_of(address.endpoint) is not None:
            return Refused("endpoint not allowed")
        try:
            body = encrypted(payload_bytes(note), address)
        except (ValueError, http_ece.ECEException):
            return Gone()  # keys that nobody can encrypt to
        try:
            async with self._session.post(
                address.endpoint, data=body, headers=self._headers(address.endpoint, note), allow_redirects=False
            ) as response:
                await response.content.read(_MAX_ANSWER_BYTES)
                return outcome_of(response.status, response.headers.get("Retry-After"))
        except EndpointForbidden:
            return Refused("endpoint not allowed")
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, EndpointForbidden):
                return Refused("endpoint not allowed")
            return RetryLater("unreachable")
        except aiohttp.InvalidURL:
            return Refused("endpoint not allowed")
        except aiohttp.ClientError as error:
            return RetryLater(type(error).__name__)

    def _headers(self, endpoint: str, note: Note) -> dict[str, str]:
        is_shown = isinstance(note, MessageNote)
        return {
            "Authorization": f"vapid t={self._token(endpoint)}, k={self._public_key}",
            "Content-Encoding": "aes128gcm",
            "Content-Type": "application/octet-stream",
            "TTL": str(int(LIFETIME.total_seconds())),
            "Topic": collapse_id(note),
            "Urgency": "high" if is_shown else "low",
        }

    def _token(self, endpoint: str) -> str:
        parts = urlsplit(endpoint)
        claims = {
            "aud": f"{parts.scheme}://{parts.netloc}",
            "exp": self._clock.time_ms() // 1000 + int(_TOKEN_LIFETIME.total_seconds()),
            "sub": self._subject,
        }
        return jwt.encode(claims, self._key, algorithm="ES256")


def outcome_of(status: int, asked: str | None) -> Outcome:
    """RFC 8030, and what the services document beyond it."""
    if 200 <= status < 300:
        return Delivered()
    if status in (404, 410):
        return Gone()
    if status == 429:
        return RetryLater("429", retry_after(asked), is_away=False)
    if status in (408, 425) or status >= 500:
        return RetryLater(str(status), retry_after(asked))
    return Refused(str(status))


def encrypted(plain: bytes, address: WebPushAddress) -> bytes:
    """RFC 8291 with a new key and a new salt.

    Raises:
        ValueError, ECEException: the keys are none.
    """
    sealed: bytes = http_ece.encrypt(
        plain,
        private_key=ec.generate_private_key(ec.SECP256R1()),
        dh=_decoded(address.p256dh),
        auth_secret=_decoded(address.auth),
        version="aes128gcm",
    )
    return sealed


def keys_problem(address: WebPushAddress) -> str | None:
    """What is wrong with a subscription's keys; None where nothing is."""
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), _decoded(address.p256dh))
    except ValueError:
        return "p256dh: expected a P-256 public key in base64url"
    try:
        if len(_decoded(address.auth)) == 16:
            return None
    except ValueError:
        pass
    return "auth: expected 16 bytes in base64url"


def load_key(text: str) -> ec.EllipticCurvePrivateKey:
    """
    Raises:
        ValueError: it is no P-256 private key.
    """
    if "-----BEGIN" in text:
        key = serialization.load_pem_private_key(text.encode(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ValueError("expected a P-256 private key")
        return key
    raw = _decoded(text.strip())
    if len(raw) != 32:
        raise ValueError("expected a PEM, or 32 bytes in base64url")
    return ec.derive_private_key(int.from_bytes(raw), ec.SECP256R1())


def _address(device: Device) -> WebPushAddress:
    if not isinstance(device.address, WebPushAddress):
        raise TypeError("expected a Web Push device")
    return device.address


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4))


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
