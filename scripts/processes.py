"""Starting, signalling and recognising processes of this machine.

Every process gets a session and process group of its own, so that Ctrl-C in a terminal reaches only the
command that started it and a signal reaches what it started too. A process is known by its pid *and* its start
time: a pid alone may belong to somebody else by the time it is read back from a file.

Linux only: it reads /proc.
"""

import atexit
import functools
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_POLL_S = 0.02
_TAIL_LINES = 30
_FIRST_PORT = 20_000
"""Ports are taken from here up to where the kernel's own (for outgoing connections) begin. One of the
kernel's could be taken by any connection while a server restarts; one of these is taken only by somebody who
asks for it."""


class ProcessError(RuntimeError):
    """A process did not start, did not become ready or did not end; the text carries the tail of its log."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process of this machine that cannot be mistaken for a later one with the same pid."""

    pid: int
    started_at_ticks: int

    @classmethod
    def find(cls, pid: int) -> Self | None:
        """The process that has this pid now; None when there is none, or only its unreaped remains."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            return None
        return None if fields[0] in (b"Z", b"X") else cls(pid, int(fields[19]))

    @property
    def is_alive(self) -> bool:
        return ProcessIdentity.find(self.pid) == self

    def send(self, number: signal.Signals) -> None:
        """Signal the process and its group; nothing happens when it is gone already."""
        if self.is_alive:
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                return

    def ask_to_end(self) -> None:
        """SIGTERM without waiting; a stopped process is woken, it could not answer otherwise."""
        self.send(signal.SIGTERM)
        self.send(signal.SIGCONT)

    def wait(self, timeout_s: float) -> bool:
        """Whether the process was gone within the time."""
        deadline = time.monotonic() + timeout_s
        while self.is_alive:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True

    def end(self, *, grace_s: float) -> bool:
        """End the process, kindly first. Returns whether it went by itself, without SIGKILL.

        Raises:
            ProcessError: it is still there after SIGKILL.
        """
        self.ask_to_end()
        if self.wait(grace_s):
            return True
        self.send(signal.SIGKILL)
        if not self.wait(10):
            raise ProcessError(f"process {self.pid} is still there after SIGKILL")
        return False


class LocalProcess:
    """One child process with its log and its pid file.

    The pid file lets a later run find a process that a crashed one left: it is never taken over, `start`
    refuses.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        directory: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        die_with_parent: bool = True,
    ) -> None:
        """`directory` gets NAME.log and NAME.pid; `env` is the whole environment (None: this process's)."""
        self.name = name
        self.argv = list(argv)
        self.env = env
        self.log_file = directory / f"{name}.log"
        self.pid_file = directory / f"{name}.pid"
        self._cwd = cwd
        self._die_with_parent = die_with_parent
        self._child: subprocess.Popen[bytes] | None = None
        self.identity: ProcessIdentity | None = None

    @property
    def pid(self) -> int:
        if self.identity is None:
            raise ProcessError(f"{self.name} has not been started")
        return self.identity.pid

    @property
    def is_alive(self) -> bool:
        return self.identity is not None and self.identity.is_alive

    def refuse_leftover(self) -> None:
        """Raises ProcessError when the process that the pid file names is still there."""
        leftover = read_pid_file(self.pid_file)
        if leftover is not None and leftover.is_alive:
            raise ProcessError(
                f"{self.name} runs already as process {leftover.pid} (from {self.pid_file}): end that first"
            )

    def spawn(self) -> None:
        """Start the process; it need not be ready yet.

        Raises:
            ProcessError: it runs already, here or left by an earlier run, or its program cannot be executed.
        """
        self.refuse_leftover()
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("ab") as log:
            try:
                child = subprocess.Popen(
                    self.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self.env,
                    cwd=self._cwd,
                    start_new_session=True,
                )
            except OSError as failure:
                raise ProcessError(f"{self.name} cannot be started: {failure}") from failure
        # A child that died at once is a zombie until it is polled: `find` gives None, `wait_ready` tells the
        # story.
        self._child = child
        self.identity = ProcessIdentity.find(child.pid) or ProcessIdentity(child.pid, 0)
        if self._die_with_parent:
            _guard().add(self.identity)
        write_pid_file(self.pid_file, self.identity)

    def wait_ready(self, probe: Callable[[], bool], *, timeout_s: float) -> None:
        """Ask `probe` until it agrees; it may raise OSError for "not yet". On failure the process is killed.

        Raises:
            ProcessError: the process ended, or was not ready in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            if not self.is_alive:
                self._forget()
                raise ProcessError(f"{self.name} ended while starting\n{self.log_tail()}")
            try:
                if probe():
                    return
            except OSError as not_yet:
                last: str = str(not_yet)
            else:
                last = "not ready"
            if time.monotonic() > deadline:
                self.kill()
                raise ProcessError(f"{self.name} was not ready in {timeout_s:g} s ({last})\n{self.log_tail()}")
            time.sleep(_POLL_S)

    def stop(self, *, grace_s: float = 15) -> bool:
        """SIGTERM, a bounded wait, SIGKILL. Returns whether it went by itself (also when it was not
        there)."""
        went = self.identity.end(grace_s=grace_s) if self.identity is not None else True
        self._forget()
        return went

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self.identity is not None:
            self.identity.send(signal.SIGKILL)
            if not self.identity.wait(10):
                raise ProcessError(f"{self.name} (process {self.identity.pid}) is still there after SIGKILL")
        self._forget()

    def pause(self) -> None:
        """SIGSTOP: it holds its connections and answers nothing."""
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        self._send(signal.SIGCONT)

    def log_tail(self) -> str:
        return tail(self.log_file)

    def _send(self, number: signal.Signals) -> None:
        if self.identity is None or not self.identity.is_alive:
            raise ProcessError(f"{self.name} is not running")
        self.identity.send(number)

    def _forget(self) -> None:
        if self.identity is not None and self._die_with_parent:
            _guard().remove(self.identity)
        if self._child is not None:
            self._child.wait()
        self._child = None
        self.identity = None
        self.pid_file.unlink(missing_ok=True)


class _Guard:
    """The one process that outlives this one just long enough to end its children."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("guard.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(script)],
            stdin=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )

    def add(self, identity: ProcessIdentity) -> None:
        self._tell(f"+ {identity.pid} {identity.started_at_ticks}\n")

    def remove(self, identity: ProcessIdentity) -> None:
        self._tell(f"- {identity.pid}\n")

    def close(self) -> None:
        """Let the guard end what is still listed, as if this process were gone."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        if self._process.stdin is None:
            raise ProcessError("the guard process has no pipe")
        self._process.stdin.write(line)
        self._process.stdin.flush()


@functools.cache
def _guard() -> _Guard:
    guard = _Guard()
    atexit.register(guard.close)
    return guard


def read_pid_file(path: Path) -> ProcessIdentity | None:
    """What `write_pid_file` wrote; None when there is no such file or it is not one of ours."""
    try:
        pid, started_at_ticks = (int(number) for number in path.read_text().split())
    except (FileNotFoundError, ValueError):
        return None
    return ProcessIdentity(pid, started_at_ticks)


def write_pid_file(path: Path, identity: ProcessIdentity) -> None:
    path.write_text(f"{identity.pid} {identity.started_at_ticks}\n")


def tail(path: Path, lines: int = _TAIL_LINES) -> str:
    """The end of a log, headed by its name."""
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return f"({path} was not written)"
    return "\n".join([f"--- the end of {path}", *text.splitlines()[-lines:]])


def is_port_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on and that outgoing connections do not take."""
    ephemeral = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    last = int(ephemeral[0]) if int(ephemeral[0]) > _FIRST_PORT + 1_000 else 65_535
    for _ in range(200):
        port = random.randrange(_FIRST_PORT, last)
        if port not in _handed_out and is_port_free(port):
            _handed_out.add(port)
            return port
    raise ProcessError(f"no free port between {_FIRST_PORT} and {last}")


_handed_out: set[int] = set()
"""Two servers of this process must not be given one port before the first of them listens."""
