"""A generator process: `python -m bench.generator`, started by the bench, one line of JSON in and out per step.

In: a `Plan`, then (once `Ready` came out) a `Schedule`. Out: `Ready`, then `Outcome`; or `Failed`. The end of its
standard input ends the process, so it never outlives the bench.
"""

import asyncio
import contextlib
import gc
import sys
import time

import msgspec
import uvloop

from bench import wire
from bench.client import ConnectFailed, Connection, connect
from bench.load import ConversationLoad, Load, Member
from bench.plan import Answer, ClientPlan, ConversationPlan, Failed, Outcome, Plan, Ready, Schedule

MAX_LINE_BYTES = 64 << 20
"""A plan of 10,000 connections is about 6 MiB, most of it tokens."""
_CONNECTING_AT_ONCE = 32
"""Enough to overlap round trips, few enough that the last is not timed out by the queue in front of it."""
_DRAIN_POLL_S = 0.02


class _Connections:
    """Every connection of one plan, opened a few at a time."""

    def __init__(self, plan: Plan, load: Load) -> None:
        self.conversations: list[ConversationLoad] = []
        self.opened: list[Connection] = []
        self._plan = plan
        self._load = load
        self._turn = asyncio.Semaphore(_CONNECTING_AT_ONCE)

    async def open(self) -> None:
        """Connect and subscribe everybody.

        Raises:
            ConnectFailed: the first that could not.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                for conversation in self._plan.conversations:
                    tasks.create_task(self._open_conversation(conversation))
        except* ConnectFailed as failures:
            first = _first_of(failures)
            raise ConnectFailed(f"{first} ({len(self.opened)} connections were open)") from first

    def close(self) -> None:
        for connection in self.opened:
            connection.close()

    async def _open_conversation(self, plan: ConversationPlan) -> None:
        sender = await self._connect(plan.sender)
        conversation = ConversationLoad(plan, self._plan, self._load, write=sender.write)
        async with asyncio.TaskGroup() as tasks:
            for watcher in plan.watchers:
                tasks.create_task(self._open_watcher(watcher, conversation))
            if plan.sender_watches:
                tasks.create_task(self._listen(sender, conversation))
            else:
                sender.listener = Member(plan.sender.user_id, conversation)
        self.conversations.append(conversation)

    async def _open_watcher(self, plan: ClientPlan, conversation: ConversationLoad) -> None:
        await self._listen(await self._connect(plan), conversation)

    async def _connect(self, plan: ClientPlan) -> Connection:
        async with self._turn:
            connection = await connect(plan, timeout_s=self._plan.connect_timeout_s)
        self.opened.append(connection)
        return connection

    async def _listen(self, connection: Connection, conversation: ConversationLoad) -> None:
        destination = f"/topic/conversation.{conversation.plan.conversation_id}"
        who = f"{connection.plan.user_id} at edge {connection.plan.edge}"
        try:
            async with self._turn, asyncio.timeout(self._plan.connect_timeout_s):
                receipt = await connection.subscribe("conversation", destination)
        except TimeoutError:
            raise ConnectFailed(f"{who}: no RECEIPT for a SUBSCRIBE") from None
        except wire.WireError as refused:
            raise ConnectFailed(f"{who}: SUBSCRIBE: {refused}") from refused
        head = wire.find_header(receipt, b"x-head-seq", 0, len(receipt))
        if head is None:
            raise ConnectFailed(f"{who}: the RECEIPT of a SUBSCRIBE has no x-head-seq")
        connection.listener = Member(connection.plan.user_id, conversation, head_seq=int(head))


def _first_of(group: BaseExceptionGroup[ConnectFailed]) -> ConnectFailed:
    first = group.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first


async def generate(plan: Plan, commands: asyncio.StreamReader) -> Outcome:
    """Run one plan; `commands` has the schedule, once `Ready` has been answered.

    Raises:
        ConnectFailed: before anything was sent.
    """
    load = Load()
    connections = _Connections(plan, load)
    try:
        await connections.open()
        _answer(Ready(connections=len(connections.opened)))
        line = await commands.readline()
        if not line:
            raise ConnectFailed("the bench went away")
        schedule = msgspec.json.decode(line, type=Schedule)
        await _run(connections.conversations, load, schedule, drain_s=plan.drain_timeout_s)
    finally:
        connections.close()
    return load.outcome()


async def _run(conversations: list[ConversationLoad], load: Load, schedule: Schedule, *, drain_s: float) -> None:
    load.begin(schedule)
    await _sleep_until(schedule.start_us)
    for conversation in conversations:
        conversation.start()
    await _sleep_until(schedule.measure_until_us)
    deadline = time.monotonic() + drain_s
    # An event would cost something per message.
    while time.monotonic() < deadline and not all(one.is_settled for one in conversations):  # noqa: ASYNC110
        await asyncio.sleep(_DRAIN_POLL_S)
    for conversation in conversations:
        conversation.report_unsettled()


async def _sleep_until(at_us: int) -> None:
    await asyncio.sleep(max(0.0, at_us / 1e6 - time.monotonic()))


def _answer(answer: Answer) -> None:
    sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
    sys.stdout.flush()


async def _main() -> None:
    # A load makes nothing that refers back to itself; the collector would only cause pauses.
    gc.disable()
    commands = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    plan = msgspec.json.decode(await commands.readline(), type=Plan)
    try:
        _answer(await _unless_orphaned(plan, commands))
    except ConnectFailed as failure:
        _answer(Failed(reason=str(failure)))


async def _unless_orphaned(plan: Plan, commands: asyncio.StreamReader) -> Outcome:
    """`generate`, cut short when the bench is gone."""
    work = asyncio.create_task(generate(plan, commands))
    while not work.done():
        await asyncio.wait({work}, timeout=0.5)
        if commands.at_eof() and not work.done():
            work.cancel()
    return await work


if __name__ == "__main__":
    with contextlib.suppress(asyncio.CancelledError):
        uvloop.run(_main())
