"""Who is a member: the one answer that every send, subscription and read asks for, cached.

A cached set is dropped when a member is added or removed here, when another replica says so over the bus, and after
`_MAX_AGE_S` in any case. A conversation that does not exist and one that the user is not a member of take the same path
and the same time: both are a set that the user is not in.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass

from services.chat.errors import NotAMember
from services.chat.model import ConversationId, UserId
from services.chat.store import Conversations
from services.runtime.clock import Clock

# How long a replica that missed every hint may go on with an old answer.
_MAX_AGE_S = 10.0
# A refusal is looked up again after this, so that a member added elsewhere is not kept out for long.
_MAX_REFUSAL_AGE_S = 1.0
# About 200 bytes each for a pair: tens of megabytes at the most.
_MAX_CACHED = 50_000


@dataclass(frozen=True, slots=True)
class _Cached:
    user_ids: frozenset[UserId]
    loaded_at: float


class Members:
    """The members of each conversation."""

    def __init__(self, conversations: Conversations, clock: Clock) -> None:
        self._conversations = conversations
        self._clock = clock
        self._cached: OrderedDict[ConversationId, _Cached] = OrderedDict()
        self._loading: dict[ConversationId, asyncio.Task[frozenset[UserId]]] = {}

    def find_cached(self, conversation_id: ConversationId, user_id: UserId) -> bool:
        """Whether it is known, without asking anybody, that the user is a member."""
        cached = self._cached.get(conversation_id)
        return (
            cached is not None
            and user_id in cached.user_ids
            and self._clock.monotonic() - cached.loaded_at < _MAX_AGE_S
        )

    async def read(self, conversation_id: ConversationId) -> frozenset[UserId]:
        """The members; empty where there is no such conversation."""
        cached = self._cached.get(conversation_id)
        if cached is not None and self._clock.monotonic() - cached.loaded_at < _MAX_AGE_S:
            return cached.user_ids
        return await self._load(conversation_id)

    async def are_members(self, conversation_id: ConversationId, user_ids: Collection[UserId]) -> frozenset[UserId]:
        """Those of `user_ids` who are members just now."""
        members = await self.read(conversation_id)
        found = members.intersection(user_ids)
        if len(found) < len(frozenset(user_ids)):
            cached = self._cached.get(conversation_id)
            if cached is None or self._clock.monotonic() - cached.loaded_at >= _MAX_REFUSAL_AGE_S:
                found = (await self._load(conversation_id)).intersection(user_ids)
        return found

    async def require(self, conversation_id: ConversationId, user_id: UserId) -> None:
        """
        Raises:
            NotAMember: the user is not in it, or there is no such conversation.
        """
        if self.find_cached(conversation_id, user_id):
            return
        if not await self.are_members(conversation_id, (user_id,)):
            raise NotAMember

    def forget(self, conversation_id: ConversationId) -> None:
        """Somebody was added or removed."""
        self._cached.pop(conversation_id, None)
        self._loading.pop(conversation_id, None)  # what is being loaded may be older than the change

    def forget_all(self) -> None:
        """Changes may have been missed."""
        self._cached.clear()
        self._loading.clear()

    async def _load(self, conversation_id: ConversationId) -> frozenset[UserId]:
        loading = self._loading.get(conversation_id)
        if loading is None:  # one look-up for all who ask at once
            loading = asyncio.create_task(self._read_store(conversation_id))
            loading.add_done_callback(_heard)
            self._loading[conversation_id] = loading
        return await asyncio.shield(loading)

    async def _read_store(self, conversation_id: ConversationId) -> frozenset[UserId]:
        this = asyncio.current_task()
        try:
            memberships = await self._conversations.read_memberships(conversation_id)
            members = frozenset(membership.user_id for membership in memberships)
            if self._loading.get(conversation_id) is this:
                self._cached[conversation_id] = _Cached(members, self._clock.monotonic())
                self._cached.move_to_end(conversation_id)
                while len(self._cached) > _MAX_CACHED:
                    self._cached.popitem(last=False)
            return members
        finally:
            if self._loading.get(conversation_id) is this:
                del self._loading[conversation_id]


def _heard(loading: "asyncio.Task[frozenset[UserId]]") -> None:
    """A failure is told to those who wait; where all of them have gone away meanwhile, to nobody."""
    if not loading.cancelled():
        loading.exception()
