"""Who sees the messages of a conversation arrive, as the edges say: nobody has to notify these members.

An edge says so of a user whose connections, wherever they are, all watch the conversation. It is a saving, not a
promise: a member of whom nothing is said is notified, which is never wrong; and what was said ends with the edge's
watch and with its stream. Whoever ceases to attend may have missed the last that came: his connection may have been
dead for a while, or his edge. So `ended` is told, and the newest message looked at again.
"""

from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, field

from services.chat.model import ConversationId, Seq, UserId


@dataclass(slots=True)
class _Attending:
    streams: dict[Hashable, None] = field(default_factory=dict)
    # He may have been notified of messages up to here before he came: notify is still to hear that they are read.
    # None: it has heard.
    owed: Seq | None = None


class Attendance:
    """What the edges of this replica's streams say. Nothing here waits. `ended` hears of the conversation."""

    def __init__(self) -> None:
        self.ended: list[Callable[[ConversationId], None]] = []
        self._conversations: dict[ConversationId, dict[UserId, _Attending]] = {}
        self._said: dict[Hashable, dict[ConversationId, set[UserId]]] = {}

    def came(self, stream: Hashable, conversation_id: ConversationId, user_id: UserId, *, head: Seq) -> None:
        """The user attends from here on; `head` is the last message that he may have been notified of."""
        attending = self._conversations.setdefault(conversation_id, {}).get(user_id)
        if attending is None:
            attending = self._conversations[conversation_id][user_id] = _Attending(owed=head)
        attending.streams[stream] = None
        self._said.setdefault(stream, {}).setdefault(conversation_id, set()).add(user_id)

    def went(self, stream: Hashable, conversation_id: ConversationId, user_id: UserId) -> None:
        """Idempotent."""
        said = self._said.get(stream, {})
        if user_id in said.get(conversation_id, ()):
            said[conversation_id].discard(user_id)
            if not said[conversation_id]:
                del said[conversation_id]
            self._end(stream, conversation_id, user_id)

    def unwatched(self, stream: Hashable, conversation_id: ConversationId) -> None:
        for user_id in self._said.get(stream, {}).pop(conversation_id, ()):
            self._end(stream, conversation_id, user_id)

    def stream_ended(self, stream: Hashable) -> None:
        """The stream is gone, and all that it said."""
        for conversation_id, user_ids in self._said.pop(stream, {}).items():
            for user_id in user_ids:
                self._end(stream, conversation_id, user_id)

    def find(self, conversation_id: ConversationId) -> Collection[UserId]:
        """Those who attend just now."""
        return self._conversations.get(conversation_id, {}).keys()

    def take_read_notice(self, conversation_id: ConversationId, user_id: UserId, seq: Seq) -> bool:
        """Whether notify has to hear that the user has read up to `seq`. It counts as told by whoever asks."""
        attending = self._conversations.get(conversation_id, {}).get(user_id)
        if attending is None:
            return True
        if attending.owed is None:
            return False
        if seq >= attending.owed:
            attending.owed = None
        return True

    def _end(self, stream: Hashable, conversation_id: ConversationId, user_id: UserId) -> None:
        attending = self._conversations[conversation_id][user_id]
        del attending.streams[stream]
        if not attending.streams:
            del self._conversations[conversation_id][user_id]
            if not self._conversations[conversation_id]:
                del self._conversations[conversation_id]
            for tell in self.ended:
                tell(conversation_id)
