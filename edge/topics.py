"""Where each watched conversation's events come from: one stream to each chat replica that is up.

When a stream ends, or a conversation belongs to another replica since one came or went, the hub is told and asks again
from the last seq that it passed on: nothing is lost or repeated by that. Whose contacts matter here is told to every
replica: each hears of all changes.
"""

from collections.abc import Callable, Sequence

from edge.clients import ChatClient, TopicCall, WatchRequest
from edge.errors import NoReplica
from edge.hub import Hub
from edge.model import ConversationId, UserId
from edge.replicas import Replica, Replicas
from edge.streams import ReplicaStreams
from services.runtime.metrics import Metrics
from services.runtime.tasks import Tasks


class TopicStreams:
    """The hub's `Upstream`; a component. `contacts_changed` hears of these users, or of perhaps all (none named)."""

    def __init__(self, chat: ChatClient, replicas: Replicas, hub: Hub, tasks: Tasks, metrics: Metrics) -> None:
        self._chat = chat
        self._replicas = replicas
        self._hub = hub
        self._streams: ReplicaStreams[TopicCall] = ReplicaStreams(
            "topics", replicas, tasks, make=self._make_call, run=self._run, lost=self._stream_lost
        )
        # Where each watched conversation comes from; None while no replica is up.
        self._homes: dict[ConversationId, Replica | None] = {}
        self._followed: dict[UserId, None] = {}
        self.contacts_changed: list[Callable[[Sequence[UserId]], None]] = []
        self._breaks = metrics.counter("edge_stream_breaks", "Topic streams that ended and were opened again.")

    async def start(self) -> None:
        self._hub.connect(self)
        self._replicas.changed.append(self._rehome)
        self._rehome()

    async def stop(self) -> None:
        self._replicas.changed.remove(self._rehome)
        await self._streams.stop()

    # ---- The hub's side.

    def watch(self, request: WatchRequest) -> None:
        home = self._homes.get(request.conversation_id) or self._find_route(request.conversation_id)
        self._homes[request.conversation_id] = home
        if home is not None:  # else it is asked again as soon as one is up
            self._streams.open(home).watch(request)

    def unwatch(self, conversation_id: ConversationId) -> None:
        if (call := self._streams.find(self._homes.pop(conversation_id, None))) is not None:
            call.unwatch(conversation_id)

    def send_typing(self, conversation_id: ConversationId, user_id: UserId, *, typing: bool) -> None:
        """Best effort: typing is never stored, so never waited for."""
        if (call := self._streams.find(self._homes.get(conversation_id))) is not None:
            call.send_typing(conversation_id, user_id, typing=typing)

    def say_attendance(self, conversation_id: ConversationId, user_id: UserId, *, attends: bool) -> None:
        if (call := self._streams.find(self._homes.get(conversation_id))) is not None:
            call.say_attendance(conversation_id, user_id, attends=attends)

    # ---- Whose contacts matter.

    def follow(self, user_id: UserId) -> None:
        if user_id not in self._followed:
            self._followed[user_id] = None
            for call in self._streams.calls:
                call.follow((user_id,), follows=True)

    def unfollow(self, user_id: UserId) -> None:
        if user_id in self._followed:
            del self._followed[user_id]
            for call in self._streams.calls:
                call.follow((user_id,), follows=False)

    # ---- Where topics come from.

    def _rehome(self) -> None:
        """A replica came or went: keep a stream to each that is up, and move what belongs elsewhere now."""
        self._streams.open_all()
        moved = [
            conversation_id
            for conversation_id, home in self._homes.items()
            if home is None or self._find_route(conversation_id) is not home
        ]
        for conversation_id in moved:
            home = self._homes[conversation_id]
            if home is not None and home.is_up:
                self._streams.open(home).unwatch(conversation_id)
        self._lose(moved)
        self._streams.close_gone()

    def _lose(self, conversation_ids: Sequence[ConversationId]) -> None:
        for conversation_id in conversation_ids:
            del self._homes[conversation_id]
        self._hub.upstream_lost(conversation_ids)  # asks again at once for what is still wanted

    def _find_route(self, conversation_id: ConversationId) -> Replica | None:
        try:
            return self._replicas.route(conversation_id)
        except NoReplica:
            return None

    def _make_call(self, replica: Replica) -> TopicCall:
        call = TopicCall(self._chat.stub(replica))
        call.follow(self._followed, follows=True)
        return call

    async def _run(self, call: TopicCall) -> None:
        await call.run(self._hub, self._tell_contacts_changed)

    def _tell_contacts_changed(self, user_ids: Sequence[UserId]) -> None:
        for tell in self.contacts_changed:
            tell(user_ids)

    def _stream_lost(self, replica: Replica, call: TopicCall) -> None:
        self._breaks.inc()
        call.follow(self._followed, follows=True)
        self._tell_contacts_changed(())  # some changes may have been missed
        self._lose([conversation_id for conversation_id, home in self._homes.items() if home is replica])
