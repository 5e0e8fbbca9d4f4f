"""The contract of `services.notify.queue.Queue`: one suite, both queues."""

import asyncio
import functools
import itertools
import time
from collections import Counter
from datetime import timedelta

import pytest

from services.notify.errors import QueueUnavailable, StoreUnavailable
from services.notify.queue import Arrived, Dead, Done, Outgoing, Queue, QueueOptions, Retry, Verdict, open_queue
from tests.e2e.waiting import eventually


def job(name: str, body: bytes = b"body", *, delay_ms: int = 0) -> Outgoing:
    return Outgoing(name, body, timedelta(milliseconds=delay_ms))


class Worker:
    """Remembers what came, and answers with the verdict planned for that job."""

    def __init__(self, **verdicts: Verdict | Exception) -> None:
        self.verdicts = verdicts
        self.arrived: list[Arrived] = []
        self.at: list[float] = []

    async def __call__(self, arrived: Arrived) -> Verdict:
        self.arrived.append(arrived)
        self.at.append(time.monotonic())
        verdict = self.verdicts.get(arrived.job_id, Done())
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    def names(self) -> list[str]:
        return [arrived.job_id for arrived in self.arrived]


async def test_a_published_job_arrives_once_with_its_body_and_no_tries(queue: Queue) -> None:
    worker = Worker()
    await queue.consume(worker)

    await queue.publish([job("one", b"\x00\xff"), job("two")])

    await eventually(lambda: len(worker.arrived) == 2)
    assert Arrived("one", b"\x00\xff", 0) in worker.arrived
    await queue.publish([job("three")])
    await eventually(lambda: "three" in worker.names())
    assert Counter(worker.names()) == {"one": 1, "two": 1, "three": 1}


async def test_what_was_published_before_anybody_consumed_arrives(queue: Queue) -> None:
    await queue.publish([job(f"job-{n}") for n in range(200)])
    worker = Worker()
    await queue.consume(worker)

    await eventually(lambda: len(worker.arrived) == 200)
    assert len(set(worker.names())) == 200


async def test_a_delayed_job_arrives_when_its_delay_is_over_and_not_before(queue: Queue) -> None:
    worker = Worker()
    await queue.consume(worker)
    started = time.monotonic()

    await queue.publish([job("later", delay_ms=300), job("now")])

    await eventually(lambda: len(worker.arrived) == 2)
    assert worker.names() == ["now", "later"]
    assert worker.at[1] - started >= 0.29


async def test_a_job_that_keeps_failing_is_tried_five_times_with_growing_pauses_and_then_is_a_dead_letter(
    queue: Queue,
) -> None:
    worker = Worker(bad=Retry("provider said no"))
    await queue.consume(worker)

    await queue.publish([job("bad", b"payload"), job("good")])
    dead = await eventually(lambda: queue.list_dead(limit=10))

    assert [arrived.tries for arrived in worker.arrived if arrived.job_id == "bad"] == [0, 1, 2, 3, 4]
    times = [at for at, arrived in zip(worker.at, worker.arrived, strict=True) if arrived.job_id == "bad"]
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(pause >= least for pause, least in zip(pauses, (0.05, 0.1, 0.2, 0.4), strict=True)), pauses
    assert [(letter.job_id, letter.body, letter.reason, letter.tries) for letter in dead] == [
        ("bad", b"payload", "provider said no", 5)
    ]
    assert abs(dead[0].died_at_ms - time.time() * 1000) < 10_000
    assert "good" in worker.names()


async def test_a_bug_in_the_handler_counts_as_a_try_and_the_queue_moves_on(queue: Queue) -> None:
    worker = Worker(poison=KeyError("secret detail"))
    await queue.consume(worker)

    await queue.publish([job("poison")])
    await queue.publish([job(f"job-{n}") for n in range(20)])
    (dead,) = await eventually(lambda: queue.list_dead(limit=10))

    assert (dead.job_id, dead.reason, dead.tries) == ("poison", "KeyError", 5)
    assert len(set(worker.names())) == 21


async def test_what_is_not_the_jobs_fault_is_tried_for_ever(queue: Queue) -> None:
    worker = Worker(job=StoreUnavailable(retry_after_ms=1), other=Retry("open", timedelta(0), counted=False))
    await queue.consume(worker)

    await queue.publish([job("other")])

    await eventually(lambda: len(worker.arrived) >= 7)
    assert {arrived.tries for arrived in worker.arrived} == {0}
    worker.verdicts["other"] = Done()
    assert not await queue.list_dead(limit=10)


async def test_a_hopeless_job_is_a_dead_letter_at_once(queue: Queue) -> None:
    worker = Worker(bad=Dead("makes no sense"))
    await queue.consume(worker)

    await queue.publish([job("bad")])
    (dead,) = await eventually(lambda: queue.list_dead(limit=10))

    assert (dead.reason, dead.tries, len(worker.arrived)) == ("makes no sense", 0, 1)


async def test_dead_letters_stay_when_they_are_listed_and_oldest_come_first(queue: Queue) -> None:
    worker = Worker(a=Dead("x"), b=Dead("x"), c=Dead("x"))
    await queue.consume(worker)
    for count, name in enumerate("abc", 1):
        await queue.publish([job(name)])
        await eventually(functools.partial(_has, queue, count))

    for _ in range(3):
        assert [letter.job_id for letter in await queue.list_dead(limit=10)] == ["a", "b", "c"]
    assert [letter.job_id for letter in await queue.list_dead(limit=2)] == ["a", "b"]


async def test_replayed_dead_letters_start_afresh_and_the_others_stay(queue: Queue) -> None:
    worker = Worker(a=Dead("x"), b=Retry("x"), c=Dead("x"))
    await queue.consume(worker)
    await queue.publish([job("a"), job("b"), job("c")])
    await eventually(lambda: _has(queue, 3))
    worker.verdicts.clear()
    worker.arrived.clear()

    assert await queue.replay_dead(["b", "not there"]) == 1
    await eventually(lambda: worker.arrived)
    assert worker.arrived == [Arrived("b", b"body", 0)]
    assert {letter.job_id for letter in await queue.list_dead(limit=10)} == {"a", "c"}

    assert await queue.replay_dead([]) == 2
    await eventually(lambda: len(worker.arrived) == 3)
    assert not await queue.list_dead(limit=10)


async def test_no_more_jobs_are_under_way_than_the_prefetch_allows(queue: Queue, queue_options: QueueOptions) -> None:
    running = peak = 0
    release = asyncio.Event()

    async def handler(_: Arrived) -> Verdict:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await release.wait()
        running -= 1
        return Done()

    await queue.consume(handler)
    await queue.publish([job(f"job-{n}") for n in range(50)])
    await eventually(lambda: running == queue_options.prefetch)
    release.set()
    await eventually(lambda: running == 0)
    assert peak == queue_options.prefetch


async def test_closing_waits_for_what_is_under_way(queue_url: str, queue_options: QueueOptions) -> None:
    queue = open_queue(queue_url, queue_options)
    await queue.start()
    started, finished = asyncio.Event(), asyncio.Event()

    async def handler(_: Arrived) -> Verdict:
        started.set()
        await asyncio.sleep(0.1)
        finished.set()
        return Done()

    await queue.consume(handler)
    await queue.publish([job("slow")])
    await started.wait()
    await queue.close()

    assert finished.is_set()
    assert not queue.is_connected
    with pytest.raises(QueueUnavailable):
        await queue.publish([job("too late")])
    await queue.close()


async def test_closing_cuts_off_what_does_not_end_within_the_grace(queue_url: str, queue_options: QueueOptions) -> None:
    queue = open_queue(queue_url, queue_options)
    await queue.start()
    started = asyncio.Event()
    cancelled = asyncio.Event()

    async def handler(_: Arrived) -> Verdict:
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return Done()

    await queue.consume(handler)
    await queue.publish([job("stuck")])
    await started.wait()
    await asyncio.wait_for(queue.close(), 5)

    assert cancelled.is_set()


async def test_closing_before_the_start_is_harmless(queue_url: str, queue_options: QueueOptions) -> None:
    queue = open_queue(queue_url, queue_options)
    await queue.close()
    assert not queue.is_connected


async def _has(queue: Queue, count: int) -> bool:
    return len(await queue.list_dead(limit=100)) == count
