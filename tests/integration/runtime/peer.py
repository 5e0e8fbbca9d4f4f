"""The sample service as a program: `python -m tests.integration.runtime.peer PORT`; prints the bound port."""

import asyncio
import os
import sys

from prometheus_client import CollectorRegistry

from services.runtime import log
from services.runtime.config import RuntimeSettings
from services.runtime.metrics import Metrics
from services.runtime.server import GrpcServer
from tests.integration.runtime.loopback import SERVICE, Sample


async def serve(port: int) -> None:
    server = GrpcServer(f"127.0.0.1:{port}", metrics=Metrics(CollectorRegistry()))
    server.add(Sample().register, SERVICE)
    os.write(sys.stdout.fileno(), f"{await server.start()}\n".encode())
    await asyncio.Event().wait()


if __name__ == "__main__":
    log.configure(RuntimeSettings(), "peer")
    asyncio.run(serve(int(sys.argv[1])))
