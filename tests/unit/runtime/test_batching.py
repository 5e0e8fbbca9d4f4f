"""Batch while busy: order, bounds, and nothing lost or left behind, whatever the target does."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.runtime.batching import Batcher, FlushCancelled, LaneBatcher, QueueFull


@dataclass(frozen=True, slots=True)
class Item:
    lane: str
    number: int
    weight: int = 1


class Target:
    """Where batches go. It holds each of them until `let_go`, or fails it as told."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.groups: list[str] = []
        self.failures: list[tuple[list[int], Exception]] = []
        self.next_error: BaseException | None = None
        self._gate: asyncio.Future[None] | None = None

    def hold(self) -> None:
        self._gate = asyncio.get_running_loop().create_future()

    def let_go(self) -> None:
        assert self._gate is not None
        self._gate.set_result(None)
        self._gate = None

    async def flush(self, batch: list[int]) -> None:
        self.batches.append(list(batch))
        if self._gate is not None:
            await self._gate
        error, self.next_error = self.next_error, None
        if error is not None:
            raise error

    async def flush_group(self, group: str, batch: list[int]) -> None:
        self.groups.append(group)
        await self.flush(batch)

    def failed(self, batch: Sequence[int], error: Exception) -> None:
        self.failures.append((list(batch), error))


@pytest.fixture
def target() -> Target:
    return Target()


def batcher_to(
    target: Target,
    *,
    max_items: int = 100,
    max_waiting: int = 100,
    max_in_flight: int = 1,
    max_weight: int = 1 << 62,
    weigh: Callable[[int], int] = abs,
) -> Batcher[int]:
    return Batcher(
        target.flush,
        failed=target.failed,
        max_items=max_items,
        max_waiting=max_waiting,
        max_in_flight=max_in_flight,
        max_weight=max_weight,
        weigh=weigh,
    )


def lanes_to(target: Target, *, group_of: Callable[[int], str] = lambda _: "only") -> LaneBatcher[int, str]:
    """Numbers; those with one remainder of ten share a lane."""
    return LaneBatcher(
        target.flush_group,
        failed=target.failed,
        lane_of=lambda number: number % 10,
        group_of=group_of,
        max_items=100,
        max_waiting=100,
    )


async def ticks(count: int = 10) -> None:
    """Lets everything happen that needs nobody else."""
    for _ in range(count):
        await asyncio.sleep(0)


# ---- One queue.


async def test_first_item_goes_at_once_and_the_rest_together(target: Target) -> None:
    batcher = batcher_to(target)
    target.hold()
    batcher.submit(1)
    await asyncio.sleep(0)
    assert target.batches == [[1]]
    for number in (2, 3, 4):
        batcher.submit(number)
    await ticks()
    assert target.batches == [[1]]
    assert batcher.waiting == 3
    target.let_go()
    await batcher.close()
    assert target.batches == [[1], [2, 3, 4]]
    assert batcher.waiting == 0


async def test_batch_is_bounded_by_its_items(target: Target) -> None:
    batcher = batcher_to(target, max_items=3)
    for number in range(8):
        batcher.submit(number)
    await batcher.close()
    assert target.batches == [[0, 1, 2], [3, 4, 5], [6, 7]]


async def test_batch_is_bounded_by_its_weight_unless_one_item_is_heavier(target: Target) -> None:
    batcher = batcher_to(target, max_weight=10)
    for weight in (4, 6, 1, 11, 2, 9):
        batcher.submit(weight)
    await batcher.close()
    assert target.batches == [[4, 6], [1], [11], [2], [9]]


async def test_refuses_more_than_may_wait_and_takes_again_afterwards(target: Target) -> None:
    batcher = batcher_to(target, max_waiting=2)
    target.hold()
    batcher.submit(1)
    await ticks()
    batcher.submit(2)
    batcher.submit(3)
    with pytest.raises(QueueFull) as refused:
        batcher.submit(4)
    assert refused.value.retry_after_ms
    target.let_go()
    await ticks()
    batcher.submit(5)
    await batcher.close()
    assert target.batches == [[1], [2, 3], [5]]


async def test_only_so_many_batches_are_under_way(target: Target) -> None:
    batcher = batcher_to(target, max_in_flight=2, max_items=1)
    target.hold()
    for number in range(5):
        batcher.submit(number)
    await ticks()
    assert target.batches == [[0], [1]]
    target.let_go()
    await batcher.close()
    assert sorted(target.batches) == [[0], [1], [2], [3], [4]]


@pytest.mark.parametrize("error", [LookupError("a bug"), asyncio.CancelledError()])
async def test_failed_flush_costs_its_own_batch_only(target: Target, error: BaseException) -> None:
    batcher = batcher_to(target, max_items=2)
    target.next_error = error
    for number in range(5):
        batcher.submit(number)
    await batcher.close()
    assert target.batches == [[0, 1], [2, 3], [4]]
    ((batch, told),) = target.failures
    assert batch == [0, 1]
    assert told is error or (isinstance(error, asyncio.CancelledError) and isinstance(told, FlushCancelled))


async def test_close_settles_everything_and_refuses_what_is_new(target: Target) -> None:
    batcher = batcher_to(target, max_items=1)
    target.hold()
    for number in range(3):
        batcher.submit(number)
    await ticks()
    closing = asyncio.create_task(batcher.close())
    await ticks()
    assert not closing.done()
    with pytest.raises(QueueFull):
        batcher.submit(3)
    target.let_go()
    await closing
    assert target.batches == [[0], [1], [2]]
    await batcher.close()


async def test_submitter_that_goes_away_takes_nothing_along(target: Target) -> None:
    batcher = batcher_to(target)

    async def submit_and_wait() -> None:
        batcher.submit(1)
        await asyncio.Event().wait()

    target.hold()
    submitter = asyncio.create_task(submit_and_wait())
    await ticks()
    submitter.cancel()
    await ticks()
    target.let_go()
    await batcher.close()
    assert target.batches == [[1]]
    assert not target.failures


async def test_callback_that_raises_does_not_stop_what_waits_behind(target: Target) -> None:
    def failed(_batch: Sequence[int], _error: Exception) -> None:
        raise LookupError("a bug in the handling of a bug")

    batcher = Batcher[int](target.flush, failed=failed, max_items=1, max_waiting=10)
    target.next_error = ValueError()
    for number in range(3):
        batcher.submit(number)
    await batcher.close()
    assert target.batches == [[0], [1], [2]]


async def test_cancelled_worker_ends_and_settles_its_batch(target: Target) -> None:
    batcher = batcher_to(target)
    before = asyncio.all_tasks()
    target.hold()
    batcher.submit(1)
    await ticks()
    (worker,) = asyncio.all_tasks() - before
    worker.cancel()
    await ticks()
    assert worker.cancelled()
    assert [batch for batch, _ in target.failures] == [[1]]


# ---- Lanes.


async def test_lane_waits_for_its_batch_and_other_lanes_of_the_group_go_with_it(target: Target) -> None:
    lanes = lanes_to(target)
    target.hold()
    lanes.submit(1)
    await asyncio.sleep(0)
    assert target.batches == [[1]]
    for number in (11, 2, 21, 12):
        lanes.submit(number)
    await ticks()
    assert lanes.waiting == 4
    target.let_go()
    await lanes.close()
    assert sorted(target.batches[1]) == [2, 11, 12, 21]
    assert target.batches[1].index(11) < target.batches[1].index(21)
    assert target.batches[1].index(2) < target.batches[1].index(12)
    assert lanes.waiting == 0


async def test_slow_group_holds_up_nobody_else(target: Target) -> None:
    lanes = lanes_to(target, group_of=lambda number: "slow" if number % 10 == 1 else "fast")
    target.hold()
    lanes.submit(1)
    await ticks()
    gate, target._gate = target._gate, None
    lanes.submit(2)
    lanes.submit(11)
    await ticks()
    assert target.batches == [[1], [2]]
    assert target.groups == ["slow", "fast"]
    assert gate is not None
    gate.set_result(None)
    await lanes.close()
    assert target.batches == [[1], [2], [11]]


async def test_lane_goes_where_it_is_routed_by_then(target: Target) -> None:
    route = "old"
    lanes = lanes_to(target, group_of=lambda _: route)
    target.hold()
    lanes.submit(1)
    await ticks()
    lanes.submit(11)
    route = "new"
    await ticks()
    assert target.batches == [[1]], "never in two batches, wherever they go"
    target.let_go()
    await lanes.close()
    assert target.batches == [[1], [11]]
    assert target.groups == ["old", "new"]


@pytest.mark.parametrize("error", [LookupError("a bug"), asyncio.CancelledError()])
async def test_failed_flush_leaves_its_lanes_usable(target: Target, error: BaseException) -> None:
    lanes = lanes_to(target)
    target.hold()
    target.next_error = error
    lanes.submit(1)
    await ticks()
    lanes.submit(11)
    target.let_go()
    await ticks()
    lanes.submit(21)
    await lanes.close()
    assert [batch for batch, _ in target.failures] == [[1]]
    assert target.batches == [[1], [11], [21]]


# ---- Whatever happens, in whatever order.


@dataclass
class World:
    """Submits, flushes and checks, one step at a time."""

    max_items: int
    max_weight: int
    max_waiting: int
    max_in_flight: int
    flush_ticks: Sequence[int]
    outcomes: Sequence[str]
    taken: list[Item] = field(default_factory=list)
    flushed: list[Item] = field(default_factory=list)
    failed: list[Item] = field(default_factory=list)
    to_fail: list[Item] = field(default_factory=list)
    under_way: Counter[str] = field(default_factory=Counter)
    lanes_under_way: set[str] = field(default_factory=set)
    routes: dict[str, str] = field(default_factory=lambda: defaultdict(lambda: "a"))
    last_route: dict[str, str] = field(default_factory=dict)
    numbers: Counter[str] = field(default_factory=Counter)

    def route(self, item: Item) -> str:
        self.last_route[item.lane] = self.routes[item.lane]
        return self.routes[item.lane]

    def submit(self, submit: Callable[[Item], None], lane: str, weight: int, waiting: int) -> None:
        item = Item(lane, self.numbers[lane], weight)
        if waiting >= self.max_waiting:
            with pytest.raises(QueueFull):
                submit(item)
            return
        submit(item)
        self.numbers[lane] += 1
        self.taken.append(item)

    async def flush(self, group: str, batch: list[Item], *, lanes_are_apart: bool = True) -> None:
        lanes = {item.lane for item in batch}
        assert batch
        assert len(batch) <= self.max_items
        assert len(batch) == 1 or sum(item.weight for item in batch) <= self.max_weight
        if lanes_are_apart:
            assert not lanes & self.lanes_under_way
            assert {self.last_route[lane] for lane in lanes} == {group}
        self.under_way[group] += 1
        assert self.under_way[group] <= self.max_in_flight
        turn = len(self.flushed)
        self.flushed.extend(batch)
        self.lanes_under_way |= lanes
        try:
            await ticks(self.flush_ticks[turn % len(self.flush_ticks)])
            outcome = self.outcomes[turn % len(self.outcomes)]
            if outcome != "sent":
                self.to_fail.extend(batch)
                raise asyncio.CancelledError if outcome == "cancelled" else LookupError(outcome)
        finally:
            self.lanes_under_way -= lanes
            self.under_way[group] -= 1

    def note_failed(self, batch: Sequence[Item], _error: Exception) -> None:
        self.failed.extend(batch)

    def check_settled(self) -> None:
        assert sorted(self.flushed, key=_place) == sorted(self.taken, key=_place), "each exactly once"
        assert self.failed == self.to_fail
        for lane, count in self.numbers.items():
            assert [item.number for item in self.flushed if item.lane == lane] == list(range(count)), "in order"


def _place(item: Item) -> tuple[str, int]:
    return item.lane, item.number


_worlds = st.builds(
    World,
    max_items=st.integers(1, 6),
    max_weight=st.integers(1, 12),
    max_waiting=st.integers(1, 20),
    max_in_flight=st.integers(1, 3),
    flush_ticks=st.lists(st.integers(0, 4), min_size=1, max_size=5),
    outcomes=st.lists(st.sampled_from(["sent", "sent", "refused", "cancelled"]), min_size=1, max_size=5),
)
_submits = st.tuples(st.just("submit"), st.sampled_from("xyz"), st.integers(0, 8))
_pauses = st.tuples(st.just("ticks"), st.integers(1, 6), st.none())
_moves = st.tuples(st.just("route"), st.sampled_from("xyz"), st.sampled_from("abc"))


@settings(max_examples=300, deadline=None)
@given(world=_worlds, steps=st.lists(_submits | _submits | _pauses | _moves, max_size=60))
def test_lanes_keep_their_promises_in_any_history(
    world: World, steps: list[tuple[str, str, int] | tuple[str, int, None] | tuple[str, str, str]]
) -> None:
    async def run() -> None:
        batcher = LaneBatcher[Item, str](
            world.flush,
            failed=world.note_failed,
            lane_of=lambda item: item.lane,
            group_of=world.route,
            max_items=world.max_items,
            max_weight=world.max_weight,
            max_waiting=world.max_waiting,
            max_in_flight=world.max_in_flight,
            weigh=lambda item: item.weight,
        )
        for kind, first, second in steps:
            if kind == "submit":
                assert isinstance(first, str)
                assert isinstance(second, int)
                world.submit(batcher.submit, first, second, batcher.waiting)
            elif kind == "route":
                world.routes[str(first)] = str(second)
            else:
                assert isinstance(first, int)
                await ticks(first)
            assert batcher.waiting == len(world.taken) - len(world.flushed) <= world.max_waiting
        await _settle_and_look_for_remains(batcher.close)
        world.check_settled()
        assert batcher.waiting == 0
        assert not batcher._lanes
        assert not batcher._ready
        assert not batcher._under_way

    asyncio.run(run())


@settings(max_examples=150, deadline=None)
@given(world=_worlds, steps=st.lists(_submits | _submits | _pauses, max_size=60))
def test_queue_keeps_its_promises_in_any_history(
    world: World, steps: list[tuple[str, str, int] | tuple[str, int, None]]
) -> None:
    async def flush(batch: list[Item]) -> None:
        await world.flush("only", batch, lanes_are_apart=False)

    async def run() -> None:
        batcher = Batcher[Item](
            flush,
            failed=world.note_failed,
            max_items=world.max_items,
            max_weight=world.max_weight,
            max_waiting=world.max_waiting,
            max_in_flight=world.max_in_flight,
            weigh=lambda item: item.weight,
        )
        for kind, first, second in steps:
            if kind == "submit":
                assert isinstance(second, int)
                world.submit(batcher.submit, str(first), second, batcher.waiting)
            else:
                assert isinstance(first, int)
                await ticks(first)
            assert batcher.waiting == len(world.taken) - len(world.flushed) <= world.max_waiting
        await _settle_and_look_for_remains(batcher.close)
        world.check_settled()
        assert world.flushed == world.taken
        assert batcher.waiting == batcher._under_way == 0

    asyncio.run(run())


async def _settle_and_look_for_remains(close: Callable[[], Awaitable[None]]) -> None:
    await close()
    await ticks(2)  # done callbacks
    assert asyncio.all_tasks() == {asyncio.current_task()}
