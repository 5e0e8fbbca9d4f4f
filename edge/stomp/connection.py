"""One STOMP connection, seen from the server, without I/O.

Bytes go in with `receive_data`, events come out of `next_event`, and every other method returns the bytes to
send. It owns the order of things and the agreed version; it reads no clock, keeps no subscriptions and knows
nothing of destinations or tokens. Heart-beats are agreed here and counted by the caller.

    connection.receive_data(chunk)
    while (event := connection.next_event()) is not None:
        ...                       # answer a ConnectReceived before asking for the next event

Events come one at a time for a reason: a frame that follows CONNECT in the same chunk is judged only when it
is asked for, so the answer to CONNECT may take its time. Stop reading from the transport meanwhile, because
what was received and not yet pulled is kept (`buffered_bytes`).
"""

from collections.abc import Iterable

from edge.stomp.errors import LocalProtocolError, RemoteProtocolError
from edge.stomp.events import ConnectReceived, Event
from edge.stomp.frames import Frame, Version, encode_frame, escape_header, receipt_of, to_utf8
from edge.stomp.heartbeat import DEFAULT_MIN_INTERVAL_MS, HeartBeat, bounded_offer, negotiate
from edge.stomp.interpret import EVENT_TYPES, interpret
from edge.stomp.machine import Action, State, after_action, after_event
from edge.stomp.message_template import MessageTemplate, subscription_prefix
from edge.stomp.parser import FrameParser, Limits


class ServerConnection:
    """The server's side of one connection; `server` is the CONNECTED header (`name/version`).

    `heart_beat_offer` is (what we can send, what we want) in milliseconds, 0 for none; neither is ever below
    `heart_beat_min_ms`.
    """

    __slots__ = ("_connect", "_heart_beat", "_offer", "_parser", "_server", "_state", "_version")

    def __init__(
        self,
        limits: Limits,
        *,
        server: str,
        heart_beat_offer: tuple[int, int] = (10_000, 10_000),
        heart_beat_min_ms: int = DEFAULT_MIN_INTERVAL_MS,
    ) -> None:
        self._parser = FrameParser(limits)
        self._server = server
        self._offer = bounded_offer(heart_beat_offer, heart_beat_min_ms)
        self._state = State.AWAITING_CONNECT
        self._connect: ConnectReceived | None = None
        self._version: Version | None = None
        self._heart_beat: HeartBeat | None = None

    @property
    def state(self) -> State:
        """Where the connection is in its life."""
        return self._state

    @property
    def is_closed(self) -> bool:
        """Nothing more will come out of it, or may be sent on it."""
        return self._state is State.CLOSED

    @property
    def version(self) -> Version:
        """The agreed version. LocalProtocolError before `accept`."""
        if self._version is None:
            raise LocalProtocolError("no version is agreed before accept")
        return self._version

    @property
    def heart_beat(self) -> HeartBeat:
        """The agreed heart-beats. LocalProtocolError before `accept`."""
        if self._heart_beat is None:
            raise LocalProtocolError("no heart-beat is agreed before accept")
        return self._heart_beat

    @property
    def buffered_bytes(self) -> int:
        """Bytes received and not yet part of an event."""
        return self._parser.buffered_bytes

    @property
    def in_frame(self) -> bool:
        """A frame has begun and its end has not come.

        Where this stays true for long after `next_event` returned None, the peer is slow, or promised a
        longer body than it sent: STOMP cannot tell which, so the caller needs a time limit (and `refuse`).
        """
        return self._parser.in_frame

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the transport; nothing is judged before `next_event`. Ignored once closed."""
        if self._state is not State.CLOSED:
            self._parser.feed(data)

    def next_event(self) -> Event | None:
        """The next thing that the client did; None where more bytes are needed, or after the end.

        Raises:
            RemoteProtocolError: the client broke the protocol. Send `frame`; the connection is closed.
        """
        try:
            frame = self._parser.next_frame()
            return None if frame is None else self._judge(frame)
        except RemoteProtocolError as error:
            error.frame = self._error(error.message, error.detail.encode(), error.receipt_id, error.headers)
            self._end(Action.REFUSE)
            raise

    def accept(self, *, session: str, user: str) -> bytes:
        """Answer CONNECT with CONNECTED; fixes `version` and `heart_beat`."""
        following = after_action(self._state, Action.ACCEPT)
        assert self._connect is not None  # the only way into CONNECTING
        version = self._connect.version
        headers = [("version", version.value), ("session", session), ("server", self._server)]
        headers.append(("user-name", user))
        if version is not Version.V1_0:  # 1.0 has no heart-beats
            headers.append(("heart-beat", f"{self._offer[0]},{self._offer[1]}"))
        connected = encode_frame("CONNECTED", headers, version=version)
        self._version = self._parser.version = version
        self._heart_beat = negotiate(self._connect.heart_beat, self._offer)
        self._connect = None  # it holds the credentials
        self._state = following
        return connected

    def refuse(
        self,
        message: str,
        body: str | bytes,
        *,
        receipt_id: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
        content_type: str = "text/plain",
    ) -> bytes:
        """An ERROR, and the end of the connection; legal in every state but CLOSED.

        `receipt_id` is what the refused frame asked a receipt for.
        """
        content = to_utf8(body) if isinstance(body, str) else body
        error = self._error(message, content, receipt_id, headers, content_type)
        self._end(Action.REFUSE)
        return error

    def receipt(self, receipt_id: str, headers: Iterable[tuple[str, str]] = ()) -> bytes:
        """A RECEIPT; also legal after DISCONNECT, for what was still on its way."""
        self._state = after_action(self._state, Action.REPLY)
        return encode_frame("RECEIPT", [("receipt-id", receipt_id), *headers], version=self.version)

    def message(
        self,
        *,
        subscription: str,
        message_id: str,
        destination: str,
        body: bytes,
        ack: str | None = None,
        content_type: str = "application/json",
        headers: Iterable[tuple[str, str]] = (),
    ) -> bytes:
        """A MESSAGE for one subscriber; for many, see `message_template`. `ack` is left out before 1.2."""
        self._state = after_action(self._state, Action.REPLY)
        version = self.version
        template = MessageTemplate(
            version=version,
            destination=destination,
            message_id=message_id,
            body=body,
            content_type=content_type,
            headers=headers,
        )
        prefix = subscription_prefix(subscription, version)
        return template.for_subscription(prefix, None if ack is None else to_utf8(escape_header(ack, version)))

    def close(self) -> None:
        """The transport is gone, or is about to be; legal at any time and more than once."""
        self._end(Action.CLOSE)

    def _judge(self, frame: Frame) -> Event:
        following = after_event(
            self._state,
            EVENT_TYPES[frame.command],
            frame.command,
            receipt_of(frame.command, frame.headers),
        )
        event = interpret(frame, self._version or Version.V1_0)
        if isinstance(event, ConnectReceived):
            self._connect = event
        self._state = following
        return event

    def _error(
        self,
        message: str,
        body: bytes,
        receipt_id: str | None,
        headers: Iterable[tuple[str, str]],
        content_type: str = "text/plain",
    ) -> bytes:
        """Before a version is agreed headers are read and written without escapes, by the rules of 1.0."""
        receipt = [] if receipt_id is None else [("receipt-id", receipt_id)]
        return encode_frame(
            "ERROR",
            [("message", message), *receipt, ("content-type", content_type), *headers],
            body,
            version=self._version or Version.V1_0,
        )

    def _end(self, action: Action) -> None:
        self._state = after_action(self._state, action)
        self._connect = None
        self._parser = FrameParser(Limits())  # empty, and it stays so: nothing more is fed
