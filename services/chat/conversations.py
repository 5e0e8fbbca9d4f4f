"""The use cases of conversations: making them, who is in them, and reading them. Members only."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.chat.errors import BadRequest, DirectIsClosed, NotAMember, TooManyMembers
from services.chat.events import MemberRemoved, MembersChanged
from services.chat.members import Members
from services.chat.model import (
    MAX_PAGE,
    MAX_SEQ,
    Conversation,
    ConversationId,
    ConversationType,
    ConversationView,
    Message,
    MessageStatus,
    Seq,
    UserId,
    direct_conversation_id,
    group_conversation_id,
    sorted_members,
)
from services.chat.store import Membership, Store
from services.runtime.clock import Clock

_MAX_LIST = 100


@dataclass(frozen=True, slots=True)
class Page:
    """Messages ascending, with the status of each."""

    messages: Sequence[Message]
    head_seq: Seq
    statuses: Sequence[MessageStatus]


class TellOfMembers(Protocol):
    """Who is told when somebody comes or goes. Does not block and does not raise."""

    def announce(self, event: MemberRemoved) -> None:
        """To the watchers of the conversation, on every replica."""

    def members_changed(self, event: MembersChanged) -> None:
        """To every replica, and to the edges of those whom it concerns."""


class TellOfLeaving(Protocol):
    def left(self, conversation_id: ConversationId, user_id: UserId, *, head: Seq) -> None:
        """Nobody need notify him of anything in there any more."""


class ConversationService:
    """What members do with conversations."""

    def __init__(
        self,
        store: Store,
        members: Members,
        topics: TellOfMembers,
        notices: TellOfLeaving,
        clock: Clock,
        *,
        max_members: int,
    ) -> None:
        self._store = store
        self._members = members
        self._topics = topics
        self._notices = notices
        self._clock = clock
        self._max_members = max_members

    async def create(
        self,
        creator: UserId,
        type_: ConversationType,
        member_ids: Sequence[UserId],
        title: str | None,
        *,
        request_id: str,
    ) -> tuple[Conversation, bool]:
        """The conversation, and whether it was made just now. The creator is always a member.

        Raises:
            BadRequest: a direct conversation of other than two people.
            TooManyMembers: a group above the limit.
        """
        members = sorted_members((creator, *member_ids))
        if type_ is ConversationType.DIRECT:
            if len(members) != 2:
                raise BadRequest(problem="a direct conversation has exactly two members: you and one other")
            conversation_id, title = direct_conversation_id(*members), None
        else:
            if len(members) > self._max_members:
                raise TooManyMembers(limit=self._max_members)
            conversation_id = group_conversation_id(creator, request_id)
        made = Conversation(conversation_id, type_, title, members, self._clock.time_ms())
        if await self._store.create(made):
            self._topics.members_changed(MembersChanged(conversation_id, members))
            return made, True
        return await self._get(conversation_id), False

    async def get_view(self, conversation_id: ConversationId, user: UserId) -> ConversationView:
        membership = await self._store.find_membership(conversation_id, user)
        if membership is None:
            raise NotAMember
        conversation = await self._get(conversation_id)
        latest = await self._store.read_before(conversation_id, MAX_SEQ, limit=1)
        return ConversationView(
            conversation=conversation,
            head_seq=latest[-1].seq if latest else Seq(0),
            watermarks=membership.watermarks,
            last_message=latest[-1] if latest else None,
            muted=membership.muted,
        )

    async def list_page(self, user: UserId, *, cursor: str, limit: int) -> tuple[Sequence[ConversationView], str]:
        """A page, newest activity first, and the cursor of the next one (empty: this is the last)."""
        if not 1 <= limit <= _MAX_LIST:
            raise BadRequest(problem=f"limit is {limit}: expected 1 to {_MAX_LIST}")
        page = await self._store.read_page(user, before=_parse_cursor(cursor), limit=limit)
        views = [view for _, view in page]
        if len(page) < limit:
            return views, ""
        activity, last = page[-1]
        return views, _make_cursor(activity, last.conversation.conversation_id)

    async def read_messages(
        self,
        conversation_id: ConversationId,
        user: UserId,
        *,
        after: Seq | None,
        before: Seq | None,
        limit: int,
    ) -> Page:
        """With `after`: what follows it (and is before `before`). Else the page that ends before `before`, or at the
        head."""
        if not 1 <= limit <= MAX_PAGE:
            raise BadRequest(problem=f"limit is {limit}: expected 1 to {MAX_PAGE}")
        memberships = await self._store.read_memberships(conversation_id)
        if all(each.user_id != user for each in memberships):
            raise NotAMember
        if after is not None:
            messages = await self._store.read_after(conversation_id, after, limit=limit)
            if before is not None:
                messages = [message for message in messages if message.seq < before]
        else:
            messages = await self._store.read_before(conversation_id, before or MAX_SEQ, limit=limit)
        head = await self._store.find_head(conversation_id)
        return Page(messages, head, _statuses(messages, memberships))

    async def add_member(self, conversation_id: ConversationId, actor: UserId, user: UserId) -> Conversation:
        await self._require_group(conversation_id, actor)
        # A newcomer starts at the head: what was said before is history, not unread.
        head = await self._store.find_head(conversation_id)
        await self._store.add_member(conversation_id, user, read_seq=head, max_members=self._max_members)
        self._members.forget(conversation_id)
        conversation = await self._get(conversation_id)
        self._topics.members_changed(MembersChanged(conversation_id, conversation.member_ids))
        return conversation

    async def remove_member(self, conversation_id: ConversationId, actor: UserId, user: UserId) -> None:
        """When this returns nothing that is stored afterwards reaches that member."""
        await self._require_group(conversation_id, actor)
        concerned = await self._members.read(conversation_id)
        await self._store.remove_member(conversation_id, user)
        self._members.forget(conversation_id)
        self._topics.announce(MemberRemoved(conversation_id, user))
        self._topics.members_changed(MembersChanged(conversation_id, sorted_members((*concerned, user))))
        self._notices.left(conversation_id, user, head=await self._store.find_head(conversation_id))

    async def set_muted(self, conversation_id: ConversationId, user: UserId, *, muted: bool) -> None:
        """
        Raises:
            NotAMember: he is not in it.
        """
        if not await self._store.set_muted(conversation_id, user, muted=muted):
            raise NotAMember

    async def list_contacts(self, user: UserId) -> Sequence[UserId]:
        """Everybody who shares a conversation with the user, sorted, without the user."""
        return await self._store.read_contacts(user)

    async def _require_group(self, conversation_id: ConversationId, actor: UserId) -> None:
        await self._members.require(conversation_id, actor)
        if (await self._get(conversation_id)).type is ConversationType.DIRECT:
            raise DirectIsClosed

    async def _get(self, conversation_id: ConversationId) -> Conversation:
        conversation = await self._store.find(conversation_id)
        if conversation is None:
            raise NotAMember
        return conversation


def _statuses(messages: Sequence[Message], memberships: Sequence[Membership]) -> Sequence[MessageStatus]:
    """The status of each message: the least that any member but its sender has done with it."""
    # The two lowest suffice: one of them is not the sender's.
    read = sorted((each.watermarks.read_seq, each.user_id) for each in memberships)[:2]
    delivered = sorted((each.watermarks.delivered_seq, each.user_id) for each in memberships)[:2]
    return [
        MessageStatus.SEEN
        if message.seq <= _lowest_but(read, message.sender_id)
        else MessageStatus.DELIVERED
        if message.seq <= _lowest_but(delivered, message.sender_id)
        else MessageStatus.SENT
        for message in messages
    ]


def _lowest_but(lowest: Sequence[tuple[Seq, UserId]], sender: UserId) -> int:
    return next((seq for seq, user in lowest if user != sender), 0)


def _make_cursor(activity_ms: int, conversation_id: ConversationId) -> str:
    return base64.urlsafe_b64encode(f"{activity_ms} {conversation_id}".encode()).decode().rstrip("=")


def _parse_cursor(cursor: str) -> tuple[int, ConversationId] | None:
    if not cursor:
        return None
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
        activity, conversation_id = raw.split(" ")
        return int(activity), ConversationId(conversation_id)
    except (binascii.Error, UnicodeDecodeError, ValueError) as error:
        raise BadRequest(problem="cursor is not one of ours: pass nextCursor back as it came") from error
