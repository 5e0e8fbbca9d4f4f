"""One connected client: its STOMP connection, who it is, what it subscribed to, and what it is owed.

Owns the order of a client's life (CONNECT, commands, DISCONNECT) and every answer to it. Refused requests are told on
`/user/queue/errors` where the client listens there, and by ERROR and a close where not; never by silence. Moves no
bytes itself (`websocket`) and awaits nothing.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence

import orjson
import uuid_utils

from edge.auth import bearer
from edge.commands import Caller, Header
from edge.destinations import (
    ERRORS,
    NOTIFICATIONS,
    PRESENCE,
    Command,
    ConversationTopic,
    parse_command,
    parse_subscription,
)
from edge.errors import BadRequest, TooMany
from edge.faults import error_body, fault_of
from edge.model import ConversationId, Identity, Seq, UserId
from edge.outbox import Outbox, Transport
from edge.presence import PresenceStatus
from edge.session_services import SessionServices
from edge.stomp.connection import ServerConnection
from edge.stomp.errors import FrameTooLarge, RemoteProtocolError
from edge.stomp.events import (
    AckReceived,
    ConnectReceived,
    DisconnectReceived,
    Event,
    NackReceived,
    SendReceived,
    SubscribeReceived,
    UnsubscribeReceived,
)
from edge.stomp.parser import Limits
from edge.subscriptions import ConversationSubscription
from edge.user_queues import PresenceSubscription, QueueSubscription
from services.runtime.errors import Internal, ServiceError, Unauthenticated
from services.runtime.log import logger

_SERVER = "parley/0.1"
# How long a leaving edge waits for the answers that one client is owed.
_DRAIN_S = 3.0
_JSON = "application/json"
# Frames that a client sends by itself, and a person has done nothing.
_AUTOMATIC = frozenset((Command.DELIVERED, Command.REFRESH))

_Subscription = ConversationSubscription | PresenceSubscription | QueueSubscription

# RFC 6455, 7.4.1, and IANA's registry.
CLOSE_NORMAL = 1000
CLOSE_POLICY = 1008
CLOSE_TOO_LARGE = 1009
CLOSE_BUG = 1011
CLOSE_RESTARTING = 1012
CLOSE_TOO_SLOW = 1013

_log = logger(__name__)


class Session:
    """A client from open to close. `receive`, `tick` and `lost` are the transport's to call."""

    def __init__(self, transport: Transport, services: SessionServices) -> None:
        self._services = services
        settings = services.settings
        self.session_id = str(uuid_utils.uuid7())
        self._stomp = ServerConnection(
            Limits(
                max_frame_bytes=settings.max_frame_bytes,
                max_headers=settings.max_headers,
                max_header_bytes=settings.max_header_bytes,
            ),
            server=_SERVER,
            heart_beat_offer=(settings.heart_beat_ms, settings.heart_beat_ms),
            heart_beat_min_ms=settings.heart_beat_min_ms,
        )
        self._outbox = Outbox(transport, services.writer, self._drained)
        self._identity: Identity | None = None
        self._caller: Caller | None = None
        self._subscriptions: dict[str, _Subscription] = {}
        self._errors: QueueSubscription | None = None
        # Those that hold something back until the client has caught up, and those whose messages are being written.
        self._behind: dict[ConversationSubscription | PresenceSubscription, None] = {}
        self._writing: dict[ConversationSubscription, None] = {}
        # Frames that have no answer yet.
        self._unanswered = 0
        self._room = asyncio.Event()
        self._room.set()
        self._disconnecting: DisconnectReceived | None = None
        self._drain_deadline: float | None = None
        self._next_error = 0
        # The CONNECT, or the frame that has begun, must be whole by then.
        self._frame_deadline: float | None = services.clock.monotonic() + settings.connect_timeout_s
        self.is_over = False

    # ---- The transport's side.

    def receive(self, data: bytes) -> None:
        """Bytes from the client: frames are acted on in their order."""
        if self._drain_deadline is not None:
            return
        now = self._services.clock.monotonic()
        if self._identity is not None:
            self._stomp.heart_beat.received(now)
        self._stomp.receive_data(data)
        try:
            while not self.is_over and (event := self._stomp.next_event()) is not None:
                self._handle(event)
        except RemoteProtocolError as error:
            self._services.metrics.protocol_errors.inc()
            close_code = CLOSE_TOO_LARGE if isinstance(error, FrameTooLarge) else CLOSE_POLICY
            self._end(close_code, error.message, last_words=error.frame)
            return
        if self._identity is not None:
            if not self._stomp.in_frame:
                self._frame_deadline = None
            elif self._frame_deadline is None:
                self._frame_deadline = now + self._services.settings.connect_timeout_s

    @property
    def is_congested(self) -> bool:
        """So many SENDs are unanswered that nothing more should be read for now."""
        return not self._room.is_set()

    async def room(self) -> None:
        await self._room.wait()

    def tick(self, now: float) -> None:
        """About once a second: heart-beats, and what has run out."""
        if self._drain_deadline is not None:
            if now >= self._drain_deadline:
                self._end(CLOSE_RESTARTING, "restarting: reconnect")
            return
        if self._frame_deadline is not None and now >= self._frame_deadline:
            what = "CONNECT" if self._identity is None else "the rest of a frame"
            self._refuse_and_end(Unauthenticated.told(f"{what} did not come in time"), CLOSE_POLICY)
            return
        if self._identity is None:
            return
        if self._services.clock.time_ms() / 1000 >= self._identity.expires_at_s:
            error = Unauthenticated.told("the token has expired: renew it before exp with /app/session.refresh")
            self._refuse_and_end(error, CLOSE_POLICY)
            return
        heart_beat = self._stomp.heart_beat
        if heart_beat.is_dead(now):
            self._end(CLOSE_POLICY, "no heart-beat")
        elif heart_beat.should_send(now):
            heart_beat.sent(now)
            self._outbox.push(b"\n")

    def drain(self) -> None:
        """This edge is leaving: nothing more is read, what was accepted is answered, the client goes elsewhere."""
        if self._drain_deadline is None:
            self._drain_deadline = self._services.clock.monotonic() + _DRAIN_S
            self._finish_if_answered()

    def lost(self) -> None:
        """The transport is gone. Idempotent; called at the end of every connection."""
        self.is_over = True
        self._outbox.is_closed = True
        self._stomp.close()
        self._room.set()
        subscriptions, self._subscriptions = self._subscriptions, {}
        for subscription in subscriptions.values():
            self._unsubscribe(subscription)
        if self._identity is not None:
            self._services.users.leave(self)
            self._services.presence.closed(self.session_id)
            self._services.counts.leave(self._identity.user_id)
            self._identity = None

    # ---- What the client does.

    def _handle(self, event: Event) -> None:
        self._services.metrics.frames[type(event)].inc()
        if isinstance(event, SendReceived):
            self._on_send(event)
        elif isinstance(event, AckReceived):
            self._on_ack(event)
        elif isinstance(event, SubscribeReceived):
            self._attempt(event.receipt, lambda: self._on_subscribe(event))
        elif isinstance(event, UnsubscribeReceived):
            self._attempt(event.receipt, lambda: self._on_unsubscribe(event))
        elif isinstance(event, ConnectReceived):
            self._on_connect(event)
        elif isinstance(event, DisconnectReceived):
            self._disconnecting = event
            self._finish_if_answered()
        elif isinstance(event, NackReceived):
            self._reply(event.receipt).done()  # nothing is redelivered: who wants it again reads it again

    def _on_connect(self, event: ConnectReceived) -> None:
        services = self._services
        try:
            identity = services.verifier.verify(event.passcode or bearer(event.authorization))
        except ServiceError as error:
            self._refuse_and_end(error, CLOSE_POLICY)
            return
        try:
            services.counts.enter(identity.user_id)
        except TooMany as error:
            self._refuse_and_end(error, CLOSE_TOO_SLOW)
            return
        self._identity = identity
        self._frame_deadline = None
        self._outbox.push(self._stomp.accept(session=self.session_id, user=identity.user_id))
        now = services.clock.monotonic()
        self._stomp.heart_beat.sent(now)
        self._stomp.heart_beat.received(now)
        self._caller = Caller(identity.user_id, self._refresh, self._set_status, self.is_watching)
        services.presence.opened(self.session_id, identity.user_id)
        services.users.enter(self)

    def _on_send(self, event: SendReceived) -> None:
        reply = self._reply(event.receipt)
        try:
            command = parse_command(event.destination)
            if command not in _AUTOMATIC:
                self._services.presence.active(self.user_id)
            self._services.commands.run(command, event.body, self.caller, reply)
        except ServiceError as error:
            reply.refused(error)

    def _on_subscribe(self, event: SubscribeReceived) -> None:
        if event.id in self._subscriptions:
            raise BadRequest(problem="id: this connection has a subscription with that id already")
        limit = self._services.settings.max_subscriptions
        if len(self._subscriptions) >= limit:
            raise TooMany(what="subscriptions of this connection", limit=limit)
        destination = parse_subscription(event.destination)
        if isinstance(destination, ConversationTopic):
            after = _parse_after(event.headers.get("x-after-seq"))
            subscription = ConversationSubscription(
                self,
                event.id,
                destination.conversation_id,
                self.identity.user_id,
                event.ack,
                self._stomp.version,
                after,
                self._reply(event.receipt),
            )
            self._subscriptions[event.id] = subscription
            self._services.hub.subscribe(destination.conversation_id, subscription, after)
            return
        if destination.name == PRESENCE:
            presence = PresenceSubscription(self, event.id, self._stomp.version)
            self._subscriptions[event.id] = presence
            self._services.contacts.subscribe(self.user_id, presence, self._when_seeing(presence, event.receipt))
            return
        queue = QueueSubscription(self, event.id, destination.name, self._stomp.version)
        self._subscriptions[event.id] = queue
        if destination.name == ERRORS:
            self._errors = queue
        self._reply(event.receipt).done()

    def _when_seeing(
        self, presence: PresenceSubscription, receipt: str | None
    ) -> Callable[[ServiceError | None], None]:
        reply = self._reply(receipt)

        def done(error: ServiceError | None) -> None:
            if error is None:
                reply.done()
            else:
                if self._subscriptions.get(presence.id) is presence:
                    del self._subscriptions[presence.id]
                reply.refused(error)

        return done

    def _on_unsubscribe(self, event: UnsubscribeReceived) -> None:
        subscription = self._subscriptions.pop(event.id, None)
        if subscription is None:
            raise BadRequest(problem="id: this connection has no subscription with that id")
        self._unsubscribe(subscription)
        self._reply(event.receipt).done()

    def _on_ack(self, event: AckReceived) -> None:
        reply = self._reply(event.receipt)
        if event.subscription is not None:
            subscription, message_id = self._subscriptions.get(event.subscription), event.id
        else:
            id_, _, message_id = event.id.rpartition("/")  # as `ConversationSubscription` made it
            subscription = self._subscriptions.get(id_)
            if subscription is None and not id_:  # STOMP 1.0 need not name the subscription
                subscription = next((each for each in self._conversations() if each.is_of(message_id)), None)
        if not isinstance(subscription, ConversationSubscription):
            reply.refused(BadRequest(problem="id: not the ack header of a message of this connection"))
            return
        try:
            subscription.acknowledge(message_id, self._services.commands, self.caller, reply)
        except ServiceError as error:
            reply.refused(error)

    def _refresh(self, token: str) -> None:
        assert self._identity is not None
        identity = self._services.verifier.verify(token)
        if identity.user_id != self._identity.user_id:
            raise Unauthenticated.told("the new token names another user: open another connection for that one")
        self._identity = identity

    def _set_status(self, status: PresenceStatus) -> None:
        self._services.presence.set_status(self.session_id, status)

    def _conversations(self) -> Sequence[ConversationSubscription]:
        return [each for each in self._subscriptions.values() if isinstance(each, ConversationSubscription)]

    # ---- As others on this edge see it (`users`).

    @property
    def user_id(self) -> UserId:
        return self.identity.user_id

    def watched(self) -> Collection[ConversationId]:
        return {each.conversation_id for each in self._conversations() if each.is_live}

    def is_watching(self, conversation_id: ConversationId) -> bool:
        return any(each.conversation_id == conversation_id and each.is_live for each in self._conversations())

    def notify(self, event_id: str, body: bytes) -> None:
        for each in list(self._subscriptions.values()):
            if isinstance(each, QueueSubscription) and each.name == NOTIFICATIONS:
                each.tell(event_id, body)

    # ---- What the client is told.

    @property
    def identity(self) -> Identity:
        assert self._identity is not None
        return self._identity

    @property
    def caller(self) -> Caller:
        assert self._caller is not None
        return self._caller

    @property
    def is_slow(self) -> bool:
        """More waits for this client than a conversation may add to."""
        return self._outbox.waiting_bytes() > self._services.settings.slow_reader_bytes

    def push(self, frame: bytes) -> None:
        """A frame that the client is owed. Where too much waits already, the connection ends instead."""
        if self._outbox.waiting_bytes() > self._services.settings.slow_reader_close_bytes:
            self._services.metrics.closed_slow.inc()
            self._end(CLOSE_TOO_SLOW, "too slow: reconnect and resume")
            return
        self._outbox.push(frame)

    def is_behind(self, subscription: ConversationSubscription | PresenceSubscription) -> None:
        """It held something back, and is asked to say so once the client has caught up."""
        if isinstance(subscription, ConversationSubscription):
            self._services.metrics.gaps.inc()
        self._behind[subscription] = None
        self._outbox.expect_drain()

    def has_written(self, subscription: ConversationSubscription) -> None:
        self._writing[subscription] = None

    def went_live(self, subscription: ConversationSubscription) -> None:
        self._services.attendance.watching_changed(subscription.conversation_id, self.user_id)

    def unsubscribed(self, subscription: ConversationSubscription, error: ServiceError) -> None:
        """Chat refused it, or its user is no longer a member."""
        self._subscriptions.pop(subscription.id, None)
        self._behind.pop(subscription, None)
        if subscription.is_live:
            subscription.is_live = False
            self._services.attendance.watching_changed(subscription.conversation_id, self.user_id)
            self._reply(None).refused(error, conversation_id=subscription.conversation_id)

    def _drained(self) -> None:
        self._stomp_wrote()
        if self._writing:
            self._note_delivered()
        if self._behind and self.is_slow:
            self._outbox.expect_drain()
        elif self._behind:
            behind, self._behind = self._behind, {}
            for subscription in behind:
                subscription.catch_up()

    def _note_delivered(self) -> None:
        """Everything that was pushed has been written out."""
        writing, self._writing = self._writing, {}
        for subscription in writing:
            delivered = subscription.take_delivered()
            if delivered is not None and self._identity is not None:
                self._services.delivered.written(subscription.conversation_id, self.user_id, delivered)

    def _stomp_wrote(self) -> None:
        if self._identity is not None and self._stomp.heart_beat.send_ms:
            self._stomp.heart_beat.sent(self._services.clock.monotonic())

    def _unsubscribe(self, subscription: _Subscription) -> None:
        """It is out of `_subscriptions` already."""
        if isinstance(subscription, QueueSubscription):
            if subscription is self._errors:
                self._errors = None
            return
        self._behind.pop(subscription, None)
        if isinstance(subscription, PresenceSubscription):
            self._services.contacts.unsubscribe(subscription)
            return
        subscription.end()
        self._services.attendance.watching_changed(subscription.conversation_id, self.user_id)
        self._services.hub.unsubscribe(subscription.conversation_id, subscription)

    def _reply(self, receipt: str | None) -> "_Reply":
        self._unanswered += 1
        if self._unanswered >= self._services.settings.max_unanswered_sends:
            self._room.clear()
        return _Reply(self, receipt)

    def _attempt(self, receipt: str | None, handle: Callable[[], None]) -> None:
        try:
            handle()
        except ServiceError as error:
            self._reply(receipt).refused(error)

    def answered(self) -> None:
        """One frame has its answer."""
        self._unanswered -= 1
        if self._unanswered < self._services.settings.max_unanswered_sends:
            self._room.set()
        self._finish_if_answered()

    def receipt(self, receipt: str, headers: Sequence[Header]) -> None:
        if not self.is_over:
            self.push(self._stomp.receipt(receipt, headers))

    def refuse(
        self, error: ServiceError, receipt: str | None, conversation_id: str | None, client_message_id: str | None
    ) -> None:
        """A well-formed request that is refused: the connection goes on where the client listens for refusals."""
        if self.is_over:
            return
        self._services.metrics.refused.labels(fault_of(error).code).inc()
        body = orjson.dumps(
            error_body(error, receipt_id=receipt, conversation_id=conversation_id, client_message_id=client_message_id)
        )
        if self._errors is None:
            self._end_with_error(error, body, receipt)
            return
        self._next_error += 1
        self._errors.tell(f"{self.session_id}-{self._next_error}", body)

    # ---- The end.

    def _finish_if_answered(self) -> None:
        """A DISCONNECT is answered, and a drained session ended, when everything before it has its answer."""
        if self._unanswered or self.is_over:
            return
        if self._disconnecting is not None:
            receipt = self._disconnecting.receipt
            last_words = self._stomp.receipt(receipt) if receipt is not None else b""
            self._end(CLOSE_NORMAL, "", last_words=last_words)
        elif self._drain_deadline is not None:
            self._end(CLOSE_RESTARTING, "restarting: reconnect")

    def _refuse_and_end(self, error: ServiceError, close_code: int) -> None:
        self._services.metrics.refused.labels(fault_of(error).code).inc()
        self._end_with_error(error, orjson.dumps(error_body(error)), None, close_code)

    def _end_with_error(
        self, error: ServiceError, body: bytes, receipt: str | None, close_code: int | None = None
    ) -> None:
        message = str(error_body(error)["message"])
        frame = self._stomp.refuse(message, body, receipt_id=receipt, content_type=_JSON)
        self._end(close_code or fault_of(error).close_code, message, last_words=frame)

    def _end(self, close_code: int, reason: str, *, last_words: bytes = b"") -> None:
        if self.is_over:
            return
        self.is_over = True
        self._services.metrics.closed.labels(str(close_code)).inc()
        if last_words:
            self._outbox.push(last_words)
        if close_code != CLOSE_TOO_SLOW or last_words:
            self._outbox.flush()
        self._outbox.close(close_code, reason)
        self.lost()

    def bug(self, error: Exception) -> None:
        """Something that should not happen did: the client is told so, and no more."""
        _log.error("session_failed", session=self.session_id, exc_info=error)
        if not self.is_over:
            self._refuse_and_end(Internal(), CLOSE_BUG)


class _Reply:
    """The answer to one frame: a RECEIPT where it asked for one, or a refusal."""

    __slots__ = ("_receipt", "_session")

    def __init__(self, session: Session, receipt: str | None) -> None:
        self._session = session
        self._receipt = receipt

    def done(self, headers: Sequence[Header] = ()) -> None:
        if self._receipt is not None:
            self._session.receipt(self._receipt, headers)
        self._session.answered()

    def refused(
        self, error: ServiceError, *, conversation_id: str | None = None, client_message_id: str | None = None
    ) -> None:
        self._session.refuse(error, self._receipt, conversation_id, client_message_id)
        self._session.answered()


def _parse_after(value: str | None) -> Seq | None:
    if value is None:
        return None
    if not (value.isascii() and value.isdigit()) or len(value) > 10:
        raise BadRequest(problem="x-after-seq: expected a seq, 0 or later")
    return Seq(int(value))
