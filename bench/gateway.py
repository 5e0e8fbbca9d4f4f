"""The part of the HTTP API that a load needs before it starts: tokens and conversations.

Several requests at once, each with a time-out; a refusal ends the set-up with what the edge said.
"""

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import aiohttp

from bench.plan import Address, ClientPlan

_AT_ONCE = 16


class SetUpFailed(Exception):
    """The edge refused or did not answer while users and conversations were made."""


class Gateway:
    """The HTTP API of one edge."""

    def __init__(self, edge: Address, *, timeout_s: float) -> None:
        self._edge = edge
        self._timeout_s = timeout_s
        self._session = aiohttp.ClientSession(
            f"http://{edge}",
            timeout=aiohttp.ClientTimeout(total=timeout_s),
            connector=aiohttp.TCPConnector(limit=_AT_ONCE),
        )
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()

    async def clients(self, user_ids: Sequence[str], edges: Sequence[Address]) -> list[ClientPlan]:
        """One client per user, with a token, on the edge of the same position.

        Raises:
            SetUpFailed: no development tokens there, or no answer.
        """
        tokens = await asyncio.gather(*(self._token(user_id) for user_id in user_ids))
        return [ClientPlan(*client) for client in zip(user_ids, tokens, edges, strict=True)]

    async def create_direct(self, creator: ClientPlan, other: ClientPlan) -> str:
        body = {"type": "direct", "memberIds": [other.user_id]}
        return await self._create(creator, body)

    async def create_group(self, creator: ClientPlan, others: Sequence[ClientPlan], *, title: str) -> str:
        body = {"type": "group", "memberIds": [other.user_id for other in others], "title": title}
        return await self._create(creator, body)

    async def _create(self, creator: ClientPlan, body: Mapping[str, object]) -> str:
        headers = {"Authorization": f"Bearer {creator.token}"}
        answer = await self._post("/api/v1/conversations", body, headers)
        return _field(answer, "conversationId")

    async def _token(self, user_id: str) -> str:
        return _field(await self._post("/api/v1/dev/token", {"userId": user_id}, {}), "token")

    async def _post(self, path: str, body: Mapping[str, object], headers: Mapping[str, str]) -> Any:
        try:
            async with self._turn, self._session.post(path, json=body, headers=headers) as response:
                if response.status not in (200, 201):
                    text = (await response.text())[:300]
                    raise SetUpFailed(f"edge {self._edge}: POST {path} was answered {response.status}: {text}")
                return await response.json()
        except TimeoutError:
            raise SetUpFailed(f"edge {self._edge}: POST {path}: no answer in {self._timeout_s:g} s") from None
        except (aiohttp.ClientError, ValueError) as failure:
            raise SetUpFailed(f"edge {self._edge}: POST {path}: {failure!r}") from failure


def _field(answer: Any, name: str) -> str:
    value = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(value, str):
        raise SetUpFailed(f"an answer without {name}: {answer!r}")
    return value
