"""`python -m services`: everything in one process, the embedded default.

The same code as the full deployment, over real gRPC on loopback, with SQLite for what must last and in-process
stand-ins for the brokers. Nothing else has to run, and nothing is installed. Development tokens are on.
"""

import os
import sys

from edge.app import PublicServer
from edge.app import build as build_edge
from edge.config import EdgeSettings
from services.chat.app import build as build_chat
from services.chat.config import ChatSettings
from services.runtime.config import ConfigError, RuntimeSettings, exit_for, load
from services.runtime.process import Process, run
from services.runtime.server import GrpcServer

# What embedding decides; everything else may be set as for the separate processes.
_DEFAULTS = {
    "PARLEY_CHAT_LISTEN": "127.0.0.1:0",
    "PARLEY_EDGE_DEV_TOKENS": "true",
    "PARLEY_RUNTIME_ADMIN_PORT": "0",
    "PARLEY_RUNTIME_LOG_LEVEL": "warning",
    "PARLEY_RUNTIME_DRAIN_S": "10",
}

_WELCOME = """\
Parley is at  http://{host}:{port}

  Open it in two browser windows, choose two names, and talk.
  STOMP over WebSocket   ws://{host}:{port}/ws
  HTTP API               http://{host}:{port}/api/v1/openapi.json
  A token for anybody    curl --json '{{"userId": "alice"}}' http://{host}:{port}/api/v1/dev/token

Messages are kept in {store}. Stop with Ctrl-C.
"""


def main() -> int:
    try:
        chat, edge, runtime = load(ChatSettings, EdgeSettings, RuntimeSettings, environ=_DEFAULTS | dict(os.environ))
    except ConfigError as error:
        exit_for(error)

    async def build(process: Process) -> None:
        process.add_admin()
        chat_server = await build_chat(process, chat)
        process.add(_EdgeLater(process, edge, chat_server, chat.store_url), "edge")

    return run("parley", runtime, build)


class _EdgeLater:
    """Adds the edge's components once chat listens, because only then is its port known."""

    def __init__(self, process: Process, settings: EdgeSettings, chat_server: GrpcServer, store_url: str) -> None:
        self._process = process
        self._settings = settings
        self._chat_server = chat_server
        self._store_url = store_url

    async def start(self) -> None:
        targets = (f"127.0.0.1:{self._chat_server.port}",)
        public = await build_edge(self._process, self._settings.model_copy(update={"chat_targets": targets}))
        self._process.add(_Welcome(public, self._settings, self._store_url), "welcome")

    async def stop(self) -> None:
        return None


class _Welcome:
    """The last to start: says where everything is."""

    def __init__(self, public: PublicServer, settings: EdgeSettings, store_url: str) -> None:
        self._public = public
        self._host = settings.listen.rpartition(":")[0]
        self._store = store_url.removeprefix("sqlite:///")

    async def start(self) -> None:
        sys.stdout.write(_WELCOME.format(host=self._host, port=self._public.port, store=self._store))
        sys.stdout.flush()

    async def stop(self) -> None:
        return None


if __name__ == "__main__":
    sys.exit(main())
