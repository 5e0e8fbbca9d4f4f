"""Two clients that do what wire.md tells a client to do when something goes wrong.

`Follower` watches a conversation and never loses its place: it fills gaps from the history and resumes over another
edge. `Sender` sends until it has a RECEIPT: it tries again what was refused for now, and after a lost connection what
was not answered, always with the same `clientMessageId`. What they were promised, and got, they remember.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import aiohttp

from tests.e2e.api import Api, Json, User
from tests.e2e.frames import Frame
from tests.e2e.raw import RawClient
from tests.e2e.waiting import PATIENCE_S, eventually
from tests.e2e.world import ERRORS, send_frame, topic

_WINDOW = 10
"""Unanswered SENDs of one sender."""

_WITHOUT_END = 1_000_000


async def connect_anywhere(
    http: aiohttp.ClientSession, edges: Sequence[str], user: User, first: int, *, errors: bool = False
) -> RawClient:
    """A connected client at the first edge that takes it, beginning with number `first`."""
    attempt = first

    async def connected() -> RawClient | None:
        nonlocal attempt
        edge = edges[attempt % len(edges)]
        attempt += 1
        try:
            client = await RawClient.open(http, edge, name=user.user_id)
        except aiohttp.ClientError:
            return None
        try:
            await client.connect(user.token)
            if errors:
                await client.subscribe(ERRORS, "errors")
        except AssertionError:
            await client.close()
            return None
        return client

    client = await eventually(connected, timeout_s=4 * PATIENCE_S, what="an edge that takes a connection")
    return client


class Follower:
    """Reads one conversation from a position on. `messages` is what its user has seen, gaps filled."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        edges: Sequence[str],
        user: User,
        conversation: str,
        *,
        edge: int = 0,
        after_seq: int = 0,
    ) -> None:
        self.messages: list[Json] = []
        self.resumed = 0
        self.gaps = 0
        self.close_codes: list[int] = []
        self._http = http
        self._edges = edges
        self._edge = edge
        self._user = user
        self._conversation = conversation
        self._last = after_seq
        self._live = asyncio.Event()
        self._task = asyncio.create_task(self._follow(), name=f"follower {user.user_id}")

    @property
    def seqs(self) -> list[int]:
        return [message["seq"] for message in self.messages]

    async def live(self) -> None:
        """Wait until the subscription is live for the first time."""
        waiter = asyncio.create_task(self._live.wait())
        await asyncio.wait({waiter, self._task}, timeout=4 * PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        await self._fail_if_failed()
        assert self._live.is_set()

    async def reaches(self, seq: int, *, timeout_s: float) -> None:
        """Wait until that message is there."""

        async def there() -> bool:
            await self._fail_if_failed()
            return self._last >= seq

        await eventually(there, timeout_s=timeout_s, what=f"{self._user.user_id} is at {self._last}, not {seq}")

    async def stop(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _fail_if_failed(self) -> None:
        if self._task.done():
            await self._task
            raise AssertionError("the follower ended without being told to")

    async def _follow(self) -> None:
        while True:
            client = await connect_anywhere(self._http, self._edges, self._user, self._edge)
            try:
                await self._read(client)
            finally:
                await client.close()
            assert client.inbox.close_code is not None
            self.close_codes.append(client.inbox.close_code)
            self._edge += 1
            self.resumed += 1

    async def _read(self, client: RawClient) -> None:
        """Until the connection ends."""
        await client.send(
            "SUBSCRIBE",
            {
                "id": "f",
                "destination": topic(self._conversation),
                "x-after-seq": str(self._last),
                "receipt": "live",
            },
        )
        while True:
            try:
                frame = await client.take(lambda _: True, timeout_s=10 * PATIENCE_S)
            except AssertionError:
                if client.inbox.close_code is None:
                    raise
                return
            await self._take(frame)

    async def _take(self, frame: Frame) -> None:
        if frame.command == "RECEIPT":
            self._live.set()
            return
        assert frame.command == "MESSAGE", frame
        body = frame.json()
        match body["event"]:
            case "message":
                self._append(body)
            case "gap":
                self.gaps += 1
                await self._fill(body["toSeq"])

    async def _fill(self, to_seq: int) -> None:
        api = Api(self._http, self._edges[self._edge % len(self._edges)])
        while self._last < to_seq:
            query = {"afterSeq": self._last, "beforeSeq": to_seq + 1, "limit": 200}
            page = (await api.page(self._user, self._conversation, **query)).must_be(200)
            for message in page["messages"]:
                self._append(message)

    def _append(self, message: Json) -> None:
        assert message["seq"] == self._last + 1, f"{message['seq']} came after {self._last}"
        self._last += 1
        self.messages.append(message)


@dataclass(frozen=True, slots=True)
class Promise:
    """What a RECEIPT said about one message."""

    client_message_id: str
    content: str
    message_id: str
    seq: int


class Sender:
    """One user who sends numbered messages, some at a time, until each has its RECEIPT."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        edges: Sequence[str],
        user: User,
        conversation: str,
        *,
        edge: int = 0,
    ) -> None:
        self.user = user
        self.promises: list[Promise] = []
        self.refusals: list[Json] = []
        self.close_codes: list[int] = []
        self._http = http
        self._edges = edges
        self._edge = edge
        self._conversation = conversation
        self._client: RawClient | None = None
        self._attempts = 0
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        self._client = await connect_anywhere(self._http, self._edges, self.user, self._edge, errors=True)

    def start(self) -> None:
        """Send without end, until `finish`."""
        self._task = asyncio.create_task(self.send(_WITHOUT_END), name=f"sender {self.user.user_id}")

    def stop(self) -> None:
        """Send nothing new."""
        self._stopping = True

    async def finish(self) -> None:
        """After `stop`: wait until all that was sent is answered."""
        assert self._task is not None
        await self._task

    async def close(self) -> None:
        """Let go of everything, finished or not."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._client is not None:
            await self._client.close()

    async def send(self, count: int, *, window: int = _WINDOW) -> None:
        """Send that many more, at most `window` of them unanswered; every one of them is stored on return."""
        first = len(self.promises)
        todo = [f"{self.user.user_id} {number}" for number in range(first, first + count)]
        todo.reverse()
        waiting: dict[str, str] = {}  # receipt id → content
        while (todo and not self._stopping) or waiting:
            while todo and not self._stopping and len(waiting) < window:
                await self._say(todo.pop(), waiting)
            frame = await self._next()
            if frame is None:
                again = list(waiting.values())
                waiting.clear()
                await self._reconnect()
                for content in again:
                    await self._say(content, waiting)
            elif frame.command == "RECEIPT":
                self._keep(frame, waiting.pop(frame.headers["receipt-id"]))
            else:
                await self._refused(frame.json(), waiting)

    async def _say(self, content: str, waiting: dict[str, str]) -> None:
        assert self._client is not None
        self._attempts += 1
        receipt = f"r{self._attempts}"
        waiting[receipt] = content
        with suppress(ConnectionError, aiohttp.ClientError):  # then `_next` tells that it is over
            await self._client.send(*send_frame(self._conversation, content, content, receipt=receipt))

    async def _next(self) -> Frame | None:
        """The next RECEIPT or refusal; None once the connection has ended."""
        assert self._client is not None
        try:
            return await self._client.take(
                lambda frame: frame.command in ("RECEIPT", "MESSAGE"), timeout_s=2 * PATIENCE_S
            )
        except AssertionError:
            if self._client.inbox.close_code is None:
                raise
            return None

    async def _reconnect(self) -> None:
        assert self._client is not None
        assert self._client.inbox.close_code is not None
        self.close_codes.append(self._client.inbox.close_code)
        await self._client.close()
        self._edge += 1
        await self.connect()

    async def _refused(self, refusal: Json, waiting: dict[str, str]) -> None:
        self.refusals.append(refusal)
        content = waiting.pop(refusal["receiptId"])
        assert refusal["code"] == "UNAVAILABLE", refusal
        assert refusal["clientMessageId"] == content
        await asyncio.sleep(refusal["retryAfterMs"] / 1000)  # as the refusal asks
        await self._say(content, waiting)

    def _keep(self, receipt: Frame, content: str) -> None:
        self.promises.append(Promise(content, content, receipt.headers["message-id"], receipt.seq))


async def finish(senders: Sequence[Sender]) -> None:
    """Stop them all, then wait until each has its answers."""
    for sender in senders:
        sender.stop()
    for sender in senders:
        await sender.finish()
