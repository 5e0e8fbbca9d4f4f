"""One connection to RabbitMQ that connects again for ever, and aio-pika's failures in one word.

Owns the connection's life; what is declared, published and consumed on it is its user's business (`set_up`). Not
aio-pika's robust connection: which of its parts are restored when is hard to see, and a channel that the broker closes
alone has to end everything here anyway.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, Generic, TypeVar

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import AMQPException
from yarl import URL

from services.runtime.errors import Unavailable
from services.runtime.log import logger
from services.runtime.tasks import is_being_cancelled

Link = TypeVar("Link")

CONNECT_S: Final = 5.0
CLOSE_S: Final = 2.0
# A broker that hangs is noticed after two of these.
_HEARTBEAT_S: Final = 5
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.1, 2.0
# How long `start` waits before it lets the process go on without a broker.
_START_WAIT_S: Final = 5.0

# RuntimeError: what aiormq raises for a channel that is closed already.
MISFORTUNES: Final = (AMQPException, OSError, TimeoutError, asyncio.InvalidStateError, RuntimeError)

_log = logger(__name__)


class Ended:
    """Set when the connection, or a channel that it was told of, is no more."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def watch(self, part: AbstractConnection | AbstractChannel) -> None:
        part.close_callbacks.add(lambda *_: self._event.set())

    def set(self) -> None:
        """Has the connection given up and made anew."""
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    async def wait(self) -> None:
        await self._event.wait()


class AmqpKeeper(Generic[Link]):
    """Args:
    name: of this connection, in logs.
    set_up: makes of a new connection whatever is needed, within `CONNECT_S`, and has `Ended` watch its channels.
    on_up: called when that is the link.
    """

    def __init__(
        self,
        url: str,
        name: str,
        set_up: Callable[[AbstractConnection, Ended], Awaitable[Link]],
        on_up: Callable[[Link], Awaitable[None]],
    ) -> None:
        self._url = URL(url).update_query({"heartbeat": str(_HEARTBEAT_S)})
        self._name = name
        self._set_up = set_up
        self._on_up = on_up
        self._up = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self.link: Link | None = None

    async def start(self) -> None:
        """Begins to connect; waits a little for the broker, and goes on without it."""
        self._keeper = asyncio.get_running_loop().create_task(self._stay_connected(), name=self._name)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_WAIT_S):
                await self._up.wait()

    async def close(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait((keeper,))

    async def _stay_connected(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                await self._live()
                pause_s = _FIRST_PAUSE_S
                _log.warning("queue_disconnected", connection=self._name)
            except asyncio.CancelledError:
                # aiormq also raises it into what waits on a connection that ends.
                if is_being_cancelled():
                    raise
            except MISFORTUNES as error:
                kind = type(error).__name__
                _log.warning("queue_away", connection=self._name, kind=kind, message=str(error)[:300])
            await asyncio.sleep(random.uniform(pause_s / 2, pause_s))
            pause_s = min(pause_s * 2, _MAX_PAUSE_S)

    async def _live(self) -> None:
        """Connects, serves, and returns when the connection, or one of its channels, has ended."""
        async with asyncio.timeout(CONNECT_S):
            connection = await aio_pika.connect(self._url, timeout=CONNECT_S)
        try:
            ended = Ended()
            ended.watch(connection)
            async with asyncio.timeout(CONNECT_S):
                self.link = await self._set_up(connection, ended)
            self._up.set()
            _log.info("queue_connected", connection=self._name)
            await self._on_up(self.link)
            await ended.wait()
        finally:
            self.link = None
            self._up.clear()
            with contextlib.suppress(*MISFORTUNES):
                async with asyncio.timeout(CLOSE_S):
                    await connection.close()


@contextlib.contextmanager
def translated(unavailable: Callable[[], Unavailable]) -> Iterator[None]:
    """aio-pika's failures as the caller's. A cancellation that nobody asked for is aiormq's way to end what waits."""
    try:
        yield
    except MISFORTUNES as error:
        raise unavailable() from error
    except asyncio.CancelledError as error:
        if is_being_cancelled():
            raise
        raise unavailable() from error
