"""`python -m services`: everything in one process, the embedded default.

The same code as the full deployment, over real gRPC on loopback, with SQLite for what must last and in-process
stand-ins for the brokers. Nothing else has to run, and nothing is installed. Development tokens are on.
"""

import os
import sys
from collections.abc import Awaitable, Callable, Sequence

from edge.app import PublicServer
from edge.app import build as build_edge
from edge.config import EdgeSettings
from services.chat.app import build as build_chat
from services.chat.config import ChatSettings
from services.chat.jobs import Job
from services.notify.app import build as build_notify
from services.notify.app import queue_options
from services.notify.config import NotifySettings
from services.notify.queue import Outgoing, open_queue
from services.presence.app import build as build_presence
from services.presence.config import PresenceSettings
from services.runtime.config import ConfigError, RuntimeSettings, exit_for, load
from services.runtime.process import Process, run
from services.runtime.server import GrpcServer

# What embedding decides; everything else may be set as for the separate processes.
_DEFAULTS = {
    "PARLEY_CHAT_LISTEN": "127.0.0.1:0",
    "PARLEY_PRESENCE_LISTEN": "127.0.0.1:0",
    "PARLEY_NOTIFY_LISTEN": "127.0.0.1:0",
    # One process starts and ends with its edge: nobody else has to report before it is known who is offline.
    "PARLEY_PRESENCE_SETTLE_S": "1",
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
        chat, presence, notify, edge, runtime = load(
            ChatSettings,
            PresenceSettings,
            NotifySettings,
            EdgeSettings,
            RuntimeSettings,
            environ=_DEFAULTS | dict(os.environ),
        )
    except ConfigError as error:
        exit_for(error)

    async def build(process: Process) -> None:
        process.add_admin()
        process.add(_Services(process, chat, presence, notify, edge), "services")

    return run("parley", runtime, build)


class _Services:
    """Adds the services one after the other: each needs the ports of those before it."""

    def __init__(
        self,
        process: Process,
        chat: ChatSettings,
        presence: PresenceSettings,
        notify: NotifySettings,
        edge: EdgeSettings,
    ) -> None:
        self._process = process
        self._chat = chat
        self._presence = presence
        self._notify = notify
        self._edge = edge

    async def start(self) -> None:
        presence = await build_presence(self._process, self._presence)
        self._process.add(_Then(lambda: self._add_notify_and_chat(presence)), "notify and chat")

    async def stop(self) -> None:
        return None

    async def _add_notify_and_chat(self, presence: GrpcServer) -> None:
        targets = {"presence_targets": _targets(presence)}
        queue = open_queue(self._notify.queue_url, queue_options(self._notify))
        notify = await build_notify(self._process, self._notify.model_copy(update=targets), queue=queue)

        async def take(jobs: Sequence[Job]) -> None:
            await queue.publish([Outgoing(job.job_id, job.body) for job in jobs])

        chat = await build_chat(self._process, self._chat.model_copy(update=targets), take_jobs=take)
        self._process.add(_Then(lambda: self._add_edge(presence, notify, chat)), "edge")

    async def _add_edge(self, presence: GrpcServer, notify: GrpcServer, chat: GrpcServer) -> None:
        targets = {
            "chat_targets": _targets(chat),
            "presence_targets": _targets(presence),
            "notify_targets": _targets(notify),
        }
        public = await build_edge(self._process, self._edge.model_copy(update=targets))
        self._process.add(_Welcome(public, self._edge, self._chat.store_url), "welcome")


class _Then:
    """Adds further components once those before it listen, because only then are their ports known."""

    def __init__(self, add: Callable[[], Awaitable[None]]) -> None:
        self._add = add

    async def start(self) -> None:
        await self._add()

    async def stop(self) -> None:
        return None


def _targets(server: GrpcServer) -> tuple[str, ...]:
    return (f"127.0.0.1:{server.port}",)


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
