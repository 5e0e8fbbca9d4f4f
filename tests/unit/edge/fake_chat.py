"""Chat, presence and notify as the HTTP API sees them: they remember what they were asked, and answer as told."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge.clients.notify import Address, Device, PushSetup
from edge.model import (
    Conversation,
    ConversationId,
    ConversationView,
    HistoryPage,
    Message,
    Seq,
    Stored,
    UserId,
    WatermarkKind,
)
from edge.presence import Presence, PresenceStatus
from services.runtime.errors import ServiceError

SENT_AT_MS = 1_795_341_600_123
GROUP = Conversation(ConversationId("g1"), "group", "Friends", [UserId("alice"), UserId("bob")], 1_795_341_600_000)


def message(seq: int, content: str = "hello") -> Message:
    return Message(
        message_id=f"g1-{seq:010d}",
        conversation_id=ConversationId("g1"),
        seq=Seq(seq),
        sender_id=UserId("bob"),
        client_message_id=f"cm{seq}",
        content=content,
        type="text",
        sent_at_ms=SENT_AT_MS,
    )


@dataclass
class FakeChat:
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    raises: Exception | None = None
    created: bool = True
    conversation: Conversation = GROUP
    views: Sequence[ConversationView] = (ConversationView(GROUP, Seq(7), Seq(5), message(7), False),)
    next_cursor: str | None = None
    contacts: Sequence[UserId] = (UserId("bob"),)
    page: HistoryPage = field(
        default_factory=lambda: HistoryPage([message(seq) for seq in (5, 6, 7)], Seq(7), ["seen", "delivered", "sent"])
    )
    stored: Stored = field(default_factory=lambda: Stored("g1-0000000008", Seq(8), SENT_AT_MS, False))

    async def create_conversation(
        self, creator: UserId, type_: str, member_ids: Sequence[str], title: str | None, *, request_id: str
    ) -> tuple[Conversation, bool]:
        self._note("create", creator, type_, list(member_ids), title, request_id)
        return self.conversation, self.created

    async def get_conversation(self, conversation_id: ConversationId, user: UserId) -> ConversationView:
        self._note("get", conversation_id, user)
        return self.views[0]

    async def list_conversations(
        self, user: UserId, *, cursor: str, limit: int
    ) -> tuple[Sequence[ConversationView], str | None]:
        self._note("list", user, cursor, limit)
        return self.views, self.next_cursor

    async def read_messages(
        self, conversation_id: ConversationId, user: UserId, *, after: int | None, before: int | None, limit: int
    ) -> HistoryPage:
        self._note("read", conversation_id, user, after, before, limit)
        return self.page

    async def add_member(self, conversation_id: ConversationId, actor: UserId, user: UserId) -> Conversation:
        self._note("add", conversation_id, actor, user)
        return self.conversation

    async def remove_member(self, conversation_id: ConversationId, actor: UserId, user: UserId) -> None:
        self._note("remove", conversation_id, actor, user)

    async def set_muted(self, conversation_id: ConversationId, user: UserId, *, muted: bool) -> None:
        self._note("mute" if muted else "unmute", conversation_id, user)

    async def list_contacts(self, user: UserId) -> Sequence[UserId]:
        self._note("contacts", user)
        return self.contacts

    async def send_one(
        self, conversation_id: ConversationId, sender: UserId, client_message_id: str, content: str, type_: str
    ) -> Stored:
        self._note("send", conversation_id, sender, client_message_id, content, type_)
        return self.stored

    def mark(
        self,
        conversation_id: ConversationId,
        user_id: UserId,
        kind: WatermarkKind,
        seq: Seq,
        done: Callable[[ServiceError | None], None],
    ) -> None:
        """Refuses through `done`, as chat itself does."""
        self.asked.append(("mark", conversation_id, user_id, kind, seq))
        assert self.raises is None or isinstance(self.raises, ServiceError)
        done(self.raises)

    def _note(self, *asked: Any) -> None:
        self.asked.append(asked)
        if self.raises is not None:
            raise self.raises


class FakePresence:
    """Everybody is online."""

    async def get(self, user_ids: Sequence[UserId]) -> Sequence[Presence]:
        return [Presence(user_id, PresenceStatus.ONLINE, SENT_AT_MS) for user_id in user_ids]


@dataclass
class FakeDevices:
    """Notify, with one device."""

    asked: list[tuple[Any, ...]] = field(default_factory=list)
    raises: ServiceError | None = None
    created: bool = True
    device: Device = field(default_factory=lambda: Device("d1", "webpush", SENT_AT_MS))

    async def register_device(self, user: UserId, address: Address) -> tuple[Device, bool]:
        self._note("register", user, address)
        return self.device, self.created

    async def list_devices(self, user: UserId) -> Sequence[Device]:
        self._note("list", user)
        return [self.device]

    async def remove_device(self, user: UserId, device_id: str) -> None:
        self._note("remove", user, device_id)

    async def get_push_setup(self) -> PushSetup:
        self._note("setup")
        return PushSetup(["webpush"], "BKey")

    def _note(self, *asked: Any) -> None:
        self.asked.append(asked)
        if self.raises is not None:
            raise self.raises
