"""SIGTERM under load: every process leaves in time, with code 0, and takes nothing with it that was promised."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.api import Api, User, fresh_user_id
from tests.e2e.deployments import DRAIN_S, ROOMY_LIMITS, Embedded, FullStack, bad_lines, find_exit_code
from tests.e2e.expect import same_message
from tests.e2e.follower import Follower, Sender, finish
from tests.e2e.raw import RawClient
from tests.e2e.waiting import eventually
from tests.e2e.world import World

RESTARTING = 1012
SENDERS = 8
PROMISES_BEFORE = 200
"""So many messages are under way when the signal comes that some are in every stage of their path."""


@pytest.fixture
def own_embedded(session_directory: Path, request: pytest.FixtureRequest) -> Iterator[Embedded]:
    """An embedded server that only this test uses."""
    directory = session_directory / f"embedded-{request.node.name}"
    deployment = Embedded(directory, {**ROOMY_LIMITS, "PARLEY_RUNTIME_DRAIN_S": f"{DRAIN_S:g}"})
    deployment.start()
    yield deployment
    deployment.stop()


@pytest.fixture
async def senders() -> AsyncIterator[list[Sender]]:
    members: list[Sender] = []
    yield members
    for member in members:
        await member.close()


async def promised_more(senders: list[Sender], more: int) -> None:
    wanted = sum(len(sender.promises) for sender in senders) + more
    await eventually(lambda: sum(len(sender.promises) for sender in senders) >= wanted, timeout_s=60)


async def exit_code_of(pid: int) -> tuple[int, float]:
    """How the process ended, and how long after now."""
    begun = time.monotonic()
    await eventually(lambda: find_exit_code(pid) is not None, timeout_s=DRAIN_S + 20, what="the process leaves")
    code = find_exit_code(pid)
    assert code is not None
    return code, time.monotonic() - begun


@pytest.mark.timeout(150)
@pytest.mark.parametrize("process", ["edge-1", "edge-2", "chat-1", "chat-2"])
async def test_process_of_the_stack_leaves_in_order_under_load(
    faulty_world: World, faulty_stack: FullStack, senders: list[Sender], process: str
) -> None:
    users = await faulty_world.users(SENDERS)
    conversation = await faulty_world.group(*users)
    edges = faulty_world.deployment.edges
    followers = [Follower(faulty_world.http, edges, users[number], conversation, edge=number) for number in range(4)]
    try:
        for follower in followers:
            await follower.live()
        for number, user in enumerate(users):
            senders.append(Sender(faulty_world.http, edges, user, conversation, edge=number))
            await senders[-1].connect()
        for sender in senders:
            sender.start()
        await promised_more(senders, PROMISES_BEFORE)

        log_before = len(faulty_stack.log(process))
        pid = faulty_stack.pid(process)
        faulty_stack.stack.terminate(process)
        code, took_s = await exit_code_of(pid)
        log = faulty_stack.log(process)[log_before:]

        await promised_more(senders, PROMISES_BEFORE)
        await finish(senders)
        assert code == 0, log
        assert took_s < DRAIN_S + 1
        assert bad_lines(log) == []
        alive = edges[1] if process == "edge-1" else edges[0]
        await assert_promises_kept(faulty_world.http, alive, senders, conversation, followers)
        members: list[Sender | Follower] = [*senders, *followers]
        told = {code for member in members for code in member.close_codes}
        assert told == ({RESTARTING} if process.startswith("edge") else set())
        refused = [refusal for sender in senders for refusal in sender.refusals]
        assert refused == [], "an orderly restart fails no send"
    finally:
        for follower in followers:
            await follower.stop()


async def assert_promises_kept(
    http: aiohttp.ClientSession, edge: str, senders: list[Sender], conversation: str, followers: list[Follower]
) -> None:
    """Each promise is in the history once, the history has no hole, and every follower has seen all of it."""
    history = await Api(http, edge).history(senders[0].user, conversation)
    assert [message["seq"] for message in history] == list(range(1, len(history) + 1))
    by_id = {message["messageId"]: message for message in history}
    promises = [promise for sender in senders for promise in sender.promises]
    assert len(promises) == len(history)
    for promise in promises:
        assert by_id[promise.message_id]["content"] == promise.content
        assert by_id[promise.message_id]["seq"] == promise.seq
    for follower in followers:
        await follower.reaches(len(history), timeout_s=60)
        assert all(same_message(one, two) for one, two in zip(follower.messages, history, strict=True))


async def test_idle_connection_is_told_that_the_edge_restarts(faulty_world: World, faulty_stack: FullStack) -> None:
    alice = await faulty_world.user("alice")
    connected = await faulty_world.connect(alice, edge=0)
    silent = await faulty_world.socket(edge=0)
    elsewhere = await faulty_world.connect(alice, edge=1)
    pid = faulty_stack.pid("edge-1")
    faulty_stack.stack.terminate("edge-1")
    assert await connected.client.closed(timeout_s=DRAIN_S + 5) == RESTARTING
    assert await silent.closed(timeout_s=DRAIN_S + 5) == RESTARTING
    assert (await exit_code_of(pid))[0] == 0
    conversation = (await faulty_world.api(1).create(alice, [])).must_be(201)["conversationId"]
    await elsewhere.sent(conversation, "the other edge does not care")


@pytest.mark.timeout(120)
async def test_embedded_server_leaves_in_order_under_load_and_comes_back_with_everything(
    own_embedded: Embedded, http: aiohttp.ClientSession, senders: list[Sender]
) -> None:
    edges = own_embedded.edges
    api = Api(http, edges[0])
    users = [User(name, await api.new_token(name)) for name in (fresh_user_id("u") for _ in range(4))]
    conversation = (await api.create(users[0], [user.user_id for user in users])).must_be(201)["conversationId"]
    idle = await RawClient.open(http, edges[0])
    await idle.connect(users[0].token)
    for user in users:
        senders.append(Sender(http, edges, user, conversation))
        await senders[-1].connect()
    for sender in senders:
        sender.start()
    await promised_more(senders, PROMISES_BEFORE)

    pid = own_embedded.process.pid
    own_embedded.terminate()
    code, took_s = await exit_code_of(pid)
    assert code == 0, own_embedded.process.log_tail()
    assert took_s < DRAIN_S + 1
    assert await idle.closed() == RESTARTING
    await idle.close()
    assert bad_lines(own_embedded.log("services")) == []

    await asyncio.to_thread(own_embedded.restart)
    await finish(senders)
    await assert_promises_kept(http, edges[0], senders, conversation, [])
    assert {code for sender in senders for code in sender.close_codes} == {RESTARTING}
