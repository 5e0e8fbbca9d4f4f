"""A RabbitMQ node of the distribution's package, without its service, user and directories."""

import os
import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from pamqp import base, commands, frame

from scripts.processes import LocalProcess, ProcessError, ProcessIdentity, free_port
from scripts.servers.base import LocalServer, accepts, find_program

RABBITMQ_START_S = 150.0
"""A bound; measured: 11 to 15 s on an idle 2-core machine (November 2026), half of it loading code."""

_FRAME_HEADER_BYTES = 7
_FRAME_END_BYTES = 1


class RabbitNode(LocalServer):
    """A RabbitMQ node with an epmd, a cookie and a home of its own, run by whoever calls.

    The scripts of the package are called directly: the wrapper on PATH insists on its own user and directory.
    """

    name = "rabbitmq"
    start_timeout_s = RABBITMQ_START_S
    stop_grace_s = 40.0

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        die_with_parent: bool = True,
        plugins: Sequence[str] = (),
        extra_config: str = "",
    ) -> None:
        """`plugins` such as `rabbitmq_web_stomp`; `extra_config`, for their ports, goes into
        rabbitmq.conf."""
        super().__init__(directory, port=port, die_with_parent=die_with_parent)
        self._plugins = plugins
        self._extra_config = extra_config
        self._distribution_port = free_port()
        self._epmd_port = free_port()
        self._epmd: LocalProcess | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def processes(self) -> Mapping[str, ProcessIdentity]:
        epmd = self._epmd.identity if self._epmd else None
        return {**super().processes, **({"epmd": epmd} if epmd else {})}

    def wait_ready(self) -> None:
        try:
            super().wait_ready()
        except ProcessError:
            self._stop_epmd()
            raise

    def stop(self) -> bool:
        went = super().stop()
        self._stop_epmd()
        return went

    def _prepare(self) -> None:
        cookie = self.directory / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(os.urandom(16).hex())
            cookie.chmod(0o400)
        (self.directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\ndisk_free_limit.absolute = 200MB\n{self._extra_config}\n"
        )
        (self.directory / "enabled_plugins").write_text(f"[{','.join(self._plugins)}].\n")
        self._start_epmd()

    def _start_epmd(self) -> None:
        """As a child of ours: started by the node it would be a daemon and outlive everybody."""
        if self._epmd is not None and self._epmd.is_alive:
            return
        epmd = str(find_program("epmd", hint="it comes with the Debian package rabbitmq-server"))
        process = self._local_process(
            "epmd", [epmd, "-port", str(self._epmd_port), "-address", "127.0.0.1"], self._env()
        )
        process.spawn()
        process.wait_ready(lambda: accepts(self._epmd_port), timeout_s=10)
        self._epmd = process

    def _stop_epmd(self) -> None:
        if self._epmd is not None:
            self._epmd.stop(grace_s=2)
        self._epmd = None

    def _argv(self) -> Sequence[str]:
        return [str(find_rabbitmq_server())]

    def _env(self) -> Mapping[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not re.match("RABBITMQ_|ERL_", name)}
        return inherited | {
            "HOME": str(self.directory),
            "RABBITMQ_NODENAME": "parley@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.directory),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(self.directory / "erlang-pid"),
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "enabled_plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_CRASH_DUMP_SECONDS": "0",
            # The script then becomes the node by exec instead of staying above it: one pid, signals reach the
            # node.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def answers(self) -> bool:
        return amqp_login_succeeds("127.0.0.1", self.port)


def find_rabbitmq_server() -> Path:
    """The newest installed rabbitmq-server script.

    Raises:
        ProcessError: there is none.
    """
    found = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server"), key=_version_of)
    if not found:
        raise ProcessError("rabbitmq-server is missing: `make setup` installs the Debian package rabbitmq-server")
    return found[-1]


def _version_of(script: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", script.parent.parent.name)]


def amqp_login_succeeds(host: str, port: int) -> bool:
    """Whether guest can open the default virtual host: the node is fully up then, not only listening."""
    answers: Mapping[str, Sequence[base.Frame]] = {
        "Connection.Start": [commands.Connection.StartOk({}, "PLAIN", "\0guest\0guest", "en_US")],
        "Connection.Tune": [commands.Connection.TuneOk(1, 131_072, 0), commands.Connection.Open("/")],
        "Connection.OpenOk": [commands.Connection.Close(200, "", 0, 0)],
    }
    with socket.create_connection((host, port), timeout=5) as connection:
        connection.sendall(b"AMQP\x00\x00\x09\x01")
        received = b""
        while chunk := connection.recv(4096):
            received += chunk
            received, names = _complete_frames(received)
            for name in names:
                if name == "Connection.CloseOk":
                    return True
                for answer in answers.get(name, []):
                    connection.sendall(frame.marshal(answer, 0))
    return False


def _complete_frames(received: bytes) -> tuple[bytes, list[str]]:
    """What is left over, and the names of the frames that were whole."""
    names = []
    overhead = _FRAME_HEADER_BYTES + _FRAME_END_BYTES
    while len(received) >= overhead and len(received) >= (
        size := int.from_bytes(received[3:_FRAME_HEADER_BYTES], "big") + overhead
    ):
        names.append(frame.unmarshal(received[:size])[2].name)
        received = received[size:]
    return received, names
