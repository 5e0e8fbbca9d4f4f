"""SockJS over a WebSocket: the same messages in SockJS's frames. `edge.websocket` serves it as it serves `/ws`."""

from edge.outbox import Transport
from edge.session import CLOSE_POLICY, Session
from edge.session_services import SessionServices
from edge.sockjs.frames import (
    HEARTBEAT,
    OPEN,
    BadPayload,
    close_frame,
    join_socket_messages,
    messages_frame,
    quote,
)


class FramedSocket(Transport):
    """An accepted socket; the session's frames leave together as one frame of SockJS."""

    def __init__(self, socket: Transport) -> None:
        self._socket = socket
        socket.write([OPEN])

    def write(self, frames: list[bytes]) -> None:
        self._socket.write([messages_frame([quote(frame.decode()) for frame in frames])])

    def buffered_bytes(self) -> int:
        return self._socket.buffered_bytes()

    def beat(self) -> None:
        self._socket.write([HEARTBEAT])

    def close(self, code: int, reason: str) -> None:
        self._socket.write([close_frame(code, reason)])
        self._socket.close(code, reason)


class SocketSession(Session):
    """A session whose bytes come as SockJS messages, with a heart-beat of SockJS beside that of STOMP."""

    def __init__(self, socket: Transport, services: SessionServices) -> None:
        self._framed = FramedSocket(socket)
        self._heartbeat_s = services.settings.sockjs_heartbeat_s
        self._beat_at = services.clock.monotonic() + self._heartbeat_s
        super().__init__(self._framed, services)

    def receive(self, data: bytes) -> None:
        try:
            messages = join_socket_messages(data)
        except BadPayload as error:
            self._framed.close(CLOSE_POLICY, str(error))
            self.lost()
            return
        super().receive(messages)

    def tick(self, now: float) -> None:
        super().tick(now)
        if now >= self._beat_at and not self.is_over:
            self._beat_at = now + self._heartbeat_s
            self._framed.beat()
