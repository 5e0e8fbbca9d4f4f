"""`GET /presence`: the presence of those whom the caller may see."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Protocol

from msgspec import Meta, Struct

from edge.auth import is_user_id
from edge.bodies import Time
from edge.gateway.routing import Answer, Call, Reply, Route
from edge.gateway.shapes import AUserId, Nothing
from edge.model import UserId
from edge.presence import Presence
from edge.times import rfc3339

_MAX_ASKED = 200


class ReadPresence(Protocol):
    async def get(self, user_ids: Sequence[UserId]) -> Sequence[Presence]:
        """In that order; UNKNOWN where presence is away. Does not raise."""


class ReadContacts(Protocol):
    async def list_contacts(self, user: UserId) -> Sequence[UserId]: ...


class PresenceQuery(Struct, rename="camel"):
    user_id: Annotated[list[AUserId], Meta(description=f"Whose; repeated, at most {_MAX_ASKED} times.")]

    def __post_init__(self) -> None:
        if not 1 <= len(self.user_id) <= _MAX_ASKED or not all(map(is_user_id, self.user_id)):
            raise ValueError(f"userId: expected 1 to {_MAX_ASKED} user ids")


class PresenceBody(Struct, rename="camel"):
    user_id: AUserId
    status: Annotated[
        Literal["online", "away", "busy", "offline", "unknown"],
        Meta(description="unknown: nobody can say just now."),
    ]
    last_active_at: Annotated[Time | None, Meta(description="null: no activity is known.")]


class PresencesBody(Struct):
    """Those of the users asked for whom the caller may see: who share a conversation with him, and himself."""

    presence: list[PresenceBody]


def presence_route(chat: ReadContacts, presence: ReadPresence) -> Route[Any, Any]:
    async def read(call: Call[PresenceQuery, Nothing]) -> Reply:
        may_see = {call.user_id, *await chat.list_contacts(call.user_id)}
        asked = [UserId(user_id) for user_id in dict.fromkeys(call.query.user_id)]
        found = await presence.get([user_id for user_id in asked if user_id in may_see])
        return Reply(200, PresencesBody([_body(each) for each in found]))

    return Route(
        method="GET",
        path="/presence",
        name="readPresence",
        text="The presence of people who share a conversation with the caller.",
        handle=read,
        query=PresenceQuery,
        body=Nothing,
        answers={200: Answer("Those whom the caller may see, in the order asked for.", PresencesBody)},
        refusals=(400, 503),
    )


def _body(presence: Presence) -> PresenceBody:
    at_ms = presence.last_active_at_ms
    return PresenceBody(presence.user_id, presence.status.value, rfc3339(at_ms) if at_ms else None)
