"""One run: a seed makes a small world, troubles it, heals it, waits for quiet and checks."""

import asyncio
import gc
import hashlib
import random
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from unittest.mock import patch

from structlog.testing import capture_logs

from services.chat import messages, topics
from services.chat.model import ConversationId, Draft, UserId
from tests.simulation.checks import check
from tests.simulation.clients import Lane, Watcher
from tests.simulation.fleet import Fleet
from tests.simulation.loop import Deadlock, VirtualLoop, drop_from_the_dead
from tests.simulation.record import Record
from tests.simulation.replica import Parts
from tests.simulation.trouble import Trouble

# Trouble ends then at the latest; nearly all runs are done before.
_TROUBLED_S = 15.0
# After the healing everything that was asked for is answered within this.
_ANSWERED_S = 10.0
# ... and everybody has seen everything: the regular check of heads comes every 5 s, and two reads may follow it.
_QUIET_S = 7.0

# A run leaves some hundred kilobytes of garbage in cycles; collecting it all the time takes a fifth of the whole.
_COLLECT_EVERY = 200

STRANGER = UserId("eve")
PRODUCT = Parts()


@dataclass(frozen=True, slots=True)
class Run:
    seed: int
    problems: list[str]
    record: Record

    def digest(self) -> str:
        """The same for the same run."""
        return hashlib.sha256(repr((self.seed, self.problems, self.record)).encode()).hexdigest()

    def report(self) -> str:
        """What a person needs in order to look into a failing seed."""
        lines = [f"seed {self.seed}: {len(self.problems)} problems", *(f"  {each}" for each in self.problems)]
        lines += [f"  {at_s:12.6f}  {what:12} {detail}" for at_s, what, detail in self.record.trace]
        return "\n".join(lines)


def simulate(seed: int, parts: Parts = PRODUCT) -> Run:
    """Runs that seed; the same seed and parts give the same run, in any process.

    Its bounds are `small_bounds`; it takes the global `random`, which the product draws its pauses from.
    """
    random.seed(seed)
    record = Record()
    loop = VirtualLoop()
    try:
        with small_bounds(), capture_logs(processors=(drop_from_the_dead,)) as logged:
            problems = loop.run_until_complete(_run(seed, parts, record))
    except Deadlock as deadlock:
        problems = [*record.problems, str(deadlock)]
    finally:
        loop.close()
    problems += [f"logged an error: {event}" for event in logged if event["log_level"] == "error"]
    return Run(seed, problems, record)


def simulate_many(seeds: Iterable[int], parts: Parts = PRODUCT) -> Iterator[Run]:
    """One run after the other, as fast as this process can."""
    was_enabled = gc.isenabled()
    gc.disable()
    gc.freeze()  # what is there already is no garbage of ours
    try:
        for count, seed in enumerate(seeds, 1):
            yield simulate(seed, parts)
            if count % _COLLECT_EVERY == 0:
                gc.collect()
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()


@contextmanager
def small_bounds() -> Iterator[None]:
    """The product's bounds, made so small that a few messages reach every one of them."""
    with ExitStack() as bounds:
        bounds.enter_context(patch.multiple(messages, _MAX_BATCH=3, _MAX_HEADS=1, _MAX_KNOWN_BYTES=2_000))
        bounds.enter_context(patch.multiple(topics, _PAGE=3, _MAX_EARLY=4, _RECENT_BYTES=1_200, _REPLAY_EVENT_BYTES=40))
        yield


async def _run(seed: int, parts: Parts, record: Record) -> list[str]:
    rng = random.Random(seed)
    trouble = Trouble.draw(rng)
    conversations = [ConversationId(name) for name in ("gc", "gd")[: rng.choice((1, 1, 1, 2))]]
    users = [UserId(name) for name in ("alice", "bob", "carol")]
    truth = parts.truth((conversation, users) for conversation in conversations)
    fleet = Fleet(parts, truth, trouble, record, seed)
    await fleet.start(rng.choice((2, 2, 3)))
    pause_s = rng.choice((0.01, 0.1, 0.5))
    lanes = [
        Lane(fleet, record, drafts, random.Random(seed * 101 + number), pause_s=pause_s)
        for number, drafts in enumerate(_drafts(conversations, users, rng, record))
    ]
    watchers = [
        Watcher(fleet, record, f"{user}@{edge} of {conversation}", user, conversation, random.Random(seed * 103 + edge))
        for conversation in conversations
        for edge, user in enumerate(rng.sample(users, 2))
    ]
    watching = [asyncio.create_task(watcher.run()) for watcher in watchers]
    sending = [asyncio.create_task(lane.run()) for lane in lanes]
    faults = [asyncio.create_task(_after(rng.random() * 2 * pause_s, fleet.kill_one)) for _ in range(trouble.kills)]
    faults += [
        asyncio.create_task(_after(rng.random() * 2 * pause_s, fleet.deafen_one)) for _ in range(trouble.deaf_times)
    ]
    await asyncio.wait(sending, timeout=_TROUBLED_S)
    fleet.heal()
    _, unanswered = await asyncio.wait([*sending, *faults], timeout=_ANSWERED_S)
    if unanswered:
        record.problem(asyncio.get_running_loop().time(), f"{len(unanswered)} senders still wait for an answer")
    await asyncio.sleep(_QUIET_S)
    for task in (*watching, *unanswered):
        task.cancel()
    await asyncio.wait([*watching, *unanswered])
    await fleet.stop()
    for task in (*watching, *sending, *faults):
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
    return check(record, truth)


def _drafts(
    conversations: list[ConversationId], users: list[UserId], rng: random.Random, record: Record
) -> Iterator[list[Draft]]:
    """What each lane sends: messages of one or two users each, and now and then what must be refused."""
    for conversation in conversations:
        for senders in (users[:2], users[2:]):
            drafts = []
            for number in range(rng.randint(2, 5)):
                sender = rng.choice(senders)
                draft = Draft(conversation, sender, f"{sender} {number}", f"text {number}", "text")
                record.sent.setdefault((conversation, sender), []).append(draft)
                drafts.append(draft)
            if rng.random() < 0.2:  # the key of an earlier message, with another body
                first = drafts[0]
                place = rng.randint(1, len(drafts))
                drafts.insert(place, Draft(conversation, first.sender_id, first.client_message_id, "other", "text"))
            if rng.random() < 0.1:
                drafts.insert(rng.randint(0, len(drafts)), Draft(conversation, STRANGER, "k", "text", "text"))
            yield drafts


async def _after(delay_s: float, fault: Callable[[], Coroutine[object, object, None]]) -> None:
    await asyncio.sleep(delay_s)
    await fault()
