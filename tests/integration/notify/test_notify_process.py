"""Notify as a process of its own, on real RabbitMQ and MongoDB, asked over gRPC, pushing to a browser that decrypts."""

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import aio_pika
import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from protos.notify.v1 import notify_pb2, notify_pb2_grpc
from protos.presence.v1 import presence_pb2, presence_pb2_grpc
from scripts.stack.service import Kind, Service
from services.runtime.channel import open_channel
from tests.e2e.waiting import eventually
from tests.support.push_services import Answer, WebPushService, pem_of

ROOT = Path(__file__).parents[3]
KEY = ec.generate_private_key(ec.SECP256R1())
HEALED_S = 10.0
"""failures.md, invariant 9."""


class Publisher:
    """What chat will be: it knows the names and the format of the queue's contract, and nothing of services.notify."""

    def __init__(self, channel: aio_pika.abc.AbstractChannel, exchange: aio_pika.abc.AbstractExchange) -> None:
        self._channel = channel
        self._exchange = exchange

    async def raw(self, job_id: str, body: bytes) -> None:
        message = aio_pika.Message(
            body,
            content_type="application/x-protobuf",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=job_id,
        )
        await self._exchange.publish(message, "job", mandatory=True)

    async def message(self, seq: int, *user_ids: str, sender: str = "ann") -> None:
        recipients = [notify_pb2.Recipient(user_id=user, unread_count=seq) for user in user_ids]
        job = notify_pb2.NotifyJob(
            job_id=f"room-{seq}",
            message_stored=notify_pb2.MessageStored(
                conversation_id="room",
                message_id=f"room-{seq}",
                seq=seq,
                sender_id=sender,
                preview=f"secret text {seq}",
                recipients=recipients,
            ),
        )
        await self.raw(job.job_id, job.SerializeToString())

    async def read(self, user_id: str, seq: int) -> None:
        job = notify_pb2.NotifyJob(
            job_id=f"read-{user_id}-{seq}",
            read_moved=notify_pb2.ReadMoved(conversation_id="room", user_id=user_id, read_seq=seq),
        )
        await self.raw(job.job_id, job.SerializeToString())


class PresenceStub:
    """Only what notify asks."""

    def __init__(self) -> None:
        self.statuses: dict[str, presence_pb2.Status.ValueType] = {}
        self.asked = 0

    async def GetPresence(self, request: presence_pb2.GetPresenceRequest, context: Any) -> Any:
        self.asked += 1
        return presence_pb2.GetPresenceResponse(
            presences=[
                presence_pb2.Presence(user_id=user, status=self.statuses.get(user, presence_pb2.STATUS_OFFLINE))
                for user in request.user_ids
            ]
        )

    def __getattr__(self, name: str) -> Any:
        return self.GetPresence  # the other methods have to be there to be registered


@pytest.fixture
async def presence() -> AsyncIterator[tuple[PresenceStub, str]]:
    server, stub = grpc.aio.server(), PresenceStub()
    presence_pb2_grpc.add_PresenceServiceServicer_to_server(cast(Any, stub), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield stub, f"127.0.0.1:{port}"
    await server.stop(0)


@pytest.fixture
async def browser_service() -> AsyncIterator[WebPushService]:
    async with WebPushService(KEY) as service:
        yield service
        service.gate.set()


@pytest.fixture
def settings(
    amqp_url: str, amqp_prefix: str, mongo_database_url: str, presence: tuple[PresenceStub, str]
) -> dict[str, str]:
    return {
        "PARLEY_NOTIFY_QUEUE_URL": amqp_url,
        "PARLEY_NOTIFY_QUEUE_PREFIX": amqp_prefix,
        "PARLEY_NOTIFY_STORE_URL": mongo_database_url,
        "PARLEY_NOTIFY_PRESENCE_TARGETS": presence[1],
        "PARLEY_NOTIFY_GRACE_S": "0.5",
        "PARLEY_NOTIFY_VAPID_PRIVATE_KEY": pem_of(KEY),
        "PARLEY_NOTIFY_VAPID_SUBJECT": "mailto:ops@example.org",
        "PARLEY_NOTIFY_WEBPUSH_PRIVATE_ENDPOINTS": "true",
        "PARLEY_NOTIFY_RETRY_DELAYS_S": "0.1,0.2,0.3,0.4",
        "PARLEY_RUNTIME_DRAIN_S": "5",
    }


@pytest.fixture
def make_replica(settings: dict[str, str], tmp_path: Path) -> Iterator[Callable[[], Service]]:
    made: list[Service] = []

    def make() -> Service:
        replica = Service(Kind.NOTIFY, len(made) + 1, tmp_path / f"notify-{len(made) + 1}", root=ROOT)
        replica.configure(
            settings
            | {
                "PARLEY_NOTIFY_LISTEN": replica.address,
                "PARLEY_RUNTIME_ADMIN_PORT": str(replica.admin_port),
            }
        )
        made.append(replica)
        return replica

    yield make
    for replica in made:
        replica.stop()
    for replica in made:
        log = replica.log_file.read_text() if replica.log_file.exists() else ""
        for secret in ("secret text", "/push/", "BEGIN PRIVATE KEY"):
            assert secret not in log, f"{secret!r} is in a log"


@pytest.fixture
async def replica(make_replica: Callable[[], Service]) -> Service:
    made = make_replica()
    await asyncio.to_thread(made.start)
    return made


@pytest.fixture
async def notify(replica: Service) -> AsyncIterator[notify_pb2_grpc.NotifyServiceStub]:
    channel = open_channel(replica.address)
    yield notify_pb2_grpc.NotifyServiceStub(channel)
    await channel.close()


@pytest.fixture
async def publisher(amqp_url: str, amqp_prefix: str, replica: Service) -> AsyncIterator[Publisher]:
    connection = await aio_pika.connect(amqp_url)
    channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
    yield Publisher(channel, await channel.get_exchange(f"{amqp_prefix}exchange"))
    await connection.close()


async def register(notify: Any, service: WebPushService, user: str, name: str) -> notify_pb2.RegisterDeviceResponse:
    address = service.subscribe(name)
    answer: notify_pb2.RegisterDeviceResponse = await notify.RegisterDevice(
        notify_pb2.RegisterDeviceRequest(
            user_id=user,
            webpush=notify_pb2.WebPushSubscription(endpoint=address.endpoint, p256dh=address.p256dh, auth=address.auth),
        ),
        timeout=5,
    )
    return answer


async def test_from_the_queue_to_a_browser_that_can_read_it_and_from_there_to_silence(
    notify: Any, publisher: Publisher, browser_service: WebPushService
) -> None:
    setup = await notify.GetPushSetup(notify_pb2.GetPushSetupRequest(), timeout=5)
    assert list(setup.platforms) == [notify_pb2.PLATFORM_WEBPUSH]
    assert len(setup.webpush_public_key) == 87
    first = await register(notify, browser_service, "bob", "laptop")
    again = await register(notify, browser_service, "bob", "tablet")
    assert (first.created, again.created) == (True, True)

    await publisher.message(1, "bob", "ann")
    await eventually(lambda: len(browser_service.accepted) == 2)
    assert {push.device for push in browser_service.accepted} == {"laptop", "tablet"}
    assert browser_service.accepted[0].body["preview"] == "secret text 1"

    await publisher.read("bob", 1)
    await eventually(lambda: [push.body["event"] for push in browser_service.accepted].count("read") == 2)
    await notify.RemoveDevice(
        notify_pb2.RemoveDeviceRequest(user_id="bob", device_id=first.device.device_id), timeout=5
    )
    listed = await notify.ListDevices(notify_pb2.ListDevicesRequest(user_id="bob"), timeout=5)
    assert [device.device_id for device in listed.devices] == [again.device.device_id]


async def test_what_cannot_be_a_device_is_refused(notify: Any) -> None:
    for request in (
        notify_pb2.RegisterDeviceRequest(user_id="bob"),
        notify_pb2.RegisterDeviceRequest(user_id="", fcm_token="x"),
        notify_pb2.RegisterDeviceRequest(user_id="bob", fcm_token="not configured"),
        notify_pb2.RegisterDeviceRequest(user_id="bob", apns_token="zz"),
        notify_pb2.RegisterDeviceRequest(user_id="bob", webpush=notify_pb2.WebPushSubscription(endpoint="https://x")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await notify.RegisterDevice(request, timeout=5)
        assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_attached_user_hears_live_and_is_pushed_to_once_the_edge_is_gone(
    notify: Any, publisher: Publisher, browser_service: WebPushService, presence: tuple[PresenceStub, str]
) -> None:
    await register(notify, browser_service, "bob", "laptop")
    presence[0].statuses["bob"] = presence_pb2.STATUS_ONLINE
    stream = notify.StreamNotifications()
    await stream.write(notify_pb2.StreamNotificationsRequest(attach_user_ids=["bob"]))

    async def attached() -> bool:
        await publisher.read("bob", 0)
        return await asyncio.wait_for(stream.read(), 1) is not None

    await eventually(attached)
    await publisher.message(1, "bob")
    while True:
        told = await asyncio.wait_for(stream.read(), 5)
        messages = [each.message for each in told.notifications if each.HasField("message")]
        if messages:
            break
    assert (messages[0].message_id, messages[0].unread_count) == ("room-1", 1)
    await eventually(lambda: presence[0].asked > 0)  # the grace is over
    assert not browser_service.accepted

    stream.cancel()
    await publisher.message(2, "bob")
    await eventually(lambda: [push.body["seq"] for push in browser_service.accepted] == [2])


@pytest.mark.timeout(180)
async def test_a_replica_killed_between_the_key_and_the_answer_pushes_again_as_a_replacement(
    replica: Service, notify: Any, publisher: Publisher, browser_service: WebPushService
) -> None:
    await register(notify, browser_service, "bob", "laptop")
    browser_service.gate.clear()
    await publisher.message(1, "bob")
    await eventually(lambda: browser_service.asked == 1)
    await asyncio.to_thread(replica.kill)
    browser_service.gate.set()  # the push may have been taken, but nobody heard of it
    await asyncio.to_thread(replica.restart)
    healed = asyncio.get_running_loop().time()

    await eventually(lambda: browser_service.asked >= 2, timeout_s=HEALED_S)
    assert asyncio.get_running_loop().time() - healed < HEALED_S
    await eventually(lambda: browser_service.accepted)
    topics = {push.headers["Topic"] for push in browser_service.accepted}
    tags = {push.body["tag"] for push in browser_service.accepted}
    assert len(topics) == len(tags) == 1


@pytest.mark.timeout(180)
async def test_two_replicas_push_each_message_once_while_one_of_them_is_killed(
    make_replica: Callable[[], Service],
    replica: Service,
    notify: Any,
    publisher: Publisher,
    browser_service: WebPushService,
) -> None:
    second = make_replica()
    await asyncio.to_thread(second.start)
    await register(notify, browser_service, "bob", "laptop")
    for seq in range(1, 31):
        await publisher.message(seq, "bob")
        await publisher.message(seq, "bob")  # as chat's sweeper does
    await eventually(lambda: len(browser_service.accepted) >= 5)
    await asyncio.to_thread(second.kill)

    await eventually(lambda: len({p.body["seq"] for p in browser_service.accepted}) == 30, timeout_s=20)
    visible = Counter((push.body["seq"], push.headers["Topic"]) for push in browser_service.accepted)
    assert len(visible) == 30, "a repeat replaces: one topic for each message"


async def test_an_operator_lists_and_replays_what_was_given_up(
    replica: Service,
    notify: Any,
    publisher: Publisher,
    browser_service: WebPushService,
    settings: dict[str, str],
) -> None:
    await register(notify, browser_service, "bob", "laptop")
    browser_service.answers.extend([Answer(429)] * 5)
    await publisher.message(1, "bob")
    await publisher.raw("poison", b"\xff secret text")

    async def dead() -> list[notify_pb2.DeadLetter]:
        answer = await notify.ListDeadLetters(notify_pb2.ListDeadLettersRequest(limit=10), timeout=5)
        return list(answer.dead_letters)

    await eventually(lambda: _count(dead, 2))
    letters = {letter.message_id: letter for letter in await dead()}
    assert (letters["room-1"].user_id, letters["room-1"].reason, letters["room-1"].tries) == ("bob", "429", 5)

    listed = await asyncio.to_thread(_command, settings, "list")
    assert letters["room-1"].job_id in listed
    assert "secret" not in listed
    replayed = await asyncio.to_thread(_command, settings, "replay", letters["room-1"].job_id)
    assert replayed == "replayed 1\n"
    await eventually(lambda: [push.body["seq"] for push in browser_service.accepted] == [1])
    answer = await notify.ReplayDeadLetters(notify_pb2.ReplayDeadLettersRequest(), timeout=5)
    assert answer.replayed == 1
    await eventually(lambda: _count(dead, 1))


async def test_a_replica_leaves_in_order_and_loses_nothing(
    replica: Service, notify: Any, publisher: Publisher, browser_service: WebPushService
) -> None:
    await register(notify, browser_service, "bob", "laptop")
    stream = notify.StreamNotifications()
    await stream.write(notify_pb2.StreamNotificationsRequest(attach_user_ids=["cid"]))
    for seq in range(1, 11):
        await publisher.message(seq, "bob")
    assert await asyncio.to_thread(replica.stop), "needed a SIGKILL"
    assert await stream.read() is grpc.aio.EOF
    await asyncio.to_thread(replica.start)
    await eventually(lambda: len({push.body["seq"] for push in browser_service.accepted}) == 10)


def test_settings_that_cannot_work_stop_the_process_with_a_line_for_each(tmp_path: Path) -> None:
    env = {**os.environ, "PARLEY_NOTIFY_VAPID_PRIVATE_KEY": "x", "PARLEY_NOTIFY_GRACE": "2"}
    ended = subprocess.run(
        [sys.executable, "-m", "services.notify"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert "VAPID_SUBJECT" in ended.stderr
    assert "PARLEY_NOTIFY_GRACE: no such setting" in ended.stderr


def _command(settings: dict[str, str], *arguments: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-m", "services.notify.deadletters", *arguments],
        cwd=ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


async def _count(ask: Callable[[], Any], count: int) -> bool:
    return len(await ask()) == count
