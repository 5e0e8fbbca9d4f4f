"""The settings of the chat service, read from `PARLEY_CHAT_*` once at start."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.runtime.config import Settings


class ChatSettings(Settings):
    model_config = SettingsConfigDict(env_prefix="PARLEY_CHAT_")

    listen: str = Field(default="127.0.0.1:8090", description="host:port of the gRPC server; port 0: any free one")
    store_url: str = Field(
        default="sqlite:///.local/data/chat.db",
        description="where messages last: mongodb://… (a replica set) or sqlite:///path",
    )
    bus_url: str = Field(
        default="memory://chat",
        description="hints between replicas: redis://…, rediss://… or memory://name (one process only)",
    )
    last_read_url: str = Field(
        default="memory://chat",
        description="where it is remembered how far members have read: redis://…, rediss://… or memory://name (this "
        "replica only)",
    )
    queue_url: str = Field(
        default="memory://notify",
        description="where jobs for notify go: amqp://…, amqps://… or memory://name (one process only)",
    )
    queue_prefix: str = Field(
        default="parley.notify.",
        min_length=1,
        max_length=100,
        description="what the name of notify's exchange begins with: the same as PARLEY_NOTIFY_QUEUE_PREFIX",
    )
    presence_targets: tuple[str, ...] = Field(
        default=(), description="host:port of the presence replicas, which are told who writes; empty: nobody is"
    )
    max_members: int = Field(default=1_000, ge=2, le=1_000, description="members of one group")
