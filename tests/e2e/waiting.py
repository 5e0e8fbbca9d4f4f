"""Waiting for something that another process does: never by sleeping and hoping."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any, TypeVar, overload

T = TypeVar("T")

PATIENCE_S = 15.0
"""For what takes milliseconds on a quiet machine. A test waits this long only when it is about to fail."""

_POLL_S = 0.02


@overload
async def eventually(
    check: Callable[[], Awaitable[T | None]], *, timeout_s: float = PATIENCE_S, what: str = ""
) -> T: ...
@overload
async def eventually(check: Callable[[], T | None], *, timeout_s: float = PATIENCE_S, what: str = "") -> T: ...
async def eventually(check: Callable[[], Any], *, timeout_s: float = PATIENCE_S, what: str = "") -> Any:
    """Ask `check` until what it gives is true, and return that.

    A check may fail with AssertionError or OSError meanwhile; the last failure is what the test shows.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        failure: Exception | None = None
        try:
            result = check()
            value = await result if isawaitable(result) else result
            if value:
                return value
        except (AssertionError, OSError) as not_yet:
            failure = not_yet
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what or check}") from failure
        await asyncio.sleep(_POLL_S)
