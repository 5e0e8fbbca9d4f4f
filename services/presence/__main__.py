"""`python -m services.presence`: one replica of the presence service."""

import sys

from services.presence.app import build
from services.presence.config import PresenceSettings
from services.runtime.config import ConfigError, RuntimeSettings, exit_for, load
from services.runtime.process import Process, run


def main() -> int:
    try:
        settings, runtime = load(PresenceSettings, RuntimeSettings)
    except ConfigError as error:
        exit_for(error)

    async def build_process(process: Process) -> None:
        process.add_admin()
        await build(process, settings)

    return run("presence", runtime, build_process)


if __name__ == "__main__":
    sys.exit(main())
