"""A whole process: `python -m tests.integration.runtime.sample_process [die|leak|fail|talk]`."""

import asyncio
import logging
import sys
import warnings
from contextlib import suppress

from services.runtime.config import ConfigError, RuntimeSettings, exit_for, load
from services.runtime.process import Process, run
from services.runtime.server import GrpcServer
from tests.integration.runtime.loopback import SERVICE, CallBroken, Sample, loopback


async def die() -> None:
    await asyncio.sleep(0.05)
    raise KeyError("the task's own trouble")


async def build(process: Process) -> None:
    mode = sys.argv[1] if len(sys.argv) > 1 else ""
    process.add_admin()
    for port_name in ("first", "second"):  # two services in one process, as in the embedded mode
        server = GrpcServer.from_settings("127.0.0.1:0", process.settings, metrics=process.metrics)
        server.add(Sample().register, SERVICE)
        process.add_server(server, port_name)
    logging.getLogger("some.library").warning("connected to %s", "mongodb://user:pw@host")
    warnings.warn("an old way of doing things", DeprecationWarning, stacklevel=1)
    if mode == "talk":
        process.add(Talker(), "talker")
    if mode == "die":
        process.tasks.spawn(die(), "fragile")
    if mode == "leak":
        process.on_stop(leak, "leaky")
    if mode == "fail":
        raise OSError("cannot reach mongodb://user:pw@host")


class Talker:
    """A client of its own process whose server goes away under it: gRPC's C core would tell stderr about that."""

    async def start(self) -> None:
        async with loopback() as peer:
            call = peer.unary_stream(b"wait")
            await call.read()
            await peer.server.drain(0)
            with suppress(CallBroken):
                await call.read()

    async def stop(self) -> None:
        return None


async def leak() -> None:
    asyncio.get_running_loop().create_task(asyncio.Event().wait(), name="forgotten")


def main() -> int:
    try:
        settings = load(RuntimeSettings)
    except ConfigError as error:
        exit_for(error)
    return run("sample", settings, build)


if __name__ == "__main__":
    sys.exit(main())
