"""What goes into the HTTP API and comes out of it. The reference (`openapi`) is made from these.

What msgspec can say of a field is said in its type; what it cannot say is checked in `__post_init__`, whose text is
what the client reads. Unknown fields are ignored.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from edge.auth import USER_ID_PATTERN, is_user_id
from edge.bodies import LastMessage, MessageBody, Time, last_message_view, message_view
from edge.model import Conversation, ConversationView, HistoryPage, UserId
from edge.times import rfc3339

CONVERSATION_ID_PATTERN: Final = "[A-Za-z0-9]{1,64}"
DEVICE_ID_PATTERN: Final = "[A-Za-z0-9]{1,64}"

# As chat has them.
_MAX_SEQ: Final = 10**10 - 1
_MAX_TITLE: Final = 200
_MAX_PAGE: Final = 200
_MAX_LIST: Final = 100
# wire.md.
_MAX_CLIENT_MESSAGE_ID_BYTES: Final = 128
_USER_ID_TEXT: Final = "1 to 64 of A-Z a-z 0-9 . _ - @"

_is_cursor = re.compile(r"[A-Za-z0-9_-]{0,256}").fullmatch

AUserId = Annotated[str, Meta(extra_json_schema={"pattern": f"^{USER_ID_PATTERN}$"})]
AConversationId = Annotated[str, Meta(extra_json_schema={"pattern": f"^{CONVERSATION_ID_PATTERN}$"})]
ConversationType = Literal["direct", "group"]


# ---- What is asked.


class Nothing(Struct):
    """The query or body of a request that has none."""


class DevTokenRequest(Struct, rename="camel"):
    user_id: AUserId

    def __post_init__(self) -> None:
        if not is_user_id(self.user_id):
            raise ValueError(f"userId: expected {_USER_ID_TEXT}")


class NewConversation(Struct, rename="camel"):
    type: ConversationType
    member_ids: Annotated[list[AUserId], Meta(description="The others; whoever asks is a member in any case.")]
    title: Annotated[str, Meta(max_length=_MAX_TITLE)] | None = None

    def __post_init__(self) -> None:
        if not all(map(is_user_id, self.member_ids)):
            raise ValueError(f"memberIds: expected each to be {_USER_ID_TEXT}")


class NewMessage(Struct, rename="camel"):
    content: Annotated[
        str, Meta(description="At most 16 KiB of UTF-8; stored to the letter.", extra_json_schema={"minLength": 1})
    ]
    type: Literal["text"] = "text"
    client_message_id: Annotated[
        str | None,
        Meta(
            description="1 to 128 bytes of UTF-8 of the client's choice; makes a repeat harmless for ever. Without it "
            "the edge makes one, and a repeat is another message.",
            extra_json_schema={"minLength": 1, "maxLength": _MAX_CLIENT_MESSAGE_ID_BYTES},
        ),
    ] = None

    def __post_init__(self) -> None:
        if not self.content:
            raise ValueError("content: expected at least one character")
        given = self.client_message_id
        if given is not None and not 1 <= len(given.encode()) <= _MAX_CLIENT_MESSAGE_ID_BYTES:
            raise ValueError(f"clientMessageId: expected 1 to {_MAX_CLIENT_MESSAGE_ID_BYTES} bytes")


class ReadUpTo(Struct, rename="camel"):
    message_id: Annotated[str, Meta(description="Everything up to this message of the conversation has been seen.")]


class ConversationsQuery(Struct):
    cursor: Annotated[str, Meta(description="`nextCursor` of an earlier answer; without it the first page.")] = ""
    limit: Annotated[int, Meta(ge=1, le=_MAX_LIST)] = 50

    def __post_init__(self) -> None:
        if not _is_cursor(self.cursor):
            raise ValueError("cursor: expected nextCursor of an earlier answer, as it came")


class HistoryQuery(Struct, rename="camel"):
    after_seq: Annotated[int, Meta(ge=0, le=_MAX_SEQ, description="Only later messages.")] | None = None
    before_seq: (
        Annotated[
            int, Meta(ge=1, le=_MAX_SEQ, description="Only earlier messages; without `afterSeq` the page ends there.")
        ]
        | None
    ) = None
    limit: Annotated[int, Meta(ge=1, le=_MAX_PAGE)] = 100


# ---- What is answered.


class DevToken(Struct, rename="camel"):
    token: str
    expires_at: Time


class ConversationBody(Struct, rename="camel"):
    conversation_id: AConversationId
    type: ConversationType
    title: str | None
    member_ids: Sequence[AUserId]
    created_at: Time


class ConversationViewBody(Struct, rename="camel"):
    """A conversation as the caller sees it."""

    conversation_id: AConversationId
    type: ConversationType
    title: str | None
    member_ids: Sequence[AUserId]
    created_at: Time
    last_message: LastMessage | None
    head_seq: int
    read_seq: int
    unread_count: int
    muted: Annotated[bool, Meta(description="The caller is not notified of its messages.")]


class ConversationsBody(Struct, rename="camel"):
    """Newest activity first."""

    conversations: list[ConversationViewBody]
    next_cursor: Annotated[str | None, Meta(description="null: this is the last page.")]


class HistoryBody(Struct, rename="camel"):
    """Ascending by seq, without a hole."""

    messages: list[MessageBody]
    head_seq: int


class ErrorBody(Struct, rename="camel"):
    """Every refusal, over HTTP as over STOMP."""

    event: Literal["error"]
    code: Literal[
        "INVALID_ARGUMENT",
        "UNAUTHENTICATED",
        "FORBIDDEN",
        "CONFLICT",
        "RATE_LIMITED",
        "TOO_LARGE",
        "UNAVAILABLE",
        "INTERNAL",
    ]
    message: Annotated[str, Meta(description="For people; it may change.")]
    retry_after_ms: Annotated[int, Meta(description="With RATE_LIMITED and UNAVAILABLE.")] | UnsetType = UNSET


def conversation_body(conversation: Conversation) -> ConversationBody:
    return ConversationBody(
        conversation_id=conversation.conversation_id,
        type=_type_of(conversation),
        title=conversation.title,
        member_ids=conversation.member_ids,
        created_at=rfc3339(conversation.created_at_ms),
    )


def conversation_view_body(view: ConversationView) -> ConversationViewBody:
    conversation, last = view.conversation, view.last_message
    return ConversationViewBody(
        conversation_id=conversation.conversation_id,
        type=_type_of(conversation),
        title=conversation.title,
        member_ids=conversation.member_ids,
        created_at=rfc3339(conversation.created_at_ms),
        last_message=None if last is None else last_message_view(last),
        head_seq=view.head_seq,
        read_seq=view.read_seq,
        unread_count=max(0, view.head_seq - view.read_seq),
        muted=view.muted,
    )


def history_body(page: HistoryPage) -> HistoryBody:
    messages = [message_view(message, status) for message, status in zip(page.messages, page.statuses, strict=True)]
    return HistoryBody(messages=messages, head_seq=page.head_seq)


def user_id_from(text: str) -> UserId:
    """
    Raises:
        ValueError: no user can have that id.
    """
    if not is_user_id(text):
        raise ValueError(f"userId: expected {_USER_ID_TEXT}")
    return UserId(text)


def _type_of(conversation: Conversation) -> ConversationType:
    return "direct" if conversation.type == "direct" else "group"
