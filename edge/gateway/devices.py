"""Devices: where offline push goes. Their addresses go in and never come out."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Protocol

from msgspec import Meta, Struct

from edge.bodies import Time
from edge.clients.notify import Address, ApnsAddress, Device, FcmAddress, PushSetup, WebPushAddress
from edge.gateway.routing import Answer, Call, Reply, Route
from edge.gateway.shapes import Nothing
from edge.model import UserId
from edge.times import rfc3339

# A subscription is some 500 bytes; a registration token of FCM at most 4 KiB.
_MAX_TEXT = 4_096

_Text = Annotated[str, Meta(max_length=_MAX_TEXT)]
Platform = Literal["webpush", "fcm", "apns"]


class Devices(Protocol):
    """What the API asks of notify (`clients.NotifyClient`). Everything raises `ServiceError`."""

    async def register_device(self, user: UserId, address: Address) -> tuple[Device, bool]: ...

    async def list_devices(self, user: UserId) -> Sequence[Device]: ...

    async def remove_device(self, user: UserId, device_id: str) -> None: ...

    async def get_push_setup(self) -> PushSetup: ...


class WebPushKeys(Struct):
    p256dh: _Text
    auth: _Text


class NewDevice(Struct):
    """For `webpush`: `endpoint` and `keys`, as `PushSubscription.toJSON()` gives them. Else: `token`."""

    platform: Platform
    endpoint: _Text | None = None
    keys: WebPushKeys | None = None
    token: _Text | None = None

    def __post_init__(self) -> None:
        if self.platform == "webpush" and not (self.endpoint and self.keys):
            raise ValueError("a webpush device needs endpoint and keys, as PushSubscription.toJSON() gives them")
        if self.platform != "webpush" and not self.token:
            raise ValueError(f"token: expected the device's token of {self.platform}")


class DeviceBody(Struct, rename="camel"):
    device_id: str
    platform: str
    registered_at: Time


class DevicesBody(Struct):
    """Oldest first."""

    devices: list[DeviceBody]


class PushBody(Struct, rename="camel"):
    platforms: Annotated[list[str], Meta(description="What devices may be registered for.")]
    webpush_public_key: Annotated[
        str | None, Meta(description="`applicationServerKey` of `PushManager.subscribe()`; null: there is no Web Push.")
    ]


def device_routes(devices: Devices) -> Sequence[Route[Any, Any]]:
    async def register(call: Call[Nothing, NewDevice]) -> Reply:
        device, created = await devices.register_device(call.user_id, _address(call.body))
        return Reply(201 if created else 200, _body(device))

    async def list_(call: Call[Nothing, Nothing]) -> Reply:
        return Reply(200, DevicesBody([_body(device) for device in await devices.list_devices(call.user_id)]))

    async def remove(call: Call[Nothing, Nothing]) -> Reply:
        await devices.remove_device(call.user_id, call.device_id)
        return Reply(204)

    async def push_setup(_: Call[Nothing, Nothing]) -> Reply:
        setup = await devices.get_push_setup()
        return Reply(200, PushBody(list(setup.platforms), setup.webpush_public_key or None))

    return (
        Route(
            method="POST",
            path="/devices",
            name="registerDevice",
            text="Registers where the caller's notifications go while he is offline.",
            handle=register,
            query=Nothing,
            body=NewDevice,
            answers={
                201: Answer("It was registered.", DeviceBody),
                200: Answer("It was registered already.", DeviceBody),
            },
            refusals=(400, 413, 503),
        ),
        Route(
            method="GET",
            path="/devices",
            name="listDevices",
            text="The caller's devices.",
            handle=list_,
            query=Nothing,
            body=Nothing,
            answers={200: Answer("The devices.", DevicesBody)},
            refusals=(503,),
        ),
        Route(
            method="DELETE",
            path="/devices/{deviceId}",
            name="removeDevice",
            text="Nothing goes to that device any more. One that is gone stays gone.",
            handle=remove,
            query=Nothing,
            body=Nothing,
            answers={204: Answer("It is not registered.")},
            refusals=(400, 503),
        ),
        Route(
            method="GET",
            path="/push",
            name="getPushSetup",
            text="What a client needs before it can register a device.",
            handle=push_setup,
            query=Nothing,
            body=Nothing,
            answers={200: Answer("What there is.", PushBody)},
            refusals=(503,),
        ),
    )


def _address(wanted: NewDevice) -> Address:
    if wanted.platform == "webpush" and wanted.keys is not None:
        return WebPushAddress(wanted.endpoint or "", wanted.keys.p256dh, wanted.keys.auth)
    if wanted.platform == "fcm":
        return FcmAddress(wanted.token or "")
    return ApnsAddress(wanted.token or "")


def _body(device: Device) -> DeviceBody:
    return DeviceBody(device.device_id, device.platform, rfc3339(device.registered_at_ms))
