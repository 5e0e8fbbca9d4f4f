"""A MESSAGE encoded once for many subscribers.

Only the first lines differ between the subscribers of a topic, so an event is encoded once for each protocol
version in use, and each subscription adds its own beginning, which was encoded when it subscribed:

    MESSAGE\\nsubscription:<id>\\n        subscription_prefix(id, version), once for each subscription
    ack:<ack>\\n                         only in 1.2, only where the subscription acknowledges
    <the rest>                          MessageTemplate, once for each event and version

Cost: 4 µs for each event and version; then for each subscriber one copy of the frame, 0.1 µs, or 0.3 µs with an
ack line (a body of 250 bytes, 2026-11).
"""

from collections.abc import Iterable

from edge.stomp.frames import Version, encode_headers, escape_header, to_utf8


def subscription_prefix(subscription_id: str, version: Version) -> bytes:
    """The lines that begin every MESSAGE of one subscription."""
    return to_utf8(f"MESSAGE\nsubscription:{escape_header(subscription_id, version)}\n")


class MessageTemplate:
    """Everything of a MESSAGE that all subscribers of one protocol version share. Immutable by convention.

    Always with a content-length, also where the body is empty.

    Raises:
        LocalProtocolError: a header cannot be written in this version.
    """

    __slots__ = ("rest", "version")

    def __init__(
        self,
        *,
        version: Version,
        destination: str,
        message_id: str,
        body: bytes,
        content_type: str = "application/json",
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        lines = encode_headers(
            (
                ("message-id", message_id),
                ("destination", destination),
                ("content-type", content_type),
                *headers,
            ),
            version,
        )
        self.version = version
        self.rest = to_utf8(f"{lines}content-length:{len(body)}\n\n") + body + b"\0"

    def for_subscription(self, prefix: bytes, ack: bytes | None = None) -> bytes:
        """The whole frame for one subscriber.

        `prefix` comes from `subscription_prefix` with the same version. `ack` is what the client's ACK will
        name, escaped already (digits and letters need no escaping); it is left out before 1.2.
        """
        if ack is None or self.version is not Version.V1_2:
            return prefix + self.rest
        return b"%sack:%s\n%s" % (prefix, ack, self.rest)
