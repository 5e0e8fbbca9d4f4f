"""Who is connected to this edge, with which sessions; and whether another edge has them too, as notify says."""

from collections.abc import Callable, Collection
from typing import Protocol

from edge.model import ConversationId, UserId
from services.runtime.metrics import Metrics


class UserSession(Protocol):
    """A connected client, as far as others deal with it. Hashable by identity."""

    @property
    def user_id(self) -> UserId: ...

    def watched(self) -> Collection[ConversationId]:
        """The conversations of which it is given everything that happens."""

    def is_watching(self, conversation_id: ConversationId) -> bool:
        """Whether that is one of them."""

    def notify(self, event_id: str, body: bytes) -> None:
        """An event for its `/user/queue/notifications`, where it listens there. Does not block and does not raise."""


class Users:
    """Everything happens on the event loop, without awaiting. `changed` hears of every user whose sessions, or their
    being elsewhere, are not what they were."""

    def __init__(self, metrics: Metrics) -> None:
        self._sessions: dict[UserId, dict[UserSession, None]] = {}
        self._elsewhere: set[UserId] = set()
        self.changed: list[Callable[[UserId], None]] = []
        metrics.gauge("edge_users", "Users with a connection to this edge.").set_function(lambda: len(self._sessions))

    def enter(self, session: UserSession) -> None:
        self._sessions.setdefault(session.user_id, {})[session] = None
        self._tell(session.user_id)

    def leave(self, session: UserSession) -> None:
        sessions = self._sessions[session.user_id]
        del sessions[session]
        if not sessions:
            del self._sessions[session.user_id]
            self._elsewhere.discard(session.user_id)
        self._tell(session.user_id)

    def set_elsewhere(self, user_id: UserId, *, elsewhere: bool) -> None:
        """Only of those who are connected here."""
        if user_id in self._sessions and elsewhere is not (user_id in self._elsewhere):
            (self._elsewhere.add if elsewhere else self._elsewhere.discard)(user_id)
            self._tell(user_id)

    def find(self, user_id: UserId) -> Collection[UserSession]:
        """The user's sessions on this edge."""
        return tuple(self._sessions.get(user_id, ()))

    def find_only(self, user_id: UserId) -> UserSession | None:
        """The one session that the user has anywhere; None where there are several, or none."""
        sessions = self._sessions.get(user_id, {})
        return next(iter(sessions)) if len(sessions) == 1 and user_id not in self._elsewhere else None

    @property
    def connected(self) -> Collection[UserId]:
        return self._sessions.keys()

    def _tell(self, user_id: UserId) -> None:
        for tell in self.changed:
            tell(user_id)
