"""Where offline push goes: registered, listed, removed; addresses go in and never come out."""

import pytest

from tests.e2e.api import Json, User
from tests.e2e.expect import assert_is_refusal, assert_is_time
from tests.e2e.world import World
from tests.support.push_services import WebPushService

P256DH = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
"""The receiver's key of RFC 8291, appendix A."""

GOOD: Json = {
    "platform": "webpush",
    "endpoint": "https://push.example.net/push/JzLQ3raZJfFBR0aqvOMsLrt54w4rJUsV",
    "keys": {"p256dh": P256DH, "auth": "BTBZMqHH6r4Tts7J_aSIgg"},
}


async def device_ids(world: World, user: User) -> list[str]:
    answer = (await world.api().call("GET", "/devices", token=user.token)).must_be(200)
    return [device["deviceId"] for device in answer["devices"]]


async def test_device_is_registered_once_listed_and_removed_and_its_address_never_comes_back(
    world: World, browsers: WebPushService
) -> None:
    ann, ben = await world.users(2)
    address = browsers.subscribe(ann.user_id)
    keys = {"p256dh": address.p256dh, "auth": address.auth}
    body = {"platform": "webpush", "endpoint": address.endpoint, "expirationTime": None, "keys": keys}
    registered = await world.api().call("POST", "/devices", token=ann.token, json=body)
    again = await world.api(1).call("POST", "/devices", token=ann.token, json=body)
    listed = await world.api(1).call("GET", "/devices", token=ann.token)
    device = registered.must_be(201)
    assert set(device) == {"deviceId", "platform", "registeredAt"}
    assert device["platform"] == "webpush"
    assert_is_time(device["registeredAt"])
    assert again.must_be(200)["deviceId"] == device["deviceId"]
    assert [each["deviceId"] for each in listed.must_be(200)["devices"]] == [device["deviceId"]]
    for answer in (registered, again, listed):
        for secret in (address.endpoint, address.p256dh, address.auth):
            assert secret not in str(answer.body)

    path = f"/devices/{device['deviceId']}"
    assert await device_ids(world, ben) == []
    (await world.api().call("DELETE", path, token=ben.token)).must_be(204)
    assert await device_ids(world, ann) == [device["deviceId"]], "nobody else removes it"
    (await world.api(1).call("DELETE", path, token=ann.token)).must_be(204)
    (await world.api(1).call("DELETE", path, token=ann.token)).must_be(204)
    assert await device_ids(world, ann) == []


async def test_client_is_told_what_it_may_register_and_with_which_key(world: World) -> None:
    ann = await world.user("ann")
    setup = (await world.api().call("GET", "/push", token=ann.token)).must_be(200)
    assert setup["platforms"] == ["webpush"]
    assert len(setup["webpushPublicKey"]) == 87, "an uncompressed point of P-256, base64url"


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"platform": "pigeon", "token": "x"},
        {"platform": "webpush"},
        {**GOOD, "endpoint": None},
        {**GOOD, "endpoint": ""},
        {**GOOD, "endpoint": f"https://push.example.net/{'x' * 4_096}"},
        {**GOOD, "keys": None},
        {**GOOD, "keys": {"p256dh": P256DH}},
        {**GOOD, "keys": {"p256dh": P256DH, "auth": "short"}},
        {**GOOD, "keys": {"p256dh": "A" * 87, "auth": GOOD["keys"]["auth"]}},
        {"platform": "fcm"},
        {"platform": "fcm", "token": 7},
        {"platform": "fcm", "token": "fcm is not configured here"},
        {"platform": "apns", "token": "00ff"},
    ],
    ids=repr,
)
async def test_what_is_no_device_is_refused_and_kept_nowhere(world: World, body: object) -> None:
    ann = await world.user("ann")
    assert_is_refusal(await world.api().call("POST", "/devices", token=ann.token, json=body), "INVALID_ARGUMENT")
    assert await device_ids(world, ann) == []


@pytest.mark.parametrize(("method", "path"), [("POST", "/devices"), ("GET", "/devices"), ("DELETE", "/devices/abc")])
async def test_devices_are_nobodys_without_a_token(world: World, method: str, path: str) -> None:
    json = GOOD if method == "POST" else None
    assert_is_refusal(await world.api().call(method, path, json=json), "UNAUTHENTICATED")
