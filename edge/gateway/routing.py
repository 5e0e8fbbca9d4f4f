"""What a route is: one row of the table that is served, measured and described."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from msgspec import Struct

from edge.model import ConversationId, UserId

Q = TypeVar("Q", bound=Struct)
B = TypeVar("B", bound=Struct)

MAX_BODY_BYTES: Final = 64 << 10
# What may stand in a header as a text.
IDEMPOTENCY_KEY_PATTERN: Final = "[!-~]{1,128}"


@dataclass(frozen=True, slots=True)
class Call(Generic[Q, B]):
    """A request that has been checked: who asks, and for what."""

    # Empty on a route that is open to anybody.
    user_id: UserId
    conversation_id: ConversationId
    member_id: UserId
    device_id: str
    query: Q
    body: B
    idempotency_key: str | None


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: Struct | Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a status means, and the shape of its body, if any."""

    text: str
    shape: type[Any] | None = None


@dataclass(frozen=True, slots=True)
class Route(Generic[Q, B]):
    """`path` is below the API's prefix; its parameters may be `{conversationId}`, `{userId}` and `{deviceId}`.

    `query` and `body` are `Nothing` where there is none. An open route asks for no token.
    """

    method: str
    path: str
    name: str
    text: str
    handle: Callable[[Call[Q, B]], Awaitable[Reply]]
    query: type[Q]
    body: type[B]
    answers: Mapping[int, Answer]
    refusals: tuple[int, ...] = ()
    is_open: bool = False
    takes_idempotency_key: bool = False
    max_body_bytes: int = MAX_BODY_BYTES

    @property
    def all_refusals(self) -> Sequence[int]:
        """The statuses that this route may refuse with; `refusals` holds them without 401 and 500."""
        return sorted({*self.refusals, 500} if self.is_open else {*self.refusals, 401, 500})
