"""Apple Push Notification service: HTTP/2 with a provider token, over one connection that is made when it is needed.

On h2 rather than aioapns 4.0, which connects to Apple's hosts only, gives no Retry-After, waits for ever for an answer
without a body, and fails in its own callback when a push was cancelled. Up to `_MAX_STREAMS` pushes share the
connection; a connection that ends fails those under way (they are tried again) and the next push makes another.

Source: https://developer.apple.com/documentation/usernotifications (sending requests, handling responses).
"""

import asyncio
import contextlib
import ssl
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import jwt
import orjson
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError

from services.notify.model import ApnsAddress, Device, MessageNote, Note, Platform
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

URL: Final = "https://api.push.apple.com"
SANDBOX_URL: Final = "https://api.sandbox.push.apple.com"

# Apple refuses tokens older than an hour, and new ones more often than every 20 minutes.
_TOKEN_AGE_S: Final = 40 * 60
# Apple's limit at the beginning of a connection is 1,000; ours keeps what one lost connection fails small.
_MAX_STREAMS: Final = 100
_MAX_ANSWER_BYTES: Final = 8_192
_READ_BYTES: Final = 64 << 10
# Apple's limit for the payload is 4 KiB; a preview has at most 200 characters.
_GONE_REASONS: Final = frozenset({"BadDeviceToken", "Unregistered", "DeviceTokenNotForTopic", "ExpiredToken"})
# About the provider token: the next try makes a new one.
_TOKEN_REASONS: Final = frozenset({"ExpiredProviderToken", "InvalidProviderToken"})


class ConnectionEnded(OSError):
    """The connection ended while an answer was due."""


class Apns:
    """See `services.notify.providers.Provider`.

    Args:
        key: the PEM of the token signing key (.p8).
        topic: the app's bundle id.
        ssl_context: for tests that have a certificate authority of their own.

    Raises:
        ValueError: the key is no P-256 private key.
    """

    platform = Platform.APNS
    public_key = ""

    def __init__(
        self,
        key: str,
        *,
        key_id: str,
        team_id: str,
        topic: str,
        clock: Clock,
        url: str = URL,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        loaded = serialization.load_pem_private_key(key.encode(), password=None)
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise ValueError("expected a P-256 private key")
        self._key = loaded
        self._key_id = key_id
        self._team_id = team_id
        self._topic = topic
        self._clock = clock
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or 443
        self._ssl = ssl_context or ssl.create_default_context()
        self._ssl.set_alpn_protocols(["h2"])
        self._connection: _Connection | None = None
        self._retired: list[_Connection] = []
        self._connecting = asyncio.Lock()
        self._streams = asyncio.Semaphore(_MAX_STREAMS)
        self._token: tuple[str, float] | None = None

    def target_of(self, device: Device) -> str:
        return "apns"

    async def start(self) -> None:
        """Connects at the first push."""

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        for each in (*self._retired, *([connection] if connection is not None else [])):
            await each.close()
        self._retired.clear()

    async def push(self, device: Device, note: Note) -> Outcome:
        if not isinstance(device.address, ApnsAddress):
            raise TypeError("expected an APNs device")
        async with self._streams:
            connection = await self._get_connection()
            headers = self._headers(device.address.token, note)
            answer = await connection.request(headers, orjson.dumps(payload_of(note)))
        outcome = outcome_of(answer)
        if answer.reason in _TOKEN_REASONS:
            self._token = None
        return outcome

    async def _get_connection(self) -> "_Connection":
        """One connects, the others wait."""
        async with self._connecting:
            if self._connection is None or not self._connection.is_usable:
                old, self._connection = self._connection, None
                if old is not None:
                    old.retire()
                    self._retired = [each for each in (*self._retired, old) if not each.has_ended]
                self._connection = await _Connection.open(self._host, self._port, self._ssl)
            return self._connection

    def _headers(self, token: str, note: Note) -> list[tuple[str, str]]:
        is_shown = isinstance(note, MessageNote)
        expires_s = self._clock.time_ms() // 1000 + int(LIFETIME.total_seconds())
        return [
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", self._host if self._port == 443 else f"{self._host}:{self._port}"),
            (":path", f"/3/device/{token}"),
            ("authorization", f"bearer {self._provider_token()}"),
            ("apns-topic", self._topic),
            ("apns-push-type", "alert" if is_shown else "background"),
            ("apns-priority", "10" if is_shown else "5"),
            ("apns-expiration", str(expires_s)),
            ("apns-collapse-id", collapse_id(note)),
            ("content-type", "application/json"),
        ]

    def _provider_token(self) -> str:
        now_s = self._clock.monotonic()
        if self._token is None or now_s - self._token[1] > _TOKEN_AGE_S:
            claims = {"iss": self._team_id, "iat": self._clock.time_ms() // 1000}
            text = jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self._key_id})
            self._token = (text, now_s)
        return self._token[0]


@dataclass(slots=True)
class Answer:
    """One response, as far as it has come."""

    status: int = 0
    asked: str | None = None
    body: bytearray = field(default_factory=bytearray)

    @property
    def reason(self) -> str:
        try:
            found = orjson.loads(bytes(self.body)).get("reason", "")
        except (orjson.JSONDecodeError, AttributeError):
            return ""
        return found[:40] if isinstance(found, str) and found.isalnum() else ""


def outcome_of(answer: Answer) -> Outcome:
    status, reason = answer.status, answer.reason
    if status == 200:
        return Delivered()
    if status == 410 or reason in _GONE_REASONS:
        return Gone()
    if status == 429:
        return RetryLater("429", retry_after(answer.asked), is_away=False)
    if reason in _TOKEN_REASONS or status >= 500:
        return RetryLater(f"{status} {reason}".strip(), retry_after(answer.asked))
    return Refused(f"{status} {reason}".strip())


def payload_of(note: Note) -> dict[str, Any]:
    """`aps` is Apple's, the rest is ours."""
    aps: dict[str, Any] = {"badge": note.unread_count}
    if isinstance(note, MessageNote):
        aps["alert"] = {"title": note.message.sender_id, "body": note.message.preview}
        aps["thread-id"] = note.message.conversation_id
        aps["sound"] = "default"
    else:
        aps["content-available"] = 1
    return {"aps": aps, "parley": payload(note)}


class _Connection:
    """One HTTP/2 connection and the task that reads it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._answers: dict[int, tuple[Answer, asyncio.Future[Answer]]] = {}
        self._is_leaving = False
        self._window = asyncio.Event()
        self._h2.initiate_connection()
        self._flush()
        self._reading = asyncio.get_running_loop().create_task(self._read(), name="apns")

    @classmethod
    async def open(cls, host: str, port: int, context: ssl.SSLContext) -> "_Connection":
        reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
        return cls(reader, writer)

    @property
    def is_usable(self) -> bool:
        return not (self._is_leaving or self._reading.done())

    @property
    def has_ended(self) -> bool:
        return self._reading.done()

    async def request(self, headers: list[tuple[str, str]], body: bytes) -> Answer:
        """
        Raises:
            ConnectionEnded: before the answer was there. Whether the push was taken is not known.
        """
        # The connection's window; a stream's own begins with 64 KiB, and a payload has 4 KiB at most.
        while self.is_usable and self._h2.outbound_flow_control_window < len(body):
            self._window.clear()
            await self._window.wait()
        try:
            stream_id = self._h2.get_next_available_stream_id()
            self._h2.send_headers(stream_id, headers)
            self._h2.send_data(stream_id, body, end_stream=True)
        except ProtocolError as error:  # it is closed, or has used all its streams
            self.retire()
            raise ConnectionEnded("no more streams") from error
        due: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._answers[stream_id] = (Answer(), due)
        try:
            self._flush()
            return await due
        except asyncio.CancelledError:
            with contextlib.suppress(ProtocolError):
                self._h2.reset_stream(stream_id)
                self._flush()
            # An answer that is late once is the first sign of a connection that is dead without a word.
            self.retire()
            raise
        finally:
            self._answers.pop(stream_id, None)

    def retire(self) -> None:
        """Takes no more requests; ends when those under way have ended."""
        self._is_leaving = True
        if len(self._answers) <= 1:
            self._reading.cancel()

    async def close(self) -> None:
        self._reading.cancel()
        await asyncio.wait((self._reading,))

    def _flush(self) -> None:
        if data := self._h2.data_to_send():
            self._writer.write(data)

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(_READ_BYTES):
                for event in self._h2.receive_data(data):
                    self._take(event)
                self._flush()
                if self._is_leaving and not self._answers:
                    break
        except (OSError, ProtocolError):
            pass  # told to whoever waits
        finally:
            self._is_leaving = True
            self._window.set()
            for _, due in self._answers.values():
                if not due.done():
                    due.set_exception(ConnectionEnded("the connection ended"))
            self._writer.close()

    def _take(self, event: object) -> None:
        match event:
            case WindowUpdated() | RemoteSettingsChanged():
                self._window.set()
            case ConnectionTerminated():
                self._is_leaving = True
            case ResponseReceived(stream_id=int(stream_id), headers=headers):
                if stream_id in self._answers:
                    found = {str(name): str(value) for name, value in headers or ()}
                    answer = self._answers[stream_id][0]
                    answer.status = int(found.get(":status", "0"))
                    answer.asked = found.get("retry-after")
            case DataReceived(stream_id=int(stream_id), data=data, flow_controlled_length=length):
                if length:
                    self._h2.acknowledge_received_data(length, stream_id)
                if stream_id in self._answers and len(self._answers[stream_id][0].body) < _MAX_ANSWER_BYTES:
                    self._answers[stream_id][0].body.extend(data or b"")
            case StreamEnded(stream_id=int(stream_id)):
                self._settle(stream_id, None)
            case StreamReset(stream_id=int(stream_id)):
                self._settle(stream_id, ConnectionEnded("the stream was reset"))

    def _settle(self, stream_id: int, error: ConnectionEnded | None) -> None:
        if stream_id not in self._answers:
            return
        answer, due = self._answers[stream_id]
        if due.done():
            return
        if error is None:
            due.set_result(answer)
        else:
            due.set_exception(error)
