"""What notify has to hear: messages, for those who do not see them arrive, and what has been read.

    MessageNotice    members who do not attend (`attendance`) and have not read it; each with his unread count
    ReadNotice       one member's watermark; later ones of a member replace earlier ones while they wait

A member who attended when a message came, and ceased to soon after, may have been dead already, or his edge: the newest
message is then told again, and notify knows what it knows. One is enough: it counts all that is unread.

Messages wait here with their outbox entries until the queue has confirmed them; then the entries go. The queue may be
away for hours: what does not fit is left to the sweeper (`followup`), which finds the entries. Nobody waits for any of
it. Whoever is told twice knows by the message's id.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from services.chat.attendance import Attendance
from services.chat.jobs import Job, JobQueue
from services.chat.lastread import Member
from services.chat.members import Members
from services.chat.messages import Commit
from services.chat.model import ConversationId, Message, Seq, UserId
from services.chat.store import Store
from services.runtime.clock import Clock
from services.runtime.coalescing import Coalescer
from services.runtime.errors import ServiceError
from services.runtime.log import logger
from services.runtime.metrics import Metrics
from services.runtime.tasks import is_being_cancelled

# Commits taken together; more only makes the queue's confirms come in larger waves.
_MAX_COMMITS = 200
# Messages that wait while the queue is away, at most 16 KiB each; beyond it their entries are left to the sweeper.
_MAX_WAITING_MESSAGES = 20_000
_MAX_WAITING_READS = 50_000
_MAX_READS = 500
# Between two batches of reads: who reads on and on is told of a few times a second.
_READ_PACE_S = 0.2
_RETRY_S = 0.5
# A dead connection is noticed after two heart-beats of 10 s, a dead edge long before.
_FRESH_MS = 30_000
_MAX_AGAIN = 20_000

_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Recipient:
    user_id: UserId
    unread_count: int
    muted: bool


@dataclass(frozen=True, slots=True)
class MessageNotice:
    message: Message
    recipients: tuple[Recipient, ...]


@dataclass(frozen=True, slots=True)
class ReadNotice:
    conversation_id: ConversationId
    user_id: UserId
    read_seq: Seq
    unread_count: int


Notice = MessageNotice | ReadNotice


@dataclass(frozen=True, slots=True)
class _Read:
    seq: Seq
    head: Seq


class Notices:
    """A component with a task for each kind.

    Args:
        encode: a notice as a job.
    """

    def __init__(
        self,
        store: Store,
        members: Members,
        attendance: Attendance,
        jobs: JobQueue,
        encode: Callable[[Notice], Job],
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._members = members
        self._attendance = attendance
        self._jobs = jobs
        self._encode = encode
        self._clock = clock
        self._waiting: deque[Commit] = deque()
        self._waiting_messages = 0
        self._held: set[str] = set()
        self._news = asyncio.Event()
        self._notifying: asyncio.Task[None] | None = None
        self._reads: Coalescer[Member, _Read] = Coalescer(
            "chat read notices",
            self._publish_reads,
            merge=_further,
            max_keys=_MAX_WAITING_READS,
            max_batch=_MAX_READS,
            pace_s=_READ_PACE_S,
            retry_s=_RETRY_S,
        )
        self._again: Coalescer[ConversationId, Message] = Coalescer(
            "chat notices again",
            self._publish_again,
            merge=_newer,
            max_keys=_MAX_AGAIN,
            max_batch=_MAX_COMMITS,
            pace_s=_READ_PACE_S,
            retry_s=_RETRY_S,
        )
        self._published = metrics.counter("chat_notices", "Notices that the queue has confirmed.", labels=("kind",))
        self._dropped = metrics.counter(
            "chat_notices_dropped", "Notices for which there was no room; messages are left to the sweeper.", ("kind",)
        )
        metrics.gauge("chat_notices_waiting", "Messages that notify has not been told of yet.").set_function(
            lambda: self._waiting_messages
        )
        metrics.gauge("chat_jobs_connected", "1: the queue to notify is there.").set_function(
            lambda: int(jobs.is_connected)
        )

    # ---- What there is to tell.

    def committed(self, commits: Sequence[Commit]) -> None:
        """Takes over messages and their entries, which it deletes in the end."""
        for commit in commits:
            if self._waiting_messages + len(commit.messages) > _MAX_WAITING_MESSAGES:
                self._dropped.labels("message").inc(len(commit.messages))
                continue
            self._waiting.append(commit)
            self._waiting_messages += len(commit.messages)
            if commit.entry_id is not None:
                self._held.add(commit.entry_id)
        self._news.set()

    def read(self, conversation_id: ConversationId, user_id: UserId, seq: Seq, *, head: Seq) -> None:
        """The member has read up to `seq`, durably."""
        if self._attendance.take_read_notice(conversation_id, user_id, seq) and not self._reads.put(
            Member(conversation_id, user_id), _Read(seq, head)
        ):
            self._dropped.labels("read").inc()

    def look_again(self, latest: Message | None) -> None:
        """A member ceased to attend; `latest` is the newest message of that conversation, if anybody knows."""
        if (
            latest is not None
            and self._clock.time_ms() - latest.sent_at_ms < _FRESH_MS
            and not self._again.put(latest.conversation_id, latest)
        ):
            self._dropped.labels("again").inc()

    def left(self, conversation_id: ConversationId, user_id: UserId, *, head: Seq) -> None:
        """Nobody is told of anything in there any more: as if he had read all of it."""
        if not self._reads.put(Member(conversation_id, user_id), _Read(head, head)):
            self._dropped.labels("read").inc()

    def holds(self, entry_id: str) -> bool:
        """Whether the entry's messages wait here."""
        return entry_id in self._held

    async def publish(self, messages: Sequence[Message]) -> None:
        """Tells notify of these messages.

        Raises:
            StoreUnavailable, JobsUnavailable: perhaps not of all of them.
        """
        notices = await self._notices_of(messages)
        await self._jobs.publish([self._encode(notice) for notice in notices])
        self._published.labels("message").inc(len(notices))

    # ---- Component.

    async def start(self) -> None:
        await self._reads.start()
        await self._again.start()
        self._notifying = asyncio.get_running_loop().create_task(self._notify_for_ever(), name="chat notices")

    async def stop(self) -> None:
        """Tells what waits, once; what cannot be told has its entries."""
        if self._notifying is not None:
            self._notifying.cancel()
            await asyncio.wait((self._notifying,))
        await self._reads.stop()
        await self._again.stop()
        while self._waiting and await self._notify(self._take()):
            pass

    # ---- Inside.

    async def _notify_for_ever(self) -> None:
        while True:
            self._news.clear()
            if not self._waiting:
                await self._news.wait()
            if not await self._notify(self._take()):
                await asyncio.sleep(_RETRY_S)

    def _take(self) -> list[Commit]:
        return [self._waiting.popleft() for _ in range(min(len(self._waiting), _MAX_COMMITS))]

    async def _notify(self, commits: list[Commit]) -> bool:
        """Whether these need not come again."""
        entry_ids = [commit.entry_id for commit in commits if commit.entry_id is not None]
        try:
            await self.publish([message for commit in commits for message in commit.messages])
            await self._store.delete_entries(entry_ids)
        except ServiceError:
            self._waiting.extendleft(reversed(commits))
            return False
        except asyncio.CancelledError:  # whether they were told is not known
            self._waiting.extendleft(reversed(commits))
            if is_being_cancelled():
                raise
            return False
        except Exception:  # a bug: the sweeper meets it again, more slowly
            _log.exception("notices_failed", messages=sum(len(commit.messages) for commit in commits))
        self._waiting_messages -= sum(len(commit.messages) for commit in commits)
        self._held.difference_update(entry_ids)
        return True

    async def _notices_of(self, messages: Sequence[Message]) -> list[MessageNotice]:
        """The cached members say whether anybody may have to be told; the store, who."""
        told = []
        for message in messages:
            members = await self._members.read(message.conversation_id)
            if members.difference(self._attendance.find(message.conversation_id), (message.sender_id,)):
                told.append(message)
        if not told:
            return []
        memberships = await self._store.read_memberships_of({message.conversation_id for message in told})
        notices = []
        for message in told:
            attending = self._attendance.find(message.conversation_id)
            recipients = tuple(
                Recipient(each.user_id, message.seq - each.watermarks.read_seq, each.muted)
                for each in memberships[message.conversation_id]
                if each.user_id != message.sender_id
                and each.user_id not in attending
                and each.watermarks.read_seq < message.seq
            )
            if recipients:
                notices.append(MessageNotice(message, recipients))
        return notices

    async def _publish_reads(self, reads: Mapping[Member, _Read]) -> None:
        notices = [
            ReadNotice(conversation_id, user_id, read.seq, max(0, read.head - read.seq))
            for (conversation_id, user_id), read in reads.items()
        ]
        await self._jobs.publish([self._encode(notice) for notice in notices])
        self._published.labels("read").inc(len(notices))

    async def _publish_again(self, latest: Mapping[ConversationId, Message]) -> None:
        await self.publish(list(latest.values()))


def _newer(known: Message, later: Message) -> Message:
    return max(known, later, key=lambda message: message.seq)


def _further(known: _Read, later: _Read) -> _Read:
    return _Read(max(known.seq, later.seq), max(known.head, later.head))
