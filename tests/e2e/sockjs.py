"""A SockJS session by hand: every request as a test wrote it, and the STOMP frames of what comes back."""

import json
from collections.abc import AsyncIterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import aiohttp

from tests.e2e.frames import Frame, Matcher, a, decode_all, encode
from tests.e2e.waiting import PATIENCE_S, eventually

_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: str


def fresh_session_id() -> str:
    return f"session-of-a-test-{next(_numbers)}"


def messages_of(frame: str) -> list[str]:
    """The messages of an `a` frame, without the frame's end."""
    assert frame[:1] == "a", frame
    messages = json.loads(frame[1:])
    assert isinstance(messages, list)
    return messages


class PolledClient:
    """One session. Nothing is asked for that a test does not ask for."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        base_url: str,
        *,
        session_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.session_id = session_id or fresh_session_id()
        self.frames: list[Frame] = []
        self._http = http
        self._base = f"{base_url}/sockjs"
        self._headers = headers

    def url(self, transport: str, *, server: str = "000") -> str:
        return f"{self._base}/{server}/{self.session_id}/{transport}"

    async def post(
        self, transport: str, body: str | bytes | AsyncIterable[bytes] | None = None, *, server: str = "000"
    ) -> Answer:
        async with self._http.post(self.url(transport, server=server), data=body, headers=self._headers) as response:
            return Answer(response.status, response.headers.copy(), await response.text("utf-8"))

    async def poll(self) -> str:
        """The frame that comes, without its line feed."""
        answer = await self.post("xhr")
        assert answer.status == 200, answer
        assert answer.body[-1:] == "\n", answer
        return answer.body[:-1]

    async def open(self) -> None:
        assert await self.poll() == "o"

    async def send(self, *frames: bytes) -> None:
        answer = await self.post("xhr_send", json.dumps([frame.decode() for frame in frames]))
        assert (answer.status, answer.body) == (204, ""), answer

    async def connect(self, token: str) -> None:
        await self.open()
        await self.send(encode("CONNECT", {"accept-version": "1.2", "host": "parley", "passcode": token}))
        await self.take(a("CONNECTED"))

    async def subscribe(self, destination: str, id: str = "0") -> None:
        await self.send(encode("SUBSCRIBE", {"id": id, "destination": destination, "receipt": f"subscribed-{id}"}))
        await self.take(a("RECEIPT", receipt_id=f"subscribed-{id}"))

    async def take(self, wanted: Matcher) -> Frame:
        """Poll until it comes; everything that comes is kept in `frames`."""

        async def find() -> Frame | None:
            for frame in stomp_frames(messages_of(await self.poll())):
                self.frames.append(frame)
                if wanted(frame):
                    return frame
            return None

        return await eventually(find, timeout_s=PATIENCE_S)


def stomp_frames(messages: Sequence[str]) -> list[Frame]:
    return [frame for message in messages for frame in decode_all(message.encode(), version="1.2") if frame]


class Stream:
    """The answer to a streaming request, read piece by piece."""

    def __init__(self, response: aiohttp.ClientResponse, *, separator: bytes) -> None:
        self.response = response
        self._separator = separator

    async def frame(self) -> str:
        """The next piece, without its end; empty once the answer has ended."""
        data = await self.response.content.readuntil(self._separator)
        return data.decode().removesuffix(self._separator.decode())
