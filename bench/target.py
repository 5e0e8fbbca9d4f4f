"""What is measured: a stack started for the run, one that runs already, the embedded server, or just addresses.

Owns the life of what it starts. The limit of SENDs per user is lifted for what it starts: one sender of a load stands
for thousands of people.
"""

import http.client
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.plan import Address
from scripts.processes import LocalProcess, ProcessError, free_port
from scripts.stack import Kind, Stack, StackState, read_state
from scripts.stack.stack import REPOSITORY, leftovers

UNLIMITED_SENDS = {"PARLEY_EDGE_SENDS_PER_SECOND": "1000000", "PARLEY_EDGE_SENDS_BURST": "1000000"}
_EMBEDDED_START_S = 30.0
_PROBE_S = 1.0
# Helpers that do nothing while a load runs.
_UNINTERESTING = frozenset({"epmd"})


class NoTarget(Exception):
    """There is nothing to measure; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class Target:
    """`pids` by process name, as far as they are known; `mongo_url` where there is a MongoDB to compare with."""

    description: str
    edges: tuple[Address, ...]
    pids: Mapping[str, int] = field(default_factory=dict)
    mongo_url: str | None = None


def parse_address(text: str) -> Address:
    """`HOST:PORT`

    Raises:
        ValueError: it is something else.
    """
    host, separator, port = text.rpartition(":")
    if not separator or not host:
        raise ValueError(f"{text!r} is not HOST:PORT")
    return Address(host=host, port=int(port))


@contextmanager
def addressed(addresses: Sequence[Address]) -> Iterator[Target]:
    """Edges that somebody else runs; nothing is known of their processes."""
    yield Target(description=f"edges {', '.join(map(str, addresses))}", edges=tuple(addresses))


@contextmanager
def attached(base_dir: Path) -> Iterator[Target]:
    """The stack that `make stack` started. Its limits are what they are: refusals make the run red.

    Raises:
        NoTarget: it does not run, or not all of it.
    """
    state = read_state(base_dir)
    if state is None:
        raise NoTarget(f"no stack runs in {base_dir}: `make stack` starts one")
    yield target_of(state, "the running stack")


@contextmanager
def started_stack(base_dir: Path, *, edges: int, chats: int) -> Iterator[Target]:
    """A stack of the run's own, on empty data; its logs stay in `base_dir`.

    Raises:
        NoTarget: it did not start; the text has the end of the log concerned.
    """
    try:
        stack = Stack(
            base_dir, edges=edges, chats=chats, die_with_parent=True, extra_env={Kind.EDGE.value: UNLIMITED_SENDS}
        )
        _forget_data(stack)
        with stack:
            state = read_state(base_dir)
            if state is None:
                raise NoTarget(f"the stack in {base_dir} does not say what it consists of")
            yield target_of(state, f"a stack of its own, {edges} edge(s), {chats} chat(s)")
    except ProcessError as failure:
        raise NoTarget(f"the stack did not start or stop: {failure}") from failure


@contextmanager
def embedded(base_dir: Path) -> Iterator[Target]:
    """`python -m services`: everything in one process, on SQLite in `base_dir`.

    Raises:
        NoTarget: it did not start.
    """
    shutil.rmtree(base_dir, ignore_errors=True)
    base_dir.mkdir(parents=True)
    port = free_port()
    settings = {
        **UNLIMITED_SENDS,
        "PARLEY_EDGE_LISTEN": f"127.0.0.1:{port}",
        "PARLEY_CHAT_STORE_URL": f"sqlite:///{base_dir / 'chat.db'}",
    }
    server = LocalProcess(
        "services",
        [sys.executable, "-m", "services"],
        directory=base_dir,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **settings},
    )
    try:
        server.spawn()
        server.wait_ready(lambda: _is_ready(port), timeout_s=_EMBEDDED_START_S)
    except ProcessError as failure:
        raise NoTarget(f"the embedded server did not start: {failure}") from failure
    try:
        yield Target(
            description="the embedded server (one process, SQLite)",
            edges=(Address("127.0.0.1", port),),
            pids={"services": server.pid},
        )
    finally:
        server.stop()


def target_of(state: StackState, description: str) -> Target:
    """
    Raises:
        NoTarget: something of the stack is gone, or it has no edge.
    """
    gone = [process.name for process in state.processes if not process.identity.is_alive]
    if gone:
        raise NoTarget(f"of the stack, {', '.join(gone)} does not run any more")
    edges = tuple(parse_address(process.address) for process in state.of_kind(Kind.EDGE))
    if not edges:
        raise NoTarget("the stack has no edge")
    return Target(
        description=description,
        edges=edges,
        pids={process.name: process.pid for process in state.processes if process.name not in _UNINTERESTING},
        mongo_url=next((process.url for process in state.processes if process.name == "mongod"), None),
    )


def _forget_data(stack: Stack) -> None:
    """What an earlier run stored would be in the caches and indexes of this one."""
    if leftovers(stack.base_dir):
        return  # `start` refuses and says why
    for process in stack.processes.values():
        shutil.rmtree(process.directory, ignore_errors=True)
        process.directory.mkdir(parents=True)


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PROBE_S)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except http.client.HTTPException:
        return False
    finally:
        connection.close()
