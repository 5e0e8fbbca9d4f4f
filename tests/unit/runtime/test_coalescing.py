"""Coalescing: the first at once, the rest merged; nothing that could not be sent is lost, and the bounds hold."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest

from services.runtime.coalescing import Coalescer
from services.runtime.errors import Unavailable
from tests.e2e.waiting import eventually

# Longer than any test waits: what comes although it is in force came without it.
NEVER_S = 3_600.0
SOON_S = 0.01


class Target:
    """Where batches go. It holds each of them until `let_go`, or fails it as told."""

    def __init__(self) -> None:
        self.batches: list[dict[str, int]] = []
        self.errors: list[BaseException] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def flush(self, batch: Mapping[str, int]) -> None:
        self.batches.append(dict(batch))
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)


@pytest.fixture
def target() -> Target:
    return Target()


Make = Callable[..., Coalescer[str, int]]


@pytest.fixture
async def make(target: Target) -> AsyncIterator[Make]:
    made: list[Coalescer[str, int]] = []

    def make(
        *, max_keys: int = 100, max_batch: int = 100, pace_s: float = SOON_S, retry_s: float = SOON_S
    ) -> Coalescer[str, int]:
        made.append(
            Coalescer(
                "test",
                target.flush,
                merge=max,
                max_keys=max_keys,
                max_batch=max_batch,
                pace_s=pace_s,
                retry_s=retry_s,
            )
        )
        return made[-1]

    yield make
    target.gate.set()
    for each in made:
        await each.stop()


async def test_the_first_value_goes_at_once_and_those_that_come_meanwhile_go_together(
    make: Make, target: Target
) -> None:
    coalescer = make()
    await coalescer.start()
    target.gate.clear()
    coalescer.put("a", 1)
    await eventually(lambda: target.batches)
    for value in (2, 4, 3):
        coalescer.put("a", value)
    coalescer.put("b", 7)
    assert coalescer.waiting == 2
    target.gate.set()
    await eventually(lambda: len(target.batches) == 2)
    assert target.batches == [{"a": 1}, {"a": 4, "b": 7}]


async def test_after_a_flush_the_pace_is_kept(make: Make, target: Target) -> None:
    coalescer = make(pace_s=NEVER_S)
    await coalescer.start()
    coalescer.put("a", 1)
    await eventually(lambda: target.batches)
    coalescer.put("a", 2)
    for _ in range(100):
        await asyncio.sleep(0)
    assert (target.batches, coalescer.waiting) == ([{"a": 1}], 1)


async def test_nothing_is_sent_while_nothing_waits(make: Make, target: Target) -> None:
    coalescer = make(pace_s=0)
    await coalescer.start()
    coalescer.put("a", 1)
    await eventually(lambda: target.batches)
    for _ in range(100):
        await asyncio.sleep(0)
    coalescer.put("b", 2)
    await eventually(lambda: len(target.batches) == 2)
    assert target.batches == [{"a": 1}, {"b": 2}]


async def test_a_flush_has_no_more_keys_than_it_may_and_the_oldest_first(make: Make, target: Target) -> None:
    coalescer = make(max_batch=2)
    for key in "abcde":
        coalescer.put(key, 1)
    coalescer.put("a", 9)  # keeps its place
    await coalescer.start()
    await eventually(lambda: len(target.batches) == 3)
    assert [list(batch) for batch in target.batches] == [["a", "b"], ["c", "d"], ["e"]]


async def test_what_could_not_be_sent_comes_again_merged_with_what_is_newer(make: Make, target: Target) -> None:
    coalescer = make()
    await coalescer.start()
    target.gate.clear()
    target.errors.append(Unavailable())
    coalescer.put("newer is less", 5)
    coalescer.put("newer is more", 5)
    coalescer.put("nothing newer", 5)
    await eventually(lambda: target.batches)
    coalescer.put("newer is less", 3)
    coalescer.put("newer is more", 8)
    target.gate.set()
    await eventually(lambda: len(target.batches) == 2)
    assert target.batches[1] == {"newer is less": 5, "newer is more": 8, "nothing newer": 5}
    assert coalescer.waiting == 0


async def test_it_is_tried_again_until_it_arrives(make: Make, target: Target) -> None:
    coalescer = make(pace_s=NEVER_S)
    await coalescer.start()
    target.errors += [Unavailable() for _ in range(5)]
    coalescer.put("a", 1)
    await eventually(lambda: len(target.batches) == 6)
    assert target.batches == [{"a": 1}] * 6
    assert coalescer.waiting == 0


async def test_between_two_tries_the_pause_for_failures_is_kept(make: Make, target: Target) -> None:
    coalescer = make(pace_s=0, retry_s=NEVER_S)
    await coalescer.start()
    target.errors.append(Unavailable())
    coalescer.put("a", 1)
    await eventually(lambda: target.batches)
    for _ in range(100):
        await asyncio.sleep(0)
    assert (len(target.batches), coalescer.waiting) == (1, 1)


async def test_a_new_key_beyond_the_bound_is_refused_and_a_known_one_is_not(make: Make, target: Target) -> None:
    coalescer = make(max_keys=2)
    assert coalescer.put("a", 1)
    assert coalescer.put("b", 1)
    assert not coalescer.put("c", 1)
    assert coalescer.put("a", 2)
    assert coalescer.waiting == 2
    await coalescer.stop()
    assert target.batches == [{"a": 2, "b": 1}]


async def test_what_was_sent_makes_room(make: Make, target: Target) -> None:
    coalescer = make(max_keys=1)
    await coalescer.start()
    coalescer.put("a", 1)
    await eventually(lambda: target.batches)
    assert coalescer.put("b", 1)


async def test_a_bug_drops_its_batch_and_stops_nothing(make: Make, target: Target) -> None:
    coalescer = make()
    await coalescer.start()
    target.errors.append(KeyError("a bug"))
    coalescer.put("a", 1)
    await eventually(lambda: target.batches)
    coalescer.put("b", 1)
    await eventually(lambda: len(target.batches) == 2)
    assert target.batches == [{"a": 1}, {"b": 1}]


async def test_a_cancellation_that_comes_out_of_a_flush_is_a_failure_like_any_and_stops_nothing(
    make: Make, target: Target
) -> None:
    coalescer = make()
    await coalescer.start()
    target.errors.append(asyncio.CancelledError("as libraries raise it where their connection ends"))
    coalescer.put("a", 1)
    await eventually(lambda: len(target.batches) == 2)
    coalescer.put("b", 2)
    await eventually(lambda: len(target.batches) == 3)
    assert target.batches == [{"a": 1}, {"a": 1}, {"b": 2}]
    assert coalescer.waiting == 0


async def test_stopping_sends_what_waits_in_as_many_batches_as_it_takes(make: Make, target: Target) -> None:
    coalescer = make(max_batch=2, pace_s=NEVER_S)
    await coalescer.start()
    coalescer.put("first", 1)
    await eventually(lambda: target.batches)
    for key in "abc":
        coalescer.put(key, 1)
    await coalescer.stop()
    assert target.batches == [{"first": 1}, {"a": 1, "b": 1}, {"c": 1}]


async def test_what_fails_while_stopping_is_tried_once(make: Make, target: Target) -> None:
    coalescer = make(max_batch=1)
    target.errors += [Unavailable(), Unavailable()]
    coalescer.put("a", 1)
    coalescer.put("b", 1)
    await coalescer.stop()
    assert target.batches == [{"a": 1}]
    target.errors.clear()


async def test_what_was_under_way_when_it_stopped_goes_again(make: Make, target: Target) -> None:
    coalescer = make()
    await coalescer.start()
    target.gate.clear()
    coalescer.put("a", 1)
    await eventually(lambda: target.batches)
    coalescer.put("b", 2)
    stopping = asyncio.create_task(coalescer.stop())
    await eventually(lambda: len(target.batches) == 2)
    target.gate.set()
    await stopping
    assert target.batches == [{"a": 1}, {"a": 1, "b": 2}]
    assert coalescer.waiting == 0


async def test_stopping_what_was_never_started_is_harmless(make: Make, target: Target) -> None:
    await make().stop()
    assert target.batches == []
