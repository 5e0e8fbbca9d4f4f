"""redis-server of the distribution."""

import socket
from collections.abc import Sequence
from pathlib import Path

from scripts.servers.base import PROBE_S, LocalServer, find_program

REDIS_START_S = 20.0
"""A bound, not an expectation: 0.05 s on an idle 2-core machine (November 2026)."""


class RedisServer(LocalServer):
    """A Redis that keeps nothing on disk: what is in it may be lost, by design."""

    name = "redis"
    start_timeout_s = REDIS_START_S

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        die_with_parent: bool = True,
        arguments: Sequence[str] = (),
    ) -> None:
        """`arguments` are further ones for redis-server, such as `--maxmemory 64mb`, each word by itself."""
        super().__init__(directory, port=port, die_with_parent=die_with_parent)
        self._arguments = arguments

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _argv(self) -> Sequence[str]:
        return [
            str(find_program("redis-server", hint="`make setup` installs the Debian package redis-server")),
            *("--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.directory)),
            *("--save", "", "--appendonly", "no", "--daemonize", "no"),
            *self._arguments,
        ]

    def answers(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), timeout=PROBE_S) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
