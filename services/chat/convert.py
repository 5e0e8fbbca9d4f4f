"""Wire ↔ model for chat.v1, and nothing else.

Topic events are encoded once, each as a whole `StreamTopicsResponse`. Serialised protobuf messages may be put one
behind the other and are read as one message with all their events (https://protobuf.dev/programming-guides/encoding,
"merging"): so the same bytes go to every edge and over the bus, and a write of many events is a join.
"""

from collections.abc import Mapping, Sequence

import uuid_utils

from protos.chat.v1 import chat_pb2
from protos.notify.v1 import notify_pb2
from protos.presence.v1 import presence_pb2
from services.chat.conversations import Page
from services.chat.errors import BadRequest
from services.chat.events import (
    ContactsUncertain,
    Event,
    Joined,
    MemberRemoved,
    MembersChanged,
    MessagesPassed,
    Replayed,
    StatusMoved,
    TopicEvent,
    Typing,
    WatchRefused,
)
from services.chat.jobs import Job
from services.chat.messages import Sent
from services.chat.model import (
    Conversation,
    ConversationId,
    ConversationType,
    ConversationView,
    Draft,
    Message,
    MessageStatus,
    Seq,
    UserId,
    WatermarkKind,
)
from services.chat.notices import MessageNotice, Notice
from services.chat.receipts import Move
from services.chat.topics import Watch
from services.runtime.errors import ServiceError

_TYPES = {
    chat_pb2.CONVERSATION_TYPE_DIRECT: ConversationType.DIRECT,
    chat_pb2.CONVERSATION_TYPE_GROUP: ConversationType.GROUP,
}
_TYPES_OUT = {type_: number for number, type_ in _TYPES.items()}
_KINDS = {
    chat_pb2.WATERMARK_KIND_DELIVERED: WatermarkKind.DELIVERED,
    chat_pb2.WATERMARK_KIND_SEEN: WatermarkKind.SEEN,
}
_STATUSES = {
    MessageStatus.SENT: chat_pb2.MESSAGE_STATUS_SENT,
    MessageStatus.DELIVERED: chat_pb2.MESSAGE_STATUS_DELIVERED,
    MessageStatus.SEEN: chat_pb2.MESSAGE_STATUS_SEEN,
}
_KINDS_OUT = {kind: number for number, kind in _KINDS.items()}

# wire.md: the ranges of what a client may choose.
_MAX_USER_ID = 64
_MAX_CLIENT_MESSAGE_ID_BYTES = 128
_MAX_CONTENT_BYTES = 16 << 10
_MAX_TITLE = 200
# notify.proto
_MAX_PREVIEW = 200


def draft_from(wire: chat_pb2.OutgoingMessage) -> Draft | ServiceError:
    """A draft, or why it cannot be one. The edge has checked all this: what fails here is an edge's bug."""
    if not 1 <= len(wire.client_message_id.encode()) <= _MAX_CLIENT_MESSAGE_ID_BYTES:
        return BadRequest(problem=f"client_message_id: expected 1 to {_MAX_CLIENT_MESSAGE_ID_BYTES} bytes")
    if not wire.conversation_id or not wire.sender_id:
        return BadRequest(problem="conversation_id and sender_id: expected both")
    if wire.type != "text":
        return BadRequest(problem='type: expected "text"')
    content = wire.content
    if len(content) * 3 > _MAX_CONTENT_BYTES and len(content.encode()) > _MAX_CONTENT_BYTES:
        return BadRequest(problem=f"content: expected at most {_MAX_CONTENT_BYTES} bytes")
    return Draft(
        ConversationId(wire.conversation_id),
        UserId(wire.sender_id),
        wire.client_message_id,
        content,
        wire.type,
    )


def send_result(outcome: Sent | ServiceError) -> chat_pb2.SendResult:
    if isinstance(outcome, Sent):
        message = outcome.message
        return chat_pb2.SendResult(
            stored=chat_pb2.Stored(
                message_id=message.message_id,
                seq=message.seq,
                sent_at_ms=message.sent_at_ms,
                repeat=outcome.repeat,
            )
        )
    return chat_pb2.SendResult(refusal=refusal(outcome))


def refusal(error: ServiceError) -> chat_pb2.Refusal:
    return chat_pb2.Refusal(reason=error.reason, message=str(error), retry_after_ms=error.retry_after_ms or 0)


def message(value: Message) -> chat_pb2.Message:
    return chat_pb2.Message(
        message_id=value.message_id,
        conversation_id=value.conversation_id,
        seq=value.seq,
        sender_id=value.sender_id,
        client_message_id=value.client_message_id,
        content=value.content,
        type=value.type,
        sent_at_ms=value.sent_at_ms,
    )


def conversation(value: Conversation) -> chat_pb2.Conversation:
    return chat_pb2.Conversation(
        conversation_id=value.conversation_id,
        type=_TYPES_OUT[value.type],
        title=value.title or "",
        member_ids=value.member_ids,
        created_at_ms=value.created_at_ms,
    )


def view(value: ConversationView) -> chat_pb2.ConversationView:
    return chat_pb2.ConversationView(
        conversation=conversation(value.conversation),
        head_seq=value.head_seq,
        read_seq=value.watermarks.read_seq,
        last_message=None if value.last_message is None else message(value.last_message),
        muted=value.muted,
    )


def page(value: Page) -> chat_pb2.ReadMessagesResponse:
    return chat_pb2.ReadMessagesResponse(
        messages=map(message, value.messages),
        head_seq=value.head_seq,
        statuses=[_STATUSES[status] for status in value.statuses],
    )


def type_from(wire: chat_pb2.ConversationType.ValueType) -> ConversationType:
    try:
        return _TYPES[wire]
    except KeyError:
        raise BadRequest(problem="type: expected DIRECT or GROUP") from None


def title_from(wire: str) -> str | None:
    if len(wire) > _MAX_TITLE:
        raise BadRequest(problem=f"title: expected at most {_MAX_TITLE} characters")
    return wire or None


def user_id_from(wire: str) -> UserId:
    if not 1 <= len(wire) <= _MAX_USER_ID:
        raise BadRequest(problem=f"user id: expected 1 to {_MAX_USER_ID} characters")
    return UserId(wire)


def watch_from(wire: chat_pb2.Watch) -> Watch:
    return Watch(
        watch_id=wire.watch_id,
        conversation_id=ConversationId(wire.conversation_id),
        user_ids=tuple(UserId(user_id) for user_id in wire.user_ids),
        after_seq=Seq(wire.after_seq) if wire.HasField("after_seq") else None,
    )


def move_from(wire: chat_pb2.WatermarkMove) -> Move:
    try:
        kind = _KINDS[wire.kind]
    except KeyError:
        raise BadRequest(problem="kind: expected DELIVERED or SEEN") from None
    return Move(ConversationId(wire.conversation_id), UserId(wire.user_id), kind, Seq(wire.seq))


def move_result(outcome: ServiceError | None) -> chat_pb2.MoveResult:
    return chat_pb2.MoveResult(refusal=None if outcome is None else refusal(outcome))


def typing_from(wire: chat_pb2.Typing) -> Typing:
    return Typing(ConversationId(wire.conversation_id), UserId(wire.user_id), wire.typing)


# ---- Topic events.


def encode_event(event: Event) -> bytes:
    """A serialised `StreamTopicsResponse` with this one event."""
    return chat_pb2.StreamTopicsResponse(events=(_wire_event(event),)).SerializeToString()


def decode_events(raw: bytes) -> Sequence[TopicEvent | MembersChanged]:
    """What another replica encoded; kinds that this version does not know are left out.

    Raises:
        google.protobuf.message.DecodeError: this is no such thing.
    """
    events: list[TopicEvent | MembersChanged] = []
    for wire in chat_pb2.StreamTopicsResponse.FromString(raw).events:
        match wire.WhichOneof("event"):
            case "messages":
                batch = wire.messages
                events.append(
                    MessagesPassed(
                        ConversationId(batch.conversation_id), tuple(_message_from(m) for m in batch.messages)
                    )
                )
            case "member_removed":
                removed = wire.member_removed
                events.append(MemberRemoved(ConversationId(removed.conversation_id), UserId(removed.user_id)))
            case "status":
                status = wire.status
                events.append(
                    StatusMoved(
                        ConversationId(status.conversation_id),
                        UserId(status.user_id),
                        _KINDS[status.kind],
                        Seq(status.seq),
                        status.at_ms,
                    )
                )
            case "typing":
                events.append(typing_from(wire.typing))
            case "contacts_changed":
                changed = wire.contacts_changed
                events.append(
                    MembersChanged(ConversationId(changed.conversation_id), tuple(map(UserId, changed.user_ids)))
                )
            case _:
                pass
    return events


def _message_from(wire: chat_pb2.Message) -> Message:
    return Message(
        conversation_id=ConversationId(wire.conversation_id),
        seq=Seq(wire.seq),
        sender_id=UserId(wire.sender_id),
        client_message_id=wire.client_message_id,
        content=wire.content,
        type=wire.type,
        sent_at_ms=wire.sent_at_ms,
    )


def _wire_event(event: Event) -> chat_pb2.TopicEvent:
    match event:
        case MessagesPassed(conversation_id, messages):
            batch = chat_pb2.MessageBatch(conversation_id=conversation_id, messages=map(message, messages))
            return chat_pb2.TopicEvent(messages=batch)
        case Replayed(watch_id, messages):
            return chat_pb2.TopicEvent(replay=chat_pb2.Replay(watch_id=watch_id, messages=map(message, messages)))
        case Joined(watch_id, head_seq, denied):
            return chat_pb2.TopicEvent(
                joined=chat_pb2.Joined(watch_id=watch_id, head_seq=head_seq, denied_user_ids=denied)
            )
        case WatchRefused(watch_id, error):
            return chat_pb2.TopicEvent(refused=chat_pb2.Refused(watch_id=watch_id, refusal=refusal(error)))
        case MemberRemoved(conversation_id, user_id):
            return chat_pb2.TopicEvent(
                member_removed=chat_pb2.MemberRemoved(conversation_id=conversation_id, user_id=user_id)
            )
        case StatusMoved(conversation_id, user_id, kind, seq, at_ms):
            return chat_pb2.TopicEvent(
                status=chat_pb2.StatusMoved(
                    conversation_id=conversation_id,
                    user_id=user_id,
                    kind=_KINDS_OUT[kind],
                    seq=seq,
                    at_ms=at_ms,
                )
            )
        case Typing(conversation_id, user_id, typing):
            return chat_pb2.TopicEvent(
                typing=chat_pb2.Typing(conversation_id=conversation_id, user_id=user_id, typing=typing)
            )
        case MembersChanged(conversation_id, user_ids):
            return chat_pb2.TopicEvent(
                contacts_changed=chat_pb2.ContactsChanged(conversation_id=conversation_id, user_ids=user_ids)
            )
        case ContactsUncertain():
            return chat_pb2.TopicEvent(contacts_changed=chat_pb2.ContactsChanged())


# ---- What other services are told.

PRESENCE_SERVICE = presence_pb2.DESCRIPTOR.services_by_name["PresenceService"].full_name


def encode_activity(activity: Mapping[UserId, int]) -> bytes:
    """A serialised request of presence's `RecordActivity`."""
    return presence_pb2.RecordActivityRequest(
        request_id=str(uuid_utils.uuid7()),
        activities=[presence_pb2.Activity(user_id=user_id, at_ms=at_ms) for user_id, at_ms in activity.items()],
    ).SerializeToString()


def job_of(notice: Notice) -> Job:
    """A notice as notify reads it from the queue."""
    if isinstance(notice, MessageNotice):
        told = notice.message
        wire = notify_pb2.NotifyJob(
            job_id=told.message_id,
            message_stored=notify_pb2.MessageStored(
                conversation_id=told.conversation_id,
                message_id=told.message_id,
                seq=told.seq,
                sender_id=told.sender_id,
                preview=told.content[:_MAX_PREVIEW],
                sent_at_ms=told.sent_at_ms,
                recipients=[
                    notify_pb2.Recipient(user_id=each.user_id, unread_count=each.unread_count, muted=each.muted)
                    for each in notice.recipients
                ],
            ),
        )
    else:
        wire = notify_pb2.NotifyJob(
            job_id=f"{notice.conversation_id}/read/{notice.user_id}/{notice.read_seq}",
            read_moved=notify_pb2.ReadMoved(
                conversation_id=notice.conversation_id,
                user_id=notice.user_id,
                read_seq=notice.read_seq,
                unread_count=notice.unread_count,
            ),
        )
    return Job(wire.job_id, wire.SerializeToString())
