"""@stomp/stompjs in Node, as a StompClient, alone or over sockjs-client. js/driver.mjs is the other end of the pipe."""

import asyncio
import json
import shutil
import signal
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any, Self

from tests.e2e.clients import NO_HEARTBEAT, Heartbeat
from tests.e2e.frames import Frame, a
from tests.e2e.inbox import Inbox
from tests.e2e.waiting import PATIENCE_S

_DIRECTORY = Path(__file__).with_name("js")
_LINE_LIMIT_BYTES = 1024 * 1024


class DriverError(AssertionError):
    """The library refused a command, or Node is not there."""


def require_node() -> str:
    """The path of Node, once it and the packages are there in the versions of the lock file.

    Raises:
        DriverError: they are not; a missing client is a failure, not a reason to skip.
    """
    node = shutil.which("node")
    if node is None:
        raise DriverError("node is missing: install Node 20 or later")
    wanted = _packages(_DIRECTORY / "package-lock.json")
    installed = _packages(_DIRECTORY / "node_modules" / ".package-lock.json")
    if not wanted.items() <= installed.items():
        raise DriverError(f"run `npm ci` in {_DIRECTORY.name}/: wanted {wanted}, installed {installed}")
    return node


def _packages(lock: Path) -> dict[str, str]:
    if not lock.exists():
        return {}
    return {path: entry["version"] for path, entry in json.loads(lock.read_text())["packages"].items() if path}


class StompJs:
    """One Node process with one client of @stomp/stompjs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.inbox = Inbox("stompjs")
        self.heartbeats_received = 0
        self.heartbeats_sent = 0
        self.unhandled: list[Frame] = []
        self.close_codes: list[int] = []
        self._comes_back = False
        self._process = process
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = count(1)
        self._reader = asyncio.create_task(self._read(), name="reader of stompjs")

    @classmethod
    async def start(cls) -> Self:
        process = await asyncio.create_subprocess_exec(
            require_node(),
            str(_DIRECTORY / "driver.mjs"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_LIMIT_BYTES,
        )
        return cls(process)

    async def connect(
        self,
        base_url: str,
        *,
        version: str | None,
        headers: Mapping[str, str],
        heartbeat: Heartbeat = NO_HEARTBEAT,
        sockjs: str | None = None,
        reconnect_ms: int = 0,
    ) -> Frame:
        """`version` None: all that the library knows, as by default. `sockjs` names the transport to use instead of a
        WebSocket. `reconnect_ms` 0: a connection that ends is the end; otherwise the library comes back by itself."""
        self._comes_back = reconnect_ms > 0
        await self._call(
            "connect",
            url=f"{base_url}/sockjs" if sockjs else f"{base_url.replace('http', 'ws', 1)}/ws",
            sockjs=sockjs,
            reconnectDelay=reconnect_ms,
            versions=None if version is None else [version],
            headers=headers,
            heartbeatOutgoing=heartbeat.outgoing_ms,
            heartbeatIncoming=heartbeat.incoming_ms,
        )
        return await self.inbox.take(lambda frame: frame.command in ("CONNECTED", "ERROR"))

    async def subscribe(
        self, destination: str, id: str, headers: Mapping[str, str] | None = None, *, ack: str = "auto"
    ) -> Frame:
        wanted = {"id": id, "ack": ack, "receipt": f"subscribe {id}", **(headers or {})}
        await self._call("subscribe", destination=destination, headers=wanted)
        return await self.inbox.take(a("RECEIPT", receipt_id=wanted["receipt"]))

    async def unsubscribe(self, id: str) -> Frame:
        receipt = f"unsubscribe {id}"
        await self._call("unsubscribe", subscription=id, headers={"receipt": receipt})
        return await self.inbox.take(a("RECEIPT", receipt_id=receipt))

    async def send(self, destination: str, body: str, headers: Mapping[str, str]) -> None:
        await self._call("send", destination=destination, body=body, headers=headers)

    async def acknowledge(self, message: Frame) -> Frame:
        receipt = f"ack {message.headers['message-id']}"
        await self._call(
            "ack",
            subscription=message.headers["subscription"],
            messageId=message.headers["message-id"],
            headers={"receipt": receipt},
        )
        return await self.inbox.take(a("RECEIPT", receipt_id=receipt))

    async def disconnect(self) -> Frame:
        await self._call("disconnect", headers={"receipt": "goodbye"})
        return await self.inbox.take(a("RECEIPT", receipt_id="goodbye"))

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    async def close(self) -> None:
        if self._process.returncode is None:
            self.thaw()
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                await asyncio.wait_for(self._process.wait(), PATIENCE_S)
            except TimeoutError:
                self._process.kill()
                raise
        await self._reader

    async def _call(self, op: str, **arguments: object) -> None:
        number = next(self._numbers)
        reply: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._replies[number] = reply
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, "op": op, **arguments}).encode() + b"\n")
        await self._process.stdin.drain()
        answer = await asyncio.wait_for(reply, PATIENCE_S)
        if not answer["ok"]:
            raise DriverError(f"stompjs refused {op}: {answer['error']}")

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            told = json.loads(line)
            if "reply" in told:
                self._replies.pop(told["reply"]).set_result(told)
            else:
                self._happened(told)
        for reply in self._replies.values():
            reply.set_exception(DriverError("node has ended"))

    def _happened(self, told: dict[str, Any]) -> None:
        match told["event"]:
            case "frame":
                self.inbox.put(_frame(told))
            case "unhandled":
                self.unhandled.append(_frame(told))
            case "heartbeat-received":
                self.heartbeats_received += 1
            case "heartbeat-sent":
                self.heartbeats_sent += 1
            case "closed":
                self.close_codes.append(told["code"])
                if not self._comes_back:
                    self.inbox.close(told["code"], told["reason"])


def _frame(told: dict[str, Any]) -> Frame:
    return Frame(told["command"], told["headers"], told["body"])
