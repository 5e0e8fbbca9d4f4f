"""One process of ours: `python -m MODULE`, ready when its admin port says so."""

import http.client
import os
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path

from scripts.processes import free_port
from scripts.servers.base import PROBE_S, LocalServer

SERVICE_START_S = 60.0
"""A bound: an idle machine needs 1 to 2 s, several at once on two busy cores a multiple of that."""

SERVICE_STOP_S = 35.0
"""Longer than the default PARLEY_RUNTIME_DRAIN_S (25 s): a process that leaves in order is never cut off."""


class Kind(StrEnum):
    """What a process is; its name is the kind and a number, such as `chat-2`."""

    CHAT = "chat"
    PRESENCE = "presence"
    NOTIFY = "notify"
    EDGE = "edge"

    @property
    def module(self) -> str:
        return "edge" if self is Kind.EDGE else f"services.{self.value}"

    def exists_in(self, root: Path) -> bool:
        """Whether this checkout has that process."""
        return (root / self.module.replace(".", "/") / "__main__.py").exists()


class Service(LocalServer):
    """A process of one kind. Its environment is settled after all ports of the stack are known: `configure`."""

    start_timeout_s = SERVICE_START_S
    stop_grace_s = SERVICE_STOP_S

    def __init__(
        self,
        kind: Kind,
        number: int,
        directory: Path,
        *,
        root: Path,
        port: int | None = None,
        die_with_parent: bool = True,
    ) -> None:
        """`root` is the checkout whose code runs."""
        self.kind = kind
        self.name = f"{kind}-{number}"
        super().__init__(directory, port=port, die_with_parent=die_with_parent)
        self.admin_port = free_port()
        self.settings: Mapping[str, str] = {}
        self._root = root

    @property
    def address(self) -> str:
        """HOST:PORT where it serves: gRPC, and for an edge HTTP and WebSocket."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}" if self.kind is Kind.EDGE else f"dns:///{self.address}"

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    def configure(self, settings: Mapping[str, str]) -> None:
        """The variables it gets beyond those of this process; they count from the next start."""
        self.settings = settings

    def answers(self) -> bool:
        return is_ready(self.admin_port)

    def _argv(self) -> Sequence[str]:
        return [sys.executable, "-m", self.kind.module]

    def _env(self) -> Mapping[str, str]:
        return {**os.environ, "PYTHONUNBUFFERED": "1", **self.settings}

    def _cwd(self) -> Path:
        return self._root


def is_ready(admin_port: int) -> bool:
    """Whether the process says that it may take traffic. OSError means that nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", admin_port, timeout=PROBE_S)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except http.client.HTTPException:
        return False
    finally:
        connection.close()
