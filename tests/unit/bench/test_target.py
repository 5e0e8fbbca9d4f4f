"""What a stack says about itself becomes what is measured, or a reason why not."""

import os
from pathlib import Path

import pytest

from bench.plan import Address
from bench.target import NoTarget, attached, parse_address, target_of
from scripts.processes import ProcessIdentity
from scripts.stack import ProcessState, StackState


def test_edges_pids_and_mongod_are_taken_from_the_state() -> None:
    state = StackState(
        (
            _process("mongod", "server", url="mongodb://127.0.0.1:9/?replicaSet=rs0"),
            _process("epmd", "server"),
            _process("chat-1", "chat", address="127.0.0.1:7"),
            _process("edge-1", "edge", address="127.0.0.1:8"),
            _process("edge-2", "edge", address="127.0.0.1:9"),
        )
    )
    target = target_of(state, "a stack")
    assert target.edges == (Address("127.0.0.1", 8), Address("127.0.0.1", 9))
    assert target.mongo_url == "mongodb://127.0.0.1:9/?replicaSet=rs0"
    assert dict(target.pids) == dict.fromkeys(("mongod", "chat-1", "edge-1", "edge-2"), os.getpid())


def test_a_stack_of_which_something_died_is_refused() -> None:
    edge = _process("edge-1", "edge", address="127.0.0.1:8")
    gone = ProcessState(name="chat-1", kind="chat", pid=os.getpid(), started_at_ticks=1)
    with pytest.raises(NoTarget, match="chat-1 does not run"):
        target_of(StackState((edge, gone)), "a stack")


def test_a_stack_without_an_edge_is_refused() -> None:
    with pytest.raises(NoTarget, match="no edge"):
        target_of(StackState((_process("chat-1", "chat"),)), "a stack")


def test_attaching_to_nothing_says_how_to_start_something(tmp_path: Path) -> None:
    with pytest.raises(NoTarget, match="make stack"), attached(tmp_path):
        pass


@pytest.mark.parametrize("text", ["", "8080", ":8080", "host:", "host:port"])
def test_an_address_needs_a_host_and_a_port(text: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT|invalid literal"):
        parse_address(text)


def _process(name: str, kind: str, *, url: str = "", address: str = "") -> ProcessState:
    """A process that is alive: this one, under another name."""
    identity = ProcessIdentity.find(os.getpid())
    assert identity is not None
    return ProcessState(
        name=name, kind=kind, pid=identity.pid, started_at_ticks=identity.started_at_ticks, url=url, address=address
    )
