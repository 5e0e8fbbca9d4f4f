"""Whom a token names, and everything that is no proof of that."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from pydantic import SecretStr

from edge.auth import DEV_ISSUER, DevTokens, TokenVerifier, bearer, check_identity_settings
from edge.config import EdgeSettings
from edge.errors import BadToken
from services.runtime.config import ConfigError
from tests.support.clock import ManualClock

NOW_S = 1_700_000_000

_PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

ED25519 = ed25519.Ed25519PrivateKey.generate()
OTHER_ED25519 = ed25519.Ed25519PrivateKey.generate()
P256 = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)


def public_pem(key: _PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def private_pem(key: _PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def settings(key: _PrivateKey | None = ED25519, **others: Any) -> EdgeSettings:
    return EdgeSettings(jwt_key=SecretStr(public_pem(key) if key else ""), **others)


def claims(**changes: object) -> dict[str, Any]:
    """Good ones, but for the changes; None takes a claim away."""
    every = {"sub": "alice", "exp": NOW_S + 60, **changes}
    return {name: value for name, value in every.items() if value is not None}


def signed(
    payload: Mapping[str, Any] | None = None,
    key: _PrivateKey = ED25519,
    algorithm: str = "EdDSA",
    headers: dict[str, Any] | None = None,
) -> str:
    return jwt.encode(dict(payload or claims()), key, algorithm=algorithm, headers=headers)


def segment(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def signed_bytes(payload: bytes, key: ed25519.Ed25519PrivateKey = ED25519, header: object = None) -> str:
    """A token over bytes that no library would sign."""
    signing = f"{segment(header or {'alg': 'EdDSA'})}.{segment(payload)}"
    return f"{signing}.{segment(key.sign(signing.encode()))}"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(time_ms=NOW_S * 1000)


@pytest.fixture
def verifier(clock: ManualClock) -> TokenVerifier:
    return TokenVerifier(settings(), clock)


def refusal(verifier: TokenVerifier, token: str) -> str:
    """Why it is refused; never with anything of the token in it, nor in what led to it."""
    with pytest.raises(BadToken) as caught:
        verifier.verify(token)
    text = str(caught.value)
    for part in token.split("."):
        assert len(part) < 8 or part not in text
    assert "alice" not in text
    return text


# ---- What is accepted.


@pytest.mark.parametrize(
    ("key", "algorithm"), [(ED25519, "EdDSA"), (P256, "ES256"), (RSA, "RS256")], ids=["EdDSA", "ES256", "RS256"]
)
def test_a_token_of_the_operators_key_names_its_user_until_its_exp(
    clock: ManualClock, key: _PrivateKey, algorithm: str
) -> None:
    identity = TokenVerifier(settings(key), clock).verify(signed(key=key, algorithm=algorithm))
    assert identity.user_id == "alice"
    assert identity.expires_at_s == NOW_S + 60


@pytest.mark.parametrize("sub", ["a", "A-Z_a.z@0", "x" * 64])
def test_every_user_id_of_the_contract_is_accepted(verifier: TokenVerifier, sub: str) -> None:
    assert verifier.verify(signed(claims(sub=sub))).user_id == sub


def test_a_clock_that_is_a_little_ahead_or_behind_is_forgiven(clock: ManualClock) -> None:
    verifier = TokenVerifier(settings(jwt_leeway_s=5), clock)
    assert verifier.verify(signed(claims(exp=NOW_S - 4))).expires_at_s == NOW_S - 4
    assert verifier.verify(signed(claims(nbf=NOW_S + 5)))
    assert "expired" in refusal(verifier, signed(claims(exp=NOW_S - 5)))
    assert "nbf" in refusal(verifier, signed(claims(nbf=NOW_S + 6)))


def test_audience_and_issuer_are_looked_at_where_they_are_set(clock: ManualClock) -> None:
    verifier = TokenVerifier(settings(jwt_audience="chat", jwt_issuer="https://id"), clock)
    assert verifier.verify(signed(claims(aud=["mail", "chat"], iss="https://id")))
    assert verifier.verify(signed(claims(aud="chat", iss="https://id")))
    assert "(aud)" in refusal(verifier, signed(claims(aud="chats", iss="https://id")))
    assert "(aud)" in refusal(verifier, signed(claims(iss="https://id")))
    assert "(aud)" in refusal(verifier, signed(claims(aud=[], iss="https://id")))
    assert "(iss)" in refusal(verifier, signed(claims(aud="chat", iss="https://id/")))
    assert "(iss)" in refusal(verifier, signed(claims(aud="chat")))


def test_a_time_beyond_every_calendar_becomes_the_last_one(verifier: TokenVerifier) -> None:
    assert verifier.verify(signed(claims(exp=10**30))).expires_at_s == 253_402_300_799


# ---- What is refused.


@pytest.mark.parametrize(
    "payload",
    [
        claims(exp=None),
        claims(exp="1800000000"),
        claims(exp=True),
        claims(exp=[NOW_S + 60]),
        claims(sub=None),
        claims(sub=7),
        claims(sub=["alice"]),
        claims(nbf="soon"),
        claims(aud={"$gt": ""}),
        claims(iss=["parley"]),
    ],
    ids=repr,
)
def test_claims_of_other_kinds_are_refused(verifier: TokenVerifier, payload: Mapping[str, Any]) -> None:
    # Signed as bytes: PyJWT would not sign some of these.
    assert "its claims" in refusal(verifier, signed_bytes(json.dumps(payload).encode()))


@pytest.mark.parametrize("sub", ["", "x" * 65, "alice\n", "alice bob", "älice", "a/b", "a:b", "\u0000", "*"])
def test_a_subject_that_is_no_user_id_is_refused(verifier: TokenVerifier, sub: str) -> None:
    assert "(sub)" in refusal(verifier, signed(claims(sub=sub)))


@pytest.mark.parametrize(
    "payload",
    [b'{"sub":"alice","exp":NaN}', b'{"sub":"alice","exp":Infinity}', b"[]", b"null", b"", b"\xff", b"[" * 2_000],
    ids=["NaN", "Infinity", "array", "null", "empty", "not UTF-8", "deep"],
)
def test_a_signed_payload_that_is_not_a_claims_object_is_refused(verifier: TokenVerifier, payload: bytes) -> None:
    assert refusal(verifier, signed_bytes(payload))


@pytest.mark.parametrize("exp", [NOW_S - 3600, 0, -1])
def test_an_expired_token_is_refused(verifier: TokenVerifier, exp: int) -> None:
    assert "expired" in refusal(verifier, signed(claims(exp=exp)))


def test_a_token_without_a_signature_is_refused_whatever_alg_it_names(verifier: TokenVerifier) -> None:
    for alg in ("none", "None", "NONE", "", None):
        unsigned = f"{segment({'alg': alg, 'typ': 'JWT'})}.{segment(claims())}."
        assert refusal(verifier, unsigned)
        assert refusal(verifier, unsigned + segment(b"x" * 64))


@pytest.mark.parametrize("key", [ED25519, P256, RSA], ids=["Ed25519", "P-256", "RSA"])
def test_hs256_with_the_public_key_as_its_secret_is_refused(clock: ManualClock, key: _PrivateKey) -> None:
    verifier = TokenVerifier(settings(key), clock)
    signing = f"{segment({'alg': 'HS256'})}.{segment(claims())}"
    algorithm = jwt.get_algorithm_by_name("HS256")
    signature = algorithm.sign(signing.encode(), public_pem(key).encode())
    assert "(alg)" in refusal(verifier, f"{signing}.{segment(signature)}")


def test_an_algorithm_that_fits_the_key_but_is_not_on_the_list_is_refused(clock: ManualClock) -> None:
    verifier = TokenVerifier(settings(RSA, jwt_algorithms=("RS256",)), clock)
    assert verifier.verify(signed(key=RSA, algorithm="RS256"))
    assert "(alg)" in refusal(verifier, signed(key=RSA, algorithm="PS256"))


def test_an_algorithm_on_the_list_that_does_not_fit_the_key_is_refused(clock: ManualClock) -> None:
    verifier = TokenVerifier(settings(ED25519, jwt_algorithms=("EdDSA", "ES256", "RS256")), clock)
    assert "(alg)" in refusal(verifier, signed(key=P256, algorithm="ES256"))
    assert "(alg)" in refusal(verifier, signed(key=RSA, algorithm="RS256"))


def test_another_key_and_a_changed_token_are_refused(verifier: TokenVerifier) -> None:
    assert "signature" in refusal(verifier, signed(key=OTHER_ED25519))
    header, _, signature = signed().split(".")
    assert "signature" in refusal(verifier, f"{header}.{segment(claims(sub='bob'))}.{signature}")


def test_a_key_that_the_token_brings_along_is_not_used(verifier: TokenVerifier) -> None:
    theirs = json.loads(jwt.get_algorithm_by_name("EdDSA").to_jwk(OTHER_ED25519.public_key()))
    for headers in ({"jwk": theirs}, {"jku": "https://evil.example/keys"}, {"x5u": "https://evil.example/cert"}):
        assert "signature" in refusal(verifier, signed(key=OTHER_ED25519, headers=headers))


@pytest.mark.parametrize(
    "kid", ["../../dev/null", "/dev/null", "keys/alice.pem", "file:///etc/passwd", "a\\b", "x' OR '1", "", "k" * 129]
)
def test_a_kid_that_could_be_a_path_is_refused_even_with_a_good_signature(verifier: TokenVerifier, kid: str) -> None:
    assert "(kid)" in refusal(verifier, signed(headers={"kid": kid}))


@pytest.mark.parametrize("kid", ["2026-11", "urn:key:1", "Zm9v+g=="])
def test_a_kid_that_is_a_name_does_no_harm(verifier: TokenVerifier, kid: str) -> None:
    assert verifier.verify(signed(headers={"kid": kid}))


@pytest.mark.parametrize("header", [{"alg": "EdDSA", "kid": 7}, {"alg": "EdDSA", "kid": ["a"]}, [], "EdDSA", None])
def test_a_header_of_another_kind_is_refused(verifier: TokenVerifier, header: object) -> None:
    signing = f"{segment(header)}.{segment(claims())}"
    assert refusal(verifier, f"{signing}.{segment(ED25519.sign(signing.encode()))}")


def test_extensions_that_must_be_understood_are_refused(verifier: TokenVerifier) -> None:
    payload = json.dumps(claims()).encode()
    assert refusal(verifier, signed_bytes(payload, header={"alg": "EdDSA", "crit": ["exp"], "exp": 1}))
    assert refusal(verifier, signed_bytes(payload, header={"alg": "EdDSA", "crit": ["b64"], "b64": False}))


@pytest.mark.parametrize(
    "token",
    ["", ".", "..", "...", "a.b", "a.b.c", "a.b.c.d", "ä.ö.ü", "a. b.c", "\n", "eyJ.eyJ.\udcff", "=.=.=", "[" * 900],
    ids=ascii,
)
def test_what_is_not_a_token_is_refused(verifier: TokenVerifier, token: str) -> None:
    assert refusal(verifier, token)


def test_padding_and_white_space_are_not_part_of_a_token(verifier: TokenVerifier) -> None:
    token = signed()
    for changed in (token + "=", token + "\n", " " + token, token.replace(".", "=.", 1)):
        assert refusal(verifier, changed)


def test_a_header_nested_ever_deeper_is_refused(verifier: TokenVerifier) -> None:
    for nested in (b"[" * 2_000, b'{"kid":' * 300, b'{"a":' + b"[" * 1_900):
        assert refusal(verifier, f"{segment(nested)}.{segment(claims())}.{segment(b'x' * 64)}")


def test_a_token_may_have_4_kib_and_no_more(verifier: TokenVerifier) -> None:
    tokens = [signed(claims(pad="x" * size)) for size in range(2_880, 2_960)]
    longest = max((token for token in tokens if len(token) <= 4_096), key=len)
    assert 4_090 <= len(longest) <= 4_096
    assert verifier.verify(longest)
    assert "4096" in refusal(verifier, signed(claims(pad="x" * 3_000)))


# ---- Tokens seen before.


def test_a_token_seen_before_is_refused_once_it_has_expired(verifier: TokenVerifier, clock: ManualClock) -> None:
    token = signed(claims(exp=NOW_S + 60))
    assert verifier.verify(token) is verifier.verify(token)
    clock.advance(64)
    assert verifier.verify(token).user_id == "alice"
    clock.advance(1)
    assert "expired" in refusal(verifier, token)


def test_a_refused_token_is_refused_again(verifier: TokenVerifier) -> None:
    forged = signed(key=OTHER_ED25519)
    assert refusal(verifier, forged) == refusal(verifier, forged)


def test_the_memory_for_tokens_is_bounded_and_holds_no_token(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.auth._MAX_REMEMBERED", 3)
    verifier = TokenVerifier(settings(), clock)
    tokens = [signed(claims(sub=f"user-{number}")) for number in range(5)]
    first = verifier.verify(tokens[0])
    for token in tokens[1:]:
        verifier.verify(token)
        assert verifier.verify(tokens[0]) is first  # in use, so not the one that is forgotten
    assert len(verifier._verified) == 3
    assert not any(token.encode() in digest for digest in verifier._verified for token in tokens)


# ---- Development tokens.


def dev(clock: ManualClock, **others: Any) -> tuple[DevTokens, TokenVerifier]:
    chosen = EdgeSettings(dev_tokens=True, **others)
    tokens = DevTokens(chosen, clock)
    return tokens, TokenVerifier(chosen, clock, tokens)


def test_a_development_token_names_whomever_it_was_asked_for(clock: ManualClock) -> None:
    tokens, verifier = dev(clock, dev_token_ttl_s=600)
    token, expires_at = tokens.issue("bob")
    assert verifier.verify(token).user_id == "bob"
    assert verifier.verify(token).expires_at_s == expires_at.timestamp() == NOW_S + 600


@pytest.mark.parametrize("user_id", ["", "a b", "x" * 65, "bob\n"])
def test_no_development_token_is_issued_for_what_is_no_user_id(clock: ManualClock, user_id: str) -> None:
    with pytest.raises(ValueError, match="not a user id"):
        dev(clock)[0].issue(user_id)


def test_two_edges_with_one_development_key_accept_each_others_tokens(clock: ManualClock) -> None:
    key = SecretStr(private_pem(OTHER_ED25519))
    tokens, _ = dev(clock, dev_key=key)
    _, verifier = dev(clock, dev_key=key)
    assert verifier.verify(tokens.issue("bob")[0]).user_id == "bob"
    _, stranger = dev(clock)
    assert "signature" in refusal(stranger, tokens.issue("bob")[0])


def test_development_tokens_are_nothing_to_an_edge_that_issues_none(
    clock: ManualClock, verifier: TokenVerifier
) -> None:
    assert refusal(verifier, dev(clock)[0].issue("bob")[0])


def test_without_an_operators_key_only_development_tokens_count(clock: ManualClock) -> None:
    _, verifier = dev(clock)
    assert "development" in refusal(verifier, signed())


def test_neither_issuer_can_speak_for_the_other(clock: ManualClock) -> None:
    pem = SecretStr(private_pem(OTHER_ED25519))
    tokens, verifier = dev(clock, dev_key=pem, jwt_key=SecretStr(public_pem(ED25519)), jwt_issuer="https://id")
    of_operator = claims(iss="https://id")
    of_dev = claims(iss=DEV_ISSUER)
    assert verifier.verify(signed(of_operator)).user_id == "alice"
    assert verifier.verify(tokens.issue("bob")[0]).user_id == "bob"
    # The development key, with everything else as the operator's tokens have it.
    assert "signature" in refusal(verifier, signed(of_operator, OTHER_ED25519))
    assert "(iss)" in refusal(verifier, signed(of_operator, OTHER_ED25519, headers={"kid": DEV_ISSUER}))
    # The operator's key, with everything else as development tokens have it.
    assert "signature" in refusal(verifier, signed(of_dev, headers={"kid": DEV_ISSUER}))
    assert "(iss)" in refusal(verifier, signed(of_dev))


def test_the_operators_tokens_may_not_say_that_they_are_for_development(verifier: TokenVerifier) -> None:
    assert "(iss)" in refusal(verifier, signed(claims(iss=DEV_ISSUER)))


# ---- The header.


@pytest.mark.parametrize("header", ["Bearer a.b.c", "bearer a.b.c", "BEARER   a.b.c"])
def test_the_scheme_is_bearer_in_any_case(header: str) -> None:
    assert bearer(header) == "a.b.c"


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "a.b.c", "Basic a.b.c", "Bearer a.b.c d", "Bearer ä"]
)
def test_other_authorization_headers_are_refused_without_being_repeated(header: str | None) -> None:
    with pytest.raises(BadToken) as caught:
        bearer(header)
    assert "a.b.c" not in str(caught.value)


# ---- Settings.


def problems(environment: str = "development", **others: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        check_identity_settings(EdgeSettings(**others), environment)
    text = "\n".join(caught.value.problems)
    assert "BEGIN" not in text
    return text


def test_an_edge_that_could_verify_nothing_does_not_start() -> None:
    assert "JWT_KEY: no token can be verified" in problems()


def test_development_tokens_are_refused_in_production_whatever_else_is_set() -> None:
    key = SecretStr(public_pem(ED25519))
    assert "DEV_TOKENS: expected false" in problems("production", dev_tokens=True, jwt_key=key)
    check_identity_settings(EdgeSettings(dev_tokens=True), "development")
    check_identity_settings(EdgeSettings(jwt_key=key), "production")


@pytest.mark.parametrize("name", ["none", "HS256", "HS512", "RS1", "eddsa"])
def test_an_algorithm_that_is_no_public_key_signature_stops_the_edge(name: str) -> None:
    key = SecretStr(public_pem(ED25519))
    assert "JWT_ALGORITHMS" in problems(jwt_key=key, jwt_algorithms=("EdDSA", name))


@pytest.mark.parametrize(
    ("pem", "said"),
    [
        ("secret", "the PEM of a public key"),
        (private_pem(ED25519), "the PEM of a public key"),
        (public_pem(rsa.generate_private_key(65537, 1024)), "at least 2048 bits"),
        (public_pem(ec.generate_private_key(ec.SECP521R1())), "ES512"),
        (public_pem(ec.generate_private_key(ec.SECP256K1())), "another curve"),
    ],
    ids=["no PEM", "private", "short RSA", "algorithm not listed", "unknown curve"],
)
def test_a_key_that_cannot_verify_stops_the_edge(pem: str, said: str) -> None:
    assert said in problems(jwt_key=SecretStr(pem))


@pytest.mark.parametrize("pem", ["secret", public_pem(ED25519), private_pem(P256)], ids=["no PEM", "public", "P-256"])
def test_a_development_key_that_cannot_sign_stops_the_edge(pem: str) -> None:
    assert "DEV_KEY: expected" in problems(dev_tokens=True, dev_key=SecretStr(pem))


def test_one_key_for_both_issuers_stops_the_edge() -> None:
    said = problems(dev_tokens=True, dev_key=SecretStr(private_pem(ED25519)), jwt_key=SecretStr(public_pem(ED25519)))
    assert "DEV_KEY: expected another key" in said
