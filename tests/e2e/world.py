"""The people, conversations and connections of one test, over whichever deployment it runs on."""

import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from itertools import count

import aiohttp

from tests.e2e.api import Api, ConversationId, Json, User, fresh_user_id
from tests.e2e.deployments import Deployment
from tests.e2e.frames import Frame, a
from tests.e2e.raw import RawClient

ERRORS = "/user/queue/errors"
NOTIFICATIONS = "/user/queue/notifications"
PRESENCE = "/topic/presence"


def topic(conversation: str) -> str:
    return f"/topic/conversation.{conversation}"


class World:
    """Everything that it hands out belongs to this test alone, and is closed at its end."""

    def __init__(self, deployment: Deployment, http: aiohttp.ClientSession, closing: AsyncExitStack) -> None:
        self.deployment = deployment
        self.http = http
        self._closing = closing

    def close_at_end(self, close: Callable[[], Awaitable[object]]) -> None:
        """Await `close` once the test is over."""
        self._closing.push_async_callback(close)

    def edge(self, number: int = 0) -> str:
        """The base URL of an edge; numbers wrap around where there are fewer."""
        return self.deployment.edges[number % len(self.deployment.edges)]

    def api(self, edge: int = 0) -> Api:
        return Api(self.http, self.edge(edge))

    async def user(self, name: str = "user") -> User:
        user_id = fresh_user_id(name)
        return User(user_id, await self.api().new_token(user_id))

    async def users(self, how_many: int) -> list[User]:
        return [await self.user(f"u{number}") for number in range(how_many)]

    async def group(self, owner: User, *others: User) -> ConversationId:
        answer = await self.api().create(owner, [other.user_id for other in others])
        return ConversationId(answer.must_be(201)["conversationId"])

    async def direct(self, one: User, other: User) -> ConversationId:
        answer = await self.api().create(one, [other.user_id], type="direct")
        return ConversationId(answer.must_be(201)["conversationId"])

    async def socket(
        self, edge: int = 0, *, version: str = "1.2", name: str = "raw client", **options: object
    ) -> RawClient:
        """An open WebSocket over which nothing has been said."""
        client = await RawClient.open(self.http, self.edge(edge), version=version, name=name, **options)  # type: ignore[arg-type] # handed on
        self.close_at_end(client.close)
        return client

    async def connect(self, user: User, edge: int = 0, *, version: str = "1.2", errors: bool = False) -> "Connection":
        """A connected user; with `errors` subscribed to the queue of refusals."""
        client = await self.socket(edge, version=version, name=user.user_id)
        await client.connect(user.token)
        if errors:
            await client.subscribe(ERRORS, "errors")
        return Connection(user, client)


class Connection:
    """A connected user with the few things that users do."""

    def __init__(self, user: User, client: RawClient) -> None:
        self.user = user
        self.client = client
        self.take = client.take
        self.subscribe = client.subscribe
        self._numbers = count(1)

    async def send(
        self, conversation: str, content: str, client_message_id: str | None = None, *, receipt: str | None = None
    ) -> str:
        """SEND to the conversation; gives the receipt id asked for."""
        receipt = receipt or f"r{next(self._numbers)}"
        await self.client.send(*send_frame(conversation, content, client_message_id, receipt=receipt))
        return receipt

    async def sent(self, conversation: str, content: str, client_message_id: str | None = None) -> Frame:
        """SEND and wait for the RECEIPT."""
        receipt = await self.send(conversation, content, client_message_id)
        return await self.take(a("RECEIPT", receipt_id=receipt))

    async def refused(self, conversation: str, content: str, client_message_id: str | None = None) -> Json:
        """SEND, and give the refusal that comes over the queue of errors."""
        receipt = await self.send(conversation, content, client_message_id)
        return await self.error_about(receipt)

    async def error_about(self, receipt: str) -> Json:
        frame = await self.take(
            lambda frame: frame.headers.get("subscription") == "errors" and frame.json().get("receiptId") == receipt
        )
        return frame.json()

    def messages(self, subscription: str = "0") -> list[Json]:
        """Every `message` event that this subscription has ever got, in order."""
        return [
            body
            for frame in self.client.inbox.frames
            if frame.headers.get("subscription") == subscription
            and frame.command == "MESSAGE"
            and (body := frame.json())["event"] == "message"
        ]


def send_frame(
    conversation: str, content: str, client_message_id: str | None = None, *, receipt: str | None = None
) -> tuple[str, Mapping[str, str], str]:
    """Command, headers and body of a SEND to `/app/chat.send`."""
    body: Json = {"conversationId": conversation, "content": content, "type": "text"}
    if client_message_id is not None:
        body["clientMessageId"] = client_message_id
    headers = {"destination": "/app/chat.send", "content-type": "application/json"}
    if receipt is not None:
        headers["receipt"] = receipt
    return "SEND", headers, json.dumps(body)
