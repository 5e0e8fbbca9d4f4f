"""chat.v1 → the edge's values, and back."""

from edge.model import Conversation, ConversationId, ConversationView, Message, Seq, UserId, WatermarkKind
from protos.chat.v1 import chat_pb2
from services.runtime import errors
from services.runtime.errors import ServiceError

TYPES = {"direct": chat_pb2.CONVERSATION_TYPE_DIRECT, "group": chat_pb2.CONVERSATION_TYPE_GROUP}
_TYPE_NAMES = {number: name for name, number in TYPES.items()}
KINDS = {
    WatermarkKind.DELIVERED: chat_pb2.WATERMARK_KIND_DELIVERED,
    WatermarkKind.SEEN: chat_pb2.WATERMARK_KIND_SEEN,
}
STATUSES = {
    chat_pb2.MESSAGE_STATUS_SENT: "sent",
    chat_pb2.MESSAGE_STATUS_DELIVERED: "delivered",
    chat_pb2.MESSAGE_STATUS_SEEN: "seen",
}
_BY_REASON = {
    kind.reason: kind
    for kind in (
        errors.InvalidArgument,
        errors.TooLarge,
        errors.Unauthenticated,
        errors.Forbidden,
        errors.Conflict,
        errors.RateLimited,
        errors.Unavailable,
        errors.Internal,
    )
}
_KIND_OF = {number: kind for kind, number in KINDS.items()}


def refusal_from(wire: chat_pb2.Refusal) -> ServiceError:
    """The error that a batch carried for one of its items."""
    kind = _BY_REASON.get(wire.reason, errors.Internal)
    return kind.told(wire.message, retry_after_ms=wire.retry_after_ms or None)


def message_from(wire: chat_pb2.Message) -> Message:
    return Message(
        message_id=wire.message_id,
        conversation_id=ConversationId(wire.conversation_id),
        seq=Seq(wire.seq),
        sender_id=UserId(wire.sender_id),
        client_message_id=wire.client_message_id,
        content=wire.content,
        type=wire.type,
        sent_at_ms=wire.sent_at_ms,
    )


def conversation_from(wire: chat_pb2.Conversation) -> Conversation:
    return Conversation(
        conversation_id=ConversationId(wire.conversation_id),
        type=_TYPE_NAMES[wire.type],
        title=wire.title or None,
        member_ids=[UserId(user_id) for user_id in wire.member_ids],
        created_at_ms=wire.created_at_ms,
    )


def view_from(wire: chat_pb2.ConversationView) -> ConversationView:
    return ConversationView(
        conversation=conversation_from(wire.conversation),
        head_seq=Seq(wire.head_seq),
        read_seq=Seq(wire.read_seq),
        last_message=message_from(wire.last_message) if wire.HasField("last_message") else None,
        muted=wire.muted,
    )


def kind_from(wire: chat_pb2.WatermarkKind.ValueType) -> WatermarkKind:
    return _KIND_OF[wire]
