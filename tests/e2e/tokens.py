"""Tokens that the development endpoint would never give out: real ones, changed, and signed again or not."""

import base64
import hashlib
import hmac
import json
from typing import Any

import jwt

from tests.e2e.api import User
from tests.e2e.deployments import Deployment


def changed(deployment: Deployment, user: User, **claims: Any) -> str:
    """The user's token with other claims (None removes one), signed with the key of the deployment."""
    header, payload = read(user.token)
    payload = {name: value for name, value in (payload | claims).items() if value is not None}
    return jwt.encode(payload, deployment.dev_key, algorithm=header["alg"], headers=_without_algorithm(header))


def unsigned(user: User) -> str:
    """`alg: none`, and an empty signature."""
    _, payload = read(user.token)
    return f"{_part({'alg': 'none', 'typ': 'JWT'})}.{_part(payload)}."


def signed_by(key: bytes, user: User) -> str:
    """The user's claims under somebody else's key."""
    header, payload = read(user.token)
    return jwt.encode(payload, key, algorithm=header["alg"], headers=_without_algorithm(header))


def signed_with_shared_secret(secret: bytes, user: User) -> str:
    """HS256 over the bytes of the public key, written by hand: libraries refuse to make such a thing."""
    _, payload = read(user.token)
    signed = f"{_part({'alg': 'HS256', 'typ': 'JWT'})}.{_part(payload)}"
    digest = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def with_broken_signature(user: User) -> str:
    head, _, signature = user.token.rpartition(".")
    return f"{head}.{'A' * len(signature)}"


def read(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims, unverified."""
    return jwt.get_unverified_header(token), jwt.decode(token, options={"verify_signature": False})


def _without_algorithm(header: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in header.items() if name != "alg"}


def _part(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
