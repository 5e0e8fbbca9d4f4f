"""One subscription of one client to one conversation: its position, its acknowledgements, its gaps.

What it delivers is ascending and without a repeat, whatever the hub hands it: it knows the last seq that it has
written. Where its client is too slow, messages are left out and one `gap` event names them afterwards. With `ack:auto`
what has been written out counts as delivered.
"""

from collections.abc import Sequence
from typing import Protocol

import orjson

from edge.commands import Caller, Commands, Reply
from edge.destinations import CONVERSATION_PREFIX
from edge.errors import BadRequest
from edge.hub import EncodedEvent, EncodedMessage
from edge.model import ConversationId, Seq, UserId, parse_message_id
from edge.stomp.events import AckMode
from edge.stomp.frames import Version, escape_header, to_utf8
from edge.stomp.message_template import MessageTemplate, subscription_prefix
from services.runtime.errors import ServiceError


class Listener(Protocol):
    """The session, as its subscriptions see it."""

    @property
    def is_slow(self) -> bool: ...

    def push(self, frame: bytes) -> None: ...

    def is_behind(self, subscription: "ConversationSubscription") -> None:
        """It holds something back for a client that is too slow: `catch_up` it later."""

    def has_written(self, subscription: "ConversationSubscription") -> None:
        """Messages of others are on their way: `take_delivered` them once everything is written out."""

    def went_live(self, subscription: "ConversationSubscription") -> None: ...

    def unsubscribed(self, subscription: "ConversationSubscription", error: ServiceError) -> None: ...


class ConversationSubscription:
    """The hub's `Subscriber`. `reply` is answered once: when it is live, or refused."""

    __slots__ = (
        "_ack_prefix",
        "_delivered",
        "_gap_from",
        "_last",
        "_listener",
        "_prefix",
        "_reply",
        "_user_id",
        "_version",
        "ack",
        "conversation_id",
        "id",
        "is_active",
        "is_live",
    )

    def __init__(
        self,
        listener: Listener,
        id_: str,
        conversation_id: ConversationId,
        user_id: UserId,
        ack: AckMode,
        version: Version,
        after: Seq | None,
        reply: Reply,
    ) -> None:
        self._listener = listener
        self._user_id = user_id
        self._version = version
        self._reply: Reply | None = reply
        self._prefix = subscription_prefix(id_, version)
        self._ack_prefix = None if ack is AckMode.AUTO else to_utf8(escape_header(f"{id_}/", version))
        self._last = after or Seq(0)
        self._gap_from: Seq | None = None
        # The last message of somebody else that was pushed and is not yet known to be written out.
        self._delivered: Seq | None = None
        self.id = id_
        self.conversation_id = conversation_id
        self.ack = ack
        # False once the client has unsubscribed or is gone.
        self.is_active = True
        # True from `joined` on.
        self.is_live = False

    @property
    def user_id(self) -> UserId:
        return self._user_id

    # ---- The hub's side.

    def deliver(self, messages: Sequence[EncodedMessage]) -> None:
        if messages[0].message.seq <= self._last:
            messages = [each for each in messages if each.message.seq > self._last]
            if not messages:
                return
        if self._gap_from is not None or self._listener.is_slow:
            self._leave_out(messages)
            return
        foreign: Seq | None = None
        for each in messages:
            message = each.message
            ack = None if self._ack_prefix is None else self._ack_prefix + message.message_id.encode()
            self._listener.push(each.template(self._version).for_subscription(self._prefix, ack))
            if message.sender_id != self._user_id:
                foreign = message.seq
        self._last = messages[-1].message.seq
        if foreign is not None and self._ack_prefix is None:
            if self._delivered is None:
                self._listener.has_written(self)
            self._delivered = foreign

    def deliver_event(self, event: EncodedEvent) -> None:
        if not (event.droppable and self._listener.is_slow):
            self._listener.push(event.template(self._version).for_subscription(self._prefix))

    def joined(self, head: Seq) -> None:
        self.is_live = True
        self._last = head  # all up to it has been replayed; a position beyond it is the head
        reply, self._reply = self._reply, None
        self._listener.went_live(self)
        if reply is not None:
            reply.done((("x-head-seq", str(head)),))

    def refused(self, error: ServiceError) -> None:
        self.is_active = False
        reply, self._reply = self._reply, None
        self._listener.unsubscribed(self, error)
        if reply is not None:
            reply.refused(error, conversation_id=self.conversation_id)

    # ---- The session's side.

    def end(self) -> None:
        """The client unsubscribed, or is gone."""
        self.is_active = self.is_live = False
        reply, self._reply = self._reply, None
        if reply is not None:
            reply.refused(BadRequest(problem="unsubscribed before the subscription was live"))

    def take_delivered(self) -> Seq | None:
        """How far messages of others have been pushed since it was last asked."""
        delivered, self._delivered = self._delivered, None
        return delivered

    def catch_up(self) -> None:
        """The client has taken what was written: tell it what was left out, and go on."""
        if self._gap_from is None:
            return
        body = {
            "event": "gap",
            "conversationId": self.conversation_id,
            "fromSeq": self._gap_from,
            "toSeq": self._last,
        }
        template = MessageTemplate(
            version=self._version,
            destination=CONVERSATION_PREFIX + self.conversation_id,
            message_id=f"{self.conversation_id}.gap.{self._gap_from}",
            body=orjson.dumps(body),
        )
        self._gap_from = None
        self._listener.push(template.for_subscription(self._prefix))

    def acknowledge(self, message_id: str, commands: Commands, caller: Caller, reply: Reply) -> None:
        """An ACK: delivered, up to that message where the subscription is cumulative, and a watermark in any case.

        Raises:
            BadRequest: that message never came over this subscription, or it needs no ACK.
        """
        if self.ack is AckMode.AUTO:
            raise BadRequest(problem="id: this subscription is ack:auto and takes no ACK")
        if not self.is_of(message_id):
            raise BadRequest(problem="id: not a message of this subscription")
        _, seq = parse_message_id(message_id)
        if seq > self._last:
            raise BadRequest(problem="id: that message has not been delivered")
        commands.mark_delivered(self.conversation_id, seq, caller, reply)

    def is_of(self, message_id: str) -> bool:
        try:
            return parse_message_id(message_id)[0] == self.conversation_id
        except ValueError:
            return False

    def _leave_out(self, messages: Sequence[EncodedMessage]) -> None:
        if self._gap_from is None:
            self._gap_from = messages[0].message.seq
            self._listener.is_behind(self)
        self._last = messages[-1].message.seq
