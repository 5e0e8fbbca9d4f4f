"""What every provider's answers mean, and what stands in front of each of them."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry

from services.notify.model import Device, Note, Platform
from services.notify.providers import (
    Delivered,
    Gone,
    Outcome,
    Refused,
    RetryLater,
    apns,
    collapse_id,
    fcm,
    payload,
    retry_after,
    webpush,
)
from services.notify.providers.guarded import Guarded
from services.runtime.clock import SystemClock
from services.runtime.metrics import Metrics
from tests.support.clock import ManualClock
from tests.unit.notify.samples import READ, device, note

MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("status", "asked", "outcome"),
    [
        (201, None, Delivered()),
        (202, None, Delivered()),
        (404, None, Gone()),
        (410, None, Gone()),
        (429, "60", RetryLater("429", MINUTE, is_away=False)),
        (500, None, RetryLater("500")),
        (503, "60", RetryLater("503", MINUTE)),
        (301, None, Refused("301")),
        (400, None, Refused("400")),
        (403, None, Refused("403")),
        (413, None, Refused("413")),
    ],
)
def test_what_a_web_push_service_answers(status: int, asked: str | None, outcome: Outcome) -> None:
    assert webpush.outcome_of(status, asked) == outcome


def fcm_error(code: str, field: str = "") -> bytes:
    violation = f',{{"fieldViolations":[{{"field":"{field}"}}]}}' if field else ""
    return f'{{"error":{{"details":[{{"errorCode":"{code}"}}{violation}]}}}}'.encode()


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (200, b"{}", Delivered()),
        (404, fcm_error("UNREGISTERED"), Gone()),
        (404, b"not json", Gone()),
        (403, fcm_error("SENDER_ID_MISMATCH"), Gone()),
        (400, fcm_error("INVALID_ARGUMENT", "message.token"), Gone()),
        (400, fcm_error("INVALID_ARGUMENT", "message.data"), Refused("400 INVALID_ARGUMENT")),
        (400, b"[]", Refused("400")),
        (401, b"", RetryLater("401")),
        (429, fcm_error("QUOTA_EXCEEDED"), RetryLater("429", is_away=False)),
        (503, fcm_error("UNAVAILABLE"), RetryLater("503")),
    ],
)
def test_what_fcm_answers(status: int, body: bytes, outcome: Outcome) -> None:
    assert fcm.outcome_of(status, body, None) == outcome


@pytest.mark.parametrize(
    ("status", "reason", "outcome"),
    [
        (200, "", Delivered()),
        (410, "Unregistered", Gone()),
        (410, "", Gone()),
        (400, "BadDeviceToken", Gone()),
        (400, "DeviceTokenNotForTopic", Gone()),
        (400, "PayloadEmpty", Refused("400 PayloadEmpty")),
        (403, "ExpiredProviderToken", RetryLater("403 ExpiredProviderToken")),
        (403, "Forbidden", Refused("403 Forbidden")),
        (429, "TooManyRequests", RetryLater("429", is_away=False)),
        (503, "Shutdown", RetryLater("503 Shutdown")),
    ],
)
def test_what_apns_answers(status: int, reason: str, outcome: Outcome) -> None:
    body = f'{{"reason":"{reason}"}}' if reason else ""
    assert apns.outcome_of(apns.Answer(status, None, bytearray(body.encode()))) == outcome


@pytest.mark.parametrize(
    ("value", "asked"),
    [
        (None, None),
        ("5", timedelta(seconds=5)),
        ("999999999999", timedelta(hours=1)),
        ("Tue, 14 Nov 2023 22:14:20 GMT", timedelta(seconds=60)),
        ("Tue, 14 Nov 2023 22:00:00 GMT", timedelta(0)),
        ("soon", None),
        ("-5", None),
        ("²", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_bounded(value: str | None, asked: timedelta | None) -> None:
    now = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert retry_after(value, now=lambda: now) == asked


def test_a_repeat_has_the_same_collapse_id_and_another_message_another() -> None:
    assert collapse_id(note(1, unread=1)) == collapse_id(note(1, unread=2))
    assert len({collapse_id(note(1)), collapse_id(note(2)), collapse_id(READ)}) == 3
    assert len(collapse_id(note())) == 32
    assert payload(note())["tag"] == note().message.message_id


class Planned:
    """A provider that does as it is told."""

    platform = Platform.FCM
    public_key = ""

    def __init__(self, *steps: Outcome | BaseException | Callable[[], object]) -> None:
        self.steps = list(steps)
        self.asked = 0

    def target_of(self, device: Device) -> str:
        return "planned"

    async def start(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing is open."""

    async def push(self, device: Device, note: Note) -> Outcome:
        self.asked += 1
        step = self.steps.pop(0) if self.steps else Delivered()
        if isinstance(step, BaseException):
            raise step
        if callable(step):
            await asyncio.sleep(60)
            raise AssertionError
        return step


def guarded(planned: Planned, clock: ManualClock | None = None, timeout_s: float = 5) -> Guarded:
    metrics = Metrics(CollectorRegistry())
    return Guarded(planned, timeout=timedelta(seconds=timeout_s), clock=clock or SystemClock(), metrics=metrics)


async def test_a_provider_that_fails_three_times_is_left_alone_and_those_refusals_are_no_tries() -> None:
    clock = ManualClock()
    planned = Planned(*[RetryLater("500")] * 3)
    provider = guarded(planned, clock)
    for _ in range(3):
        assert await provider.push(device(), note()) == RetryLater("500")
    assert await provider.push(device(), note()) == RetryLater("circuit open", counted=False)
    assert planned.asked == 3
    clock.advance(2)
    assert await provider.push(device(), note()) == Delivered()
    assert await provider.push(device(), note()) == Delivered()


@pytest.mark.parametrize("answer", [Gone(), Refused("400"), RetryLater("429", is_away=False)])
async def test_a_provider_that_answers_is_there_whatever_it_answers(answer: Outcome) -> None:
    planned = Planned(*[answer] * 10)
    provider = guarded(planned)
    assert [await provider.push(device(), note()) for _ in range(10)] == [answer] * 10


async def test_a_provider_that_does_not_answer_in_time_is_tried_later() -> None:
    assert await guarded(Planned(print), timeout_s=0.01).push(device(), note()) == RetryLater("timeout")


async def test_a_broken_network_and_a_bug_are_told_without_their_texts() -> None:
    provider = guarded(Planned(ConnectionResetError("https://secret"), KeyError("secret")))
    assert await provider.push(device(), note()) == RetryLater("ConnectionResetError")
    assert await provider.push(device(), note()) == RetryLater("bug: KeyError", is_away=False)


async def test_a_cancelled_push_is_cancelled_and_says_nothing_of_the_provider() -> None:
    planned = Planned(*[print] * 5)
    provider = guarded(planned)
    for _ in range(5):
        task = asyncio.create_task(provider.push(device(), note()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await provider.push(device(), note()) == Delivered()


def test_addresses_are_in_no_text_of_a_device() -> None:
    assert "token-d1" not in repr(device())
    assert "hello there" not in repr(note())
