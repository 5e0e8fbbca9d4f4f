"""Builds the chat service from its parts; the only place here that names concrete classes."""

from collections.abc import Sequence

import uuid_utils

from services.chat.activity import Activity
from services.chat.attendance import Attendance
from services.chat.bus import Bus, open_bus
from services.chat.config import ChatSettings
from services.chat.conversations import ConversationService
from services.chat.convert import PRESENCE_SERVICE, decode_events, encode_activity, encode_event, job_of
from services.chat.followers import Followers
from services.chat.followup import FollowUp
from services.chat.jobs import JobQueue, TakeJobs, open_jobs
from services.chat.lastread import LastRead, open_last_read
from services.chat.members import Members
from services.chat.messages import Commit, Messages
from services.chat.model import ConversationId
from services.chat.notices import Notices
from services.chat.receipts import Receipts
from services.chat.servicer import SERVICE_NAME, ChatServicer, register
from services.chat.store import Store, open_store
from services.chat.topics import Topics
from services.runtime.process import Process
from services.runtime.server import GrpcServer
from services.runtime.targets import Targets


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


class _Opened:
    """What is closed rather than stopped."""

    def __init__(self, opened: Store | JobQueue | LastRead) -> None:
        self._opened = opened

    async def start(self) -> None:
        await self._opened.start()

    async def stop(self) -> None:
        await self._opened.close()


async def build(process: Process, settings: ChatSettings, *, take_jobs: TakeJobs | None = None) -> GrpcServer:
    """Adds the service's components to `process`, in start order; the server comes last and leaves first.

    `take_jobs` is for one process that holds notify too: who takes what goes into a `memory://` queue.
    """
    clock, metrics = process.clock, process.metrics
    store = open_store(settings.store_url)
    bus = open_bus(settings.bus_url, replica_id=uuid_utils.uuid4().hex)
    jobs = open_jobs(settings.queue_url, prefix=settings.queue_prefix, take=take_jobs)
    last_read = open_last_read(settings.last_read_url)
    members = Members(store, clock)
    attendance, followers = Attendance(), Followers()
    topics = Topics(store, members, followers, bus, encode_event, decode_events, metrics)
    notices = Notices(store, members, attendance, jobs, job_of, clock, metrics)
    attendance.ended.append(lambda conversation_id: notices.look_again(topics.find_latest(conversation_id)))
    activity = Activity(_presence(process, settings), encode_activity, metrics)
    followup = FollowUp(store, last_read, notices, jobs, activity, clock, metrics)
    messages = Messages(store, members, _Followers(topics, followup), clock, metrics)
    conversations = ConversationService(store, members, topics, notices, clock, max_members=settings.max_members)
    receipts = Receipts(store, members, last_read, notices, topics.announce, clock, metrics)
    server = GrpcServer.from_settings(settings.listen, process.settings, metrics=metrics)
    servicer = ChatServicer(messages, conversations, receipts, topics, attendance, followers, server.draining)
    server.add(lambda grpc_server: register(servicer, grpc_server), SERVICE_NAME)

    process.add(_Opened(store), "chat_store")
    process.add(_StartBus(bus, topics), "chat_bus")
    process.add(_Opened(jobs), "chat_jobs")
    process.add(_Opened(last_read), "chat_last_read")
    process.add(topics, "chat_topics")
    process.add(activity, "chat_activity")
    process.add(notices, "chat_notices")
    process.add(followup, "chat_followup")
    process.on_stop(receipts.close, "chat_receipts")
    process.on_stop(messages.close, "chat_messages")
    process.add_server(server, "chat_server")
    return server


def _presence(process: Process, settings: ChatSettings) -> Targets | None:
    if not settings.presence_targets:
        return None
    return Targets(
        PRESENCE_SERVICE,
        settings.presence_targets,
        package="services.chat",
        clock=process.clock,
        metrics=process.metrics,
    )
