"""Fan-out in one replica: the topics that edges watch here, each passed on in order and without a gap.

A topic knows the last seq that it passed on. The next one goes straight out; anything further ahead (another replica's
hint was lost, a commit's outcome was not known) makes it read the gap from the log first. So the bus, the other
replicas and this one's own commits are all just hints, and the log alone decides.

A watch with a position is replayed from the recent messages or from the log until it has caught up with the topic, and
joins in the same step: nothing lies between the last replayed message and the first live one.
"""

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from services.chat.bus import Bus
from services.chat.errors import NotAMember, StoreUnavailable
from services.chat.events import (
    ContactsUncertain,
    Event,
    Joined,
    MemberRemoved,
    MembersChanged,
    MessagesPassed,
    Replayed,
    StatusMoved,
    TopicEvent,
    WatchRefused,
)
from services.chat.followers import Followers
from services.chat.members import Members
from services.chat.messages import Commit
from services.chat.model import ConversationId, Message, Seq, UserId, WatermarkKind
from services.chat.store import MessageLog
from services.chat.streams import TopicStream
from services.runtime.errors import ServiceError
from services.runtime.log import logger
from services.runtime.metrics import Metrics

# Recent messages kept for each watched topic: a client that reconnects soon needs no query.
_RECENT_BYTES = 64 << 10
_RECENT_OVERHEAD_BYTES = 300
# One page of a replay or of a gap.
_PAGE = 200
_REPLAY_EVENT_BYTES = 256 << 10
# Messages that came too early, while the gap before them is read. More are read from the log again.
_MAX_EARLY = 512
_RETRY_S = (0.05, 2.0)
# Heads checked in one query after the bus was deaf.
_CHECK_CHUNK = 500
# How long a message may stay unseen whose writer died before telling anybody, if nobody writes after it.
_CHECK_EVERY_S = 5.0
# The bus's channel of what concerns all replicas; no conversation has such an id.
_EVERYWHERE = ConversationId("*")

_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Watch:
    """An edge's wish to join a topic on behalf of users, from `after_seq` (None: from the head)."""

    watch_id: int
    conversation_id: ConversationId
    user_ids: Sequence[UserId]
    after_seq: Seq | None


class _Topic:
    __slots__ = (
        "conversation_id",
        "early",
        "filling",
        "joining",
        "last",
        "opening",
        "recent",
        "recent_bytes",
        "told",
        "watchers",
    )

    def __init__(self, conversation_id: ConversationId) -> None:
        self.conversation_id = conversation_id
        # The last seq passed on; None until the head has been read.
        self.last: Seq | None = None
        self.early: dict[int, Message] = {}
        self.recent: deque[Message] = deque()
        self.recent_bytes = 0
        # How far each member's watermarks were told to be; at most two for each member.
        self.told: dict[tuple[UserId, WatermarkKind], Seq] = {}
        self.watchers: dict[TopicStream, None] = {}
        self.joining: Counter[TopicStream] = Counter()
        self.opening: asyncio.Task[None] | None = None
        self.filling: asyncio.Task[None] | None = None

    def passed_on(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self.recent.append(message)
            self.recent_bytes += len(message.content) + _RECENT_OVERHEAD_BYTES
        while self.recent_bytes > _RECENT_BYTES:
            self.recent_bytes -= len(self.recent.popleft().content) + _RECENT_OVERHEAD_BYTES

    def is_news(self, moved: StatusMoved) -> bool:
        """Whether it goes further than what was told: two replicas may tell of one member in the other order."""
        if moved.seq <= self.told.get((moved.user_id, moved.kind), 0):
            return False
        self.told[moved.user_id, moved.kind] = moved.seq
        return True

    def find_recent(self, after: int) -> Sequence[Message]:
        """At most a page of what follows `after`; empty where that is not kept here."""
        if not self.recent or self.recent[0].seq > after + 1:
            return ()
        start = after + 1 - self.recent[0].seq
        return tuple(islice(self.recent, start, start + _PAGE))


class Topics:
    """The watched topics of this replica."""

    def __init__(
        self,
        log: MessageLog,
        members: Members,
        followers: Followers,
        bus: Bus,
        encode: Callable[[Event], bytes],
        decode: Callable[[bytes], Sequence[TopicEvent | MembersChanged]],
        metrics: Metrics,
    ) -> None:
        self._store = log
        self._members = members
        self._followers = followers
        self._bus = bus
        self._encode = encode
        self._decode = decode
        self._topics: dict[ConversationId, _Topic] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._checking: asyncio.Task[None] | None = None
        self._gaps = metrics.counter("chat_topic_gaps", "Times that a topic had to read a gap from the log.")
        self._replayed = metrics.counter(
            "chat_replayed_messages", "Messages replayed to resuming watches.", labels=("source",)
        )
        metrics.gauge("chat_topics", "Topics watched on this replica.").set_function(lambda: len(self._topics))

    async def start(self) -> None:
        await self._bus.subscribe(_EVERYWHERE)
        self._checking = asyncio.create_task(self._check_for_ever())

    async def stop(self) -> None:
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.wait((self._checking,))
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # ---- What edges ask.

    async def watch(self, stream: TopicStream, watch: Watch) -> None:
        """Replays, then joins; or refuses. Ends with exactly one `Joined` or `WatchRefused` pushed to the stream."""
        topic = self._topics.get(watch.conversation_id)
        if topic is None:
            topic = self._topics[watch.conversation_id] = _Topic(watch.conversation_id)
        topic.joining[stream] += 1  # before members are read: a removal from here on is told to this stream
        try:
            members = await self._members.are_members(watch.conversation_id, watch.user_ids)
            if not members:
                raise NotAMember
            await self._open(topic)
            head = await self._replay(stream, topic, watch)
        except ServiceError as error:
            stream.push(self._encode(WatchRefused(watch.watch_id, error)))
        else:
            if not stream.is_closed:
                topic.watchers[stream] = None
            denied = [user for user in watch.user_ids if user not in members]
            stream.push(self._encode(Joined(watch.watch_id, head, denied)))
        finally:
            topic.joining[stream] -= 1
            if not topic.joining[stream]:
                del topic.joining[stream]
            self._close_if_idle(topic)

    def unwatch(self, stream: TopicStream, conversation_id: ConversationId) -> None:
        topic = self._topics.get(conversation_id)
        if topic is not None:
            topic.watchers.pop(stream, None)
            self._close_if_idle(topic)

    def find_last(self, conversation_id: ConversationId) -> Seq | None:
        """The last seq that was passed on here; None where nobody watches."""
        topic = self._topics.get(conversation_id)
        return None if topic is None else topic.last

    def find_latest(self, conversation_id: ConversationId) -> Message | None:
        """The last message that was passed on here, if it is kept."""
        topic = self._topics.get(conversation_id)
        return topic.recent[-1] if topic is not None and topic.recent else None

    def stream_ended(self, stream: TopicStream) -> None:
        """Forgets every watch of that stream."""
        for conversation_id in [topic.conversation_id for topic in self._topics.values() if stream in topic.watchers]:
            self.unwatch(stream, conversation_id)

    # ---- What happens in conversations.

    def committed(self, commit: Commit) -> None:
        """This replica stored these messages."""
        for messages in _runs(commit.messages):
            conversation_id = messages[0].conversation_id
            event = self._encode(MessagesPassed(conversation_id, messages))
            self._bus.publish(conversation_id, event)
            topic = self._topics.get(conversation_id)
            if topic is not None:
                self._pass_on(topic, messages, event)

    def uncertain(self, conversation_ids: Sequence[ConversationId]) -> None:
        """Messages may be in these logs that nobody was told of: look."""
        for conversation_id in conversation_ids:
            topic = self._topics.get(conversation_id)
            if topic is not None:
                self._fill(topic)

    def announce(self, event: TopicEvent) -> None:
        """Tells every watcher, here and on the other replicas, of something that is not a message."""
        encoded = self._encode(event)
        self._bus.publish(event.conversation_id, encoded)
        self._tell(event, encoded)

    def members_changed(self, event: MembersChanged) -> None:
        """Every replica's cached members are void, and every edge that follows one of them is told."""
        encoded = self._encode(event)
        self._bus.publish(_EVERYWHERE, encoded)
        self._note_members(event, encoded)

    # ---- BusListener.

    def bus_event(self, conversation_id: ConversationId, event: bytes) -> None:
        for each in self._decode(event):
            if isinstance(each, MessagesPassed):
                topic = self._topics.get(conversation_id)
                if topic is not None:
                    self._pass_on(topic, each.messages, event)
            elif isinstance(each, MembersChanged):
                self._note_members(each, event)
            else:
                self._tell(each, event)

    def bus_was_deaf(self) -> None:
        self._members.forget_all()
        uncertain = self._encode(ContactsUncertain())
        for stream in self._followers.all():
            stream.push(uncertain)
        self._spawn(self._check_heads(list(self._topics.values())))

    # ---- Passing on.

    def _pass_on(self, topic: _Topic, messages: Sequence[Message], event: bytes) -> None:
        if topic.last is None or messages[0].seq > topic.last + 1:
            self._keep_early(topic, messages)
            return
        fresh = [message for message in messages if message.seq > topic.last]
        if not fresh:
            return
        topic.last = fresh[-1].seq
        topic.passed_on(fresh)
        if len(fresh) < len(messages):
            event = self._encode(MessagesPassed(topic.conversation_id, fresh))
        for stream in topic.watchers:
            stream.push(event)
        if topic.early:
            self._pass_on_early(topic)

    def _keep_early(self, topic: _Topic, messages: Sequence[Message]) -> None:
        if len(topic.early) + len(messages) <= _MAX_EARLY:
            topic.early.update((message.seq, message) for message in messages)
        if topic.last is not None:
            self._gaps.inc()
            self._fill(topic)

    def _pass_on_early(self, topic: _Topic) -> None:
        assert topic.last is not None
        last = topic.last
        for seq in [seq for seq in topic.early if seq <= last]:
            del topic.early[seq]
        run: list[Message] = []
        while (message := topic.early.pop(last + 1 + len(run), None)) is not None:
            run.append(message)
        if run:
            self._pass_on(topic, run, self._encode(MessagesPassed(topic.conversation_id, run)))

    def _tell(self, event: TopicEvent, encoded: bytes) -> None:
        topic = self._topics.get(event.conversation_id)
        if isinstance(event, MemberRemoved):
            self._members.forget(event.conversation_id)
        if topic is None or (isinstance(event, StatusMoved) and not topic.is_news(event)):
            return
        streams = topic.watchers.keys() | topic.joining.keys() if isinstance(event, MemberRemoved) else topic.watchers
        for stream in streams:
            stream.push(encoded)

    def _note_members(self, event: MembersChanged, encoded: bytes) -> None:
        self._members.forget(event.conversation_id)
        for stream in self._followers.find(event.user_ids):
            stream.push(encoded)

    # ---- Catching up with the log.

    async def _open(self, topic: _Topic) -> None:
        """Makes the topic hear of what comes and know its head; one attempt for all who wait."""
        while topic.last is None:
            if topic.opening is None:
                topic.opening = self._spawn(self._read_head(topic))
            opening = topic.opening
            await asyncio.wait((opening,))
            if topic.last is None:
                error = None if opening.cancelled() else opening.exception()
                raise error if isinstance(error, ServiceError) else StoreUnavailable()

    async def _read_head(self, topic: _Topic) -> None:
        try:
            await self._bus.subscribe(topic.conversation_id)  # first: what is stored from here on is heard of
            topic.last = await self._store.find_head(topic.conversation_id)
            self._pass_on_early(topic)
            if topic.early:
                self._fill(topic)
        finally:
            topic.opening = None

    async def _replay(self, stream: TopicStream, topic: _Topic, watch: Watch) -> Seq:
        """Pushes what the watch has missed; when it returns, nothing lies between that and the topic's next event."""
        assert topic.last is not None
        after = topic.last if watch.after_seq is None else watch.after_seq
        if after > topic.last:
            await self._catch_up(topic, after)
        while after < topic.last:
            page: Sequence[Message] = topic.find_recent(after)
            source = "recent"
            if not page:
                source = "log"
                read = await self._store.read_after(topic.conversation_id, Seq(after), limit=_PAGE)
                # Not beyond what the topic passed on: the rest comes live.
                page = [message for message in read if message.seq <= topic.last]
                if not page:
                    raise StoreUnavailable
            self._replayed.labels(source).inc(len(page))
            for part in _parts(page):
                stream.push(self._encode(Replayed(watch.watch_id, part)))
            after = page[-1].seq
            await stream.room()
        return topic.last

    async def _catch_up(self, topic: _Topic, after: Seq) -> None:
        """Somebody has had more than was passed on here: the hints of it were lost, or he is beyond the head."""
        assert topic.last is not None
        head = await self._store.find_head(topic.conversation_id)
        while topic.last < min(after, head):
            self._fill(topic)
            if topic.filling is not None:
                await asyncio.wait((topic.filling,))

    def _fill(self, topic: _Topic) -> None:
        if topic.filling is None and topic.last is not None:
            topic.filling = self._spawn(self._read_gap(topic))

    async def _read_gap(self, topic: _Topic) -> None:
        """Passes on what the log has beyond the topic's last, until nothing is missing."""
        delay_s, max_delay_s = _RETRY_S
        try:
            while topic.watchers or topic.joining:
                assert topic.last is not None
                hinted = list(topic.early)
                try:
                    page = await self._store.read_after(topic.conversation_id, topic.last, limit=_PAGE)
                except StoreUnavailable:
                    await asyncio.sleep(random.uniform(0, delay_s))
                    delay_s = min(delay_s * 2, max_delay_s)
                    continue
                for part in _parts(page):
                    self._pass_on(topic, part, self._encode(MessagesPassed(topic.conversation_id, part)))
                self._pass_on_early(topic)
                if not page:  # the log decides: a hint from before this read that it does not bear out is void
                    for seq in hinted:
                        topic.early.pop(seq, None)
                if len(page) < _PAGE and not topic.early:
                    return
        finally:
            topic.filling = None

    async def _check_for_ever(self) -> None:
        """A replica that died between its commit and its hint leaves no other trace than the log."""
        while True:
            await asyncio.sleep(_CHECK_EVERY_S)
            await self._check_heads(list(self._topics.values()))

    async def _check_heads(self, topics: Sequence[_Topic]) -> None:
        for start in range(0, len(topics), _CHECK_CHUNK):
            chunk = [topic for topic in topics[start : start + _CHECK_CHUNK] if topic.last is not None]
            try:
                heads = await self._store.find_heads([topic.conversation_id for topic in chunk])
            except StoreUnavailable:
                for topic in chunk:  # each tries on its own until the store answers
                    self._fill(topic)
                continue
            for topic in chunk:
                if topic.last is not None and heads[topic.conversation_id] > topic.last:
                    self._fill(topic)

    def _close_if_idle(self, topic: _Topic) -> None:
        if topic.watchers or topic.joining or self._topics.get(topic.conversation_id) is not topic:
            return
        del self._topics[topic.conversation_id]
        self._bus.unsubscribe(topic.conversation_id)

    def _spawn(self, work: "asyncio._CoroutineLike[None]") -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ServiceError):
            _log.error("topic_task_failed", exc_info=error)


def _runs(messages: Iterable[Message]) -> Iterable[Sequence[Message]]:
    """Messages of many conversations as runs of consecutive ones of one."""
    run: list[Message] = []
    for message in sorted(messages, key=lambda message: (message.conversation_id, message.seq)):
        if run and (message.conversation_id != run[-1].conversation_id or message.seq != run[-1].seq + 1):
            yield run
            run = []
        run.append(message)
    if run:
        yield run


def _parts(page: Sequence[Message]) -> Iterable[Sequence[Message]]:
    """The page in pieces that each fit well into one write."""
    part: list[Message] = []
    size = 0
    for message in page:
        if part and size + len(message.content) > _REPLAY_EVENT_BYTES:
            yield part
            part, size = [], 0
        part.append(message)
        size += len(message.content)
    if part:
        yield part
