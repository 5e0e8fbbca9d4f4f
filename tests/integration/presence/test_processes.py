"""`python -m services.presence` as processes of their own, which are killed and frozen."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.model import UserId
from scripts.processes import LocalProcess, free_port
from scripts.servers import RedisServer
from tests.e2e.waiting import eventually
from tests.integration.presence.world import (
    A_MOMENT_S,
    ALICE,
    AWAY,
    BOB,
    BUSY,
    CAROL,
    GRACE_S,
    OFFLINE,
    ONLINE,
    SETTLE_S,
    TICK_S,
    Service,
    World,
    never,
)

_ROOT = Path(__file__).parents[3]
# A frozen replica is noticed after two seconds of silence: a renewal that begins two seconds after the last one, and
# hangs there so long, must not cost the lease.
_TTL_S = 6.0


class Replica(LocalProcess):
    """One replica, on a port of its own."""

    def __init__(self, directory: Path, name: str, **settings: str) -> None:
        self.port = free_port()
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PARLEY_")}
        super().__init__(
            name,
            [sys.executable, "-m", "services.presence"],
            directory=directory,
            env=environment
            | {"PARLEY_PRESENCE_LISTEN": f"127.0.0.1:{self.port}", "PARLEY_RUNTIME_ADMIN_PORT": "0"}
            | settings,
        )

    def wait_accepting(self) -> None:
        self.wait_ready(self._accepts, timeout_s=30)

    def _accepts(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True

    def as_service(self) -> Service:
        """For `World.start_edge`, which only wants to know where it is."""
        service = Service("memory://elsewhere", "")
        service.port = self.port
        return service


@pytest.fixture
def replicas(own_redis: RedisServer, tmp_path: Path) -> Iterator[list[Replica]]:
    settings = {
        "PARLEY_PRESENCE_STORE_URL": own_redis.url,
        "PARLEY_PRESENCE_LEASE_TTL_S": str(_TTL_S),
        "PARLEY_PRESENCE_GRACE_S": str(GRACE_S),
        "PARLEY_PRESENCE_SETTLE_S": str(SETTLE_S),
        "PARLEY_PRESENCE_TICK_S": str(TICK_S),
        "PARLEY_PRESENCE_COALESCE_MS": "100",
    }
    replicas = [Replica(tmp_path, f"presence-{number}", **settings) for number in range(3)]
    for replica in replicas:
        replica.spawn()
    for replica in replicas:
        replica.wait_accepting()
    yield replicas
    for replica in replicas:
        replica.stop()


def test_it_runs_with_its_defaults_and_leaves_when_asked(tmp_path: Path) -> None:
    replica = Replica(tmp_path, "presence")
    replica.spawn()
    replica.wait_accepting()
    child = replica._child
    assert child is not None
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=10) == 0
    replica.stop()
    assert '"level":"error"' not in replica.log_tail()


def test_settings_that_cannot_be_used_stop_it_with_an_explanation(tmp_path: Path) -> None:
    replica = Replica(tmp_path, "presence", PARLEY_PRESENCE_LEASE_TTL="15", PARLEY_PRESENCE_TICK_S="0")
    replica.spawn()
    child = replica._child
    assert child is not None
    assert child.wait(timeout=20) == 1
    assert "PARLEY_PRESENCE_LEASE_TTL: no such setting; the closest is PARLEY_PRESENCE_LEASE_TTL_S" in (
        replica.log_tail()
    )
    assert "PARLEY_PRESENCE_TICK_S: expected float" in replica.log_tail()
    replica.stop()


async def test_replicas_that_are_gone_without_a_word_are_missed_by_nobody(
    fragile: World, replicas: list[Replica]
) -> None:
    killed, frozen, _ = replicas
    services = [replica.as_service() for replica in replicas]
    edges = [await fragile.start_edge(*services) for _ in range(3)]
    watchers = [edge.watch(CAROL, ALICE, BOB) for edge in edges]
    for number, edge in enumerate(edges):
        edge.open(f"alice-{number}", ALICE)
    for watcher in watchers:
        await watcher.comes_to_see(ALICE, ONLINE)
        await watcher.comes_to_see(BOB, OFFLINE)
    already = [len(watcher.told) for watcher in watchers]
    killed.kill()
    frozen.pause()

    def are_up(count: int) -> bool:
        return all(edge.metrics.registry.get_sample_value(*_UP) == count for edge in edges)

    await eventually(lambda: are_up(1))
    renewals = [edge.reports("renewal") for edge in edges]
    await eventually(lambda: all(edge.reports("renewal") > once for edge, once in zip(edges, renewals, strict=True)))
    assert [edge.reports("full") for edge in edges] == [1] * len(edges), "no lease has run out"
    assert [len(each.told) for each in watchers] == already
    edges[0].open("bob", BOB)
    for watcher in watchers:
        await watcher.comes_to_see(BOB, ONLINE)
    frozen.resume()
    killed.spawn()
    edges[0].presence.set_status("bob", AWAY)
    for watcher in watchers:
        await watcher.comes_to_see(BOB, AWAY)
    await never(lambda: any(watcher.saw_leave(ALICE) for watcher in watchers), for_s=GRACE_S + 0.3)
    await eventually(lambda: are_up(len(replicas)))
    edges[1].presence.set_status("alice-1", BUSY)
    fresh = edges[2].watch(BOB, ALICE)
    await fresh.comes_to_see(ALICE, BUSY)


@pytest.fixture
def start_edge_process(tmp_path: Path) -> Iterator[Callable[..., LocalProcess]]:
    """Starts edges with a session for each user; those that still run are killed when the test ends."""
    started: list[LocalProcess] = []

    def start(service: Service, *user_ids: UserId) -> LocalProcess:
        command = [sys.executable, "-m", "tests.integration.presence.edge_process", service.target, *user_ids]
        started.append(LocalProcess(f"edge-{len(started)}", command, directory=tmp_path, cwd=_ROOT))
        started[-1].spawn()
        return started[-1]

    yield start
    for process in started:
        process.kill()


async def test_the_users_of_a_killed_edge_are_gone_when_its_ttl_is_over(
    redis_world: World, start_edge_process: Callable[..., LocalProcess]
) -> None:
    """It has reported just before, and the grace does not come on top of that."""
    ttl_s, grace_s = 1.6, 1.5
    service = await redis_world.start_service(lease_ttl_s=ttl_s, grace_s=grace_s)
    staying = await redis_world.start_edge()
    users = [UserId(f"user-{number}") for number in range(30)]
    watcher = staying.watch(CAROL, ALICE, *users)
    staying.open("alice", ALICE)
    dying = start_edge_process(service, ALICE, *users)
    for user_id in (ALICE, *users):
        await watcher.comes_to_see(user_id, ONLINE)
    died_at = time.monotonic()
    dying.kill()
    gone_at = [await watcher.comes_to_see(user_id, OFFLINE) for user_id in users]
    assert max(gone_at) - died_at <= ttl_s + 2 * TICK_S + A_MOMENT_S < ttl_s + grace_s
    assert min(gone_at) - died_at >= ttl_s / 3, "its lease has to end, whatever became of its connections"
    assert not watcher.saw_leave(ALICE)


_UP = ("parley_edge_replicas_up", {"service": "presence"})
