"""The servers that tests and the local stack start for themselves: do they start, die and return as said?"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pymongo
import pytest
from pymongo.errors import OperationFailure

from scripts.processes import ProcessIdentity, free_port, read_pid_file, write_pid_file
from scripts.servers import (
    LocalServer,
    Mongod,
    MongoReplicaSet,
    ProcessError,
    RabbitNode,
    RedisServer,
)

_REPOSITORY = Path(__file__).parents[2]
_GONE_S = 10.0


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def replica_set_of_one(tmp_path: Path) -> Iterator[Mongod]:
    with Mongod(tmp_path / "mongod", cache_gb=0.25) as server:
        yield server


@pytest.mark.timeout(300)  # RabbitMQ twice, on cores that may be busy
@pytest.mark.parametrize("kind", [Mongod, RedisServer, RabbitNode])
def test_server_comes_back_on_its_port_after_sigkill_and_stops_without_force(
    kind: type[LocalServer], tmp_path: Path
) -> None:
    server = kind(tmp_path / kind.name)
    with server:
        url, first = server.url, server.identity
        server.kill()
        assert not first.is_alive
        server.restart()
        assert server.url == url
        second = server.identity
        assert second != first
    assert not second.is_alive
    assert not list(server.directory.glob("*.pid"))
    assert server.stop(), "stopping again is harmless"


def test_rabbitmq_has_no_epmd_but_the_one_that_is_stopped_with_it(rabbit_node: RabbitNode) -> None:
    epmd = rabbit_node.processes["epmd"]
    daemons = [pid for pid in _processes_of(rabbit_node.directory) if _command_of(pid) == "epmd"]
    assert daemons == [epmd.pid]


def test_messages_in_mongod_survive_sigkill(replica_set_of_one: Mongod) -> None:
    with pymongo.MongoClient[dict[str, object]](replica_set_of_one.url_of("kept"), w="majority") as client:
        client.get_default_database()["things"].insert_one({"_id": "one"})
    replica_set_of_one.kill()
    replica_set_of_one.start()
    with pymongo.MongoClient[dict[str, object]](replica_set_of_one.url_of("kept")) as client:
        assert client.get_default_database()["things"].find_one() == {"_id": "one"}


def test_replica_set_of_one_follows_its_data_to_another_port(tmp_path: Path) -> None:
    with Mongod(tmp_path) as before:
        before.admin("ping")
    with (
        Mongod(tmp_path, port=free_port()) as after,
        pymongo.MongoClient[dict[str, object]](after.url) as client,
    ):
        assert client.admin.command("ping")["ok"]
        assert after.url != before.url


def test_standalone_is_recognisable(tmp_path: Path) -> None:
    with Mongod(tmp_path, replica_set=None) as server:
        assert "replicaSet" not in server.url
        assert "setName" not in server.admin("hello")
        with pytest.raises(OperationFailure, match="--replSet"):
            server.admin("replSetGetStatus")


def test_replica_set_of_three_elects_another_primary(tmp_path: Path) -> None:
    with MongoReplicaSet(tmp_path) as replica_set:
        first = replica_set.wait_for_primary()
        first.kill()
        assert replica_set.wait_for_primary() is not first
        first.start()
        with pymongo.MongoClient[dict[str, object]](replica_set.url, w=3, wTimeoutMS=20_000) as client:
            client["test"]["things"].insert_one({"_id": "on all three"})


def test_paused_server_holds_its_connections_and_answers_after_resume(redis: RedisServer) -> None:
    redis.pause()
    assert redis.is_alive
    with pytest.raises(TimeoutError):
        redis.answers()
    redis.resume()
    assert redis.answers()


def test_paused_server_can_be_stopped(redis: RedisServer) -> None:
    redis.pause()
    assert redis.stop(), "SIGTERM reaches a stopped process only after SIGCONT"


def test_server_left_by_an_earlier_run_is_refused_not_used(redis: RedisServer) -> None:
    with pytest.raises(ProcessError, match=f"runs already as process {redis.pid}"):
        RedisServer(redis.directory).start()


def test_pid_file_that_names_somebody_else_is_not_believed(tmp_path: Path) -> None:
    myself = ProcessIdentity.find(os.getpid())
    assert myself is not None
    write_pid_file(tmp_path / "redis.pid", ProcessIdentity(myself.pid, myself.started_at_ticks - 1))
    with RedisServer(tmp_path) as server:
        assert server.pid != myself.pid


def test_failed_start_shows_the_log_and_leaves_nothing(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, arguments=["--maxmemory", "nonsense"])
    with pytest.raises(ProcessError, match=r"(?s)ended while starting.*argument must be a memory value"):
        server.start()
    assert not server.is_alive
    assert not (tmp_path / "redis.pid").exists()


def test_servers_do_not_outlive_a_parent_that_was_killed(tmp_path: Path) -> None:
    parent = _start_servers_in_another_process(tmp_path, die_with_parent=True)
    parent.kill()
    parent.communicate()
    for name in ("redis", "mongod"):
        identity = read_pid_file(tmp_path / name / f"{name}.pid")
        assert identity is not None
        assert identity.wait(_GONE_S), f"{name} outlived its parent"


def test_servers_of_a_stack_outlive_the_command_that_started_them(tmp_path: Path) -> None:
    parent = _start_servers_in_another_process(tmp_path, die_with_parent=False)
    parent.kill()
    parent.communicate()
    for name in ("redis", "mongod"):
        identity = read_pid_file(tmp_path / name / f"{name}.pid")
        assert identity is not None
        assert not identity.wait(0.3)
        assert identity.end(grace_s=_GONE_S)


def _start_servers_in_another_process(directory: Path, *, die_with_parent: bool) -> subprocess.Popen[str]:
    """A Python that has started Redis and mongod and then waits."""
    program = f"""
import sys
from pathlib import Path
from scripts.servers import Mongod, RedisServer
base = Path(sys.argv[1])
for kind in (RedisServer, Mongod):
    kind(base / kind.name, die_with_parent={die_with_parent}).start()
print("started", flush=True)
sys.stdin.read()
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(directory)],
        cwd=_REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "started\n"
    return parent


def _processes_of(home: Path) -> list[int]:
    """Every process whose HOME is that directory."""
    wanted = f"HOME={home}".encode()
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in pids if wanted in _read(pid, "environ").split(b"\0")]


def _command_of(pid: int) -> str:
    return _read(pid, "comm").decode().strip()


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
