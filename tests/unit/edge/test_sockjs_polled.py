"""A client that polls: what it gets and in which order, what counts as waiting for it, and when it is given up."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import pytest

from edge.outbox import Transport
from edge.session import Session
from edge.sockjs.polled import Mailbox, PolledSession
from tests.support.clock import ManualClock

HEARTBEAT_S, DISCONNECT_S, CLOSE_TIMEOUT_S = 25.0, 5.0, 2.0


class FakeSession:
    """Notes what it is asked. Its life is the test's to end."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.ticks = 0
        self.is_over = False
        self.bugs: list[Exception] = []
        self.failure: Exception | None = None
        self.is_soon_congested = False
        self._room = asyncio.Event()
        self._room.set()

    @property
    def is_congested(self) -> bool:
        return not self._room.is_set()

    async def room(self) -> None:
        await self._room.wait()

    def congest(self) -> None:
        self._room.clear()

    def make_room(self) -> None:
        self._room.set()

    def receive(self, data: bytes) -> None:
        if self.failure is not None:
            raise self.failure
        self.received.append(data)
        if self.is_soon_congested:
            self.congest()

    def tick(self, now: float) -> None:
        self.ticks += 1

    def bug(self, error: Exception) -> None:
        self.bugs.append(error)

    def lost(self) -> None:
        self.is_over = True
        self._room.set()


class FakeNetwork:
    """The transport of one request."""

    def __init__(self) -> None:
        self.limits: list[int] = []
        self.aborted = 0

    def set_write_buffer_limits(self, high: int) -> None:
        self.limits.append(high)

    def abort(self) -> None:
        self.aborted += 1


class Client:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.fake = FakeSession()
        self.network = FakeNetwork()
        self.ended = 0
        self.polled = PolledSession(
            cast(Callable[[Transport], Session], lambda mailbox: self.fake),
            self._note_end,
            self.clock,
            heartbeat_s=HEARTBEAT_S,
            disconnect_s=DISCONNECT_S,
        )
        self.mailbox = self.polled.mailbox

    def _note_end(self, polled: PolledSession) -> None:
        self.ended += 1

    async def poll(self) -> bytes:
        frame = b""
        with self.polled.listening(cast(asyncio.Transport, self.network)):
            frame = await self.polled.next_frame()
        return frame

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator["asyncio.Task[bytes]"]:
        """A poll that has nothing to take yet."""
        polling = asyncio.create_task(self.poll())
        await asyncio.sleep(0)
        assert self.polled.is_listened_to
        yield polling
        polling.cancel()

    def pass_time(self, seconds: float) -> None:
        """With a tick each second, as the edge does it."""
        for _ in range(int(seconds)):
            self.clock.advance(1)
            self.polled.tick(self.clock.monotonic())


@pytest.fixture
async def client() -> Client:
    """Past its `o`."""
    client = Client()
    assert await client.poll() == b"o"
    return client


# ---- the mailbox


async def test_frames_come_as_opened_then_messages_then_the_end() -> None:
    mailbox = Mailbox()
    mailbox.write([b"one\n", b"two"])
    mailbox.close(1000, "bye")
    mailbox.write([b"too late"])
    mailbox.close(1011, "not again")
    assert [await mailbox.next_frame() for _ in range(4)] == [
        b"o",
        b'a["one\\n","two"]',
        b'c[1000,"bye"]',
        b'c[1000,"bye"]',
    ]


async def test_what_was_handed_out_counts_as_waiting_until_the_next_is_asked_for() -> None:
    mailbox = Mailbox()
    await mailbox.next_frame()
    assert mailbox.buffered_bytes() == 0
    mailbox.write([b"x" * 10, b"\0"])
    assert mailbox.buffered_bytes() == 12 + 8, "as they go over the wire"
    await mailbox.next_frame()
    assert mailbox.buffered_bytes() == 20
    mailbox.settle()
    assert mailbox.buffered_bytes() == 0


async def test_one_frame_takes_no_more_than_64_kib_and_a_message() -> None:
    mailbox = Mailbox()
    await mailbox.next_frame()
    mailbox.write([b"x" * 30_000] * 5)
    assert [(await mailbox.next_frame()).count(b'"') // 2 for _ in range(2)] == [3, 2]
    assert mailbox.buffered_bytes() == 2 * 30_002


# ---- listening


async def test_poll_waits_for_what_is_written(client: Client) -> None:
    async with client.waiting() as poll:
        client.mailbox.write([b"x"])
        assert await poll == b'a["x"]'
    assert client.network.limits == [0, 0], "waiting for the network must mean waiting for all of it"


async def test_poll_that_breaks_off_ends_the_session(client: Client) -> None:
    async with client.waiting() as poll:
        poll.cancel()
        with pytest.raises(asyncio.CancelledError):
            await poll
    assert (client.fake.is_over, client.ended) == (True, 1)
    assert client.mailbox.goodbye == b'c[1002,"Connection interrupted"]'


async def test_lost_connection_ends_the_session_and_is_no_error(client: Client) -> None:
    def write() -> None:
        raise ConnectionResetError

    with client.polled.listening(cast(asyncio.Transport, client.network)):
        write()
    assert (client.fake.is_over, client.ended) == (True, 1)


async def test_session_is_over_once_the_client_has_the_last_frame(client: Client) -> None:
    client.mailbox.close(1012, "restarting")
    assert client.ended == 0
    assert await client.poll() == b'c[1012,"restarting"]'
    assert client.ended == 1


# ---- time


async def test_session_that_nobody_listens_to_is_given_up(client: Client) -> None:
    client.pass_time(DISCONNECT_S - 1)
    assert (client.fake.is_over, client.ended) == (False, 0)
    client.pass_time(1)
    assert (client.fake.is_over, client.ended) == (True, 1)
    client.pass_time(10)
    assert client.ended == 1


async def test_poll_begins_the_wait_anew(client: Client) -> None:
    client.pass_time(DISCONNECT_S - 1)
    client.mailbox.write([b"x"])
    await client.poll()
    client.pass_time(DISCONNECT_S - 1)
    assert client.ended == 0


async def test_listener_gets_a_heart_beat_after_a_silence_and_is_never_given_up(client: Client) -> None:
    async with client.waiting() as poll:
        client.pass_time(HEARTBEAT_S - 1)
        await asyncio.sleep(0)
        assert not poll.done()
        client.pass_time(1)
        assert await poll == b"h"
    assert client.ended == 0


async def test_listener_that_does_not_read_the_last_frame_is_cut_off(client: Client) -> None:
    with client.polled.listening(cast(asyncio.Transport, client.network)):
        client.pass_time(20)
        client.mailbox.close(1012, "restarting")
        client.pass_time(CLOSE_TIMEOUT_S)
        assert client.network.aborted == 0
        client.pass_time(1)
        assert client.network.aborted == 1


async def test_session_that_is_over_has_no_more_ticks(client: Client) -> None:
    client.pass_time(1)
    client.fake.lost()
    client.pass_time(1)
    assert client.fake.ticks == 1


# ---- receiving


async def test_congested_session_receives_later_and_one_after_another(client: Client) -> None:
    client.fake.is_soon_congested = True
    first, second, third = (asyncio.create_task(client.polled.receive(data)) for data in (b"1", b"2", b"3"))
    assert await first is True
    client.fake.make_room()
    assert await second is True
    assert not third.done()
    assert client.fake.received == [b"1", b"2"]
    client.fake.make_room()
    assert await third is True


async def test_session_that_is_over_receives_nothing(client: Client) -> None:
    client.fake.congest()
    sending = asyncio.create_task(client.polled.receive(b"1"))
    await asyncio.sleep(0)
    client.fake.lost()
    assert await sending is False
    assert client.fake.received == []


async def test_bug_of_a_session_is_its_own(client: Client) -> None:
    client.fake.failure = ValueError("a bug")
    assert await client.polled.receive(b"1") is True
    assert client.fake.bugs == [client.fake.failure]
