"""Plays a scenario of `js/` in Chromium, and does for it what only this side can: killing and starting the server.

A scenario is a program: it ends with 0 where everything was seen to hold. What it asks for is a line `ask NAME` on its
standard output, answered by a line on its standard input; everything else that it prints is shown when it fails.
"""

import asyncio
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

from scripts.processes import ProcessIdentity
from tests.e2e.deployments import Embedded

_JS = Path(__file__).with_name("js")
_ASK = "ask "
# A scenario takes 3 to 25 s on a quiet machine, and several times that beside other suites.
_PATIENCE_S = 200.0


class Stage:
    """A running Parley and a browser."""

    def __init__(self, deployment: Embedded) -> None:
        self._deployment = deployment

    async def play(self, scenario: str, extra_env: Mapping[str, str] | None = None) -> None:
        """
        Raises:
            AssertionError: something did not hold, or did not come in time; the text is what the scenario said.
        """
        node = await asyncio.create_subprocess_exec(
            _require("node"),
            str(_JS / f"{scenario}.mjs"),
            env={
                **os.environ,
                "PARLEY_URL": self._deployment.edges[0],
                "PARLEY_CHROMIUM": _require("chromium"),
                **(extra_env or {}),
            },
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            # Chromium is its child, and goes with it.
            start_new_session=True,
        )
        said: list[str] = []
        try:
            async with asyncio.timeout(_PATIENCE_S):
                code = await self._converse(node, said)
        except TimeoutError:
            raise AssertionError(f"{scenario}: not done within {_PATIENCE_S:g} s\n{''.join(said)}") from None
        finally:
            await _end(node)
            await asyncio.to_thread(self._heal)
        assert code == 0, f"{scenario}:\n{''.join(said)}"

    async def _converse(self, node: asyncio.subprocess.Process, said: list[str]) -> int:
        assert node.stdin is not None
        assert node.stdout is not None
        async for line in node.stdout:
            text = line.decode(errors="replace")
            if not text.startswith(_ASK):
                said.append(text)
                continue
            await asyncio.to_thread(self._do, text.removeprefix(_ASK).strip())
            node.stdin.write(b"done\n")
            await node.stdin.drain()
        return await node.wait()

    def _do(self, what: str) -> None:
        process = self._deployment.process
        match what:
            case "kill":
                process.kill()
            case "start":
                self._deployment.start()
            case "restart":
                self._deployment.restart()
            case _:
                raise AssertionError(f"a scenario asks for {what!r}: kill, start and restart are known")

    def _heal(self) -> None:
        if not self._deployment.process.is_alive:
            self._deployment.start()


async def _end(node: asyncio.subprocess.Process) -> None:
    if node.returncode is None:
        identity = ProcessIdentity.find(node.pid)
        if identity is not None:
            identity.send(signal.SIGKILL)
        await node.wait()


def _require(program: str) -> str:
    path = shutil.which(program)
    assert path is not None, f"{program} is missing: `make setup` installs it"
    return path
