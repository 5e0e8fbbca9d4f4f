"""Which users see the messages of a conversation arrive wherever they are connected, told to chat as it changes.

That is who has one connection in all, and watches the conversation on it. Chat then need not have him notified;
whoever is not known to attend is notified. For the milliseconds that news travel, a word that holds no more costs a
notification too many, or one on a connection that was opened just now, which learns what is unread when it reads its
conversations.
"""

from collections import defaultdict
from collections.abc import Hashable
from typing import Protocol, TypeVar

from edge.model import ConversationId, UserId
from edge.users import Users

_Key = TypeVar("_Key", bound=Hashable)
_Item = TypeVar("_Item", bound=Hashable)


class SayAttendance(Protocol):
    """Tells chat; what it cannot tell now is told by `joined` once the conversation is watched again."""

    def __call__(self, conversation_id: ConversationId, user_id: UserId, *, attends: bool) -> None: ...


class Attendance:
    """Nothing here waits."""

    def __init__(self, users: Users, say: SayAttendance) -> None:
        self._users = users
        self._say = say
        self._said: defaultdict[ConversationId, set[UserId]] = defaultdict(set)
        self._of_user: defaultdict[UserId, set[ConversationId]] = defaultdict(set)
        users.changed.append(self._user_changed)

    def attends(self, conversation_id: ConversationId, user_id: UserId) -> bool:
        return conversation_id in self._of_user.get(user_id, ())

    def watching_changed(self, conversation_id: ConversationId, user_id: UserId) -> None:
        """One of his sessions began or ceased to watch it."""
        only = self._users.find_only(user_id)
        self._note(conversation_id, user_id, attends=only is not None and only.is_watching(conversation_id))

    def joined(self, conversation_id: ConversationId) -> None:
        """Chat has this edge's watch again, and knows nothing else of it any more."""
        for user_id in self._said.get(conversation_id, ()):
            self._say(conversation_id, user_id, attends=True)

    def _user_changed(self, user_id: UserId) -> None:
        only = self._users.find_only(user_id)
        watched: set[ConversationId] = set() if only is None else set(only.watched())
        for conversation_id in watched | self._of_user.get(user_id, set()):
            self._note(conversation_id, user_id, attends=conversation_id in watched)

    def _note(self, conversation_id: ConversationId, user_id: UserId, *, attends: bool) -> None:
        if attends is self.attends(conversation_id, user_id):
            return
        if attends:
            self._said[conversation_id].add(user_id)
            self._of_user[user_id].add(conversation_id)
        else:
            _discard(self._said, conversation_id, user_id)
            _discard(self._of_user, user_id, conversation_id)
        self._say(conversation_id, user_id, attends=attends)


def _discard(sets: dict[_Key, set[_Item]], key: _Key, item: _Item) -> None:
    sets[key].discard(item)
    if not sets[key]:
        del sets[key]
