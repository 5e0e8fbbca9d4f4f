"""Who watches what on this edge, and each event encoded once for all of them.

A topic here passes on each message once, in order and without a gap: it knows the last seq and takes only the next.
Where the upstream breaks or skips, it asks chat again from there. A subscription joins where chat says `Joined`: it has
been given everything up to that head, and the topic's events after it.
"""

import asyncio
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import orjson

from edge.bodies import message_body
from edge.clients import WatchRequest
from edge.destinations import CONVERSATION_PREFIX
from edge.model import ConversationId, Message, Seq, UserId, WatermarkKind
from edge.stomp.frames import Version
from edge.stomp.message_template import MessageTemplate
from edge.times import rfc3339
from services.runtime.errors import Forbidden, ServiceError
from services.runtime.log import logger
from services.runtime.metrics import Metrics

# A repair that chat could not do just now is asked for again after this.
_REPAIR_AGAIN_S = (0.15, 0.3)

_log = logger(__name__)


class EncodedMessage:
    """A message event, encoded at most once for each protocol version."""

    __slots__ = ("_templates", "message")

    def __init__(self, message: Message) -> None:
        self.message = message
        self._templates: dict[Version, MessageTemplate] = {}

    def template(self, version: Version) -> MessageTemplate:
        template = self._templates.get(version)
        if template is None:
            message = self.message
            template = self._templates[version] = MessageTemplate(
                version=version,
                destination=CONVERSATION_PREFIX + message.conversation_id,
                message_id=message.message_id,
                body=orjson.dumps({"event": "message", **message_body(message, "sent")}),
                headers=(("x-seq", str(message.seq)),),
            )
        return template


class EncodedEvent:
    """An event that is not a message (status, typing), encoded at most once for each protocol version."""

    __slots__ = ("_body", "_destination", "_message_id", "_templates", "droppable")

    def __init__(self, conversation_id: ConversationId, message_id: str, body: bytes, *, droppable: bool) -> None:
        self._destination = CONVERSATION_PREFIX + conversation_id
        self._message_id = message_id
        self._body = body
        self._templates: dict[Version, MessageTemplate] = {}
        # Of no interest to somebody who is behind.
        self.droppable = droppable

    def template(self, version: Version) -> MessageTemplate:
        template = self._templates.get(version)
        if template is None:
            template = self._templates[version] = MessageTemplate(
                version=version, destination=self._destination, message_id=self._message_id, body=self._body
            )
        return template


class Subscriber(Protocol):
    """A subscription to a conversation, as the hub sees it. Its methods do not block and do not raise."""

    @property
    def user_id(self) -> UserId: ...

    @property
    def is_active(self) -> bool:
        """False once it was unsubscribed or its connection ended."""

    def deliver(self, messages: Sequence[EncodedMessage]) -> None:
        """Consecutive messages, ascending; those it has had already are its own business."""

    def deliver_event(self, event: EncodedEvent) -> None: ...

    def joined(self, head: Seq) -> None:
        """It has been given everything that it asked for up to `head`; from here on events are live."""

    def refused(self, error: ServiceError) -> None:
        """It gets nothing (more)."""


class Upstream(Protocol):
    """The streams to chat (`topics`). A watch that it cannot place now is asked for again by `upstream_lost`."""

    def watch(self, request: WatchRequest) -> None: ...

    def unwatch(self, conversation_id: ConversationId) -> None: ...


@dataclass(slots=True)
class _Watch:
    """A watch that chat has not answered yet: a new subscription's, or (None) the whole topic's after a break."""

    topic: "_Topic"
    subscriber: Subscriber | None
    after: Seq | None
    # The user's removal was heard meanwhile.
    removed: bool = False


@dataclass(slots=True)
class _Topic:
    conversation_id: ConversationId
    # The last seq passed on; None until the first subscription has joined.
    last: Seq | None = None
    subscribers: dict[Subscriber, None] = field(default_factory=dict)
    # Watches under way, by id.
    watches: dict[int, _Watch] = field(default_factory=dict)
    # The id of the watch that repairs a break; live messages wait for it (it will bring them).
    repairing: int | None = None
    # How far each member has come, as it was told: two for each member.
    told: dict[tuple[UserId, WatermarkKind], Seq] = field(default_factory=dict)


class HubListener(Protocol):
    """What the hub tells besides its subscribers. Does not block and does not raise."""

    def joined(self, conversation_id: ConversationId) -> None:
        """Chat has this edge's watch, for the first time or again."""

    def seen(self, conversation_id: ConversationId, user_id: UserId, seq: Seq, head: Seq) -> None:
        """That user has read up to `seq`, of the messages up to `head`."""


class Hub:
    """The conversations watched here. Everything happens on the event loop, without awaiting."""

    def __init__(self, metrics: Metrics) -> None:
        self._listener: HubListener | None = None
        self._topics: dict[ConversationId, _Topic] = {}
        self._watches: dict[int, _Watch] = {}
        self._next_watch = 0
        self._upstream: Upstream | None = None
        self._delivered = metrics.counter("edge_deliveries", "Message events handed to subscriptions.")
        self._gaps = metrics.counter("edge_topic_gaps", "Breaks in a topic that were repaired from the log.")
        metrics.gauge("edge_topics", "Conversations watched on this edge.").set_function(lambda: len(self._topics))

    def connect(self, upstream: Upstream) -> None:
        """Called once, before anything else."""
        self._upstream = upstream

    def listen(self, listener: HubListener) -> None:
        """Called at most once."""
        self._listener = listener

    @property
    def upstream(self) -> Upstream:
        assert self._upstream is not None
        return self._upstream

    # ---- What sessions ask.

    def subscribe(self, conversation_id: ConversationId, subscriber: Subscriber, after: Seq | None) -> None:
        """Replays everything later than `after`, if given, then joins; the subscriber is told."""
        topic = self._topics.get(conversation_id)
        if topic is None:
            topic = self._topics[conversation_id] = _Topic(conversation_id)
        self._watch(topic, _Watch(topic, subscriber, after))

    def unsubscribe(self, conversation_id: ConversationId, subscriber: Subscriber) -> None:
        """It gets nothing more. Idempotent."""
        topic = self._topics.get(conversation_id)
        if topic is not None:
            topic.subscribers.pop(subscriber, None)
            self._drop_if_idle(topic)

    def is_watched(self, conversation_id: ConversationId) -> bool:
        return conversation_id in self._topics

    # ---- What chat says.

    def messages(self, conversation_id: ConversationId, messages: Sequence[Message]) -> None:
        """Live messages of a topic, consecutive."""
        topic = self._topics.get(conversation_id)
        if topic is None or topic.last is None or topic.repairing is not None:
            return  # nobody has joined yet, or the repair that is under way brings them
        if messages[0].seq > topic.last + 1:
            self._gaps.inc()
            self._repair(topic)
            return
        self._pass_on(topic, messages)

    def replay(self, watch_id: int, messages: Sequence[Message]) -> None:
        watch = self._watches.get(watch_id)
        if watch is None or not messages:
            return
        if watch.subscriber is None:
            self._pass_on(watch.topic, messages)
        else:
            watch.after = messages[-1].seq
            if watch.subscriber.is_active:
                self._delivered.inc(len(messages))
                watch.subscriber.deliver([EncodedMessage(message) for message in messages])

    def joined(self, watch_id: int, head: Seq, denied: Sequence[UserId]) -> None:
        watch = self._end_watch(watch_id)
        if watch is None:
            return
        topic, subscriber = watch.topic, watch.subscriber
        if subscriber is None:
            topic.repairing = None
            for user_id in denied:
                self.member_removed(topic.conversation_id, user_id)
        elif subscriber.is_active and not watch.removed:
            if topic.last is None:
                topic.last = head
            topic.subscribers[subscriber] = None
            subscriber.joined(head)
        elif subscriber.is_active:
            subscriber.refused(_removed())
        if self._listener is not None:
            self._listener.joined(topic.conversation_id)
        self._drop_if_idle(topic)

    def refused(self, watch_id: int, error: ServiceError) -> None:
        watch = self._end_watch(watch_id)
        if watch is None:
            return
        topic = watch.topic
        if watch.subscriber is not None:
            if watch.subscriber.is_active:
                watch.subscriber.refused(error)
        elif isinstance(error, Forbidden):  # nobody of those who watched is a member any more
            topic.repairing = None
            for subscriber in list(topic.subscribers):
                del topic.subscribers[subscriber]
                subscriber.refused(error)
        else:  # who asks again at once would only add to the trouble; until then `repairing` stays set
            delay_s = random.uniform(*_REPAIR_AGAIN_S)
            asyncio.get_running_loop().call_later(delay_s, self._repair_again, topic, watch_id)
        self._drop_if_idle(topic)

    def member_removed(self, conversation_id: ConversationId, user_id: UserId) -> None:
        topic = self._topics.get(conversation_id)
        if topic is None:
            return
        for watch in topic.watches.values():
            if watch.subscriber is not None and watch.subscriber.user_id == user_id:
                watch.removed = True
        for subscriber in [each for each in topic.subscribers if each.user_id == user_id]:
            del topic.subscribers[subscriber]
            subscriber.refused(_removed())
        self._drop_if_idle(topic)

    def status(
        self, conversation_id: ConversationId, user_id: UserId, kind: WatermarkKind, seq: Seq, at_ms: int
    ) -> None:
        topic = self._topics.get(conversation_id)
        if topic is None or not _goes_on(topic, user_id, kind, seq):
            return
        message_id = f"{conversation_id}-{seq:010d}"
        body = {
            "event": "status",
            "conversationId": conversation_id,
            "messageId": message_id,
            "seq": seq,
            "userId": user_id,
            "status": kind.value,
            "at": rfc3339(at_ms),
        }
        event_id = f"{message_id}.{kind.value}.{user_id}"
        self._tell(conversation_id, EncodedEvent(conversation_id, event_id, orjson.dumps(body), droppable=False), None)
        if kind is WatermarkKind.SEEN and self._listener is not None:
            self._listener.seen(conversation_id, user_id, seq, max(seq, topic.last or seq))

    def typing(self, conversation_id: ConversationId, user_id: UserId, *, typing: bool) -> None:
        body = {"event": "typing", "conversationId": conversation_id, "userId": user_id, "typing": typing}
        event_id = f"{conversation_id}.typing.{user_id}"
        self._tell(
            conversation_id, EncodedEvent(conversation_id, event_id, orjson.dumps(body), droppable=True), user_id
        )

    # ---- What the streams report.

    def upstream_lost(self, conversation_ids: Iterable[ConversationId]) -> None:
        """Their stream ended, or they belong to another replica now: ask again from where each topic is."""
        for conversation_id in conversation_ids:
            topic = self._topics.get(conversation_id)
            if topic is None:
                continue
            again = [watch for watch in topic.watches.values() if watch.subscriber is not None]
            for watch_id in list(topic.watches):
                self._end_watch(watch_id)
            topic.repairing = None
            if topic.subscribers:
                self._repair(topic)
            for watch in again:
                self._watch(topic, watch)
            self._drop_if_idle(topic)

    # ---- Inside.

    def _pass_on(self, topic: _Topic, messages: Sequence[Message]) -> None:
        assert topic.last is not None
        last = topic.last
        if messages[0].seq <= last:
            messages = [message for message in messages if message.seq > last]
            if not messages:
                return
        topic.last = messages[-1].seq
        encoded = [EncodedMessage(message) for message in messages]
        for subscriber in topic.subscribers:
            subscriber.deliver(encoded)
        self._delivered.inc(len(encoded) * len(topic.subscribers))

    def _tell(self, conversation_id: ConversationId, event: EncodedEvent, but: UserId | None) -> None:
        topic = self._topics.get(conversation_id)
        if topic is not None:
            for subscriber in topic.subscribers:
                if subscriber.user_id != but:
                    subscriber.deliver_event(event)

    def _repair_again(self, topic: _Topic, refused_watch: int) -> None:
        if topic.repairing == refused_watch:  # else something else has repaired it, or is about to
            topic.repairing = None
            self._repair(topic)

    def _repair(self, topic: _Topic) -> None:
        if topic.repairing is None and topic.last is not None and topic.subscribers:
            topic.repairing = self._watch(topic, _Watch(topic, None, topic.last))

    def _watch(self, topic: _Topic, watch: _Watch) -> int:
        self._next_watch += 1
        watch_id = self._next_watch
        self._watches[watch_id] = topic.watches[watch_id] = watch
        if watch.subscriber is None:
            users = list({subscriber.user_id for subscriber in topic.subscribers})
        else:
            users = [watch.subscriber.user_id]
        self.upstream.watch(WatchRequest(watch_id, topic.conversation_id, users, watch.after))
        return watch_id

    def _end_watch(self, watch_id: int) -> _Watch | None:
        watch = self._watches.pop(watch_id, None)
        if watch is not None:
            watch.topic.watches.pop(watch_id, None)
        return watch

    def _drop_if_idle(self, topic: _Topic) -> None:
        """Unwatches a topic that nobody is in; not while a watch is under way, so that chat's answer finds it."""
        if topic.subscribers or topic.watches or self._topics.get(topic.conversation_id) is not topic:
            return
        del self._topics[topic.conversation_id]
        self.upstream.unwatch(topic.conversation_id)


def _goes_on(topic: _Topic, user_id: UserId, kind: WatermarkKind, seq: Seq) -> bool:
    """Notes how far the member has come. False: less than was told of him. Two replicas that both move his watermark
    tell of it in any order; and what is seen is no longer delivered only."""
    told = topic.told.get((user_id, WatermarkKind.SEEN), 0)
    if kind is WatermarkKind.DELIVERED:
        told = max(told, topic.told.get((user_id, kind), 0))
    if seq < told:
        return False
    topic.told[user_id, kind] = seq
    return True


def _removed() -> Forbidden:
    return Forbidden.told("you are no longer a member of this conversation")
