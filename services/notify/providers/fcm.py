"""Firebase Cloud Messaging, HTTP v1: a service account's JWT buys an access token, which is kept until it is old.

Source: https://firebase.google.com/docs/cloud-messaging/send/v1-api and …/error-codes.
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import aiohttp
import jwt
import msgspec
import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from services.notify.model import Device, FcmAddress, MessageNote, Note, Platform
from services.notify.providers import (
    LIFETIME,
    Delivered,
    Gone,
    Outcome,
    Refused,
    RetryLater,
    collapse_id,
    payload,
    retry_after,
)
from services.runtime.clock import Clock

URL: Final = "https://fcm.googleapis.com"
_SCOPE: Final = "https://www.googleapis.com/auth/firebase.messaging"
_GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_ASSERTION_LIFETIME_S: Final = 3_600
# A token is not used in its last minutes: clocks differ.
_SPARE_S: Final = 120
_MAX_CONNECTIONS: Final = 64
_MAX_ANSWER_BYTES: Final = 64 << 10


class ServiceAccount(msgspec.Struct):
    """What we use of the JSON file that Google gives. The private key is a secret."""

    project_id: str
    client_email: str
    private_key: str
    token_uri: str
    private_key_id: str = ""


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    ends_s: float


class _NoToken(Exception):
    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome


class Fcm:
    """See `services.notify.providers.Provider`.

    Raises:
        ValueError: `service_account` is not such a JSON document.
    """

    platform = Platform.FCM
    public_key = ""

    def __init__(self, service_account: str, *, clock: Clock, url: str = URL) -> None:
        try:
            self._account = msgspec.json.decode(service_account.encode(), type=ServiceAccount)
        except msgspec.DecodeError as error:
            raise ValueError(f"no service account: {error}") from None
        try:
            serialization.load_pem_private_key(self._account.private_key.encode(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise ValueError("no service account: its private key cannot be read") from None
        self._clock = clock
        self._send_url = f"{url}/v1/projects/{self._account.project_id}/messages:send"
        self._session: aiohttp.ClientSession | None = None
        self._token: _Token | None = None
        self._asking = asyncio.Lock()

    def target_of(self, device: Device) -> str:
        return "fcm"

    async def start(self) -> None:
        connector = aiohttp.TCPConnector(limit=_MAX_CONNECTIONS)
        self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def push(self, device: Device, note: Note) -> Outcome:
        if self._session is None or not isinstance(device.address, FcmAddress):
            raise RuntimeError("not started, or not an FCM device")
        try:
            token = await self._get_token(self._session)
            async with self._session.post(
                self._send_url,
                data=orjson.dumps({"message": message_of(device.address.token, note)}),
                headers={"Authorization": f"Bearer {token.text}", "Content-Type": "application/json"},
                allow_redirects=False,
            ) as response:
                body = await response.content.read(_MAX_ANSWER_BYTES)
                if response.status == 401 and self._token is token:
                    self._token = None  # revoked before its time; the next try buys another
                return outcome_of(response.status, body, response.headers.get("Retry-After"))
        except _NoToken as refusal:
            return refusal.outcome
        except aiohttp.ClientError as error:
            return RetryLater(type(error).__name__)

    async def _get_token(self, session: aiohttp.ClientSession) -> _Token:
        """One asks, the others wait."""
        async with self._asking:
            if self._token is None or self._clock.monotonic() >= self._token.ends_s:
                self._token = await self._buy_token(session)
            return self._token

    async def _buy_token(self, session: aiohttp.ClientSession) -> _Token:
        now_s = self._clock.time_ms() // 1000
        assertion = jwt.encode(
            {
                "iss": self._account.client_email,
                "scope": _SCOPE,
                "aud": self._account.token_uri,
                "iat": now_s,
                "exp": now_s + _ASSERTION_LIFETIME_S,
            },
            self._account.private_key,
            algorithm="RS256",
            headers={"kid": self._account.private_key_id} if self._account.private_key_id else None,
        )
        form = {"grant_type": _GRANT, "assertion": assertion}
        async with session.post(self._account.token_uri, data=form, allow_redirects=False) as response:
            body = await response.content.read(_MAX_ANSWER_BYTES)
            if response.status != 200:
                # Also where the account is refused: an operator may give it back its rights, and no device is to blame.
                raise _NoToken(RetryLater(f"token {response.status}", retry_after(response.headers.get("Retry-After"))))
        try:
            answer = orjson.loads(body)
            lifetime = timedelta(seconds=int(answer["expires_in"]) - _SPARE_S)
            return _Token(str(answer["access_token"]), self._clock.monotonic() + lifetime.total_seconds())
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            raise _NoToken(RetryLater("token answer not understood")) from None


def message_of(token: str, note: Note) -> dict[str, Any]:
    """Data values are strings, as FCM demands."""
    same = collapse_id(note)
    message: dict[str, Any] = {
        "token": token,
        "data": {name: str(value) for name, value in payload(note).items()},
        "android": {
            "collapse_key": same,
            "priority": "HIGH" if isinstance(note, MessageNote) else "NORMAL",
            "ttl": f"{int(LIFETIME.total_seconds())}s",
        },
    }
    if isinstance(note, MessageNote):
        message["notification"] = {"title": note.message.sender_id, "body": note.message.preview}
        message["android"]["notification"] = {
            "tag": note.message.message_id,
            "notification_count": note.unread_count,
        }
    return message


def outcome_of(status: int, body: bytes, asked: str | None) -> Outcome:
    if 200 <= status < 300:
        return Delivered()
    code, names_token = _error_of(body)
    if status == 404 or code in ("UNREGISTERED", "SENDER_ID_MISMATCH") or (status == 400 and names_token):
        return Gone()
    if status == 429:
        return RetryLater("429", retry_after(asked), is_away=False)
    if status in (401, 408) or status >= 500:
        return RetryLater(str(status), retry_after(asked))
    return Refused(f"{status} {code}".strip())


def _error_of(body: bytes) -> tuple[str, bool]:
    """FCM's own code, and whether it says that the token is the wrong field."""
    code, names_token = "", False
    try:
        details = orjson.loads(body)["error"].get("details", [])
        for detail in details:
            code = str(detail.get("errorCode", code))
            for violation in detail.get("fieldViolations", []):
                names_token = names_token or violation.get("field") == "message.token"
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        pass
    return code[:40] if code.replace("_", "").isalpha() else "", names_token
