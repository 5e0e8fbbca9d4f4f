"""Devices and muting over the HTTP API: what is passed on, what comes out, and that addresses never do."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from edge.clients.notify import ApnsAddress, Device, FcmAddress, WebPushAddress
from services.chat.errors import NotAMember
from services.runtime.errors import InvalidArgument, Unavailable
from tests.unit.edge import test_gateway
from tests.unit.edge.fake_chat import SENT_AT_MS, FakeDevices
from tests.unit.edge.test_gateway import World, refused

BROWSER = {
    "platform": "webpush",
    "endpoint": "https://push.example.org/secret",
    "expirationTime": None,
    "keys": {"p256dh": "BPublic", "auth": "secret"},
}
REGISTERED_AT = "2026-11-22T10:00:00.123Z"


@pytest.fixture
def devices() -> FakeDevices:
    return FakeDevices()


@pytest.fixture
async def world(devices: FakeDevices, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(test_gateway, "FakeDevices", lambda: devices)
    async with World() as world:
        yield world


async def test_a_browser_is_registered_with_what_it_gave(world: World, devices: FakeDevices) -> None:
    answer = await world.call("POST", "/devices", BROWSER)
    assert answer.status == 201
    assert answer.json == {"deviceId": "d1", "platform": "webpush", "registeredAt": REGISTERED_AT}
    assert devices.asked == [
        ("register", "alice", WebPushAddress("https://push.example.org/secret", "BPublic", "secret"))
    ]


@pytest.mark.parametrize(("platform", "address"), [("fcm", FcmAddress("tok")), ("apns", ApnsAddress("tok"))])
async def test_a_telephone_is_registered_with_its_token(
    world: World, devices: FakeDevices, platform: str, address: FcmAddress | ApnsAddress
) -> None:
    devices.device = Device("d2", platform, SENT_AT_MS)
    answer = await world.call("POST", "/devices", {"platform": platform, "token": "tok"})
    assert (answer.status, answer.json["platform"]) == (201, platform)
    assert devices.asked == [("register", "alice", address)]


async def test_a_device_that_is_registered_already_is_no_new_one(world: World, devices: FakeDevices) -> None:
    devices.created = False
    assert (await world.call("POST", "/devices", BROWSER)).status == 200


@pytest.mark.parametrize(
    ("body", "saying"),
    [
        ({"platform": "webpush", "keys": BROWSER["keys"]}, "endpoint and keys"),
        ({"platform": "webpush", "endpoint": "https://push.example.org/x"}, "endpoint and keys"),
        ({"platform": "webpush", "endpoint": "", "keys": BROWSER["keys"]}, "endpoint and keys"),
        ({"platform": "webpush", "token": "tok"}, "endpoint and keys"),
        ({**BROWSER, "keys": {"p256dh": "BPublic"}}, "keys.auth: is missing"),
        ({**BROWSER, "endpoint": "x" * 4_097}, "endpoint"),
        ({"platform": "fcm"}, "token"),
        ({"platform": "fcm", "token": ""}, "token"),
        ({"platform": "apns", "endpoint": "https://push.example.org/x"}, "token"),
        ({"platform": "apns", "token": "x" * 4_097}, "token"),
        ({"platform": "pager", "token": "tok"}, 'platform: expected "webpush" or "fcm" or "apns"'),
        ({"token": "tok"}, "platform: is missing"),
    ],
)
async def test_half_an_address_is_refused_with_what_is_missing(
    world: World, devices: FakeDevices, body: dict[str, Any], saying: str
) -> None:
    refused(await world.call("POST", "/devices", body), 400, "INVALID_ARGUMENT", saying=saying)
    assert devices.asked == []


async def test_what_notify_refuses_is_refused_in_its_words(world: World, devices: FakeDevices) -> None:
    devices.raises = InvalidArgument.told("this platform is not set up here")
    refused(await world.call("POST", "/devices", BROWSER), 400, "INVALID_ARGUMENT", saying="not set up here")


async def test_ones_devices_are_listed_without_their_addresses(world: World, devices: FakeDevices) -> None:
    answer = await world.call("GET", "/devices")
    assert answer.json == {"devices": [{"deviceId": "d1", "platform": "webpush", "registeredAt": REGISTERED_AT}]}
    assert devices.asked == [("list", "alice")]


async def test_a_device_is_removed_by_its_id(world: World, devices: FakeDevices) -> None:
    assert (await world.call("DELETE", "/devices/d1")).status == 204
    assert devices.asked == [("remove", "alice", "d1")]


@pytest.mark.parametrize("device_id", ["a-b", "d%201", "%2e%2e", "x" * 65, "d1%0a", "%C3%A4"])
async def test_what_can_be_no_device_is_refused(world: World, devices: FakeDevices, device_id: str) -> None:
    refused(await world.call("DELETE", f"/devices/{device_id}"), 400, "INVALID_ARGUMENT", saying="deviceId")
    assert devices.asked == []


async def test_a_client_learns_what_it_may_register(world: World, devices: FakeDevices) -> None:
    assert (await world.call("GET", "/push")).json == {"platforms": ["webpush"], "webpushPublicKey": "BKey"}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/devices", BROWSER),
        ("GET", "/devices", None),
        ("DELETE", "/devices/d1", None),
        ("GET", "/push", None),
    ],
)
async def test_without_a_token_nothing_is_asked_and_without_notify_everything_is_refused(
    world: World, devices: FakeDevices, method: str, path: str, body: object
) -> None:
    refused(await world.call(method, path, body, token=None), 401, "UNAUTHENTICATED")
    assert devices.asked == []
    devices.raises = Unavailable(retry_after_ms=1_500)
    answer = await world.call(method, path, body)
    refused(answer, 503, "UNAVAILABLE")
    assert answer.json["retryAfterMs"] == 1_500


@pytest.mark.parametrize(("method", "asked"), [("PUT", "mute"), ("DELETE", "unmute")])
async def test_a_conversation_is_muted_and_unmuted_for_the_caller(world: World, method: str, asked: str) -> None:
    answer = await world.call(method, "/conversations/g1/mute")
    assert (answer.status, answer.raw) == (204, b"")
    assert world.chat.asked == [(asked, "g1", "alice")]


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_muting_what_one_is_not_in_is_refused(world: World, method: str) -> None:
    world.chat.raises = NotAMember()
    refused(await world.call(method, "/conversations/g1/mute"), 403, "FORBIDDEN")
    refused(await world.call(method, "/conversations/g1/mute", token=None), 401, "UNAUTHENTICATED")
