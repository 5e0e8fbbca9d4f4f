"""The settings of the presence service, read from `PARLEY_PRESENCE_*` once at start.

All replicas of one installation need the same ones.
"""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.runtime.config import Settings


class PresenceSettings(Settings):
    model_config = SettingsConfigDict(env_prefix="PARLEY_PRESENCE_")

    listen: str = Field(default="127.0.0.1:8091", description="host:port of the gRPC server; port 0: any free one")
    store_url: str = Field(
        default="memory://presence",
        description="where leases are held: redis://…, rediss://… or memory://name (one process only)",
    )
    key_prefix: str = Field(
        default="parley:presence:",
        description="what every key and channel in Redis begins with; installations that share one need their own",
    )
    lease_ttl_s: float = Field(
        default=15.0,
        gt=0,
        description="an edge that has not renewed for this long is dead; edges renew three times in it",
    )
    grace_s: float = Field(
        default=5.0, ge=0, description="how long a user without a session is still shown: long enough to reconnect"
    )
    settle_s: float = Field(
        default=15.0,
        ge=0,
        description="after the store lost its data, or no replica ran for a while: how long nobody is called offline; "
        "not under lease_ttl_s, unless edges and presence start and end together",
    )
    tick_s: float = Field(
        default=0.5,
        gt=0,
        le=5,
        description="how often dead edges and ended graces are looked for, and the store probed",
    )
    coalesce_ms: int = Field(
        default=250, ge=0, description="the shortest time between two updates of one user to one watching edge"
    )
    activity_kept_s: float = Field(
        default=30 * 86_400.0, gt=0, description="how long a user's last activity is remembered"
    )
