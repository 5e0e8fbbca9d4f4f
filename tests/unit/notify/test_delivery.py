"""What becomes of each job, over the real SQLite store and the real memory queue; only the providers are planned."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.notify.convert import decode_job, encode_job
from services.notify.delivery import Delivery
from services.notify.errors import StoreUnavailable
from services.notify.live import LiveHub, LiveStream
from services.notify.model import (
    Device,
    Job,
    LiveMessage,
    LiveUnread,
    MessageNote,
    MessageStored,
    Note,
    Platform,
    PushDevice,
    ReadMoved,
    ReadNote,
    Seq,
    Status,
    UserId,
)
from services.notify.providers import Delivered, Gone, Outcome, Refused, RetryLater
from services.notify.providers.guarded import Guarded
from services.notify.queue import Arrived, DeadLetter, Outgoing, QueueOptions
from services.notify.queue.memory import MemoryQueue
from services.notify.store import Claim, Claimed, Finished, Holder
from services.notify.store.sqlite import SqliteStore
from services.runtime.clock import SystemClock
from services.runtime.metrics import Metrics
from tests.e2e.waiting import eventually
from tests.unit.notify.samples import ANN, BOB, CID, ROOM, apns_device, device, message, to

GRACE = timedelta(milliseconds=60)
CLOCK = SystemClock()
OPTIONS = QueueOptions(
    retry_delays=tuple(timedelta(milliseconds=ms) for ms in (20, 30, 40, 50)),
    delays=(GRACE, timedelta(milliseconds=10)),
)


class Phone:
    """A provider that remembers, and answers as planned for each device: the last plan stays."""

    platform = Platform.FCM
    public_key = ""

    def __init__(self) -> None:
        self.pushed: list[tuple[str, Note]] = []
        self.asked: list[str] = []
        self.plans: dict[str, list[Outcome]] = {}
        self.gate = asyncio.Event()
        self.gate.set()

    def target_of(self, device: Device) -> str:
        return device.device_id  # a breaker for each: what is planned for one says nothing of another

    async def start(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing is open."""

    async def push(self, device: Device, note: Note) -> Outcome:
        self.asked.append(device.device_id)
        await self.gate.wait()
        plan = self.plans.get(device.device_id, [Delivered()])
        outcome = plan.pop(0) if len(plan) > 1 else plan[0]
        if isinstance(outcome, Delivered):
            self.pushed.append((device.device_id, note))
        return outcome

    def seqs(self, name: str) -> list[int]:
        return [note.message.seq for to, note in self.pushed if to == name and isinstance(note, MessageNote)]


class Presence:
    def __init__(self) -> None:
        self.statuses: dict[UserId, Status] = {}

    async def read(self, user_ids: Sequence[UserId]) -> Mapping[UserId, Status]:
        return {user: self.statuses[user] for user in user_ids if user in self.statuses}


class FaultyStore(SqliteStore):
    """Its claims fail as often as told."""

    failures = 0

    async def claim(self, *args: object, **kwargs: object) -> Claim:
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable(retry_after_ms=1)
        return await super().claim(*args, **kwargs)  # type: ignore[arg-type] # handed on as they are


class World:
    """A delivery and everything around it."""

    def __init__(self, store: FaultyStore) -> None:
        self.store = store
        self.queue = MemoryQueue(OPTIONS)
        metrics = Metrics(CollectorRegistry())
        self.hub = LiveHub(metrics)
        self.presence = Presence()
        self.phone = Phone()
        provider = Guarded(self.phone, timeout=timedelta(seconds=1), clock=CLOCK, metrics=metrics)
        self.delivery = Delivery(
            store,
            store,
            self.queue,
            self.hub,
            self.presence,
            {Platform.FCM: provider},
            encode=encode_job,
            decode=decode_job,
            options=OPTIONS,
            clock=CLOCK,
            metrics=metrics,
            grace=GRACE,
            push_timeout=timedelta(seconds=1),
        )

    async def has(self, *names: str, user: UserId = BOB) -> None:
        for name in names:
            await self.store.register(device(name, user), max_devices=9)

    async def publish(self, job: Job, name: str = "job") -> None:
        await self.queue.publish([Outgoing(name, encode_job(name, job))])

    async def quiet(self) -> None:
        """Longer than the grace and all retries together."""
        await asyncio.sleep(0.35)

    def attach(self, *users: UserId) -> LiveStream:
        stream = LiveStream()
        self.hub.attach(stream, users)
        return stream


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    store = FaultyStore(f"{tmp_path}/notify.db")
    await store.start()
    made = World(store)
    await made.queue.start()
    await made.queue.consume(made.delivery.handle)
    yield made
    made.phone.gate.set()
    await made.queue.close()
    await store.close()


async def test_who_is_offline_is_pushed_to_on_each_device_after_the_grace(world: World) -> None:
    await world.has("d1", "d2")
    await world.publish(MessageStored(message(), (to(BOB, 7),)))
    assert not world.phone.asked
    await eventually(lambda: len(world.phone.pushed) == 2)
    assert sorted(world.phone.pushed, key=lambda each: each[0]) == [
        ("d1", MessageNote(message(), 7)),
        ("d2", MessageNote(message(), 7)),
    ]


async def test_neither_the_sender_nor_who_muted_nor_who_is_no_recipient_is_pushed_to(world: World) -> None:
    await world.has("anns", user=ANN)
    await world.has("bobs", user=BOB)
    await world.has("cids", user=CID)
    stream = world.attach(ANN, BOB)
    await world.publish(MessageStored(message(sender=ANN), (to(ANN), to(BOB, muted=True))))
    await world.quiet()
    assert not world.phone.asked
    stream.close()
    assert await stream.take() == []


async def test_who_has_seen_it_within_the_grace_is_not_pushed_to(world: World) -> None:
    await world.has("d1")
    await world.publish(MessageStored(message(5), (to(BOB),)))
    await world.publish(ReadMoved(ROOM, BOB, Seq(5), 0))
    await world.quiet()
    assert not world.phone.asked


async def test_who_has_read_only_what_was_before_is_pushed_to(world: World) -> None:
    await world.has("d1")
    await world.publish(ReadMoved(ROOM, BOB, Seq(4), 1))
    await world.publish(MessageStored(message(5), (to(BOB),)))
    await eventually(lambda: world.phone.seqs("d1") == [5])


@pytest.mark.parametrize("status", [Status.ONLINE, Status.AWAY, Status.BUSY, Status.UNKNOWN])
async def test_who_is_attached_hears_live_once_and_is_not_pushed_to(world: World, status: Status) -> None:
    await world.has("d1")
    world.presence.statuses[BOB] = status
    stream = world.attach(BOB)
    await world.publish(MessageStored(message(), (to(BOB, 2),)))
    assert await stream.take() == [LiveMessage(BOB, message(), 2)]
    await world.quiet()
    assert not world.phone.asked
    world.hub.ended(stream)
    assert await stream.take() == []


async def test_who_is_online_but_attached_nowhere_is_pushed_to(world: World) -> None:
    await world.has("d1")
    world.presence.statuses[BOB] = Status.ONLINE
    await world.publish(MessageStored(message(), (to(BOB),)))
    await eventually(lambda: world.phone.pushed)


async def test_who_attaches_within_the_grace_hears_live_instead(world: World) -> None:
    await world.has("d1")
    await world.publish(MessageStored(message(), (to(BOB),)))
    stream = world.attach(BOB)
    assert await stream.take() == [LiveMessage(BOB, message(), 1)]
    await world.quiet()
    assert not world.phone.asked


async def test_who_was_told_live_and_then_lost_his_connection_is_pushed_to(world: World) -> None:
    await world.has("d1")
    stream = world.attach(BOB)
    await world.publish(MessageStored(message(), (to(BOB),)))
    await stream.take()
    world.hub.ended(stream)
    await eventually(lambda: world.phone.pushed)


async def test_who_hangs_on_an_edge_that_presence_gave_up_is_pushed_to(world: World) -> None:
    await world.has("d1")
    world.presence.statuses[BOB] = Status.OFFLINE
    world.attach(BOB)
    await world.publish(MessageStored(message(), (to(BOB),)))
    await eventually(lambda: world.phone.pushed)


async def test_a_job_that_comes_three_times_is_shown_once_live_and_on_each_device(world: World) -> None:
    await world.has("d1", "d2")
    stream = world.attach(CID)
    for _ in range(3):
        await world.publish(MessageStored(message(), (to(BOB), to(CID))))
    await eventually(lambda: len(world.phone.pushed) == 2)
    await world.quiet()
    assert sorted(world.phone.asked) == ["d1", "d2"]
    assert len(await stream.take()) == 1


async def test_a_device_that_fails_is_tried_again_alone_until_it_has_the_message(world: World) -> None:
    await world.has("d1", "d2")
    world.phone.plans["d1"] = [RetryLater("500", is_away=False), RetryLater("500", is_away=False), Delivered()]
    await world.publish(MessageStored(message(), (to(BOB),)))
    await eventually(lambda: len(world.phone.pushed) == 2, timeout_s=1.5, what="sooner than a lease ends")
    await world.quiet()
    assert (world.phone.asked.count("d1"), world.phone.asked.count("d2")) == (3, 1)


async def test_a_device_that_fails_five_times_is_a_dead_letter_and_replaying_pushes_it(world: World) -> None:
    await world.has("d1")
    world.phone.plans["d1"] = [RetryLater("500", is_away=False)]
    await world.publish(MessageStored(message(), (to(BOB),)))
    (dead,) = await eventually(lambda: world.queue.list_dead(limit=9))
    assert (dead.job_id, dead.reason, dead.tries) == (f"{message().message_id}/d1", "500", 5)
    assert len(world.phone.asked) == 5

    world.phone.plans.clear()
    assert await world.queue.replay_dead([dead.job_id]) == 1
    await eventually(lambda: world.phone.seqs("d1") == [1])


async def test_what_a_provider_refuses_is_a_dead_letter_without_five_tries(world: World) -> None:
    await world.has("d1")
    world.phone.plans["d1"] = [Refused("413")]
    await world.publish(MessageStored(message(), (to(BOB),)))
    (dead,) = await eventually(lambda: world.queue.list_dead(limit=9))
    assert dead.reason == "413"
    assert len(world.phone.asked) == 2  # once with the others, once as a job of its own


async def test_a_device_that_is_gone_is_removed_and_never_asked_again(world: World) -> None:
    await world.has("d1")
    world.phone.plans["d1"] = [Gone()]
    await world.publish(MessageStored(message(1), (to(BOB),)), "first")
    await eventually(lambda: _has_none(world))
    await world.publish(MessageStored(message(2), (to(BOB),)), "second")
    await world.quiet()
    assert world.phone.asked == ["d1"]
    assert not await world.queue.list_dead(limit=9)


async def test_a_push_waits_for_the_store_as_long_as_it_takes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.notify.rules.UNCOUNTED_DELAY", timedelta(milliseconds=10))
    await world.has("d1")
    world.store.failures = 12
    await world.publish(MessageStored(message(), (to(BOB),)))
    await eventually(lambda: world.phone.seqs("d1") == [1])
    assert not await world.queue.list_dead(limit=9)


async def test_a_message_read_while_its_push_is_being_retried_is_not_pushed(world: World) -> None:
    await world.has("d1")
    world.phone.plans["d1"] = [RetryLater("503", timedelta(milliseconds=50), is_away=False), Delivered()]
    await world.publish(MessageStored(message(3), (to(BOB),)))
    await eventually(lambda: world.phone.asked)
    await world.publish(ReadMoved(ROOM, BOB, Seq(3), 0), "read")
    await world.quiet()
    assert world.phone.seqs("d1") == []


async def test_a_key_is_taken_before_the_provider_is_asked_and_finished_after_its_answer(world: World) -> None:
    await world.has("d1")
    world.phone.gate.clear()
    await world.publish(MessageStored(message(), (to(BOB),)))
    await eventually(lambda: world.phone.asked)
    claim = world.store.claim
    key = (message().message_id, device("d1").device_id)
    lease = timedelta(seconds=3)
    assert not isinstance(await claim(*key, Holder("x"), now_ms=CLOCK.time_ms(), lease=lease), Claimed)
    world.phone.gate.set()
    await eventually(lambda: world.phone.pushed)

    async def finished() -> bool:
        return isinstance(await claim(*key, Holder("x"), now_ms=CLOCK.time_ms(), lease=lease), Finished)

    await eventually(finished)


async def test_a_push_whose_holder_died_is_made_once_the_lease_is_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.notify.rules.UNCOUNTED_DELAY", timedelta(milliseconds=10))
    await world.has("d1")
    key = (message().message_id, device("d1").device_id)
    nearly_over_ms = CLOCK.time_ms() - 2_700  # of 3 s: 1 s for the push and 2 s of margin
    await world.store.claim(*key, Holder("dead"), now_ms=nearly_over_ms, lease=timedelta(seconds=3))
    await world.publish(PushDevice(message(), to(BOB), device("d1").device_id))
    await asyncio.sleep(0.1)
    assert not world.phone.asked
    await eventually(lambda: world.phone.seqs("d1") == [1])


async def test_reading_elsewhere_updates_the_devices_that_were_pushed_to_silently(world: World) -> None:
    await world.has("d1")
    stream = world.attach(CID)
    await world.publish(ReadMoved(ROOM, CID, Seq(4), 6), "read")
    assert await stream.take() == [LiveUnread(CID, ROOM, Seq(4), 6)]
    assert not world.phone.asked

    await world.publish(MessageStored(message(5), (to(BOB),)), "stored")
    await eventually(lambda: world.phone.seqs("d1") == [5])
    await world.publish(ReadMoved(ROOM, BOB, Seq(5), 0), "read 5")
    await eventually(lambda: world.phone.pushed[-1] == ("d1", ReadNote(ROOM, Seq(5), 0)))
    await world.publish(ReadMoved(ROOM, BOB, Seq(5), 0), "again")
    await world.quiet()
    assert len(world.phone.pushed) == 2


async def test_what_is_no_job_is_a_dead_letter_at_once_and_tells_nothing_of_its_content(world: World) -> None:
    for number, body in enumerate([b"\xff\xff secret", b"", encode_job("x", MessageStored(message(0), ()))]):
        await world.queue.publish([Outgoing(f"bad-{number}", body)])
    dead = await eventually(lambda: _dead(world, 3))
    assert all(letter.reason.startswith("malformed") and "secret" not in letter.reason for letter in dead)


async def test_a_device_whose_platform_is_no_longer_configured_is_a_dead_letter(world: World) -> None:
    await world.store.register(apns_device("d9"), max_devices=9)
    await world.publish(MessageStored(message(), (to(BOB),)))
    (dead,) = await eventually(lambda: world.queue.list_dead(limit=9))
    assert dead.reason == "apns is not configured"


async def test_a_device_that_has_become_another_users_gets_nothing_of_the_first(world: World) -> None:
    await world.has("d1", user=BOB)
    await world.has("d1", user=CID)
    verdict = await world.delivery.handle(
        Arrived("x", encode_job("x", PushDevice(message(), to(BOB), device("d1").device_id)), 0)
    )
    assert type(verdict).__name__ == "Done"
    assert not world.phone.asked


@pytest.mark.parametrize(
    "job",
    [
        MessageStored(message(), (to(BOB, 5), to(CID, muted=True))),
        ReadMoved(ROOM, BOB, Seq(9), 2),
        PushDevice(message(), to(BOB), device("d1").device_id),
    ],
    ids=lambda job: type(job).__name__,
)
def test_a_job_survives_its_way_through_the_queue(job: Job) -> None:
    assert decode_job(encode_job("id", job)) == job


async def _has_none(world: World) -> bool:
    return not await world.store.find_devices([BOB])


async def _dead(world: World, count: int) -> Sequence[DeadLetter]:
    letters = await world.queue.list_dead(limit=9)
    return letters if len(letters) == count else []
