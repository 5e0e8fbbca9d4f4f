"""A connection's subscriptions to what is its user's own: refusals, notifications, the presence of others."""

from collections.abc import Sequence
from typing import Protocol

import orjson

from edge.destinations import PRESENCE
from edge.model import UserId
from edge.presence import Presence
from edge.stomp.frames import Version
from edge.stomp.message_template import MessageTemplate, subscription_prefix
from edge.times import rfc3339


class QueueListener(Protocol):
    """The session, as its queues see it."""

    @property
    def is_slow(self) -> bool: ...

    def push(self, frame: bytes) -> None: ...

    def is_behind(self, subscription: "PresenceSubscription") -> None:
        """It holds something back for a client that is too slow: `catch_up` it later."""


class QueueSubscription:
    """A subscription to the user's queue of that `name`."""

    __slots__ = ("_listener", "_prefix", "_version", "id", "name")

    def __init__(self, listener: QueueListener, id_: str, name: str, version: Version) -> None:
        self._listener = listener
        self._version = version
        self._prefix = subscription_prefix(id_, version)
        self.id = id_
        self.name = name

    def tell(self, event_id: str, body: bytes) -> None:
        template = MessageTemplate(version=self._version, destination=self.name, message_id=event_id, body=body)
        self._listener.push(template.for_subscription(self._prefix))


class PresenceSubscription:
    """The edge's `PresenceListener`. To a slow client only the last state of each contact is told, when it has caught
    up: presence is the first thing that waits."""

    __slots__ = ("_held", "_listener", "_next_event", "_queue", "id")

    def __init__(self, listener: QueueListener, id_: str, version: Version) -> None:
        self._listener = listener
        self._queue = QueueSubscription(listener, id_, PRESENCE, version)
        # Bounded by the contacts.
        self._held: dict[UserId, Presence] = {}
        self._next_event = 0
        self.id = id_

    def presence(self, presences: Sequence[Presence]) -> None:
        for presence in presences:
            if not self._held and not self._listener.is_slow:
                self._tell(presence)
                continue
            if not self._held:
                self._listener.is_behind(self)
            self._held[presence.user_id] = presence

    def catch_up(self) -> None:
        held, self._held = self._held, {}
        self.presence(tuple(held.values()))

    def _tell(self, presence: Presence) -> None:
        self._next_event += 1
        self._queue.tell(f"presence.{self._next_event}", orjson.dumps(presence_body(presence)))


def presence_body(presence: Presence) -> dict[str, object]:
    """The event of wire.md. `lastActiveAt` is null where no activity is known."""
    at_ms = presence.last_active_at_ms
    return {
        "event": "presence",
        "userId": presence.user_id,
        "status": presence.status.value,
        "lastActiveAt": rfc3339(at_ms) if at_ms else None,
    }
