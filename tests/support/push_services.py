"""Local push services that speak the wire format: what they accept they have really decrypted, verified or parsed."""

import asyncio
import base64
import ssl
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

import http_ece
import jwt
import orjson
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded

from services.notify.model import WebPushAddress


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def pem_of(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def point_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


@dataclass(frozen=True)
class Push:
    """One that was accepted. `device` is the token or the name of the receiver."""

    device: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class Answer:
    """Instead of accepting."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class PushService:
    """What the three have in common: pushes that came, answers planned, and a gate that holds answers back."""

    def __init__(self) -> None:
        self.accepted: list[Push] = []
        self.asked = 0
        self.answers: deque[Answer] = deque()
        self.gate = asyncio.Event()
        self.gate.set()
        self.problems: list[str] = []

    def accepted_by(self, device: str) -> list[Push]:
        return [push for push in self.accepted if push.device == device]


class HttpService(PushService):
    """A push service behind aiohttp on a free port."""

    def __init__(self) -> None:
        super().__init__()
        self._runner: web.AppRunner | None = None
        self.url = ""

    def routes(self) -> list[web.RouteDef]:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.add_routes(self.routes())
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()
        assert not self.problems, self.problems

    async def _settle(self) -> web.Response | None:
        self.asked += 1
        answer = self.answers.popleft() if self.answers else None
        await self.gate.wait()
        if answer is None:
            return None
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)


class WebPushService(HttpService):
    """Push service and browser in one: receivers have keys, and read what they get."""

    def __init__(self, application_key: ec.EllipticCurvePrivateKey) -> None:
        super().__init__()
        self._application_key = application_key
        self._receivers: dict[str, tuple[ec.EllipticCurvePrivateKey, bytes]] = {}
        self.tokens: list[str] = []

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/push/{name}", self._push)]

    def subscribe(self, name: str) -> WebPushAddress:
        key, secret = ec.generate_private_key(ec.SECP256R1()), name.encode().ljust(16, b"-")[:16]
        self._receivers[name] = (key, secret)
        return WebPushAddress(f"{self.url}/push/{name}", encoded(point_of(key)), encoded(secret))

    async def _push(self, request: web.Request) -> web.Response:
        body = await request.read()
        planned = await self._settle()
        if planned is not None:
            return planned
        name = request.match_info["name"]
        if name not in self._receivers:
            return web.Response(status=410)
        key, secret = self._receivers[name]
        try:
            self._verify(request)
            plain = http_ece.decrypt(body, private_key=key, auth_secret=secret, version="aes128gcm")
        except Exception as error:
            self.problems.append(f"{type(error).__name__}: {error}")
            return web.Response(status=400)
        self.accepted.append(Push(name, dict(request.headers), orjson.loads(plain)))
        return web.Response(status=201)

    def _verify(self, request: web.Request) -> None:
        """RFC 8292: the scheme, the key that was subscribed with, and a token for this origin."""
        scheme, _, rest = request.headers["Authorization"].partition(" ")
        fields = dict(part.strip().split("=", 1) for part in rest.split(","))
        assert scheme == "vapid", scheme
        assert decoded(fields["k"]) == point_of(self._application_key)
        claims = jwt.decode(
            fields["t"],
            self._application_key.public_key(),
            algorithms=["ES256"],
            audience=self.url,
            options={"require": ["exp", "aud", "sub"]},
        )
        assert claims["exp"] - datetime.now(UTC).timestamp() <= 86_400
        assert request.headers["Content-Encoding"] == "aes128gcm"
        self.tokens.append(fields["t"])


class FcmService(HttpService):
    """FCM HTTP v1 and the token endpoint."""

    def __init__(self) -> None:
        super().__init__()
        self._key = rsa.generate_private_key(65_537, 2_048)
        self.token_requests = 0
        self.valid_token = "access-1"

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/token", self._token), web.post("/v1/projects/parley-test/messages:send", self._send)]

    def service_account(self) -> str:
        return orjson.dumps(
            {
                "type": "service_account",
                "project_id": "parley-test",
                "client_email": "notify@parley-test.example",
                "private_key": pem_of(self._key),
                "private_key_id": "key-1",
                "token_uri": f"{self.url}/token",
            }
        ).decode()

    async def _token(self, request: web.Request) -> web.Response:
        form = await request.post()
        claims = jwt.decode(
            str(form["assertion"]),
            self._key.public_key(),
            algorithms=["RS256"],
            audience=f"{self.url}/token",
            options={"verify_iat": False},
        )
        assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
        assert claims["scope"] == "https://www.googleapis.com/auth/firebase.messaging"
        self.token_requests += 1
        self.valid_token = f"access-{self.token_requests}"
        return web.json_response({"access_token": self.valid_token, "expires_in": 3_599})

    async def _send(self, request: web.Request) -> web.Response:
        body = await request.json()
        planned = await self._settle()
        if planned is not None:
            return planned
        if request.headers["Authorization"] != f"Bearer {self.valid_token}":
            return web.Response(status=401)
        message = body["message"]
        if not all(isinstance(value, str) for value in message["data"].values()):
            return web.Response(status=400)
        self.accepted.append(Push(message["token"], dict(request.headers), message))
        return web.json_response({"name": "projects/parley-test/messages/1"})


class ApnsService(PushService):
    """APNs over HTTP/2 and TLS, with a certificate authority of its own."""

    def __init__(self, directory: Path, signing_key: ec.EllipticCurvePrivateKey) -> None:
        super().__init__()
        self._signing_key = signing_key
        self.ca_file, self._server_context = make_tls(directory)
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self.connections = 0
        self.window_delay_s = 0.01
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._server_context)
        self.url = f"https://localhost:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        if self._clients:
            await asyncio.wait(self._clients)
        assert not self.problems, self.problems

    def client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca_file))

    def cut(self) -> None:
        """Ends every connection there is."""
        for task in self._clients:
            task.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        self.connections += 1
        h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        h2.initiate_connection()
        writer.write(h2.data_to_send())
        requests: dict[int, tuple[dict[str, str], bytearray]] = {}
        answering: set[asyncio.Task[None]] = set()
        try:
            while data := await reader.read(65_536):
                for event in h2.receive_data(data):
                    match event:
                        case RequestReceived(stream_id=int(stream), headers=headers):
                            requests[stream] = ({str(k): str(v) for k, v in headers or ()}, bytearray())
                        case DataReceived(stream_id=int(stream), data=part):
                            requests[stream][1].extend(part or b"")
                            self._acknowledge(h2, writer, len(part or b""))
                        case StreamEnded(stream_id=int(stream)):
                            work = asyncio.create_task(self._answer(h2, writer, stream, *requests.pop(stream)))
                            answering.add(work)
                            work.add_done_callback(answering.discard)
                writer.write(h2.data_to_send())
        except (asyncio.CancelledError, OSError):
            pass
        finally:
            for work in answering:
                work.cancel()
            writer.transport.abort()
            self._clients.discard(task)

    def _acknowledge(self, h2: H2Connection, writer: asyncio.StreamWriter, size: int) -> None:
        """Opens the connection's window again, late."""

        def acknowledge() -> None:
            h2.increment_flow_control_window(size)
            writer.write(h2.data_to_send())

        asyncio.get_running_loop().call_later(self.window_delay_s, acknowledge)

    async def _answer(
        self, h2: H2Connection, writer: asyncio.StreamWriter, stream: int, headers: dict[str, str], body: bytearray
    ) -> None:
        self.asked += 1
        answer = self.answers.popleft() if self.answers else None
        await self.gate.wait()
        if answer is None:
            answer = self._judge(headers, bytes(body))
        h2.send_headers(stream, [(":status", str(answer.status)), *answer.headers.items()], end_stream=not answer.body)
        if answer.body:
            h2.send_data(stream, answer.body, end_stream=True)
        writer.write(h2.data_to_send())

    def _judge(self, headers: dict[str, str], body: bytes) -> Answer:
        try:
            token = headers["authorization"].removeprefix("bearer ")
            assert jwt.get_unverified_header(token)["kid"] == "KEY1234567"
            claims = jwt.decode(token, self._signing_key.public_key(), algorithms=["ES256"])
            assert claims["iss"] == "TEAM123456"
            assert headers["apns-topic"] == "org.example.parley"
            assert int(headers["apns-expiration"]) > datetime.now(UTC).timestamp()
        except Exception as error:
            self.problems.append(f"{type(error).__name__}: {error}")
            return Answer(403, body=b'{"reason":"InvalidProviderToken"}')
        self.accepted.append(Push(headers[":path"].removeprefix("/3/device/"), headers, orjson.loads(body)))
        return Answer(200, {"apns-id": "1"})


def make_tls(directory: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate authority's PEM file, and a server context with a certificate of it for localhost."""
    now = datetime.now(UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Parley test authority")])

    def builder(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
        )

    ca = builder(ca_name, ca_key.public_key()).add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
    leaf_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    leaf = builder(leaf_name, key.public_key()).add_extension(names, False)
    ca_file, chain = directory / "ca.pem", directory / "server.pem"
    ca_file.write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    chain.write_bytes(
        leaf.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM) + pem_of(key).encode()
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    context.set_alpn_protocols(["h2"])
    return ca_file, context
