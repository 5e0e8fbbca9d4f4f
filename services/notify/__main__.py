"""`python -m services.notify`: one replica of the notify service."""

import sys

from services.notify.app import build
from services.notify.config import NotifySettings
from services.runtime.config import ConfigError, RuntimeSettings, exit_for, load
from services.runtime.process import Process, run


def main() -> int:
    try:
        settings, runtime = load(NotifySettings, RuntimeSettings)
    except ConfigError as error:
        exit_for(error)

    async def build_process(process: Process) -> None:
        process.add_admin()
        await build(process, settings)

    return run("notify", runtime, build_process)


if __name__ == "__main__":
    sys.exit(main())
