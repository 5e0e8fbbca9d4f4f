"""What the local servers have in common: one directory, one port, one process, one life."""

import shutil
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from scripts.processes import LocalProcess, ProcessError, ProcessIdentity, free_port, is_port_free

PROBE_S = 1.0
"""One attempt to reach a server that is starting."""


class LocalServer(ABC):
    """One server process: start, stop, and everything that can go wrong with it in between."""

    name: str
    start_timeout_s: float
    stop_grace_s: float = 20.0

    def __init__(self, directory: Path, *, port: int | None = None, die_with_parent: bool = True) -> None:
        """`directory` is made when missing; data found in it are used again, on the port they were used on.

        With `die_with_parent` the server ends with the Python process that started it, however that ends;
        without, it stays until somebody stops it by its pid.
        """
        self.directory = directory.absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._die_with_parent = die_with_parent
        self._process: LocalProcess | None = None
        self.port = port or self._recorded_port() or free_port()

    @property
    @abstractmethod
    def url(self) -> str:
        """Where a client connects."""

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def identity(self) -> ProcessIdentity:
        identity = self._running().identity
        if identity is None:
            raise ProcessError(f"{self.name} is not running")
        return identity

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.is_alive

    @property
    def log_file(self) -> Path:
        return self.directory / f"{self.name}.log"

    @property
    def processes(self) -> Mapping[str, ProcessIdentity]:
        """Everything of this server that runs now, by name."""
        identity = self._process.identity if self._process else None
        return {self.name: identity} if identity else {}

    def start(self) -> Self:
        """Start and wait until the server answers.

        Raises:
            ProcessError: it runs already (a leftover of a crashed run counts), or it did not become ready; the
                text carries the tail of its log.
        """
        self.launch()
        self.wait_ready()
        return self

    def launch(self) -> None:
        """Start without waiting, for callers who start several; `wait_ready` has to follow."""
        process = self._local_process(self.name, self._argv(), self._env())
        process.refuse_leftover()
        self._prepare()
        process.spawn()
        self._process = process
        (self.directory / "port").write_text(str(self.port))

    def wait_ready(self) -> None:
        """Raises ProcessError, after ending the process, when it does not answer within its time."""
        self._running().wait_ready(self.answers, timeout_s=self.start_timeout_s)

    def stop(self) -> bool:
        """End the server in its own orderly way; True when it needed no SIGKILL. Repeating it is harmless."""
        return self._process is None or self._process.stop(grace_s=self.stop_grace_s)

    def terminate(self) -> None:
        """SIGTERM without waiting: the server begins to leave. `stop` then waits, and ends it by force."""
        self.identity.ask_to_end()

    def kill(self) -> None:
        """SIGKILL: no farewell, connections are reset, data stay as the crash left them."""
        self._running().kill()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        self._running().pause()

    def resume(self) -> None:
        self._running().resume()

    def restart(self) -> None:
        """Stop when it still runs, then start on the same port with the same data."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @abstractmethod
    def _argv(self) -> Sequence[str]: ...

    def _env(self) -> Mapping[str, str] | None:
        return None

    def _cwd(self) -> Path:
        return self.directory

    def _prepare(self) -> None:  # noqa: B027 - a hook; most servers need nothing
        """What has to be there before the process starts."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether the server does real work for a client now; OSError means not yet."""

    def _local_process(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None) -> LocalProcess:
        return LocalProcess(
            name,
            argv,
            directory=self.directory,
            env=env,
            cwd=self._cwd(),
            die_with_parent=self._die_with_parent,
        )

    def _running(self) -> LocalProcess:
        if self._process is None:
            raise ProcessError(f"{self.name} has not been started")
        return self._process

    def _recorded_port(self) -> int | None:
        try:
            port = int((self.directory / "port").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return port if is_port_free(port) else None


def find_program(name: str, *, hint: str) -> Path:
    """A program on PATH.

    Raises:
        ProcessError: it is not there; `hint` tells how to get it.
    """
    found = shutil.which(name)
    if found is None:
        raise ProcessError(f"{name} is missing: {hint}")
    return Path(found)


def accepts(port: int) -> bool:
    """Whether somebody accepts connections on this port of 127.0.0.1; OSError where nobody does."""
    with socket.create_connection(("127.0.0.1", port), timeout=PROBE_S):
        return True
