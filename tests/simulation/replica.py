"""One chat replica made of the real classes, which can be asked, watched and killed."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from prometheus_client import CollectorRegistry

from services.chat.convert import decode_events, encode_event
from services.chat.followers import Followers
from services.chat.lastread.memory import MemoryLastRead
from services.chat.members import Members
from services.chat.messages import Commit, Messages, Sent
from services.chat.model import ConversationId, Draft, Seq, UserId
from services.chat.receipts import Move, Receipts
from services.chat.store import Store
from services.chat.streams import TopicStream
from services.chat.topics import Topics, Watch
from services.runtime.errors import ServiceError
from services.runtime.metrics import Metrics
from tests.simulation.bus import SimBroker, SimBus
from tests.simulation.loop import SimProcess
from tests.simulation.store import SimStore
from tests.simulation.truth import Truth

# The edge's deadline for one call, shortened as everything here is: some calls come too late.
_DEADLINE_S = 0.5
_TRIP_S = 0.002

# One registry for all runs: making the metrics anew costs more than a run does.
_metrics = Metrics(CollectorRegistry())

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Parts:
    """The classes that a replica is made of: the product's own, or one of them with a deliberate bug."""

    truth: type[Truth] = Truth
    store: type[SimStore] = SimStore
    members: type[Members] = Members
    messages: type[Messages] = Messages
    topics: type[Topics] = Topics
    receipts: type[Receipts] = Receipts


class SimClock:
    """Virtual time; a replica's wall clock is as wrong as its seed says."""

    def __init__(self, wrong_by_ms: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._base_ms = 1_700_000_000_000 + wrong_by_ms

    def monotonic(self) -> float:
        return self._loop.time()

    def time_ms(self) -> int:
        return self._base_ms + int(self._loop.time() * 1000)


class _Nobody:
    """Hears how far members have read, and does nothing with it."""

    def read(self, conversation_id: ConversationId, user_id: UserId, seq: Seq, *, head: Seq) -> None:
        pass


class _ToTopics:
    """Commits go to the topics, in an order that does not depend on how strings are hashed."""

    def __init__(self, topics: Topics, process: SimProcess) -> None:
        self._topics = topics
        self._process = process

    def committed(self, commit: Commit) -> None:
        if self._process.is_alive:
            self._topics.committed(commit)

    def uncertain(self, conversation_ids: Sequence[ConversationId]) -> None:
        if self._process.is_alive:
            self._topics.uncertain(sorted(conversation_ids))


class SimReplica:
    def __init__(self, parts: Parts, store: SimStore, broker: SimBroker, process: SimProcess, seed: int) -> None:
        rng = random.Random(seed)
        clock = SimClock(rng.choice((0, 0, -3_600_000, 90_000)))
        self.process = process
        self.store = store
        self.bus = SimBus(broker, process)
        # The other methods of a Store are not asked for by anything here.
        real = cast(Store, store)
        members = parts.members(real, clock)
        self._topics = parts.topics(real, members, Followers(), self.bus, encode_event, decode_events, _metrics)
        self._messages = parts.messages(real, members, _ToTopics(self._topics, process), clock, _metrics)
        self._receipts = parts.receipts(
            real, members, MemoryLastRead(), _Nobody(), self._topics.announce, clock, _metrics
        )
        self._streams: dict[TopicStream, None] = {}
        self._answers: dict[asyncio.Future[Any], None] = {}

    @property
    def is_alive(self) -> bool:
        return self.process.is_alive

    async def start(self) -> None:
        await self.bus.start(self._topics)
        self.process.spawn(self._topics.start())

    async def kill(self) -> None:
        """As SIGKILL does: whoever asked gets no answer, streams end, and writes that are on their way may land."""
        self.process.is_alive = False
        await self.bus.close()
        for stream in list(self._streams):
            stream.close()
        for answer in list(self._answers):
            if not answer.done():
                answer.set_result(None)
        await self.process.bury()

    def find_unheard(self) -> list[BaseException]:
        """Failures of this replica's tasks that nobody has looked at: in production a traceback in the log."""
        return self.process.find_unheard()

    # ---- What edges ask. None: no answer came, the outcome is unknown.

    async def send(self, drafts: Sequence[Draft], *, lost: bool) -> Sequence[Sent | ServiceError] | None:
        return await self._call(lambda: self._messages.send(drafts), lost=lost)

    async def move(self, moves: Sequence[Move], *, lost: bool) -> Sequence[ServiceError | None] | None:
        return await self._call(lambda: self._receipts.move(moves), lost=lost)

    def watch(self, stream: TopicStream, watch: Watch) -> None:
        """Closes the stream at once where the replica is dead."""
        if not self.is_alive:
            stream.close()
            return
        self._streams[stream] = None
        self.process.spawn(self._topics.watch(stream, watch))

    def unwatch(self, stream: TopicStream) -> None:
        """The edge's end of the stream is gone."""
        stream.close()
        if self._streams.pop(stream, stream) is None and self.is_alive:
            self._topics.stream_ended(stream)

    async def _call(self, work: Callable[[], Coroutine[Any, Any, T]], *, lost: bool) -> T | None:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T | None] = loop.create_future()
        self._answers[answer] = None

        async def serve() -> None:
            with suppress(asyncio.InvalidStateError):  # the caller has given up
                outcome = await work()
                answer.set_result(None if lost else outcome)

        if not self.is_alive:
            return None
        serving = self.process.spawn(serve())
        deadline = loop.call_later(_DEADLINE_S, _give_up, answer, serving)
        try:
            return await answer
        finally:
            deadline.cancel()
            del self._answers[answer]


def _give_up(answer: "asyncio.Future[Any]", serving: asyncio.Task[None]) -> None:
    """The deadline of a call: gRPC cancels the handler, and the caller hears nothing."""
    serving.cancel()
    if not answer.done():
        answer.set_result(None)
