"""`python -m services.chat`: one replica of the chat service."""

import sys

from services.chat.app import build
from services.chat.config import ChatSettings
from services.runtime.config import ConfigError, RuntimeSettings, exit_for, load
from services.runtime.process import Process, run


def main() -> int:
    try:
        settings, runtime = load(ChatSettings, RuntimeSettings)
    except ConfigError as error:
        exit_for(error)

    async def build_process(process: Process) -> None:
        process.add_admin()
        await build(process, settings)

    return run("chat", runtime, build_process)


if __name__ == "__main__":
    sys.exit(main())
