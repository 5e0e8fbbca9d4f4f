"""The settings of the edge, read from `PARLEY_EDGE_*` once at start."""

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from services.runtime.config import Settings


class EdgeSettings(Settings):
    model_config = SettingsConfigDict(env_prefix="PARLEY_EDGE_")

    listen: str = Field(default="127.0.0.1:8080", description="host:port of the public port; port 0: any free one")
    chat_targets: tuple[str, ...] = Field(
        default=("127.0.0.1:8090",),
        description="host:port of the chat replicas; a name with several addresses (a headless service) is all of them",
    )
    presence_targets: tuple[str, ...] = Field(default=(), description="host:port of the presence replicas")
    notify_targets: tuple[str, ...] = Field(default=(), description="host:port of the notify replicas")
    resolve_every_s: float = Field(default=5.0, gt=0, description="how often the names of targets are looked up again")

    jwt_key: SecretStr = Field(
        default=SecretStr(""),
        description="PEM of the public key that user tokens are verified with; empty: only development tokens",
    )
    jwt_algorithms: tuple[str, ...] = Field(
        default=("EdDSA", "ES256", "RS256"), description="accepted signature algorithms; never none or a shared secret"
    )
    jwt_audience: str = Field(default="", description="the aud that a token must carry; empty: not looked at")
    jwt_issuer: str = Field(default="", description="the iss that a token must carry; empty: not looked at")
    jwt_leeway_s: float = Field(default=5.0, ge=0, le=60, description="clock difference that is forgiven")
    dev_tokens: bool = Field(
        default=False,
        description="serve POST /api/v1/dev/token, which gives anybody a token for any name; refused in production",
    )
    dev_key: SecretStr = Field(
        default=SecretStr(""),
        description="PEM of the Ed25519 private key that development tokens are signed with; empty: a new one at each "
        "start, so tokens of one edge are not accepted by another",
    )
    dev_token_ttl_s: float = Field(default=43_200, gt=0, description="how long a development token is valid")
    allowed_origins: tuple[str, ...] = Field(
        default=(),
        description="origins besides the edge's own that browsers may connect from, such as https://chat.example.org",
    )

    max_connections: int = Field(default=15_000, gt=0, description="connections on this edge")
    max_connections_per_user: int = Field(default=8, gt=0, description="connections of one user")
    max_subscriptions: int = Field(default=256, gt=0, description="subscriptions of one connection")
    sends_per_second: float = Field(default=20, gt=0, description="SENDs of one user, sustained")
    sends_burst: float = Field(default=60, ge=1, description="SENDs of one user at once")
    max_frame_bytes: int = Field(default=64 << 10, ge=1024, description="one STOMP frame")
    max_headers: int = Field(default=32, ge=8, description="headers of one STOMP frame")
    max_header_bytes: int = Field(default=4 << 10, ge=256, description="one header line of a STOMP frame")
    max_content_bytes: int = Field(default=16 << 10, ge=1, le=16 << 10, description="content of one message, UTF-8")
    connect_timeout_s: float = Field(default=10.0, gt=0, description="from open to CONNECT, and for one whole frame")
    heart_beat_ms: int = Field(default=10_000, ge=0, description="heart-beats offered each way; 0: none")
    heart_beat_min_ms: int = Field(default=1_000, ge=100, description="the shortest interval that a client may ask for")
    slow_reader_bytes: int = Field(
        default=256 << 10, gt=0, description="waiting for one connection before conversations become gaps"
    )
    slow_reader_close_bytes: int = Field(
        default=1 << 20, gt=0, description="waiting for one connection before it is closed (1013)"
    )
    max_unanswered_sends: int = Field(
        default=1_024, gt=0, description="SENDs of one connection under way before the edge stops reading from it"
    )
    sockjs_min_session_id: int = Field(
        default=8,
        ge=8,
        le=64,
        description="characters that the id of a SockJS session has at least; sockjs-client makes 8 (40 bits) unless "
        "its option sessionId says otherwise, so raise it where all clients are yours",
    )
    sockjs_heartbeat_s: float = Field(
        default=25.0, gt=0, description="silence of the edge after which a SockJS client gets a heart-beat"
    )
    sockjs_disconnect_s: float = Field(
        default=5.0, gt=0, description="how long nobody need ask for what a polled SockJS session has before it ends"
    )
    sockjs_response_bytes: int = Field(
        default=128 << 10, gt=0, description="length of a SockJS stream after which the client begins a new one"
    )
    sockjs_max_body_bytes: int = Field(
        default=256 << 10, ge=1024, description="one xhr_send, or one WebSocket message of SockJS"
    )
    web_root: str = Field(default="", description="directory of the page served at /; empty: the one that comes along")
