"""The providers against services that speak the wire format: they decrypt, verify and parse what they get."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from services.notify.model import ApnsAddress, FcmAddress, WebPushAddress
from services.notify.providers import Delivered, Gone, Outcome, Refused, RetryLater, collapse_id, payload
from services.notify.providers.apns import Apns
from services.notify.providers.fcm import Fcm
from services.notify.providers.webpush import WebPush, encrypted, keys_problem
from services.runtime.clock import SystemClock
from tests.e2e.waiting import eventually
from tests.support.clock import ManualClock
from tests.support.push_services import (
    Answer,
    ApnsService,
    FcmService,
    WebPushService,
    encoded,
    pem_of,
)
from tests.unit.notify.samples import READ, device, note

CLOCK = SystemClock()
KEY = ec.generate_private_key(ec.SECP256R1())


# ---- Web Push.


@pytest.fixture
async def web_push_service() -> AsyncIterator[WebPushService]:
    async with WebPushService(KEY) as service:
        yield service


@pytest.fixture
async def web_push() -> AsyncIterator[WebPush]:
    provider = WebPush(pem_of(KEY), "mailto:ops@example.org", clock=CLOCK, private_endpoints=True)
    await provider.start()
    yield provider
    await provider.close()


async def test_a_browser_reads_what_was_pushed(web_push: WebPush, web_push_service: WebPushService) -> None:
    browser = device(address=web_push_service.subscribe("laptop"))

    assert await web_push.push(browser, note(unread=3)) == Delivered()

    (push,) = web_push_service.accepted
    assert push.body == {
        "event": "message",
        "tag": "groom-0000000001",
        "conversationId": "groom",
        "messageId": "groom-0000000001",
        "seq": 1,
        "senderId": "ann",
        "preview": "hello there",
        "unreadCount": 3,
    }
    assert push.headers["TTL"] == "86400"
    assert push.headers["Topic"] == collapse_id(note())
    assert push.headers["Urgency"] == "high"


async def test_a_silent_update_tells_what_was_read(web_push: WebPush, web_push_service: WebPushService) -> None:
    await web_push.push(device(address=web_push_service.subscribe("laptop")), READ)
    (push,) = web_push_service.accepted
    assert push.body == {"event": "read", "conversationId": "groom", "readSeq": 9, "unreadCount": 0}
    assert push.headers["Urgency"] == "low"


async def test_pushes_to_two_services_carry_tokens_for_each_of_them(web_push: WebPush) -> None:
    async with WebPushService(KEY) as first, WebPushService(KEY) as second:
        for service in (first, second, first):
            assert await web_push.push(device(address=service.subscribe("x")), note()) == Delivered()
        assert (len(first.accepted), len(second.accepted)) == (2, 1)


async def test_an_unsubscribed_browser_is_gone(web_push: WebPush, web_push_service: WebPushService) -> None:
    address = web_push_service.subscribe("laptop")
    gone = WebPushAddress(address.endpoint.replace("laptop", "other"), address.p256dh, address.auth)
    assert await web_push.push(device(address=gone), note()) == Gone()


async def test_a_redirect_is_not_followed(web_push: WebPush, web_push_service: WebPushService) -> None:
    browser = device(address=web_push_service.subscribe("laptop"))
    web_push_service.answers.append(Answer(307, {"Location": f"{web_push_service.url}/push/laptop"}))
    assert await web_push.push(browser, note()) == Refused("307")
    assert web_push_service.asked == 1


async def test_no_connection_is_made_into_ones_own_network(web_push_service: WebPushService) -> None:
    provider = WebPush(pem_of(KEY), "mailto:ops@example.org", clock=CLOCK)
    await provider.start()
    address = web_push_service.subscribe("laptop")
    port = web_push_service.url.rpartition(":")[2]
    for endpoint in (
        address.endpoint,
        f"https://127.0.0.1:{port}/push/laptop",
        f"https://localhost:{port}/push/laptop",
    ):
        inside = device(address=WebPushAddress(endpoint, address.p256dh, address.auth))
        assert await provider.push(inside, note()) == Refused("endpoint not allowed")
    assert web_push_service.asked == 0
    await provider.close()


async def test_a_service_that_is_away_is_tried_later(web_push: WebPush, web_push_service: WebPushService) -> None:
    address = web_push_service.subscribe("laptop")
    nobody = WebPushAddress("http://127.0.0.1:1/push/x", address.p256dh, address.auth)
    assert await web_push.push(device(address=nobody), note()) == RetryLater("unreachable")


async def test_a_subscription_without_real_keys_is_gone(web_push: WebPush, web_push_service: WebPushService) -> None:
    address = web_push_service.subscribe("laptop")
    broken = WebPushAddress(address.endpoint, encoded(b"\x04" + b"x" * 64), address.auth)
    assert keys_problem(address) is None
    assert keys_problem(broken)
    assert keys_problem(WebPushAddress(address.endpoint, address.p256dh, "short"))
    assert await web_push.push(device(address=broken), note()) == Gone()


def test_two_encryptions_of_one_text_have_nothing_in_common() -> None:
    address = WebPushAddress("https://x", encoded(_point()), encoded(b"x" * 16))
    first, second = encrypted(b"text", address), encrypted(b"text", address)
    assert first[:16] != second[:16]
    assert first[-20:] != second[-20:]


def test_the_key_may_also_be_given_as_its_raw_bytes() -> None:
    raw = encoded(KEY.private_numbers().private_value.to_bytes(32))
    one = WebPush(raw, "mailto:x@example.org", clock=CLOCK)
    assert one.public_key == WebPush(pem_of(KEY), "mailto:x@example.org", clock=CLOCK).public_key
    for wrong in ("", "AAAA", "-----BEGIN X-----"):
        with pytest.raises(ValueError):  # noqa: PT011 - the library's texts vary
            WebPush(wrong, "mailto:x@example.org", clock=CLOCK)


def test_one_users_own_endpoint_shares_no_breaker_with_the_great_services(web_push: WebPush) -> None:
    def target(endpoint: str) -> str:
        return web_push.target_of(device(address=WebPushAddress(endpoint, "", "")))

    assert target("https://fcm.googleapis.com/x") == "webpush-google"
    assert target("https://updates.push.services.mozilla.com/x") == "webpush-mozilla"
    assert target("https://fcm.googleapis.com.evil.example/x") == "webpush-other"
    assert target("https://mine.example/x") == "webpush-other"


# ---- FCM.


@pytest.fixture
async def fcm_service() -> AsyncIterator[FcmService]:
    async with FcmService() as service:
        yield service


@pytest.fixture
async def make_fcm(fcm_service: FcmService) -> AsyncIterator[Callable[..., Any]]:
    made: list[Fcm] = []

    async def make(**options: Any) -> Fcm:
        provider = Fcm(fcm_service.service_account(), url=fcm_service.url, **{"clock": CLOCK, **options})
        await provider.start()
        made.append(provider)
        return provider

    yield make
    for provider in made:
        await provider.close()


PHONE = device(address=FcmAddress("phone-1"))


async def test_a_phone_gets_the_message_by_fcm(make_fcm: Callable[..., Any], fcm_service: FcmService) -> None:
    fcm = await make_fcm()
    assert await fcm.push(PHONE, note(unread=3)) == Delivered()
    assert await fcm.push(PHONE, READ) == Delivered()

    shown, silent = (push.body for push in fcm_service.accepted_by("phone-1"))
    assert shown["notification"] == {"title": "ann", "body": "hello there"}
    assert shown["data"] == {name: str(value) for name, value in payload(note(unread=3)).items()}
    assert shown["android"] == {
        "collapse_key": collapse_id(note()),
        "priority": "HIGH",
        "ttl": "86400s",
        "notification": {"tag": "groom-0000000001", "notification_count": 3},
    }
    assert "notification" not in silent
    assert silent["android"]["priority"] == "NORMAL"


async def test_one_access_token_serves_many_pushes_until_it_is_old(
    make_fcm: Callable[..., Any], fcm_service: FcmService
) -> None:
    import time

    clock = ManualClock(time_ms=int(time.time() * 1000))
    fcm = await make_fcm(clock=clock)
    outcomes = await asyncio.gather(*(fcm.push(PHONE, note(n)) for n in range(1, 9)))
    assert set(outcomes) == {Delivered()}
    assert fcm_service.token_requests == 1
    clock.advance(3_500)
    assert await fcm.push(PHONE, note()) == Delivered()
    assert fcm_service.token_requests == 2


async def test_a_revoked_access_token_is_bought_again(make_fcm: Callable[..., Any], fcm_service: FcmService) -> None:
    fcm = await make_fcm()
    await fcm.push(PHONE, note())
    fcm_service.valid_token = "another"
    assert await fcm.push(PHONE, note(2)) == RetryLater("401")
    assert await fcm.push(PHONE, note(2)) == Delivered()


async def test_an_uninstalled_app_is_gone(make_fcm: Callable[..., Any], fcm_service: FcmService) -> None:
    fcm_service.answers.append(Answer(404, body=b'{"error":{"details":[{"errorCode":"UNREGISTERED"}]}}'))
    assert await (await make_fcm()).push(PHONE, note()) == Gone()


def test_something_else_than_a_service_account_is_refused() -> None:
    for wrong in ("", "{}", "[]", '{"project_id": 5}'):
        with pytest.raises(ValueError, match="no service account"):
            Fcm(wrong, clock=CLOCK)


# ---- APNs.


@pytest.fixture
async def apns_service(tmp_path: Path) -> AsyncIterator[ApnsService]:
    async with ApnsService(tmp_path, KEY) as service:
        yield service


@pytest.fixture
async def apns(apns_service: ApnsService) -> AsyncIterator[Apns]:
    provider = Apns(
        pem_of(KEY),
        key_id="KEY1234567",
        team_id="TEAM123456",
        topic="org.example.parley",
        clock=CLOCK,
        url=apns_service.url,
        ssl_context=apns_service.client_context(),
    )
    yield provider
    await provider.close()
    assert asyncio.all_tasks() - {asyncio.current_task()} == set() or await _only_servers_are_left(apns_service)


IPHONE = device(address=ApnsAddress("ab" * 32))


async def test_an_iphone_gets_the_message_with_its_badge(apns: Apns, apns_service: ApnsService) -> None:
    assert await apns.push(IPHONE, note(unread=3)) == Delivered()
    assert await apns.push(IPHONE, READ) == Delivered()

    shown, silent = apns_service.accepted_by("ab" * 32)
    assert shown.body["aps"] == {
        "badge": 3,
        "alert": {"title": "ann", "body": "hello there"},
        "thread-id": "groom",
        "sound": "default",
    }
    assert shown.body["parley"]["messageId"] == "groom-0000000001"
    assert shown.headers["apns-collapse-id"] == collapse_id(note())
    assert (shown.headers["apns-push-type"], shown.headers["apns-priority"]) == ("alert", "10")
    assert (silent.headers["apns-push-type"], silent.headers["apns-priority"]) == ("background", "5")
    assert silent.body["aps"] == {"badge": 0, "content-available": 1}


async def test_many_pushes_share_one_connection(apns: Apns, apns_service: ApnsService) -> None:
    outcomes = await asyncio.gather(*(apns.push(IPHONE, note(n)) for n in range(1, 251)))
    assert outcomes == [Delivered()] * 250
    assert apns_service.connections == 1


async def test_pushes_wait_while_apns_has_no_room_for_them(apns: Apns, apns_service: ApnsService) -> None:
    apns_service.window_delay_s = 3.0  # 64 KiB have room before; these are more than 100
    outcomes = await asyncio.gather(*(apns.push(IPHONE, note(n)) for n in range(1, 401)))
    assert outcomes == [Delivered()] * 400
    assert apns_service.connections == 1


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Answer(410, body=b'{"reason":"Unregistered"}'), Gone()),
        (Answer(400, body=b'{"reason":"BadDeviceToken"}'), Gone()),
        (Answer(500), RetryLater("500")),  # without a body
        (Answer(413, body=b'{"reason":"PayloadTooLarge"}'), Refused("413 PayloadTooLarge")),
    ],
)
async def test_an_answer_of_apns_becomes_its_outcome(
    apns: Apns, apns_service: ApnsService, answer: Answer, outcome: Outcome
) -> None:
    apns_service.answers.append(answer)
    assert await apns.push(IPHONE, note()) == outcome


async def test_apns_tells_how_long_to_wait(apns: Apns, apns_service: ApnsService) -> None:
    apns_service.answers.append(Answer(429, {"retry-after": "7"}, b'{"reason":"TooManyRequests"}'))
    outcome = await apns.push(IPHONE, note())
    assert isinstance(outcome, RetryLater)
    assert outcome.after is not None
    assert outcome.after.total_seconds() == 7


async def test_a_connection_that_is_cut_fails_what_is_under_way_and_the_next_push_makes_another(
    apns: Apns, apns_service: ApnsService
) -> None:
    apns_service.gate.clear()
    waiting = [asyncio.create_task(apns.push(IPHONE, note(n))) for n in (1, 2)]
    await eventually(lambda: apns_service.asked == 2)
    apns_service.cut()
    for task in waiting:
        with pytest.raises(OSError, match="connection ended"):
            await task
    apns_service.gate.set()

    assert await apns.push(IPHONE, note(3)) == Delivered()
    assert apns_service.connections == 2


async def test_a_push_that_is_given_up_leaves_the_others_and_ends_its_connection(
    apns: Apns, apns_service: ApnsService
) -> None:
    apns_service.gate.clear()
    slow = asyncio.create_task(apns.push(IPHONE, note(1)))
    other = asyncio.create_task(apns.push(IPHONE, note(2)))
    await eventually(lambda: apns_service.asked == 2)
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow
    apns_service.gate.set()

    assert await other == Delivered()
    assert await apns.push(IPHONE, note(3)) == Delivered()
    assert apns_service.connections == 2


async def test_a_server_that_nobody_vouches_for_gets_nothing(apns_service: ApnsService) -> None:
    provider = Apns(pem_of(KEY), key_id="K", team_id="T", topic="t", clock=CLOCK, url=apns_service.url)
    with pytest.raises(OSError):  # noqa: PT011 - a certificate error
        await provider.push(IPHONE, note())
    assert apns_service.asked == 0
    await provider.close()


def _point() -> bytes:
    from tests.support.push_services import point_of

    return point_of(ec.generate_private_key(ec.SECP256R1()))


async def _only_servers_are_left(service: ApnsService) -> bool:
    await asyncio.sleep(0)
    names = {task.get_name() for task in asyncio.all_tasks()}
    return "apns" not in names
