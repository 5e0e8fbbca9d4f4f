"""Which edges care about whose contacts: they are told when somebody comes into a conversation or leaves one."""

from collections.abc import Iterable

from services.chat.model import UserId
from services.chat.streams import TopicStream


class Followers:
    """Nothing here waits."""

    def __init__(self) -> None:
        self._streams: dict[UserId, dict[TopicStream, None]] = {}
        self._followed: dict[TopicStream, set[UserId]] = {}

    def follow(self, stream: TopicStream, user_ids: Iterable[UserId]) -> None:
        for user_id in user_ids:
            self._streams.setdefault(user_id, {})[stream] = None
            self._followed.setdefault(stream, set()).add(user_id)

    def unfollow(self, stream: TopicStream, user_ids: Iterable[UserId]) -> None:
        for user_id in user_ids:
            streams = self._streams.get(user_id)
            if streams is not None and stream in streams:
                del streams[stream]
                self._followed[stream].discard(user_id)
                if not streams:
                    del self._streams[user_id]

    def ended(self, stream: TopicStream) -> None:
        self.unfollow(stream, tuple(self._followed.get(stream, ())))
        self._followed.pop(stream, None)

    def find(self, user_ids: Iterable[UserId]) -> Iterable[TopicStream]:
        """Each stream that follows any of them, once."""
        return {stream: None for user_id in user_ids for stream in self._streams.get(user_id, ())}

    def all(self) -> Iterable[TopicStream]:
        return tuple(self._followed)
