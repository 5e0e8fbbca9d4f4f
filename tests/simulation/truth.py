"""What is durable: the state behind every replica's store, and the indexes that guard it.

Plain and synchronous: each method happens at one moment. Keeps numbers as they come, holes too, so that a writer that
makes one is found out.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from services.chat.model import ConversationId, Message, Seq, UserId, WatermarkKind, Watermarks
from services.chat.store import AppendConflict, IdempotencyKey, Membership

_NOTHING = Watermarks(Seq(0), Seq(0))


class Truth:
    def __init__(self, members: Iterable[tuple[ConversationId, Iterable[UserId]]]) -> None:
        self.logs: defaultdict[ConversationId, dict[Seq, Message]] = defaultdict(dict)
        self.keys: dict[IdempotencyKey, Message] = {}
        self.watermarks = {(conversation, user): _NOTHING for conversation, users in members for user in users}
        # Every message in the order in which it became durable.
        self.history: list[Message] = []
        # Whose watermarks moved back, from where to where.
        self.moved_back: list[tuple[UserId, Watermarks, Watermarks]] = []

    def insert(self, message: Message) -> AppendConflict | None:
        """Stores it, or tells which index refuses."""
        log = self.logs[message.conversation_id]
        if message.seq in log:
            return AppendConflict(seq_taken=True)
        key = key_of(message)
        if self.refuses_key(key):
            return AppendConflict(seq_taken=False)
        log[message.seq] = self.keys[key] = message
        self.history.append(message)
        return None

    def refuses_key(self, key: IdempotencyKey) -> bool:
        return key in self.keys

    def head(self, conversation_id: ConversationId) -> Seq:
        return max(self.logs[conversation_id], default=Seq(0))

    def read_after(self, conversation_id: ConversationId, seq: Seq, limit: int) -> Sequence[Message]:
        log = self.logs[conversation_id]
        return [log[each] for each in sorted(each for each in log if each > seq)[:limit]]

    def read_memberships(self, conversation_id: ConversationId) -> Sequence[Membership]:
        return [
            Membership(user, watermarks, muted=False)
            for (conversation, user), watermarks in self.watermarks.items()
            if conversation == conversation_id
        ]

    def move(
        self, conversation_id: ConversationId, user_id: UserId, kind: WatermarkKind, seq: Seq
    ) -> Watermarks | None:
        known = self.watermarks.get((conversation_id, user_id))
        if known is None:
            return None
        moved = self.moved(known, kind, seq)
        if moved.delivered_seq < known.delivered_seq or moved.read_seq < known.read_seq:
            self.moved_back.append((user_id, known, moved))
        self.watermarks[conversation_id, user_id] = moved
        return moved

    def moved(self, known: Watermarks, kind: WatermarkKind, seq: Seq) -> Watermarks:
        read = max(known.read_seq, seq) if kind is WatermarkKind.SEEN else known.read_seq
        return Watermarks(max(known.delivered_seq, seq), read)


def key_of(message: Message) -> IdempotencyKey:
    return IdempotencyKey(message.conversation_id, message.sender_id, message.client_message_id)
