"""`/user/queue/notifications`: what the users connected here are told of conversations that they do not watch.

New messages come from notify, which any of whose replicas may have the job: so there is a stream to each, and every
user is attached to each. Unread counts come the same way, but for who attends (`attendance`): notify hears nothing of
his reading, and he is told here, from the status event that says so.
"""

import orjson

from edge.attendance import Attendance
from edge.clients.notify import NewMessage, NotificationCall, NotifyClient, UnreadChanged
from edge.model import ConversationId, Seq, UserId
from edge.replicas import Replica, Replicas
from edge.streams import ReplicaStreams
from edge.users import Users
from services.runtime.metrics import Metrics
from services.runtime.tasks import Tasks


class Notifications:
    """A component; the `NotificationListener` of its streams, and the hub's listener."""

    def __init__(
        self,
        client: NotifyClient,
        replicas: Replicas,
        users: Users,
        attendance: Attendance,
        tasks: Tasks,
        metrics: Metrics,
    ) -> None:
        self._client = client
        self._replicas = replicas
        self._users = users
        self._attendance = attendance
        self._attached: set[UserId] = set()
        # Who says of a user that he is connected elsewhere too.
        self._elsewhere: dict[UserId, set[NotificationCall]] = {}
        # How far each user who is connected here has read, as he was told.
        self._read: dict[UserId, dict[ConversationId, Seq]] = {}
        self._streams: ReplicaStreams[NotificationCall] = ReplicaStreams(
            "notifications", replicas, tasks, make=self._make_call, run=self._run, lost=self._stream_lost
        )
        self._told = metrics.counter("edge_notifications", "Notifications told to users.", labels=("event",))
        users.changed.append(self._user_changed)

    async def start(self) -> None:
        self._replicas.changed.append(self._replicas_changed)
        self._replicas_changed()

    async def stop(self) -> None:
        self._replicas.changed.remove(self._replicas_changed)
        await self._streams.stop()

    # ---- NotificationListener.

    def new_message(self, user_id: UserId, event: NewMessage) -> None:
        body = {
            "event": "notification",
            "conversationId": event.conversation_id,
            "messageId": event.message_id,
            "seq": event.seq,
            "senderId": event.sender_id,
            "preview": event.preview,
            "unreadCount": event.unread_count,
        }
        encoded = orjson.dumps(body)
        self._told.labels("notification").inc()
        for session in self._users.find(user_id):
            if not session.is_watching(event.conversation_id):
                session.notify(event.message_id, encoded)

    def unread_changed(self, user_id: UserId, event: UnreadChanged) -> None:
        """Jobs of one user come over several replicas, in any order: what is behind what he knows is dropped."""
        if user_id not in self._attached:
            return
        read = self._read.setdefault(user_id, {})
        if event.read_seq < read.get(event.conversation_id, 0):
            return
        read[event.conversation_id] = event.read_seq
        body = {
            "event": "unread",
            "conversationId": event.conversation_id,
            "unreadCount": event.unread_count,
            "readSeq": event.read_seq,
        }
        encoded = orjson.dumps(body)
        self._told.labels("unread").inc()
        for session in self._users.find(user_id):
            session.notify(f"{event.conversation_id}.unread.{event.read_seq}", encoded)

    def elsewhere(self, call: NotificationCall, user_id: UserId, *, elsewhere: bool) -> None:
        if user_id not in self._attached:  # he has left meanwhile
            return
        said = self._elsewhere.setdefault(user_id, set())
        (said.add if elsewhere else said.discard)(call)
        if not said:
            del self._elsewhere[user_id]
        self._users.set_elsewhere(user_id, elsewhere=bool(said))

    # ---- HubListener.

    def joined(self, conversation_id: ConversationId) -> None:
        self._attendance.joined(conversation_id)

    def seen(self, conversation_id: ConversationId, user_id: UserId, seq: Seq, head: Seq) -> None:
        if self._attendance.attends(conversation_id, user_id):
            self.unread_changed(user_id, UnreadChanged(conversation_id, head - seq, seq))

    # ---- Inside.

    def _user_changed(self, user_id: UserId) -> None:
        is_connected = bool(self._users.find(user_id))
        if is_connected is (user_id in self._attached):
            return
        if is_connected:
            self._attached.add(user_id)
        else:
            self._attached.discard(user_id)
            self._elsewhere.pop(user_id, None)
            self._read.pop(user_id, None)
        for call in self._streams.calls:
            call.attach(user_id, attached=is_connected)

    def _replicas_changed(self) -> None:
        self._streams.open_all()
        for call in self._streams.close_gone():
            self._forget_words_of(call)

    def _make_call(self, replica: Replica) -> NotificationCall:
        call = NotificationCall(self._client.stub(replica))
        self._attach_all(call)
        return call

    async def _run(self, call: NotificationCall) -> None:
        await call.run(self)

    def _stream_lost(self, _: Replica, call: NotificationCall) -> None:
        self._forget_words_of(call)
        call.forget()
        self._attach_all(call)

    def _forget_words_of(self, call: NotificationCall) -> None:
        for user_id in [user_id for user_id, said in self._elsewhere.items() if call in said]:
            self.elsewhere(call, user_id, elsewhere=False)

    def _attach_all(self, call: NotificationCall) -> None:
        for user_id in self._attached:
            call.attach(user_id, attached=True)
