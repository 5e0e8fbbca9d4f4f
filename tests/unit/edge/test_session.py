"""One client's life at the edge, without a socket: what it is told, in which order, and what happens if it is slow."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from edge.attendance import Attendance
from edge.auth import DevTokens, TokenVerifier
from edge.clients import Outgoing, WatchRequest
from edge.commands import Commands
from edge.config import EdgeSettings
from edge.contacts import Contacts
from edge.delivered import Delivered
from edge.hub import Hub
from edge.limits import ConnectionCounts, TokenBuckets
from edge.model import ConversationId, Message, Seq, Stored, UserId
from edge.outbox import Writer
from edge.presence import EdgePresence
from edge.replicas import Replicas
from edge.session import Session
from edge.session_services import SessionMetrics, SessionServices
from edge.users import Users
from services.runtime.errors import Conflict, ServiceError, Unavailable
from services.runtime.metrics import Metrics
from services.runtime.tasks import Tasks
from tests.support.clock import ManualClock

C = ConversationId("gc")


class FakeTransport:
    """A client's socket: takes what it is given while `is_reading`, else keeps it in its buffer."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.buffered = 0
        self.is_reading = True
        self.closed: tuple[int, str] | None = None

    @property
    def close_code(self) -> int | None:
        return self.closed[0] if self.closed else None

    def write(self, frames: list[bytes]) -> None:
        self.written.extend(frames)
        if not self.is_reading:
            self.buffered += sum(map(len, frames))

    def buffered_bytes(self) -> int:
        return self.buffered

    def close(self, code: int, reason: str) -> None:
        self.closed = self.closed or (code, reason)

    def read_all(self) -> None:
        self.is_reading, self.buffered = True, 0


class FakeChat:
    """Keeps what is sent until the test answers it."""

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []
        self.marks: list[tuple[Any, ...]] = []
        self.delivered: dict[tuple[ConversationId, UserId], Seq] = {}
        self.contacts = [UserId("bob")]
        self.tells_contacts = asyncio.Event()
        self.tells_contacts.set()

    def send(self, outgoing: Outgoing) -> None:
        self.sent.append(outgoing)

    def mark(self, *mark: Any) -> None:
        self.marks.append(mark)

    async def mark_delivered(self, marks: Mapping[tuple[ConversationId, UserId], Seq]) -> None:
        self.delivered.update(marks)

    async def list_contacts(self, user: UserId) -> Sequence[UserId]:
        await self.tells_contacts.wait()
        return self.contacts

    def answer(self, outcome: Stored | ServiceError | None = None) -> None:
        outgoing = self.sent.pop(0)
        outgoing.done(outcome or Stored(f"{outgoing.conversation_id}-0000000001", Seq(1), 0, repeat=False))


class FakeUpstream:
    def __init__(self) -> None:
        self.asked: list[WatchRequest] = []
        self.said: list[tuple[UserId, bool]] = []

    def watch(self, request: WatchRequest) -> None:
        self.asked.append(request)

    def unwatch(self, conversation_id: ConversationId) -> None: ...

    def follow(self, user_id: UserId) -> None: ...

    def unfollow(self, user_id: UserId) -> None: ...

    def say_attendance(self, conversation_id: ConversationId, user_id: UserId, *, attends: bool) -> None:
        self.said.append((user_id, attends))


class Edge:
    def __init__(self, **settings: Any) -> None:
        self.clock = ManualClock()
        metrics = Metrics(CollectorRegistry())
        self.settings = EdgeSettings(dev_tokens=True, **settings)
        self.tokens = DevTokens(self.settings, self.clock)
        self.chat = FakeChat()
        self.hub = Hub(metrics)
        self.upstream = FakeUpstream()
        self.hub.connect(self.upstream)
        self.writer = Writer()
        limit = TokenBuckets(
            "sends",
            rate=self.settings.sends_per_second,
            burst=self.settings.sends_burst,
            clock=self.clock,
            metrics=metrics,
        )

        def send_typing(conversation_id: ConversationId, user_id: UserId, *, typing: bool) -> None: ...

        chat: Any = self.chat
        # Presence has no replica here: it reads unknown, and nobody waits for it.
        nobody = Replicas("presence", "none", (), resolve_every_s=60, clock=self.clock, metrics=metrics, tasks=Tasks())
        presence = EdgePresence(nobody, self.clock, Tasks(), metrics)
        self.users = Users(metrics)
        self.delivered = Delivered(self.chat, metrics)
        self.services = SessionServices(
            settings=self.settings,
            hub=self.hub,
            commands=Commands(chat, send_typing, limit, max_content_bytes=self.settings.max_content_bytes),
            users=self.users,
            attendance=Attendance(self.users, self.upstream.say_attendance),
            presence=presence,
            contacts=Contacts(self.chat, presence, self.upstream, Tasks()),
            delivered=self.delivered,
            verifier=TokenVerifier(self.settings, self.clock, self.tokens),
            counts=ConnectionCounts(limit=self.settings.max_connections_per_user),
            writer=self.writer,
            clock=self.clock,
            metrics=SessionMetrics(metrics),
        )

    def client(self, user: str | None = "alice") -> "Client":
        client = Client(self)
        if user is not None:
            client.connect(user)
        return client


class Client:
    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.transport = FakeTransport()
        self.session = Session(self.transport, edge.services)

    def send(self, command: str, body: str = "", **headers: str) -> None:
        lines = "".join(f"{name.replace('_', '-')}:{value}\n" for name, value in headers.items())
        self.session.receive(f"{command}\n{lines}\n{body}\0".encode())

    def connect(self, user: str) -> None:
        self.send("CONNECT", accept_version="1.2", passcode=self.edge.tokens.issue(user)[0], heart_beat="0,0")

    def say(self, key: str = "k", *, receipt: str = "r", **body: str) -> None:
        content = {"conversationId": C, "content": "hello", "type": "text", "clientMessageId": key, **body}
        self.send("SEND", json.dumps(content), destination="/app/chat.send", receipt=receipt)

    def subscribe(self, after: int | None = None, **headers: str) -> None:
        extra = {} if after is None else {"x_after_seq": str(after)}
        self.send("SUBSCRIBE", id="s1", destination=f"/topic/conversation.{C}", receipt="sub", **extra, **headers)

    def join(self, head: int = 0) -> None:
        self.subscribe()
        self.edge.hub.joined(self.edge.upstream.asked[-1].watch_id, Seq(head), ())

    def listen_for_presence(self, receipt: str) -> None:
        self.send("SUBSCRIBE", id="p", destination="/topic/presence", receipt=receipt)

    def listen_for_errors(self) -> None:
        self.send("SUBSCRIBE", id="e", destination="/user/queue/errors")

    async def frames(self) -> list[tuple[str, dict[str, str], str]]:
        """What the client has been written since it last looked."""
        await asyncio.sleep(0)
        frames = []
        for raw in self.transport.written:
            head, _, body = raw.removesuffix(b"\0").decode().partition("\n\n")
            command, *lines = head.split("\n")
            headers = dict(line.split(":", 1) for line in lines if line)
            frames.append((command, headers, body))
        self.transport.written.clear()
        return frames


def live(edge: Edge, *seqs: int, size: int = 10) -> None:
    edge.hub.messages(C, [message(seq, size) for seq in seqs])


def message(seq: int, size: int = 10) -> Message:
    return Message(f"{C}-{seq:010d}", C, Seq(seq), UserId("bob"), f"k{seq}", "x" * size, "text", 0)


def receipts_of(frames: Sequence[tuple[str, dict[str, str], str]]) -> list[str]:
    return [headers["receipt-id"] for command, headers, _ in frames if command == "RECEIPT"]


def seqs_of(frames: Sequence[tuple[str, dict[str, str], str]]) -> list[int]:
    return [int(headers["x-seq"]) for command, headers, _ in frames if command == "MESSAGE" and "x-seq" in headers]


async def test_a_send_is_answered_when_chat_has_stored_it_and_not_before() -> None:
    edge = Edge()
    client = edge.client()
    await client.frames()
    client.say()
    assert await client.frames() == []
    edge.chat.answer()
    ((command, headers, _),) = await client.frames()
    assert (command, headers) == ("RECEIPT", {"receipt-id": "r", "message-id": "gc-0000000001", "x-seq": "1"})


async def test_a_refusal_goes_to_the_errors_queue_and_the_connection_stays() -> None:
    edge = Edge()
    client = edge.client()
    client.listen_for_errors()
    client.say("mine")
    await client.frames()
    edge.chat.answer(Conflict())
    ((command, headers, body),) = await client.frames()
    assert (command, headers["subscription"], headers["destination"]) == ("MESSAGE", "e", "/user/queue/errors")
    told = json.loads(body)
    assert (told["code"], told["receiptId"], told["clientMessageId"]) == ("CONFLICT", "r", "mine")
    assert client.transport.close_code is None


async def test_a_refusal_without_the_errors_queue_is_an_error_and_a_close() -> None:
    edge = Edge()
    client = edge.client()
    client.say()
    await client.frames()
    edge.chat.answer(Unavailable(retry_after_ms=700))
    ((command, headers, body),) = await client.frames()
    assert (command, headers["receipt-id"]) == ("ERROR", "r")
    assert json.loads(body)["retryAfterMs"] == 700
    assert client.transport.close_code is not None


async def test_disconnect_is_answered_after_everything_before_it() -> None:
    edge = Edge()
    client = edge.client()
    client.say()
    client.send("DISCONNECT", receipt="bye")
    await client.frames()
    assert client.transport.close_code is None
    edge.chat.answer()
    frames = await client.frames()
    assert [headers["receipt-id"] for _, headers, _ in frames] == ["r", "bye"]
    assert client.transport.close_code == 1000


async def test_a_leaving_edge_answers_what_it_accepted_and_reads_nothing_more() -> None:
    edge = Edge()
    client = edge.client()
    client.say("first")
    client.session.drain()
    client.say("second")
    assert [outgoing.client_message_id for outgoing in edge.chat.sent] == ["first"]
    assert client.transport.close_code is None
    edge.chat.answer()
    assert [headers.get("receipt-id") for _, headers, _ in await client.frames()] == [None, "r"]
    assert client.transport.close_code == 1012


async def test_a_leaving_edge_does_not_wait_for_ever_for_an_answer() -> None:
    edge = Edge()
    client = edge.client()
    client.say()
    client.session.drain()
    edge.clock.advance(60)
    client.session.tick(edge.clock.monotonic())
    assert client.transport.close_code == 1012


async def test_connect_must_come_in_time() -> None:
    edge = Edge()
    client = edge.client(user=None)
    edge.clock.advance(9)
    client.session.tick(edge.clock.monotonic())
    assert client.transport.close_code is None
    edge.clock.advance(2)
    client.session.tick(edge.clock.monotonic())
    assert client.transport.close_code == 1008


async def test_a_frame_that_does_not_end_is_not_waited_for() -> None:
    edge = Edge()
    client = edge.client()
    client.session.receive(b"SEND\ndestination:/app/chat.send\ncontent-length:500\n\nabc")
    edge.clock.advance(11)
    client.session.tick(edge.clock.monotonic())
    assert client.transport.close_code is not None


async def test_the_connection_ends_when_the_token_does_unless_it_was_renewed() -> None:
    edge = Edge(dev_token_ttl_s=100)
    one, other = edge.client("alice"), edge.client("bob")
    edge.clock.advance(50)
    fresh = edge.tokens.issue("alice")[0]
    one.send("SEND", json.dumps({"token": fresh}), destination="/app/session.refresh", receipt="renewed")
    assert (await one.frames())[-1][1]["receipt-id"] == "renewed"
    edge.clock.advance(70)
    for client in (one, other):
        client.session.tick(edge.clock.monotonic())
    assert one.transport.close_code is None
    assert other.transport.close_code == 1008


async def test_a_token_of_somebody_else_does_not_renew() -> None:
    edge = Edge()
    client = edge.client("alice")
    client.listen_for_errors()
    await client.frames()
    stranger = edge.tokens.issue("eve")[0]
    client.send("SEND", json.dumps({"token": stranger}), destination="/app/session.refresh", receipt="r")
    ((_, _, body),) = await client.frames()
    assert json.loads(body)["code"] == "UNAUTHENTICATED"


async def test_one_connection_too_many_is_refused_and_one_that_ended_makes_room() -> None:
    edge = Edge(max_connections_per_user=2)
    first, _ = edge.client(), edge.client()
    third = edge.client()
    assert third.transport.close_code == 1013
    first.session.lost()
    first.session.lost()  # told twice, counted once
    assert edge.client().transport.closed is None
    assert edge.client().transport.closed is not None


async def test_too_many_unanswered_frames_stop_the_reading_until_some_are_answered() -> None:
    edge = Edge(max_unanswered_sends=3, sends_burst=100)
    client = edge.client()
    for n in range(3):
        client.say(f"k{n}")
    assert client.session.is_congested
    edge.chat.answer()
    assert not client.session.is_congested


async def test_sends_beyond_the_users_rate_are_refused_with_when_to_try_again() -> None:
    edge = Edge(sends_per_second=10, sends_burst=2)
    client = edge.client()
    client.listen_for_errors()
    await client.frames()
    for n in range(3):
        client.say(f"k{n}")
    ((_, _, body),) = await client.frames()
    told = json.loads(body)
    assert (told["code"], told["retryAfterMs"]) == ("RATE_LIMITED", 101)
    assert len(edge.chat.sent) == 2


async def test_the_subscriptions_receipt_tells_the_head_once_it_is_live() -> None:
    edge = Edge()
    client = edge.client()
    await client.frames()
    client.subscribe(after=3)
    assert edge.upstream.asked[-1].after == 3
    assert await client.frames() == []
    edge.hub.replay(edge.upstream.asked[-1].watch_id, [message(4), message(5)])
    edge.hub.joined(edge.upstream.asked[-1].watch_id, Seq(5), ())
    frames = await client.frames()
    assert seqs_of(frames) == [4, 5]
    assert frames[-1][:2] == ("RECEIPT", {"receipt-id": "sub", "x-head-seq": "5"})


@pytest.mark.parametrize(
    "destination",
    [
        "/topic/*",
        "/topic/conversation.>",
        "/topic/conversation.a.b",
        "/topic/conversation.",
        "/queue/x",
        "/topic/conversation.%2e",
    ],
)
async def test_a_destination_that_is_none_is_refused_and_never_a_match(destination: str) -> None:
    edge = Edge()
    client = edge.client()
    client.listen_for_errors()
    await client.frames()
    client.send("SUBSCRIBE", id="s", destination=destination, receipt="r")
    ((_, _, body),) = await client.frames()
    assert json.loads(body)["code"] == "FORBIDDEN"
    assert edge.upstream.asked == []


async def test_a_slow_reader_gets_a_gap_and_then_goes_on_without_a_repeat() -> None:
    edge = Edge(slow_reader_bytes=20_000)
    client = edge.client()
    client.join()
    await client.frames()
    client.transport.is_reading = False
    for seq in range(1, 41):
        live(edge, seq, size=1_000)
        await asyncio.sleep(0)
    before = seqs_of(await client.frames())
    assert before == list(range(1, len(before) + 1))
    assert len(before) < 40
    client.transport.read_all()
    live(edge, 41)  # still left out: the gap is told first
    frames = await eventually_frames(client, lambda frames: any('"gap"' in body for _, _, body in frames))
    gap = next(json.loads(body) for _, _, body in frames if '"gap"' in body)
    live(edge, 42)
    after = seqs_of(frames) + seqs_of(await client.frames())
    assert gap["fromSeq"] == before[-1] + 1
    assert after == list(range(gap["toSeq"] + 1, 43))


async def test_a_reader_that_takes_nothing_at_all_is_closed_and_others_are_not_held_up() -> None:
    edge = Edge(slow_reader_bytes=20_000, slow_reader_close_bytes=40_000, sends_burst=5_000)
    client, healthy = edge.client("alice"), edge.client("bob")
    healthy.join()
    client.transport.is_reading = False
    for n in range(2_000):
        client.say(f"k{n}", receipt="r" * 50)
        edge.chat.answer()
        await asyncio.sleep(0)
        if client.transport.closed:
            break
    assert client.transport.close_code == 1013
    live(edge, 1)
    assert seqs_of(await healthy.frames()) == [1]


async def test_presence_of_more_contacts_than_fit_at_once_comes_in_parts_and_ends_no_connection() -> None:
    edge = Edge(slow_reader_bytes=20_000, slow_reader_close_bytes=40_000)
    edge.chat.contacts = [UserId(f"colleague-{n:04}") for n in range(1_000)]
    client = edge.client()
    client.listen_for_presence("sub")
    frames = await eventually_frames(client, lambda frames: len(presences_in(frames)) >= 1_000)
    assert sorted(presences_in(frames)) == edge.chat.contacts
    assert "sub" in receipts_of(frames)
    assert client.transport.closed is None


async def test_presence_that_is_unsubscribed_before_it_was_live_is_refused_and_holds_no_disconnect_up() -> None:
    edge = Edge()
    edge.chat.tells_contacts.clear()
    client = edge.client()
    client.listen_for_errors()
    client.listen_for_presence("sub")
    client.send("UNSUBSCRIBE", id="p", receipt="unsub")
    client.send("DISCONNECT", receipt="bye")
    await client.frames()
    assert client.transport.close_code is None
    edge.chat.tells_contacts.set()
    (refusal, *others) = await eventually_frames(client, lambda frames: "bye" in receipts_of(frames))
    assert (json.loads(refusal[2])["code"], json.loads(refusal[2])["receiptId"]) == ("INVALID_ARGUMENT", "sub")
    assert receipts_of(others) == ["bye"]
    assert client.transport.close_code == 1000


async def test_presence_that_is_refused_late_takes_no_later_subscription_of_its_id_along() -> None:
    edge = Edge()
    edge.chat.tells_contacts.clear()
    client = edge.client()
    client.listen_for_errors()
    client.listen_for_presence("first")
    client.send("UNSUBSCRIBE", id="p", receipt="unsub first")
    client.listen_for_presence("second")
    edge.chat.tells_contacts.set()
    frames = await eventually_frames(client, lambda frames: "second" in receipts_of(frames))
    assert "first" not in receipts_of(frames)
    client.send("UNSUBSCRIBE", id="p", receipt="unsub second")
    assert receipts_of(await client.frames()) == ["unsub second"]


async def test_a_lost_connection_leaves_nothing_behind() -> None:
    edge = Edge()
    client = edge.client()
    client.join()
    client.say()
    client.session.lost()
    assert not edge.hub.is_watched(C)
    edge.chat.answer()  # the answer finds nobody, and that is all
    assert edge.client().transport.closed is None


def presences_in(frames: Sequence[tuple[str, dict[str, str], str]]) -> list[str]:
    return [json.loads(body)["userId"] for _, _, body in frames if '"presence"' in body]


async def eventually_frames(client: Client, done: Any) -> list[tuple[str, dict[str, str], str]]:
    frames: list[tuple[str, dict[str, str], str]] = []
    async with asyncio.timeout(5):
        while not done(frames):
            await asyncio.sleep(0.01)
            frames += await client.frames()
    return frames
