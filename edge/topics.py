"""Where each watched conversation's events come from: one stream to each chat replica that is up.

When a stream ends, or a conversation belongs to another replica since one came or went, the hub is told and asks again
from the last seq that it passed on: nothing is lost or repeated by that.
"""

import asyncio
import random
from collections.abc import Sequence

from edge.clients import ChatClient, TopicCall, WatchRequest
from edge.errors import NoReplica
from edge.hub import Hub
from edge.model import ConversationId, UserId
from edge.replicas import Replica, Replicas
from services.runtime.errors import ServiceError
from services.runtime.log import logger
from services.runtime.metrics import Metrics
from services.runtime.tasks import Tasks

_REOPEN_S = (0.02, 0.5)

_log = logger(__name__)


class TopicStreams:
    """The hub's `Upstream`; a component."""

    def __init__(self, chat: ChatClient, replicas: Replicas, hub: Hub, tasks: Tasks, metrics: Metrics) -> None:
        self._chat = chat
        self._replicas = replicas
        self._hub = hub
        self._tasks = tasks
        self._streams: dict[Replica, tuple[TopicCall, asyncio.Task[None]]] = {}
        # Where each watched conversation comes from; None while no replica is up.
        self._homes: dict[ConversationId, Replica | None] = {}
        self._breaks = metrics.counter("edge_stream_breaks", "Topic streams that ended and were opened again.")

    async def start(self) -> None:
        self._hub.connect(self)
        self._replicas.changed.append(self._rehome)
        self._rehome()

    async def stop(self) -> None:
        self._replicas.changed.remove(self._rehome)
        tasks = [task for _, task in self._streams.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # ---- The hub's side.

    def watch(self, request: WatchRequest) -> None:
        home = self._homes.get(request.conversation_id) or self._find_route(request.conversation_id)
        self._homes[request.conversation_id] = home
        if home is not None:  # else it is asked again as soon as one is up
            self._call(home).watch(request)

    def unwatch(self, conversation_id: ConversationId) -> None:
        home = self._homes.pop(conversation_id, None)
        if home in self._streams:
            self._call(home).unwatch(conversation_id)

    def send_typing(self, conversation_id: ConversationId, user_id: UserId, *, typing: bool) -> None:
        """Best effort: typing is never stored, so never waited for."""
        home = self._homes.get(conversation_id)
        if home in self._streams:
            self._call(home).send_typing(conversation_id, user_id, typing=typing)

    # ---- Where topics come from.

    def _rehome(self) -> None:
        """A replica came or went: keep a stream to each that is up, and move what belongs elsewhere now."""
        for replica in self._replicas.up:
            self._call(replica)
        moved = [
            conversation_id
            for conversation_id, home in self._homes.items()
            if home is None or self._find_route(conversation_id) is not home
        ]
        for conversation_id in moved:
            home = self._homes[conversation_id]
            if home is not None and home.is_up:
                self._call(home).unwatch(conversation_id)
        self._lose(moved)
        for replica in [replica for replica in self._streams if not replica.is_up]:
            self._streams.pop(replica)[1].cancel()

    def _lose(self, conversation_ids: Sequence[ConversationId]) -> None:
        for conversation_id in conversation_ids:
            del self._homes[conversation_id]
        self._hub.upstream_lost(conversation_ids)  # asks again at once for what is still wanted

    def _find_route(self, conversation_id: ConversationId) -> Replica | None:
        try:
            return self._replicas.route(conversation_id)
        except NoReplica:
            return None

    def _call(self, replica: Replica) -> TopicCall:
        known = self._streams.get(replica)
        if known is None:
            call = TopicCall(self._chat.stub(replica))
            task = self._tasks.spawn(self._keep_open(replica, call), f"topics {replica.address}")
            known = self._streams[replica] = (call, task)
        return known[0]

    async def _keep_open(self, replica: Replica, call: TopicCall) -> None:
        loop = asyncio.get_running_loop()
        delay_s, max_delay_s = _REOPEN_S
        while True:
            opened_at = loop.time()
            try:
                await call.run(self._hub)
            except ServiceError as error:
                _log.info("topic_stream_lost", replica=replica.address, message=str(error))
            self._breaks.inc()
            call.forget()
            if loop.time() - opened_at > max_delay_s:
                delay_s = _REOPEN_S[0]
            await asyncio.sleep(random.uniform(0, delay_s))
            delay_s = min(delay_s * 2, max_delay_s)
            self._lose([conversation_id for conversation_id, home in self._homes.items() if home is replica])
