"""The settings of the notify service, read from `PARLEY_NOTIFY_*` once at start."""

from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from services.runtime.config import Settings


class NotifySettings(Settings):
    model_config = SettingsConfigDict(env_prefix="PARLEY_NOTIFY_")

    listen: str = Field(default="127.0.0.1:8092", description="host:port of the gRPC server; port 0: any free one")
    queue_url: str = Field(
        default="memory://notify",
        description="where jobs come from: amqp://…, amqps://… or memory://name (one process only)",
    )
    queue_prefix: str = Field(
        default="parley.notify.",
        min_length=1,
        max_length=100,
        description="what the name of every queue and exchange begins with; publishers need the same",
    )
    store_url: str = Field(
        default="sqlite:///.local/data/notify.db",
        description="where devices and the keys of pushes last: mongodb://… (a replica set) or sqlite:///path",
    )
    presence_targets: tuple[str, ...] = Field(
        default=(), description="host:port of the presence replicas; empty: nobody knows who is online"
    )
    grace_s: float = Field(
        default=2.0, gt=0, le=60, description="how long a message may be seen before it is pushed to devices"
    )
    prefetch: int = Field(default=64, ge=1, le=1_000, description="jobs under way at the same time")
    retry_delays_s: tuple[float, ...] = Field(
        default=(1.0, 2.0, 4.0, 8.0),
        min_length=1,
        description="the pause after each failed try, ascending; after one more try the job is a dead letter",
    )
    push_timeout_s: float = Field(default=4.0, gt=0, le=30, description="how long one push may take")
    max_devices: int = Field(
        default=20, ge=1, le=100, description="devices of one user; beyond it his oldest is dropped"
    )

    vapid_private_key: SecretStr = Field(
        default=SecretStr(""),
        description="the key of Web Push: a P-256 key as PEM, or its 32 bytes in base64url; empty: no Web Push",
    )
    vapid_subject: str = Field(
        default="", description="whom push services may write to: mailto:… or https://…; required with the key"
    )
    webpush_private_endpoints: bool = Field(
        default=False,
        description="for tests and closed networks: allow endpoints without TLS and at private addresses",
    )
    fcm_service_account: SecretStr = Field(
        default=SecretStr(""), description="the JSON of a service account that may send by FCM; empty: no FCM"
    )
    fcm_url: str = Field(default="https://fcm.googleapis.com", description="where FCM is")
    apns_key: SecretStr = Field(
        default=SecretStr(""), description="the PEM (.p8) of an APNs signing key; empty: no APNs"
    )
    apns_key_id: str = Field(default="", description="the id of that key; required with it")
    apns_team_id: str = Field(default="", description="the developer team's id; required with the key")
    apns_topic: str = Field(default="", description="the bundle id of the app; required with the key")
    apns_url: str = Field(
        default="https://api.push.apple.com",
        description="where APNs is; https://api.sandbox.push.apple.com for development builds",
    )
    apns_ca_file: str = Field(
        default="", description="for tests: a PEM of the certificate authorities to believe instead of the system's"
    )

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if self.vapid_private_key.get_secret_value() and not self.vapid_subject.startswith(("mailto:", "https://")):
            raise ValueError("VAPID_SUBJECT has to be mailto:… or https://… where there is a VAPID_PRIVATE_KEY")
        if self.apns_key.get_secret_value() and not (self.apns_key_id and self.apns_team_id and self.apns_topic):
            raise ValueError("APNS_KEY needs APNS_KEY_ID, APNS_TEAM_ID and APNS_TOPIC")
        if list(self.retry_delays_s) != sorted(self.retry_delays_s) or self.retry_delays_s[0] <= 0:
            raise ValueError("RETRY_DELAYS_S have to be ascending and more than 0")
        return self
