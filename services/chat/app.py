"""Builds the chat service from its parts; the only place here that names concrete classes."""

from collections.abc import Sequence

import uuid_utils

from services.chat.bus import Bus, open_bus
from services.chat.config import ChatSettings
from services.chat.conversations import ConversationService
from services.chat.convert import decode_events, encode_event
from services.chat.followup import FollowUp
from services.chat.members import Members
from services.chat.messages import Commit, Messages
from services.chat.model import ConversationId
from services.chat.receipts import Receipts
from services.chat.servicer import SERVICE_NAME, ChatServicer, register
from services.chat.store import open_store
from services.chat.topics import Topics
from services.runtime.process import Process
from services.runtime.server import GrpcServer


class _Followers:
    """Commits go to the topics first (people wait for those), then to what follows."""

    def __init__(self, topics: Topics, followup: FollowUp) -> None:
        self._topics = topics
        self._followup = followup

    def committed(self, commit: Commit) -> None:
        self._topics.committed(commit)
        self._followup.committed(commit)

    def uncertain(self, conversation_ids: Sequence[ConversationId]) -> None:
        self._topics.uncertain(conversation_ids)


class _StartBus:
    """The bus begins to deliver once the topics are there to listen."""

    def __init__(self, bus: Bus, topics: Topics) -> None:
        self._bus = bus
        self._topics = topics

    async def start(self) -> None:
        await self._bus.start(self._topics)

    async def stop(self) -> None:
        await self._bus.close()


class _Store:
    def __init__(self, url: str) -> None:
        self.opened = open_store(url)

    async def start(self) -> None:
        await self.opened.start()

    async def stop(self) -> None:
        await self.opened.close()


async def build(process: Process, settings: ChatSettings) -> GrpcServer:
    """Adds the service's components to `process`, in start order; the server comes last and leaves first."""
    clock, metrics = process.clock, process.metrics
    store = _Store(settings.store_url)
    bus = open_bus(settings.bus_url, replica_id=uuid_utils.uuid4().hex)
    members = Members(store.opened, clock)
    topics = Topics(store.opened, members, bus, encode_event, decode_events, metrics)
    followup = FollowUp(store.opened, clock, metrics)
    messages = Messages(store.opened, members, _Followers(topics, followup), clock, metrics)
    conversations = ConversationService(store.opened, members, topics.announce, clock, max_members=settings.max_members)
    receipts = Receipts(store.opened, topics.announce, clock, metrics)
    server = GrpcServer.from_settings(settings.listen, process.settings, metrics=metrics)
    servicer = ChatServicer(messages, conversations, receipts, topics, server.draining)
    server.add(lambda grpc_server: register(servicer, grpc_server), SERVICE_NAME)

    process.add(store, "chat_store")
    process.add(_StartBus(bus, topics), "chat_bus")
    process.add(topics, "chat_topics")
    process.add(followup, "chat_followup")
    process.on_stop(receipts.close, "chat_receipts")
    process.on_stop(messages.close, "chat_messages")
    process.add_server(server, "chat_server")
    return server
