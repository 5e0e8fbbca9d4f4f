"""From settings to parts: credentials that are none stop the process, and are not shown."""

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from services.notify.app import open_providers, queue_options
from services.notify.config import NotifySettings
from services.notify.model import Platform
from services.notify.queue import open_queue
from services.runtime.clock import SystemClock
from services.runtime.config import ConfigError, load
from tests.support.push_services import pem_of

EC_PEM = pem_of(ec.generate_private_key(ec.SECP256R1()))
ACCOUNT = {
    "project_id": "p",
    "client_email": "e",
    "private_key": pem_of(rsa.generate_private_key(65_537, 2_048)),
    "token_uri": "https://oauth2.googleapis.com/token",
}
APNS = {"PARLEY_NOTIFY_APNS_KEY_ID": "k", "PARLEY_NOTIFY_APNS_TEAM_ID": "t", "PARLEY_NOTIFY_APNS_TOPIC": "o"}


def settings(**environ: str) -> NotifySettings:
    return load(NotifySettings, environ=environ)


def test_without_credentials_no_platform_is_on() -> None:
    assert open_providers(settings(), SystemClock()) == []


def test_each_credential_turns_its_platform_on() -> None:
    given = settings(
        PARLEY_NOTIFY_VAPID_PRIVATE_KEY=EC_PEM,
        PARLEY_NOTIFY_VAPID_SUBJECT="mailto:ops@example.org",
        PARLEY_NOTIFY_FCM_SERVICE_ACCOUNT=orjson.dumps(ACCOUNT).decode(),
        PARLEY_NOTIFY_APNS_KEY=EC_PEM,
        **APNS,
    )
    assert [provider.platform for provider in open_providers(given, SystemClock())] == list(Platform)


@pytest.mark.parametrize(
    ("name", "value", "more"),
    [
        ("PARLEY_NOTIFY_VAPID_PRIVATE_KEY", "secret-thing", {"PARLEY_NOTIFY_VAPID_SUBJECT": "mailto:a@b.c"}),
        ("PARLEY_NOTIFY_FCM_SERVICE_ACCOUNT", "secret-thing", {}),
        (
            "PARLEY_NOTIFY_FCM_SERVICE_ACCOUNT",
            orjson.dumps(ACCOUNT | {"private_key": "secret-thing"}).decode(),
            {},
        ),
        ("PARLEY_NOTIFY_APNS_KEY", "secret-thing", APNS),
        ("PARLEY_NOTIFY_APNS_KEY", pem_of(rsa.generate_private_key(65_537, 2_048)), APNS),
    ],
)
def test_a_credential_that_is_none_is_named_and_not_shown(name: str, value: str, more: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as refusal:
        open_providers(settings(**{name: value}, **more), SystemClock())
    assert name in str(refusal.value)
    assert "secret-thing" not in str(refusal.value)


@pytest.mark.parametrize(
    "environ",
    [
        {"PARLEY_NOTIFY_APNS_KEY": EC_PEM},
        {"PARLEY_NOTIFY_VAPID_PRIVATE_KEY": EC_PEM},
        {"PARLEY_NOTIFY_RETRY_DELAYS_S": "2,1"},
        {"PARLEY_NOTIFY_RETRY_DELAYS_S": ""},
        {"PARLEY_NOTIFY_GRACE_S": "0"},
    ],
)
def test_settings_that_do_not_belong_together_are_refused(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        settings(**environ)


def test_the_queue_knows_the_grace_and_every_retry() -> None:
    options = queue_options(settings(PARLEY_NOTIFY_GRACE_S="3", PARLEY_NOTIFY_RETRY_DELAYS_S="1,5"))
    assert {1.0, 3.0, 5.0} <= {level.total_seconds() for level in options.levels()}
    assert options.max_tries == 3


def test_an_unknown_kind_of_queue_is_refused_without_showing_the_url() -> None:
    with pytest.raises(ValueError, match="expected amqp") as refusal:
        open_queue("kafka://user:password@host")
    assert "password" not in str(refusal.value)
