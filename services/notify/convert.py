"""Wire ↔ model for notify.v1, and the few messages of presence.v1 that notify needs. Nothing else."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from google.protobuf.message import DecodeError

from protos.notify.v1 import notify_pb2
from protos.presence.v1 import presence_pb2
from services.notify.errors import BadRequest, MalformedJob
from services.notify.model import (
    Address,
    ApnsAddress,
    ConversationId,
    Device,
    DeviceId,
    Elsewhere,
    FcmAddress,
    Job,
    Live,
    LiveMessage,
    Message,
    MessageId,
    MessageStored,
    Platform,
    PushDevice,
    PushDue,
    ReadMoved,
    Recipient,
    Seq,
    Status,
    UserId,
    WebPushAddress,
)
from services.notify.queue import DeadLetter

_PLATFORMS_OUT = {
    Platform.WEBPUSH: notify_pb2.PLATFORM_WEBPUSH,
    Platform.FCM: notify_pb2.PLATFORM_FCM,
    Platform.APNS: notify_pb2.PLATFORM_APNS,
}
_STATUSES = {
    presence_pb2.STATUS_OFFLINE: Status.OFFLINE,
    presence_pb2.STATUS_ONLINE: Status.ONLINE,
    presence_pb2.STATUS_AWAY: Status.AWAY,
    presence_pb2.STATUS_BUSY: Status.BUSY,
}

# wire.md
_MAX_USER_ID = 64
_MAX_PREVIEW = 200
# FCM says 4,096 at most; APNs uses 64 hex characters and may use up to 200.
_MAX_FCM_TOKEN = 4_096
_MAX_APNS_TOKEN = 200
# Members of a conversation; more is no job of ours.
_MAX_RECIPIENTS = 1_000


# ---- Jobs.


def encode_job(job_id: str, job: Job) -> bytes:
    wire = notify_pb2.NotifyJob(job_id=job_id)
    match job:
        case MessageStored(message, recipients):
            wire.message_stored.CopyFrom(_message_out(message, recipients))
        case ReadMoved():
            wire.read_moved.conversation_id = job.conversation_id
            wire.read_moved.user_id = job.user_id
            wire.read_moved.read_seq = job.read_seq
            wire.read_moved.unread_count = job.unread_count
        case PushDue(message, recipients, shown):
            wire.push_due.message.CopyFrom(_message_out(message, recipients))
            wire.push_due.shown_user_ids.extend(sorted(shown))
        case PushDevice(message, recipient, device_id):
            wire.push_device.message.CopyFrom(_message_out(message, (recipient,)))
            wire.push_device.device_id = device_id
    return wire.SerializeToString()


def decode_job(body: bytes) -> Job:
    """
    Raises:
        MalformedJob: it is none, or none of ours.
    """
    try:
        wire = notify_pb2.NotifyJob.FromString(body)
    except DecodeError:
        raise MalformedJob("not a NotifyJob") from None
    match wire.WhichOneof("job"):
        case "message_stored":
            return MessageStored(*_message_from(wire.message_stored))
        case "read_moved":
            read = wire.read_moved
            if not read.conversation_id or not read.user_id:
                raise MalformedJob("read_moved: expected a conversation and a user")
            return ReadMoved(
                ConversationId(read.conversation_id), UserId(read.user_id), Seq(read.read_seq), read.unread_count
            )
        case "push_due":
            message, recipients = _message_from(wire.push_due.message)
            return PushDue(message, recipients, frozenset(map(UserId, wire.push_due.shown_user_ids)))
        case "push_device":
            message, recipients = _message_from(wire.push_device.message)
            if len(recipients) != 1 or not wire.push_device.device_id:
                raise MalformedJob("push_device: expected one recipient and a device")
            return PushDevice(message, recipients[0], DeviceId(wire.push_device.device_id))
        case _:
            raise MalformedJob("no job, or one of a later version")


def _message_out(message: Message, recipients: Sequence[Recipient]) -> notify_pb2.MessageStored:
    return notify_pb2.MessageStored(
        conversation_id=message.conversation_id,
        message_id=message.message_id,
        seq=message.seq,
        sender_id=message.sender_id,
        preview=message.preview,
        sent_at_ms=message.sent_at_ms,
        recipients=[
            notify_pb2.Recipient(user_id=each.user_id, unread_count=each.unread_count, muted=each.muted)
            for each in recipients
        ],
    )


def _message_from(wire: notify_pb2.MessageStored) -> tuple[Message, tuple[Recipient, ...]]:
    if not (wire.conversation_id and wire.message_id and wire.seq and wire.sender_id):
        raise MalformedJob("message: expected a conversation, an id, a seq and a sender")
    if len(wire.recipients) > _MAX_RECIPIENTS or not all(each.user_id for each in wire.recipients):
        raise MalformedJob(f"message: expected at most {_MAX_RECIPIENTS} recipients, each with an id")
    message = Message(
        ConversationId(wire.conversation_id),
        MessageId(wire.message_id),
        Seq(wire.seq),
        UserId(wire.sender_id),
        wire.preview[:_MAX_PREVIEW],
        wire.sent_at_ms,
    )
    return message, tuple(Recipient(UserId(each.user_id), each.unread_count, each.muted) for each in wire.recipients)


# ---- Devices.


def user_id_from(text: str) -> UserId:
    if not 1 <= len(text) <= _MAX_USER_ID:
        raise BadRequest(problem=f"user_id: expected 1 to {_MAX_USER_ID} characters")
    return UserId(text)


def address_from(wire: notify_pb2.RegisterDeviceRequest) -> Address:
    """Its shape only; whether it may be used is the use case's question."""
    match wire.WhichOneof("address"):
        case "webpush":
            given = wire.webpush
            return WebPushAddress(given.endpoint, given.p256dh.rstrip("="), given.auth.rstrip("="))
        case "fcm_token":
            token = wire.fcm_token
            if not 1 <= len(token) <= _MAX_FCM_TOKEN or not token.isascii() or any(c.isspace() for c in token):
                raise BadRequest(problem="fcm_token: expected a registration token")
            return FcmAddress(token)
        case "apns_token":
            token = wire.apns_token.lower()
            if not 2 <= len(token) <= _MAX_APNS_TOKEN or not set(token) <= set("0123456789abcdef"):
                raise BadRequest(problem="apns_token: expected hex digits")
            return ApnsAddress(token)
        case _:
            raise BadRequest(problem="address: expected webpush, fcm_token or apns_token")


def device_id_of(address: Address) -> DeviceId:
    """The same for the same address; a subscription whose keys were renewed is another one."""
    match address:
        case WebPushAddress(endpoint, p256dh, auth):
            named = f"webpush\0{endpoint}\0{p256dh}\0{auth}"
        case FcmAddress(token):
            named = f"fcm\0{token}"
        case ApnsAddress(token):
            named = f"apns\0{token}"
    return DeviceId("d" + hashlib.blake2b(named.encode(), digest_size=16).hexdigest())


def device(value: Device) -> notify_pb2.Device:
    """Without the address: nobody who asks needs it, and who has it can push to it."""
    return notify_pb2.Device(
        device_id=value.device_id,
        user_id=value.user_id,
        platform=_PLATFORMS_OUT[value.platform],
        registered_at_ms=value.registered_at_ms,
    )


def platform(value: Platform) -> "notify_pb2.Platform.ValueType":
    return _PLATFORMS_OUT[value]


# ---- Live notifications and dead letters.


def live_response(waiting: Iterable[Live | Elsewhere]) -> notify_pb2.StreamNotificationsResponse:
    response = notify_pb2.StreamNotificationsResponse()
    for each in waiting:
        if isinstance(each, Elsewhere):
            response.elsewhere.append(notify_pb2.Elsewhere(user_id=each.user_id, elsewhere=each.elsewhere))
        else:
            response.notifications.append(_notification(each))
    return response


def _notification(live: Live) -> notify_pb2.Notification:
    if isinstance(live, LiveMessage):
        message = live.message
        return notify_pb2.Notification(
            user_id=live.user_id,
            message=notify_pb2.NewMessage(
                conversation_id=message.conversation_id,
                message_id=message.message_id,
                seq=message.seq,
                sender_id=message.sender_id,
                preview=message.preview,
                unread_count=live.unread_count,
            ),
        )
    return notify_pb2.Notification(
        user_id=live.user_id,
        unread=notify_pb2.UnreadChanged(
            conversation_id=live.conversation_id, unread_count=live.unread_count, read_seq=live.read_seq
        ),
    )


def dead_letter(letter: DeadLetter) -> notify_pb2.DeadLetter:
    user_id, message_id = subject_of(letter.body)
    return notify_pb2.DeadLetter(
        job_id=letter.job_id,
        user_id=user_id,
        message_id=message_id,
        reason=letter.reason,
        died_at_ms=letter.died_at_ms,
        tries=letter.tries,
    )


def subject_of(body: bytes) -> tuple[str, str]:
    """Whose job it is and about which message, as far as it can be read."""
    try:
        job = decode_job(body)
    except MalformedJob:
        return "", ""
    match job:
        case PushDevice(message, recipient, _):
            return recipient.user_id, message.message_id
        case ReadMoved():
            return job.user_id, ""
        case MessageStored(message, _) | PushDue(message, _, _):
            return "", message.message_id


# ---- Presence, as its client needs it: functions between bytes and our own values.

PRESENCE_SERVICE = presence_pb2.DESCRIPTOR.services_by_name["PresenceService"].full_name


def encode_presence_request(user_ids: Sequence[UserId]) -> bytes:
    return presence_pb2.GetPresenceRequest(user_ids=user_ids).SerializeToString()


def decode_presence_response(raw: bytes) -> Mapping[UserId, Status]:
    answer = presence_pb2.GetPresenceResponse.FromString(raw)
    return {UserId(each.user_id): _STATUSES.get(each.status, Status.UNKNOWN) for each in answer.presences}
