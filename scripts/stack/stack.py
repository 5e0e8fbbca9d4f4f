"""Bringing the whole stack up and down: order, failure on the way, and single processes in between.

Up: servers, then chat, presence and notify, then edges; each group starts together and is waited for. Down: the
opposite order, each group told together, with a bounded wait before force.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from scripts.processes import ProcessError, ProcessIdentity, read_pid_file
from scripts.servers import LocalServer, Mongod, RabbitNode, RedisServer
from scripts.stack.environment import Plan, environment_of
from scripts.stack.service import SERVICE_STOP_S, Kind, Service
from scripts.stack.state import ProcessState, StackState, remove_state, write_state

REPOSITORY = Path(__file__).parents[2]
DATABASE = "parley"
_SERVER = "server"

_GROUPS_DOWN: Sequence[tuple[str, ...]] = (
    (Kind.EDGE,),
    (Kind.CHAT, Kind.PRESENCE, Kind.NOTIFY),
    (RabbitNode.name, RedisServer.name, Mongod.name),
    ("epmd",),
)
"""What is stopped together, by the part of the name before the number."""


class Stack:
    """One stack in one directory. Data found there are used again.

    `processes` holds everything by name: `mongod`, `redis`, `rabbitmq`, `chat-1`, `presence-1`, `notify-1`,
    `edge-1`, … Kinds whose package does not exist in `root` are left out.
    """

    def __init__(
        self,
        base_dir: Path,
        *,
        edges: int = 1,
        chats: int = 1,
        edge_port: int | None = None,
        die_with_parent: bool = False,
        rabbitmq: bool = True,
        extra_env: Mapping[str, Mapping[str, str]] | None = None,
        root: Path = REPOSITORY,
    ) -> None:
        """`extra_env` maps a kind (`edge`) or a name (`edge-2`) to further variables; a name's win.

        `edge_port` is for the first edge; all other ports are free ones. `rabbitmq=False` leaves that server out,
        which saves its 10 s where nothing needs it.
        """
        self.base_dir = base_dir.absolute()
        self.base_dir.mkdir(parents=True, exist_ok=True)
        self._extra_env = extra_env or {}
        self.mongod = Mongod(self.base_dir / Mongod.name, die_with_parent=die_with_parent)
        self.redis = RedisServer(self.base_dir / RedisServer.name, die_with_parent=die_with_parent)
        self.rabbitmq: RabbitNode | None = None
        if rabbitmq:
            self.rabbitmq = RabbitNode(self.base_dir / RabbitNode.name, die_with_parent=die_with_parent)
        counts = {Kind.CHAT: chats, Kind.PRESENCE: 1, Kind.NOTIFY: 1, Kind.EDGE: edges}
        self.services = [
            Service(
                kind,
                number,
                self.base_dir / f"{kind}-{number}",
                root=root,
                port=edge_port if (kind, number) == (Kind.EDGE, 1) else None,
                die_with_parent=die_with_parent,
            )
            for kind, count in counts.items()
            if kind.exists_in(root)
            for number in range(1, count + 1)
        ]
        servers = [self.mongod, self.redis, *([self.rabbitmq] if self.rabbitmq else [])]
        self.processes: Mapping[str, LocalServer] = {each.name: each for each in [*servers, *self.services]}

    @property
    def edge_urls(self) -> list[str]:
        return [service.url for service in self.services if service.kind is Kind.EDGE]

    def start(self) -> Self:
        """Start everything and wait until all of it is ready.

        Raises:
            ProcessError: something runs already, or did not become ready; what was started has been stopped. The
                text carries the tail of the log concerned.
        """
        if running := leftovers(self.base_dir):
            raise ProcessError(f"runs already in {self.base_dir}: {', '.join(running)}")
        self._configure()
        for log in self.base_dir.glob("*/*.log"):
            log.unlink()
        try:
            for group in reversed(_GROUPS_DOWN):
                members = [each for name, each in self.processes.items() if _kind_of(name) in group]
                for member in members:
                    member.launch()
                for member in members:
                    member.wait_ready()
            self.write_state()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> list[str]:
        """Stop everything, edges first. Returns the names of those that had to be ended by force."""
        forced: list[str] = []
        for group in _GROUPS_DOWN:
            members = [each for name, each in self.processes.items() if _kind_of(name) in group]
            for member in members:
                if member.is_alive:
                    member.terminate()
            forced += [member.name for member in members if not member.stop()]
        remove_state(self.base_dir)
        return forced

    def kill(self, name: str) -> None:
        """SIGKILL to one process, and wait until it is gone."""
        self.processes[name].kill()

    def terminate(self, name: str) -> None:
        """SIGTERM to one process, without waiting: it begins to leave."""
        self.processes[name].terminate()

    def pause(self, name: str) -> None:
        self.processes[name].pause()

    def resume(self, name: str) -> None:
        self.processes[name].resume()

    def restart(self, name: str) -> None:
        """Stop one process where it still runs, start it on the same ports and wait until it is ready."""
        self.processes[name].restart()
        self.write_state()

    def write_state(self) -> None:
        write_state(self.base_dir, StackState(tuple(self._states())))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _configure(self) -> None:
        plan = Plan(
            mongo_url=self.mongod.url_of(DATABASE),
            redis_url=self.redis.url,
            amqp_url=self.rabbitmq.url if self.rabbitmq else "",
            dev_key_file=ensure_dev_key(self.base_dir / "dev-key.pem"),
            services=self.services,
        )
        for service in self.services:
            of_kind = self._extra_env.get(service.kind, {})
            of_name = self._extra_env.get(service.name, {})
            service.configure({**environment_of(service, plan), **of_kind, **of_name})

    def _states(self) -> Iterable[ProcessState]:
        for member in self.processes.values():
            for name, identity in member.processes.items():
                state = ProcessState(
                    name=name,
                    kind=_SERVER,
                    pid=identity.pid,
                    started_at_ticks=identity.started_at_ticks,
                    log=str(member.directory / f"{name}.log"),
                )
                yield _described(state, member) if name == member.name else state


def _described(state: ProcessState, member: LocalServer) -> ProcessState:
    state = replace(state, url=member.url, address=f"127.0.0.1:{member.port}")
    if isinstance(member, Service):
        return replace(state, kind=member.kind.value, admin_url=member.admin_url, env=dict(member.settings))
    return state


def leftovers(base_dir: Path) -> dict[str, ProcessIdentity]:
    """Every process of a stack in that directory that is alive, by name, whoever started it."""
    found = {path.stem: read_pid_file(path) for path in sorted(base_dir.glob("*/*.pid"))}
    return {name: identity for name, identity in found.items() if identity is not None and identity.is_alive}


def stop_leftovers(base_dir: Path) -> list[str]:
    """Stop a stack that another command started, edges first. Returns those that had to be ended by force."""
    running = leftovers(base_dir)
    forced: list[str] = []
    for group in _GROUPS_DOWN:
        members = {name: identity for name, identity in running.items() if _kind_of(name) in group}
        for identity in members.values():
            identity.ask_to_end()
        forced += [name for name, each in members.items() if not each.end(grace_s=SERVICE_STOP_S)]
    for path in base_dir.glob("*/*.pid"):
        path.unlink()
    remove_state(base_dir)
    return forced


def ensure_dev_key(path: Path) -> Path:
    """The Ed25519 private key (PEM) that signs development tokens; all edges of a stack share it."""
    if not path.exists():
        pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
    return path


def _kind_of(name: str) -> str:
    return name.rstrip("0123456789").rstrip("-")
