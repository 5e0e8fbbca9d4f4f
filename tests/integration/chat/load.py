"""A moderate, steady load of messages, and how long each of them took."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import quantiles
from uuid import uuid4

from tests.e2e.api import Api, ConversationId, User
from tests.e2e.waiting import eventually


@dataclass(frozen=True, slots=True)
class Lane:
    """Somebody who writes to one conversation over one edge."""

    api: Api
    sender: User
    conversation: ConversationId


@dataclass(frozen=True, slots=True)
class Sent:
    conversation: ConversationId
    message_id: str
    took_s: float


@dataclass(frozen=True, slots=True)
class Latency:
    sends: int
    p50_s: float
    p99_s: float
    max_s: float

    def __str__(self) -> str:
        p50_ms, p99_ms, max_ms = (1_000 * each for each in (self.p50_s, self.p99_s, self.max_s))
        return f"{self.sends} sends, p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms, max {max_ms:.1f} ms"


async def send_steadily(lanes: Sequence[Lane], *, per_second: float, go_on: Callable[[], bool]) -> list[Sent]:
    """Everybody sends at his share of that rate, never two at once, until `go_on` says no more.

    Raises:
        ExceptionGroup of AssertionError: a send was refused.
    """
    loop = asyncio.get_running_loop()
    sent: list[Sent] = []
    pause_s = len(lanes) / per_second

    async def write(number: int, lane: Lane) -> None:
        due_s = loop.time() + pause_s * number / len(lanes)
        while go_on():
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            due_s += pause_s
            sent.append(await _send(lane, uuid4().hex))

    async with asyncio.TaskGroup() as writing:
        for number, lane in enumerate(lanes):
            writing.create_task(write(number, lane))
    return sent


async def send_once(lanes: Sequence[Lane]) -> list[Sent]:
    """One message in each, in their order, tried until it is taken."""

    async def write(lane: Lane) -> Sent:
        client_message_id = uuid4().hex
        return await eventually(lambda: _send(lane, client_message_id), what="the send is taken")

    return await asyncio.gather(*map(write, lanes))


def latency_of(sent: Sequence[Sent]) -> Latency:
    took_s = [each.took_s for each in sent]
    cuts = quantiles(took_s, n=100)
    return Latency(len(sent), cuts[49], cuts[98], max(took_s))


def for_seconds(seconds: float) -> Callable[[], bool]:
    """`go_on` for that long from now."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + seconds
    return lambda: loop.time() < end_s


async def _send(lane: Lane, client_message_id: str) -> Sent:
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    answer = await lane.api.send(lane.sender, lane.conversation, "under load", client_message_id)
    message_id = str(answer.must_be(200, 201)["messageId"])
    return Sent(lane.conversation, message_id, loop.time() - began_s)
