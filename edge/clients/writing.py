"""What the long-lived streams share on their way up."""

import asyncio
from collections.abc import Awaitable, Hashable
from itertools import islice
from typing import TypeVar

import grpc

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


def take_first(waiting: dict[_Key, _Value], limit: int) -> dict[_Key, _Value]:
    """At most `limit` of what waits, the first ones, which no longer do."""
    taken = dict(islice(waiting.items(), limit))
    for key in taken:
        del waiting[key]
    return taken


async def was_written(write: Awaitable[None]) -> bool:
    """False: the stream has ended; the reading side sees that, and why."""
    try:
        await write
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return False
    return True
