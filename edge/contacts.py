"""Whose presence a user may see: everybody who shares a conversation with him, as chat says, kept up to date.

Chat tells when somebody comes into a conversation or leaves one; the contacts of the listening users concerned are then
read again, a bounded number at a time. Until that is done, well under a second when nothing else is to do, the old ones
hold.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from edge.errors import BadRequest
from edge.model import UserId
from edge.presence import EdgePresence, PresenceListener
from services.runtime.coalescing import Coalescer
from services.runtime.errors import ServiceError
from services.runtime.tasks import Tasks

# Users whose contacts wait to be read again: all of an edge's.
_MAX_STALE = 20_000
_MAX_AT_ONCE = 16
_PACE_S = 0.1
_RETRY_S = 1.0


class ReadContacts(Protocol):
    async def list_contacts(self, user: UserId) -> Sequence[UserId]:
        """
        Raises:
            ServiceError: chat is away.
        """


class Follow(Protocol):
    def follow(self, user_id: UserId) -> None: ...

    def unfollow(self, user_id: UserId) -> None: ...


class Contacts:
    """A component with one task, which reads contacts again."""

    def __init__(self, chat: ReadContacts, presence: EdgePresence, follow: Follow, tasks: Tasks) -> None:
        self._chat = chat
        self._presence = presence
        self._follow = follow
        self._tasks = tasks
        # Every listener, also while its contacts are being read.
        self._listeners: dict[PresenceListener, UserId] = {}
        self._counts: dict[UserId, int] = {}
        self._stale: Coalescer[UserId, bool] = Coalescer(
            "contacts",
            self._read_again,
            merge=_either,
            max_keys=_MAX_STALE,
            max_batch=_MAX_AT_ONCE,
            pace_s=_PACE_S,
            retry_s=_RETRY_S,
        )

    async def start(self) -> None:
        await self._stale.start()

    async def stop(self) -> None:
        self._counts.clear()
        await self._stale.stop()

    def subscribe(
        self, user_id: UserId, listener: PresenceListener, done: Callable[[ServiceError | None], None]
    ) -> None:
        """The listener is told of the user's contacts, and of what changes; `done` is told when that holds, or why it
        does not."""
        self._listeners[listener] = user_id
        self._counts[user_id] = self._counts.get(user_id, 0) + 1
        self._follow.follow(user_id)  # first: what changes from here on is heard of
        self._tasks.spawn(self._subscribe(user_id, listener, done), "presence subscription")

    def unsubscribe(self, listener: PresenceListener) -> None:
        """It is told nothing more. Idempotent."""
        user_id = self._listeners.pop(listener, None)
        if user_id is None:
            return
        self._presence.unsubscribe(listener)
        self._counts[user_id] -= 1
        if not self._counts[user_id]:
            del self._counts[user_id]
            self._follow.unfollow(user_id)

    def changed(self, user_ids: Sequence[UserId]) -> None:
        """These users may have other contacts; none named: perhaps all."""
        for user_id in user_ids or tuple(self._counts):
            if user_id in self._counts:
                self._stale.put(user_id, True)

    async def _subscribe(
        self, user_id: UserId, listener: PresenceListener, done: Callable[[ServiceError | None], None]
    ) -> None:
        try:
            contacts = await self._chat.list_contacts(user_id)
            if listener not in self._listeners:
                raise BadRequest(problem="unsubscribed before the subscription was live")
        except ServiceError as error:
            self.unsubscribe(listener)
            done(error)
            return
        self._presence.subscribe(user_id, contacts, listener)
        done(None)

    async def _read_again(self, stale: Mapping[UserId, bool]) -> None:
        listening = [user_id for user_id in stale if self._presence.is_listening(user_id)]
        reading = (self._chat.list_contacts(user_id) for user_id in listening)
        failure: BaseException | None = None
        for user_id, found in zip(listening, await asyncio.gather(*reading, return_exceptions=True), strict=True):
            if isinstance(found, BaseException):
                failure = found
            else:
                self._presence.contacts_changed(user_id, found)
        if failure is not None:  # all of them again; what was read holds meanwhile
            raise failure


def _either(known: bool, later: bool) -> bool:
    return known or later
