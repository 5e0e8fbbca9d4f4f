"""The edge's way to notify: devices, and the stream of live notifications from one replica."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import grpc
import uuid_utils

from edge.clients.writing import take_first, was_written
from edge.model import ConversationId, Seq, UserId
from edge.replicas import Replica, Replicas
from protos.notify.v1 import notify_pb2, notify_pb2_grpc
from services.runtime.channel import outgoing_metadata
from services.runtime.errors import from_rpc_error
from services.runtime.resilience import CallPolicy

SERVICE_NAME = notify_pb2.DESCRIPTOR.services_by_name["NotifyService"].full_name

_READ = CallPolicy(deadline=timedelta(seconds=3), attempts=3, idempotent=True)
# A device's id is made of its address: registering or removing it twice changes nothing.
_WRITE = CallPolicy(deadline=timedelta(seconds=5), attempts=3, idempotent=True)
# Users in one message up; events handled before other work gets its turn.
_MAX_UP = 1_000
_TURN = 100

_Call = grpc.aio.StreamStreamCall[notify_pb2.StreamNotificationsRequest, notify_pb2.StreamNotificationsResponse]

_PLATFORM_NAMES = {
    notify_pb2.PLATFORM_WEBPUSH: "webpush",
    notify_pb2.PLATFORM_FCM: "fcm",
    notify_pb2.PLATFORM_APNS: "apns",
}


@dataclass(frozen=True, slots=True)
class WebPushAddress:
    """As `PushSubscription.toJSON()` gives it."""

    endpoint: str
    p256dh: str
    auth: str


@dataclass(frozen=True, slots=True)
class FcmAddress:
    token: str


@dataclass(frozen=True, slots=True)
class ApnsAddress:
    token: str


Address = WebPushAddress | FcmAddress | ApnsAddress


@dataclass(frozen=True, slots=True)
class Device:
    """`platform` is `webpush`, `fcm` or `apns`."""

    device_id: str
    platform: str
    registered_at_ms: int


@dataclass(frozen=True, slots=True)
class PushSetup:
    """What devices may be registered for, and the key that a browser needs (empty: no Web Push)."""

    platforms: Sequence[str]
    webpush_public_key: str


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message that the user may not have seen arrive."""

    conversation_id: ConversationId
    message_id: str
    seq: Seq
    sender_id: UserId
    preview: str
    unread_count: int


@dataclass(frozen=True, slots=True)
class UnreadChanged:
    conversation_id: ConversationId
    unread_count: int
    read_seq: Seq


class NotifyClient:
    """What the edge asks of notify, at any replica that is up. Everything raises `ServiceError`."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas
        self._stubs: dict[Replica, notify_pb2_grpc.NotifyServiceStub] = {}

    async def register_device(self, user: UserId, address: Address) -> tuple[Device, bool]:
        """The device, and whether it is new."""
        request = notify_pb2.RegisterDeviceRequest(request_id=str(uuid_utils.uuid7()), user_id=user)
        match address:
            case WebPushAddress(endpoint, p256dh, auth):
                request.webpush.CopyFrom(notify_pb2.WebPushSubscription(endpoint=endpoint, p256dh=p256dh, auth=auth))
            case FcmAddress(token):
                request.fcm_token = token
            case ApnsAddress(token):
                request.apns_token = token
        answer = await self._call("RegisterDevice", request, _WRITE)
        return _device_from(answer.device), answer.created

    async def list_devices(self, user: UserId) -> Sequence[Device]:
        """Oldest first."""
        answer = await self._call("ListDevices", notify_pb2.ListDevicesRequest(user_id=user), _READ)
        return [_device_from(wire) for wire in answer.devices]

    async def remove_device(self, user: UserId, device_id: str) -> None:
        request = notify_pb2.RemoveDeviceRequest(request_id=str(uuid_utils.uuid7()), user_id=user, device_id=device_id)
        await self._call("RemoveDevice", request, _WRITE)

    async def get_push_setup(self) -> PushSetup:
        answer = await self._call("GetPushSetup", notify_pb2.GetPushSetupRequest(), _READ)
        platforms = [_PLATFORM_NAMES[wire] for wire in answer.platforms if wire in _PLATFORM_NAMES]
        return PushSetup(platforms, answer.webpush_public_key)

    def stub(self, replica: Replica) -> notify_pb2_grpc.NotifyServiceStub:
        stub = self._stubs.get(replica)
        if stub is None:
            for gone in [known for known in self._stubs if not known.is_up]:
                del self._stubs[gone]
            stub = self._stubs[replica] = notify_pb2_grpc.NotifyServiceStub(replica.channel)
        return stub

    async def _call(self, method: str, request: Any, policy: CallPolicy) -> Any:
        replica = self._replicas.any()
        return await replica.caller.call(getattr(self.stub(replica), method), request, policy=policy, method=method)


class NotificationListener(Protocol):
    """What a stream brings. Called on the event loop; does not block and does not raise."""

    def new_message(self, user_id: UserId, event: NewMessage) -> None: ...
    def unread_changed(self, user_id: UserId, event: UnreadChanged) -> None: ...
    def elsewhere(self, call: "NotificationCall", user_id: UserId, *, elsewhere: bool) -> None:
        """Whether that replica has the user attached by another edge too."""


class NotificationCall:
    """What waits to go up (the last word of each user), and the stream itself (`run`)."""

    def __init__(self, stub: notify_pb2_grpc.NotifyServiceStub) -> None:
        self._stub = stub
        self._attached: dict[UserId, bool] = {}
        self._news = asyncio.Event()

    def attach(self, user_id: UserId, *, attached: bool) -> None:
        """Whether the user has a connection here."""
        self._attached[user_id] = attached
        self._news.set()

    def forget(self) -> None:
        """Drops what waits: the stream that it was for is gone."""
        self._attached.clear()

    async def run(self, listener: NotificationListener) -> None:
        """Opens the stream and follows it to its end.

        Raises:
            ServiceError: it broke.
        """
        call = self._stub.StreamNotifications(metadata=outgoing_metadata(), wait_for_ready=True)
        writing = asyncio.create_task(self._write(call))
        try:
            async for response in call:
                for said in response.elsewhere:
                    listener.elsewhere(self, UserId(said.user_id), elsewhere=said.elsewhere)
                for count, wire in enumerate(response.notifications, 1):
                    _handle(wire, listener)
                    if count % _TURN == 0:
                        await asyncio.sleep(0)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, package="edge") from error
        finally:
            writing.cancel()
            await asyncio.wait((writing,))
            call.cancel()

    async def _write(self, call: _Call) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._attached:
                users = take_first(self._attached, _MAX_UP)
                request = notify_pb2.StreamNotificationsRequest(
                    attach_user_ids=[user_id for user_id, attached in users.items() if attached],
                    detach_user_ids=[user_id for user_id, attached in users.items() if not attached],
                )
                if not await was_written(call.write(request)):
                    return


def _handle(wire: notify_pb2.Notification, listener: NotificationListener) -> None:
    user_id = UserId(wire.user_id)
    if wire.HasField("message"):
        told = wire.message
        listener.new_message(
            user_id,
            NewMessage(
                ConversationId(told.conversation_id),
                told.message_id,
                Seq(told.seq),
                UserId(told.sender_id),
                told.preview,
                told.unread_count,
            ),
        )
    elif wire.HasField("unread"):
        unread = wire.unread
        listener.unread_changed(
            user_id, UnreadChanged(ConversationId(unread.conversation_id), unread.unread_count, Seq(unread.read_seq))
        )


def _device_from(wire: notify_pb2.Device) -> Device:
    return Device(wire.device_id, _PLATFORM_NAMES.get(wire.platform, "unknown"), wire.registered_at_ms)
