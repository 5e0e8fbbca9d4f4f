"""The two ways to run the code, as the tests meet them: addresses, processes by name, logs and exit codes.

Everything is started here and ended here, by its own pid. Directories lie under `.local/tests/` and are removed by
the session that comes after.
"""

import os
import re
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from scripts.processes import LocalProcess, free_port
from scripts.stack import Kind, Stack
from scripts.stack.stack import ensure_dev_key
from tests.support.push_services import pem_of

REPOSITORY = Path(__file__).parents[2]

READY_S = 60.0
"""For a machine on which other suites run too; an idle one needs 2 s."""

ROOMY_LIMITS = {
    "PARLEY_EDGE_SENDS_PER_SECOND": "100000",
    "PARLEY_EDGE_SENDS_BURST": "100000",
}
"""Tests of order and loss send as fast as the machine can; the limits themselves have tests elsewhere."""

QUICK_HEARTBEATS = {"PARLEY_EDGE_HEART_BEAT_MS": "1000"}
"""The default is 10 s, and a test of heart-beats has to sit through several of them."""

CONNECT_LIMIT_S = 4.0
QUICK_CONNECT_LIMIT = {"PARLEY_EDGE_CONNECT_TIMEOUT_S": f"{CONNECT_LIMIT_S:g}"}
"""The default is 10 s."""

QUICK_PRESENCE = {"PARLEY_PRESENCE_GRACE_S": "1", "PARLEY_PRESENCE_SETTLE_S": "1"}
"""A test has to sit through the grace (5 s by default) to see somebody go. A deployment starts and ends as one: nobody
has to be waited for (15 s) before it is known who is offline."""

PUSH_KEY = ec.generate_private_key(ec.SECP256R1())
"""VAPID: the one key that a browser of this session accepts pushes from."""

WEB_PUSH = {
    "PARLEY_NOTIFY_VAPID_PRIVATE_KEY": pem_of(PUSH_KEY),
    "PARLEY_NOTIFY_VAPID_SUBJECT": "mailto:ops@example.org",
    "PARLEY_NOTIFY_WEBPUSH_PRIVATE_ENDPOINTS": "true",
}
"""The push service of the tests is at a loopback address."""

DRAIN_S = 10.0
"""A time to leave that a test can sit through (the default is 25 s)."""

_BAD_IN_A_LOG = re.compile(
    r'Traceback|"level":\s*"(warning|error|critical)"|Task was destroyed|never awaited|pending task', re.IGNORECASE
)


class Deployment(Protocol):
    """What runs, from the outside."""

    name: str

    @property
    def edges(self) -> Sequence[str]:
        """Base URLs of the public ports."""
        ...

    @property
    def dev_key(self) -> bytes:
        """PEM of the private key that development tokens are signed with."""
        ...

    @property
    def processes(self) -> Sequence[str]:
        """Names of the processes with our code."""
        ...

    def pid(self, process: str) -> int: ...

    def log(self, process: str) -> str:
        """What the process has written since the deployment began."""
        ...


class Embedded:
    """`python -m services`: everything in one process, SQLite for what lasts."""

    name = "embedded"
    processes = ("services",)

    def __init__(self, directory: Path, extra_env: Mapping[str, str]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._address = f"127.0.0.1:{free_port()}"
        self._dev_key = ensure_dev_key(directory / "dev-key.pem")
        self.chat_file = directory / "parley.sqlite"
        self.notify_file = directory / "notify.sqlite"
        self.process = LocalProcess(
            "services",
            [sys.executable, "-m", "services"],
            directory=directory,
            cwd=REPOSITORY,
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")},
                "PYTHONUNBUFFERED": "1",
                "PARLEY_EDGE_LISTEN": self._address,
                "PARLEY_EDGE_DEV_KEY_FILE": str(self._dev_key),
                "PARLEY_CHAT_STORE_URL": f"sqlite:///{self.chat_file}",
                "PARLEY_NOTIFY_STORE_URL": f"sqlite:///{self.notify_file}",
                "PARLEY_RUNTIME_ADMIN_PORT": "0",
                **extra_env,
            },
        )

    @property
    def edges(self) -> Sequence[str]:
        return [f"http://{self._address}"]

    @property
    def dev_key(self) -> bytes:
        return self._dev_key.read_bytes()

    def start(self) -> None:
        self.process.spawn()
        self.process.wait_ready(lambda: answers(f"{self.edges[0]}/readyz"), timeout_s=READY_S)

    def stop(self) -> None:
        self.process.stop()

    def terminate(self) -> None:
        """SIGTERM, without waiting."""
        identity = self.process.identity
        assert identity is not None
        identity.send(signal.SIGTERM)

    def restart(self) -> None:
        self.process.stop()
        self.start()

    def pid(self, process: str) -> int:
        return self.process.pid

    def log(self, process: str) -> str:
        return self.process.log_file.read_text()


class FullStack:
    """Real servers, two edges and two chat replicas, each process its own."""

    name = "stack"

    def __init__(self, directory: Path, extra_env: Mapping[str, Mapping[str, str]], *, rabbitmq: bool) -> None:
        self._directory = directory
        self.stack = Stack(directory, edges=2, chats=2, die_with_parent=True, rabbitmq=rabbitmq, extra_env=extra_env)

    @property
    def edges(self) -> Sequence[str]:
        return self.stack.edge_urls

    @property
    def dev_key(self) -> bytes:
        return (self._directory / "dev-key.pem").read_bytes()

    @property
    def processes(self) -> Sequence[str]:
        return [service.name for service in self.stack.services]

    def of_kind(self, kind: Kind) -> list[str]:
        return [service.name for service in self.stack.services if service.kind is kind]

    def start(self) -> None:
        self.stack.start()
        for edge in self.edges:
            wait_until_answers(f"{edge}/readyz")

    def stop(self) -> None:
        self.stack.stop()

    def heal(self) -> None:
        """Start again whatever is not there."""
        for service in self.stack.services:
            if not service.is_alive:
                service.restart()
        for edge in self.edges:
            wait_until_answers(f"{edge}/readyz")

    def pid(self, process: str) -> int:
        return self.stack.processes[process].pid

    def log(self, process: str) -> str:
        return self.stack.processes[process].log_file.read_text()


def answers(url: str) -> bool:
    """Whether there is a 200; OSError where nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return int(response.status) == 200
    except urllib.error.HTTPError:
        return False


def wait_until_answers(url: str) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        try:
            if answers(url):
                return
        except OSError:
            pass  # not yet
        if time.monotonic() > deadline:
            raise AssertionError(f"{url} does not answer 200 within {READY_S:g} s")
        time.sleep(0.05)


def find_exit_code(pid: int) -> int | None:
    """How a child has ended: its code, or minus the signal; None while it runs. It stays for others to wait for."""
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def bad_lines(log: str) -> list[str]:
    """The lines of a log that nobody wants to see after an orderly end."""
    return [line for line in log.splitlines() if _BAD_IN_A_LOG.search(line)]
