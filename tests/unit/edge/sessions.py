"""Connected clients as the rest of the edge sees them, without a socket."""

from collections.abc import Collection
from dataclasses import dataclass, field

from edge.model import ConversationId, UserId


@dataclass(eq=False)
class FakeSession:
    """An `edge.users.UserSession` that watches what a test says."""

    user_id: UserId
    watching: set[ConversationId] = field(default_factory=set)
    told: list[tuple[str, bytes]] = field(default_factory=list)

    def watched(self) -> Collection[ConversationId]:
        return self.watching

    def is_watching(self, conversation_id: ConversationId) -> bool:
        return conversation_id in self.watching

    def notify(self, event_id: str, body: bytes) -> None:
        self.told.append((event_id, body))
