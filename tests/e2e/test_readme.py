"""The README's example does what it says, copied as it stands."""

import asyncio
import re
from pathlib import Path

from tests.e2e.deployments import Deployment

_ROOT = Path(__file__).parents[2]
_JS = Path(__file__).parent / "js"
# Node 20 has no WebSocket of its own; a browser has.
_BROWSER = 'import { WebSocket as W } from "ws"; globalThis.WebSocket = W;\n'


def example(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", (_ROOT / "README.md").read_text(), re.DOTALL)
    return str(found)


async def test_the_example_sends_a_message_and_hears_it(embedded: Deployment) -> None:
    address = embedded.edges[0].removeprefix("http://")
    program = _BROWSER + example("js").replace("127.0.0.1:8080", address)
    node = await asyncio.create_subprocess_exec(
        "node",
        "--input-type=module",
        "-",
        cwd=_JS,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert node.stdin is not None
    assert node.stdout is not None
    try:
        node.stdin.write(program.encode())
        node.stdin.close()
        async with asyncio.timeout(20):
            printed = b""
            while b"content: 'hello'" not in printed:
                chunk = await node.stdout.read(4096)
                assert chunk, printed.decode()
                printed += chunk
    finally:
        node.kill()
        await node.wait()
