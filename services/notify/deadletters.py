"""`python -m services.notify.deadletters list|replay`: what was given up, and trying it again.

Reads the settings of a notify process and goes to its broker, so it works while no replica runs. One line for each
dead letter: the time, the job, its user and message where they are known, the failed tries and the reason. Never what
the message says.
"""

import argparse
import asyncio
import sys
from datetime import UTC, datetime

from services.notify.app import queue_options
from services.notify.config import NotifySettings
from services.notify.convert import subject_of
from services.notify.errors import QueueUnavailable
from services.notify.queue import MAX_DEAD, DeadLetter, Queue, open_queue
from services.runtime import log
from services.runtime.config import ConfigError, RuntimeSettings, exit_for, load


def main(arguments: list[str] | None = None) -> int:
    asked = _parser().parse_args(arguments)
    try:
        settings, runtime = load(NotifySettings, RuntimeSettings)
    except ConfigError as error:
        exit_for(error)
    url = settings.queue_url
    if url.startswith("memory://"):
        sys.stderr.write("a memory queue lives in its own process: use the ListDeadLetters call of that process\n")
        return 2
    log.configure(runtime, "deadletters")
    try:
        return asyncio.run(_run(open_queue(url, queue_options(settings)), asked))
    except QueueUnavailable as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.notify.deadletters", description="what was given up")
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="show the oldest")
    listing.add_argument("--limit", type=int, default=100, choices=range(1, MAX_DEAD + 1), metavar=f"1..{MAX_DEAD}")
    replaying = commands.add_parser("replay", help="queue them again, with fresh tries")
    which = replaying.add_mutually_exclusive_group(required=True)
    which.add_argument("--all", action="store_true", help=f"the oldest {MAX_DEAD:,}")
    which.add_argument("job_ids", nargs="*", default=[], metavar="JOB", help="those")
    return parser


async def _run(queue: Queue, asked: argparse.Namespace) -> int:
    await queue.start()
    try:
        if asked.command == "list":
            for letter in await queue.list_dead(limit=asked.limit):
                sys.stdout.write(f"{_line(letter)}\n")
        else:
            sys.stdout.write(f"replayed {await queue.replay_dead(frozenset(asked.job_ids))}\n")
    finally:
        await queue.close()
    return 0


def _line(letter: DeadLetter) -> str:
    died_at = datetime.fromtimestamp(letter.died_at_ms / 1000, UTC).isoformat(timespec="seconds")
    user_id, message_id = subject_of(letter.body)
    columns = (died_at, letter.job_id, user_id or "-", message_id or "-", str(letter.tries), letter.reason)
    return "\t".join(columns)


if __name__ == "__main__":
    sys.exit(main())
