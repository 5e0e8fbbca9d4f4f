"""`python -m edge`: one edge."""

import sys

from edge.app import build
from edge.config import EdgeSettings
from services.runtime.config import ConfigError, RuntimeSettings, exit_for, load
from services.runtime.process import Process, run


def main() -> int:
    try:
        settings, runtime = load(EdgeSettings, RuntimeSettings)
    except ConfigError as error:
        exit_for(error)

    async def build_process(process: Process) -> None:
        process.add_admin()
        await build(process, settings)

    return run("edge", runtime, build_process)


if __name__ == "__main__":
    sys.exit(main())
