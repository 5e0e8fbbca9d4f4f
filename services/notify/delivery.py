"""What becomes of each job: live notifications, the grace, and the pushes.

    MessageStored ─▶ live to whoever is attached here ─▶ PushDue, after the grace
    PushDue       ─▶ seen: nothing · attached: live · otherwise each device is pushed to
    PushDevice    ─▶ one device again, after a failure
    ReadMoved     ─▶ remembered, told live; a silent update where a push has become stale

Every step may be repeated (the queue delivers at least once) and each hands on durably before it ends: `PushDue` is
confirmed before `MessageStored` is acknowledged. A push is made under its key (see `PushKeys`), so each device gets a
message once, unless a holder dies between taking the key and the provider's answer; then once more, as a replacement
of the first.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Final, Protocol

import uuid_utils

from services.notify import rules
from services.notify.errors import MalformedJob
from services.notify.live import LiveHub
from services.notify.model import (
    NO_MARK,
    ConversationId,
    Device,
    Job,
    LiveMessage,
    LiveUnread,
    Mark,
    Message,
    MessageNote,
    MessageStored,
    Platform,
    PushDevice,
    PushDue,
    ReadMoved,
    ReadNote,
    Recipient,
    Status,
    UserId,
)
from services.notify.presence import PresenceReader
from services.notify.providers import Delivered, Gone, Refused, RetryLater
from services.notify.providers.guarded import Guarded
from services.notify.queue import Arrived, Dead, Done, Outgoing, Queue, QueueOptions, Retry, Verdict
from services.notify.rules import Route
from services.notify.store import Claimed, Finished, Held, Holder, Store
from services.runtime.clock import Clock
from services.runtime.log import logger
from services.runtime.metrics import Metrics

# Pushes under way at the same time, over all jobs.
_MAX_PUSHES: Final = 128
# Added to a push's own timeout: a key is never taken over while its holder may still get an answer.
_LEASE_MARGIN: Final = timedelta(seconds=2)

_log = logger(__name__)


class SeenReader(Protocol):
    async def find_marks(self, conversation_id: ConversationId, user_ids: Sequence[UserId]) -> Mapping[UserId, Mark]:
        """How far each has read; users of whom nothing is known are left out."""


class Delivery:
    """`handle` is the queue's handler.

    Args:
        encode, decode: of jobs; `decode` raises `MalformedJob`.
        seen: who has read what; the store, which learns it from `ReadMoved`.
        grace: how long a message may be seen before it is pushed.
        push_timeout: the providers' own.
    """

    def __init__(
        self,
        store: Store,
        seen: SeenReader,
        queue: Queue,
        hub: LiveHub,
        presence: PresenceReader,
        providers: Mapping[Platform, Guarded],
        *,
        encode: Callable[[str, Job], bytes],
        decode: Callable[[bytes], Job],
        options: QueueOptions,
        clock: Clock,
        metrics: Metrics,
        grace: timedelta,
        push_timeout: timedelta,
    ) -> None:
        self._store = store
        self._seen = seen
        self._queue = queue
        self._hub = hub
        self._presence = presence
        self._providers = providers
        self._encode = encode
        self._decode = decode
        self._options = options
        self._clock = clock
        self._grace = grace
        self._lease = push_timeout + _LEASE_MARGIN
        self._holder_prefix = uuid_utils.uuid4().hex
        self._claims = 0
        self._pushing = asyncio.Semaphore(_MAX_PUSHES)
        self._jobs = metrics.counter("notify_jobs", "Jobs handled, by kind", ("kind",))

    async def handle(self, arrived: Arrived) -> Verdict:
        """
        Raises:
            StoreUnavailable, QueueUnavailable: try again, it is not the job's fault.
        """
        try:
            job = self._decode(arrived.body)
        except MalformedJob as error:
            return Dead(f"malformed: {error}")
        self._jobs.labels(type(job).__name__).inc()
        match job:
            case MessageStored():
                return await self._message_stored(job)
            case PushDue():
                return await self._push_due(job)
            case PushDevice():
                return await self._push_device(job)
            case ReadMoved():
                return await self._read_moved(job)

    # ---- A message was stored.

    async def _message_stored(self, job: MessageStored) -> Verdict:
        hearing = tuple(each for each in job.recipients if rules.hears(job.message, each))
        shown = frozenset(each.user_id for each in hearing if self._tell(job.message, each))
        if hearing:
            await self._hand_on(f"{job.message.message_id}/due", PushDue(job.message, hearing, shown), self._grace)
        return Done()

    def _tell(self, message: Message, recipient: Recipient) -> bool:
        return self._hub.tell(LiveMessage(recipient.user_id, message, recipient.unread_count))

    async def _push_due(self, job: PushDue) -> Verdict:
        recipients = await self._unseen(
            job.message, [each for each in job.recipients if rules.hears(job.message, each)]
        )
        # Presence matters only for those who are attached: the others are pushed to whatever it says.
        attached = [each.user_id for each in recipients if self._hub.is_attached(each.user_id)]
        statuses = await self._presence.read(attached) if attached else {}
        pushed: list[Recipient] = []
        for each in recipients:
            route = rules.route_when_due(
                attached=self._hub.is_attached(each.user_id),
                status=statuses.get(each.user_id, Status.UNKNOWN),
                shown=each.user_id in job.shown,
            )
            if route is Route.LIVE and not self._tell(job.message, each):
                route = Route.PUSH
            if route is Route.PUSH:
                pushed.append(each)
        await self._push_all(job.message, pushed)
        return Done()

    async def _unseen(self, message: Message, recipients: Sequence[Recipient]) -> Sequence[Recipient]:
        if not recipients:
            return ()
        marks = await self._seen.find_marks(message.conversation_id, [each.user_id for each in recipients])
        return [each for each in recipients if not rules.is_seen(message, marks.get(each.user_id, NO_MARK))]

    async def _push_all(self, message: Message, recipients: Sequence[Recipient]) -> None:
        """Each device on its own: one that fails is handed on as a job of its own and holds up nobody."""
        if not recipients:
            return
        devices = await self._store.find_devices([each.user_id for each in recipients])
        if not devices:
            return
        await self._record_pushed(message, list(devices))
        pushes = [
            self._push_or_hand_on(message, each, device)
            for each in recipients
            for device in devices.get(each.user_id, ())
        ]
        outcomes = await asyncio.gather(*pushes, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):  # the whole job again; what is finished stays so
                raise outcome

    async def _push_or_hand_on(self, message: Message, recipient: Recipient, device: Device) -> None:
        job_id = f"{message.message_id}/{device.device_id}"
        again = PushDevice(message, recipient, device.device_id)
        match await self._push(message, recipient, device):
            case Done():
                pass
            case Retry(counted=False, after=after):
                await self._hand_on(job_id, again, rules.UNCOUNTED_DELAY if after is None else after)
            case Retry(after=after):
                delay = rules.retry_delay(1, after, self._options.retry_delays)
                await self._hand_on(job_id, again, delay, tries=1)
            case Dead():
                # Through the queue once more, where it dies as a job of its own.
                await self._hand_on(job_id, again, self._options.retry_delays[0], tries=self._options.max_tries - 1)

    async def _push_device(self, job: PushDevice) -> Verdict:
        if not await self._unseen(job.message, [job.recipient]):
            return Done()
        device = await self._store.find_device(job.device_id)
        if device is None or device.user_id != job.recipient.user_id:
            return Done()
        return await self._push(job.message, job.recipient, device)

    async def _push(self, message: Message, recipient: Recipient, device: Device) -> Verdict:
        provider = self._providers.get(device.platform)
        if provider is None:
            return Dead(f"{device.platform.value} is not configured")
        async with self._pushing:
            holder = self._new_holder()
            key = (message.message_id, device.device_id)
            match await self._store.claim(*key, holder, now_ms=self._clock.time_ms(), lease=self._lease):
                case Finished():
                    return Done()
                case Held(left):
                    return Retry("held", min(left, rules.UNCOUNTED_DELAY), counted=False)
                case Claimed():
                    pass
            outcome = await provider.push(device, MessageNote(message, recipient.unread_count))
            match outcome:
                case Delivered():
                    await self._store.finish(*key, now_ms=self._clock.time_ms())
                    return Done()
                case Gone():
                    await self._forget(device)
                    await self._store.finish(*key, now_ms=self._clock.time_ms())
                    return Done()
                case RetryLater(reason, after, counted):
                    await self._store.release(*key, holder)
                    return Retry(reason, after, counted=counted)
                case Refused(reason):
                    await self._store.release(*key, holder)  # for the day that an operator replays it
                    _log.warning("push_refused", platform=device.platform.value, reason=reason)
                    return Dead(reason)

    async def _forget(self, device: Device) -> None:
        _log.info("device_gone", platform=device.platform.value, device_id=device.device_id)
        await self._store.remove(device.user_id, device.device_id)

    async def _record_pushed(self, message: Message, user_ids: Sequence[UserId]) -> None:
        await self._store.record_pushed(message.conversation_id, user_ids, message.seq, now_ms=self._clock.time_ms())

    def _new_holder(self) -> Holder:
        self._claims += 1
        return Holder(f"{self._holder_prefix}-{self._claims}")

    async def _hand_on(self, job_id: str, job: Job, delay: timedelta, *, tries: int = 0) -> None:
        await self._queue.publish([Outgoing(job_id, self._encode(job_id, job), delay, tries)])

    # ---- Somebody has read.

    async def _read_moved(self, job: ReadMoved) -> Verdict:
        before = await self._store.move_read(
            job.conversation_id, job.user_id, job.read_seq, now_ms=self._clock.time_ms()
        )
        self._hub.tell(LiveUnread(job.user_id, job.conversation_id, job.read_seq, job.unread_count))
        if rules.clears_pushes(before, job.read_seq):
            devices = (await self._store.find_devices([job.user_id])).get(job.user_id, ())
            note = ReadNote(job.conversation_id, job.read_seq, job.unread_count)
            await asyncio.gather(*(self._update(device, note) for device in devices))
        return Done()

    async def _update(self, device: Device, note: ReadNote) -> None:
        """Tried once: the next push, or opening the app, puts it right too."""
        provider = self._providers.get(device.platform)
        if provider is None:
            return
        async with self._pushing:
            outcome = await provider.push(device, note)
        if isinstance(outcome, Gone):
            await self._forget(device)
