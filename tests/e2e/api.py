"""The HTTP API as wire.md describes it, without opinions about what comes back."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, NewType
from uuid import uuid4

import aiohttp

Json = dict[str, Any]
ConversationId = NewType("ConversationId", str)

_numbers = count(1)


@dataclass(frozen=True, slots=True)
class User:
    """Somebody of this test only, with a token."""

    user_id: str
    token: str


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: Any
    """The decoded JSON; None where the answer has no body."""

    def json(self) -> Json:
        assert isinstance(self.body, dict), self
        return self.body

    def must_be(self, *statuses: int) -> Json:
        """The body, once the status is one of these; {} where there is no body."""
        assert self.status in statuses, self
        return {} if self.body is None else self.json()


class Api:
    """Calls below `/api/v1` of one edge."""

    def __init__(self, http: aiohttp.ClientSession, base_url: str) -> None:
        self._http = http
        self._base = f"{base_url}/api/v1"

    async def call(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        json: object = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, object] | None = None,
    ) -> Answer:
        """`path` begins with a slash; `token` becomes the Authorization header."""
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        async with self._http.request(
            method,
            self._base + path,
            json=json if data is None else None,
            data=data,
            headers=sent,
            params={name: str(value) for name, value in (query or {}).items()},
        ) as response:
            raw = await response.read()
            body = await response.json() if raw else None
            return Answer(response.status, response.headers.copy(), body)

    async def new_token(self, user_id: str) -> str:
        answer = await self.call("POST", "/dev/token", json={"userId": user_id})
        return str(answer.must_be(201)["token"])

    async def create(
        self, caller: User, members: list[str], *, type: str = "group", title: str | None = None
    ) -> Answer:
        body: Json = {"type": type, "memberIds": members}
        if title is not None:
            body["title"] = title
        return await self.call("POST", "/conversations", token=caller.token, json=body)

    async def send(self, caller: User, conversation: str, content: str, client_message_id: str | None = None) -> Answer:
        body: Json = {"content": content, "type": "text"}
        if client_message_id is not None:
            body["clientMessageId"] = client_message_id
        path = f"/conversations/{conversation}/messages"
        return await self.call("POST", path, token=caller.token, json=body)

    async def page(self, caller: User, conversation: str, **query: int) -> Answer:
        path = f"/conversations/{conversation}/messages"
        return await self.call("GET", path, token=caller.token, query=query)

    async def history(self, caller: User, conversation: str, *, after: int = 0) -> list[Json]:
        """Everything later than `after`, read page by page."""
        messages: list[Json] = []
        while True:
            page = (await self.page(caller, conversation, afterSeq=after, limit=200)).must_be(200)
            messages += page["messages"]
            if not page["messages"]:
                return messages
            after = page["messages"][-1]["seq"]

    async def members(self, caller: User, conversation: str) -> list[str]:
        answer = await self.call("GET", f"/conversations/{conversation}", token=caller.token)
        return sorted(answer.must_be(200)["memberIds"])

    async def add_member(self, caller: User, conversation: str, user_id: str) -> Answer:
        return await self.call("PUT", f"/conversations/{conversation}/members/{user_id}", token=caller.token)

    async def remove_member(self, caller: User, conversation: str, user_id: str) -> Answer:
        return await self.call("DELETE", f"/conversations/{conversation}/members/{user_id}", token=caller.token)

    async def read(self, caller: User, conversation: str, message_id: str) -> None:
        path = f"/conversations/{conversation}/read"
        (await self.call("POST", path, token=caller.token, json={"messageId": message_id})).must_be(204)

    async def view(self, caller: User, conversation: str) -> Json:
        """The conversation as its member sees it in his list."""
        listed = (await self.call("GET", "/conversations", token=caller.token)).must_be(200)["conversations"]
        return next(each for each in listed if each["conversationId"] == conversation)

    async def presence(self, caller: User, *user_ids: str) -> list[Json]:
        query = "&".join(f"userId={user_id}" for user_id in user_ids)
        answer = await self.call("GET", f"/presence?{query}", token=caller.token)
        return list(answer.must_be(200)["presence"])


def fresh_user_id(name: str) -> str:
    """A user id that no other test has."""
    return f"{name}-{next(_numbers)}-{uuid4().hex[:8]}"
