"""The fault proxy, over loopback with real sockets."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import pytest

from tests.chaos.proxy import BOTH, GOOD, Direction, Proxy
from tests.e2e.waiting import eventually

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]

# What must not come in this time does not come: the loopback interface needs a hundredth of it.
_SILENCE_S = 0.15


class Target:
    """A server that sends back what it gets, and remembers it."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.accepted = 0
        self.ended = 0
        self.resets = 0
        self.reads = asyncio.Event()
        self.reads.set()
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            while data := await reader.read(65_536):
                self.received += data
                writer.write(data)
                await writer.drain()
                await self.reads.wait()
            self.ended += 1
        except ConnectionResetError:
            self.resets += 1
        finally:
            writer.close()


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    target = Target()
    await target.start()
    yield target
    await target.stop()


@pytest.fixture
async def proxy(target: Target) -> AsyncIterator[Proxy]:
    proxy = Proxy("127.0.0.1", target.port)
    await proxy.start()
    yield proxy
    await proxy.stop()


@pytest.fixture
async def connect(proxy: Proxy) -> AsyncIterator[Callable[[], Awaitable[Connection]]]:
    writers: list[asyncio.StreamWriter] = []

    async def connect() -> Connection:
        reader, writer = await asyncio.open_connection(*proxy.address)
        writers.append(writer)
        return reader, writer

    yield connect
    for writer in writers:
        writer.transport.abort()  # a close would wait for a link that is cut to take what was written
        with suppress(ConnectionError):
            await writer.wait_closed()


Connect = Callable[[], Awaitable[Connection]]


async def _echo(connection: Connection, data: bytes) -> float:
    """Sends it, waits until it is back, and tells how long that took, in seconds."""
    reader, writer = connection
    began_s = asyncio.get_running_loop().time()
    writer.write(data)
    assert await reader.readexactly(len(data)) == data
    return asyncio.get_running_loop().time() - began_s


async def _is_silent(reader: asyncio.StreamReader) -> bool:
    """Whether nothing comes, and the connection stays as it is."""
    try:
        await asyncio.wait_for(reader.read(1), _SILENCE_S)
    except TimeoutError:
        return True
    return False


async def test_bytes_pass_both_ways_as_they_are(connect: Connect) -> None:
    connection = await connect()
    await _echo(connection, bytes(range(256)) * 4_000)


async def test_the_end_of_a_stream_passes_and_the_other_direction_goes_on(connect: Connect, target: Target) -> None:
    reader, writer = await connect()
    writer.write(b"all of it")
    writer.write_eof()
    assert await reader.read() == b"all of it"
    assert target.ended == 1


async def test_latency_delays_each_way_and_does_not_slow_the_stream(proxy: Proxy, connect: Connect) -> None:
    connection = await connect()
    await _echo(connection, b"warm")
    proxy.slow(0.1)
    assert await _echo(connection, b"x") >= 0.2
    # Forty chunks, each late by as much, but all at the same time.
    assert await _echo(connection, bytes(640_000)) < 40 * 0.1


async def test_latency_of_one_direction_leaves_the_other_alone(proxy: Proxy, connect: Connect, target: Target) -> None:
    connection = await connect()
    proxy.slow(5.0, directions=frozenset((Direction.DOWN,)))
    connection[1].write(b"up")
    await eventually(lambda: target.received == b"up", timeout_s=4.0)
    assert await _is_silent(connection[0])


async def test_jitter_never_changes_the_order(proxy: Proxy, connect: Connect) -> None:
    connection = await connect()
    proxy.slow(0.001, jitter_s=0.02)
    for number in range(30):
        connection[1].write(b"%04d" % number)
        await asyncio.sleep(0)
    assert await connection[0].readexactly(120) == b"".join(b"%04d" % number for number in range(30))


async def test_a_throttled_link_keeps_to_its_rate(proxy: Proxy, connect: Connect) -> None:
    connection = await connect()
    proxy.throttle(20_000, directions=frozenset((Direction.UP,)))
    # The first tick's worth goes at once, and the last is not waited for.
    assert await _echo(connection, bytes(10_000)) >= 0.4


async def test_a_cut_holds_everything_back_and_healing_brings_it(
    proxy: Proxy, connect: Connect, target: Target
) -> None:
    connection = await connect()
    await _echo(connection, b"before")
    proxy.cut()
    connection[1].write(b"meanwhile")
    assert await _is_silent(connection[0])
    assert target.received == b"before"
    proxy.heal()
    assert await connection[0].readexactly(9) == b"meanwhile"


async def test_a_cut_holds_back_the_end_of_a_stream_too(proxy: Proxy, connect: Connect, target: Target) -> None:
    connection = await connect()
    await _echo(connection, b"before")
    proxy.cut()
    connection[1].write_eof()
    assert await _is_silent(connection[0])
    assert target.ended == 0
    proxy.heal()
    assert await connection[0].read() == b""
    assert target.ended == 1


async def test_a_cut_of_one_direction_leaves_the_other_alone(proxy: Proxy, connect: Connect, target: Target) -> None:
    connection = await connect()
    await _echo(connection, b"before")
    proxy.cut(directions=frozenset((Direction.DOWN,)))
    connection[1].write(b"+up")
    await eventually(lambda: target.received == b"before+up")
    assert await _is_silent(connection[0])
    proxy.heal()
    assert await connection[0].readexactly(3) == b"+up"


async def test_a_connection_made_during_a_cut_reaches_the_target_after_it(
    proxy: Proxy, connect: Connect, target: Target
) -> None:
    proxy.cut()
    connection = await connect()
    connection[1].write(b"early")
    assert await _is_silent(connection[0])
    assert target.accepted == 0
    proxy.heal()
    assert await connection[0].readexactly(5) == b"early"


async def test_healing_ends_the_wait_for_what_was_late(proxy: Proxy, connect: Connect) -> None:
    connection = await connect()
    await _echo(connection, b"warm")
    proxy.slow(600.0)
    connection[1].write(b"late")
    assert await _is_silent(connection[0])
    proxy.heal()
    assert await connection[0].readexactly(4) == b"late"


async def test_a_reset_ends_connections_on_both_sides_and_new_ones_are_good(
    proxy: Proxy, connect: Connect, target: Target
) -> None:
    connection = await connect()
    await _echo(connection, b"before")
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        await connection[0].readexactly(1)
    await eventually(lambda: target.resets == 1)
    await _echo(await connect(), b"after")


async def test_a_link_that_refuses_resets_new_connections_and_keeps_the_old(proxy: Proxy, connect: Connect) -> None:
    old = await connect()
    await _echo(old, b"before")
    proxy.refuses = True
    new = await connect()
    with pytest.raises(ConnectionResetError):
        await new[0].readexactly(1)
    await _echo(old, b"still")
    proxy.heal()
    await _echo(await connect(), b"after")


async def test_a_half_open_link_takes_everything_and_answers_nothing(
    proxy: Proxy, connect: Connect, target: Target
) -> None:
    old = await connect()
    await _echo(old, b"before")
    proxy.half_open()
    new = await connect()
    for reader, writer in (old, new):
        writer.write(bytes(2_000_000))
        await writer.drain()  # far more than any buffer holds: it is being read
        assert await _is_silent(reader)
    assert target.received == b"before"
    proxy.heal()
    for reader, _ in (old, new):
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
    await _echo(await connect(), b"after")


async def test_a_target_that_is_not_there_resets_the_client(proxy: Proxy, connect: Connect, target: Target) -> None:
    await target.stop()
    reader, _ = await connect()
    with pytest.raises(ConnectionResetError):
        await reader.readexactly(1)
    await eventually(lambda: proxy.connections == 0)
    await target.start()  # for the fixture


async def test_what_is_held_for_a_reader_that_does_not_read_is_bounded(
    proxy: Proxy, connect: Connect, target: Target
) -> None:
    proxy.cut(directions=frozenset((Direction.DOWN,)))
    _, writer = await connect()
    writer.transport.set_write_buffer_limits(0)

    async def flood() -> int:
        for count in range(100_000):
            writer.write(bytes(10_000))
            try:
                await asyncio.wait_for(writer.drain(), 1.0)
            except TimeoutError:
                return count
        return 100_000

    # The echo of what is sent is held back; what stands in between is the proxy's bound and the sockets' own buffers.
    assert await flood() * 10_000 < 40_000_000
    target.reads.set()


async def test_conditions_are_as_they_were_set_and_good_after_healing(proxy: Proxy) -> None:
    proxy.slow(0.5, jitter_s=0.1)
    proxy.throttle(1_000, directions=frozenset((Direction.UP,)))
    up, down = proxy.conditions(Direction.UP), proxy.conditions(Direction.DOWN)
    assert (up.latency_s, up.jitter_s, up.bytes_per_s) == (0.5, 0.1, 1_000)
    assert (down.latency_s, down.bytes_per_s) == (0.5, None)
    proxy.heal()
    assert {proxy.conditions(direction) for direction in BOTH} == {GOOD}


async def test_stopping_ends_every_connection_and_leaves_no_task(target: Target) -> None:
    proxy = Proxy("127.0.0.1", target.port)
    await proxy.start()
    before = len(asyncio.all_tasks())
    connections = [await asyncio.open_connection(*proxy.address) for _ in range(5)]
    for connection in connections:
        await _echo(connection, b"hello")
    proxy.cut()
    connections[0][1].write(b"held")
    await proxy.stop()
    assert proxy.connections == 0
    for reader, writer in connections:
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()
    await eventually(lambda: len(asyncio.all_tasks()) <= before)
    await proxy.stop()
