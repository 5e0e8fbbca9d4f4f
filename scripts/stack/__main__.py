"""`make stack`, `make stack-down` and `make stack-status`.

EDGE_ENV, CHAT_ENV, PRESENCE_ENV and NOTIFY_ENV hold further settings for all processes of a kind, as
`EDGE_ENV='PARLEY_RUNTIME_LOG_LEVEL=debug PARLEY_EDGE_…=…'`.
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from scripts.processes import ProcessError, is_port_free
from scripts.stack.service import Kind, is_ready
from scripts.stack.stack import REPOSITORY, Stack, leftovers, stop_leftovers
from scripts.stack.state import ProcessState, StackState, read_state

EDGE_PORT = 8080
"""The documented address of the first edge."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.stack", description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, default=REPOSITORY / ".local" / "stack", help="its directory")
    commands = parser.add_subparsers(dest="command", required=True)
    up_parser = commands.add_parser("up", help="start everything")
    up_parser.add_argument("--edges", type=_count, default=1)
    up_parser.add_argument("--chats", type=_count, default=1)
    down_parser = commands.add_parser("down", help="stop everything")
    down_parser.add_argument("--quiet", action="store_true", help="say nothing when nothing runs")
    commands.add_parser("status", help="what runs, and where")
    arguments = parser.parse_args()
    base: Path = arguments.base.absolute()
    try:
        if arguments.command == "up":
            return up(base, edges=arguments.edges, chats=arguments.chats)
        if arguments.command == "down":
            return down(base, quiet=arguments.quiet)
        return status(base)
    except ProcessError as failure:
        print(f"stack: {failure}", file=sys.stderr)
        return 1


def up(base: Path, *, edges: int, chats: int) -> int:
    """Start the stack, or show the one that runs."""
    if running := leftovers(base):
        state = read_state(base)
        missing = [each.name for each in state.processes if each.name not in running] if state else []
        if state is None or missing:
            what = f"without {', '.join(missing)}" if missing else "left by a command that was interrupted"
            raise ProcessError(f"partly up ({what}): `make stack-down` first")
        print("stack: up already; `make stack-down` stops it\n")
        show(state, base)
        return 0
    port = EDGE_PORT if is_port_free(EDGE_PORT) else None
    if port is None:
        print(f"stack: port {EDGE_PORT} is taken, the first edge gets another one")
    begun = time.monotonic()
    stack = Stack(base, edges=edges, chats=chats, edge_port=port, extra_env=environment_of_kinds())
    print(f"stack: starting {', '.join(stack.processes)}", flush=True)
    stack.start()
    print(f"stack: ready in {time.monotonic() - begun:.0f} s\n")
    state = read_state(base)
    if state is not None:
        show(state, base)
    return 0


def down(base: Path, *, quiet: bool) -> int:
    """Stop the stack. Repeating it is harmless."""
    if not leftovers(base):
        stop_leftovers(base)  # removes what describes a stack that died
        if not quiet:
            print("stack: not running")
        return 0
    print("stack: stopping", flush=True)
    for name in stop_leftovers(base):
        print(f"stack: warning: {name} did not leave in time and was killed", file=sys.stderr)
    print("stack: stopped")
    return 0


def status(base: Path) -> int:
    """Show every process; 1 when the stack is not up or something of it is missing or not ready."""
    state = read_state(base)
    if state is None:
        running = leftovers(base)
        print(f"stack: interrupted, still there: {', '.join(running)}" if running else "stack: not running")
        return 1
    conditions = {process.name: condition_of(process) for process in state.processes}
    show_table(state, conditions)
    return 0 if all(condition in ("ready", "up") for condition in conditions.values()) else 1


def condition_of(process: ProcessState) -> str:
    if not process.identity.is_alive:
        return "gone"
    if not process.admin_url:
        return "up"
    try:
        return "ready" if is_ready(int(process.admin_url.rpartition(":")[2])) else "not ready"
    except OSError:
        return "silent"


def show(state: StackState, base: Path) -> None:
    """The addresses, and what to do with them."""
    show_table(state, {process.name: condition_of(process) for process in state.processes})
    edges = [process.url for process in state.of_kind(Kind.EDGE)]
    print(f"\nlogs    {_short(base)}/<name>/<name>.log")
    if edges:
        body = """-H 'content-type: application/json' -d '{"userId": "alice"}'"""
        print(f"try     curl -s {edges[0]}/readyz")
        print(f"        curl -s -X POST {edges[0]}/api/v1/dev/token {body}")
        print(f"        open {edges[0]}/ in two browser windows")
    print("stop    make stack-down")


def show_table(state: StackState, conditions: dict[str, str]) -> None:
    header = ("NAME", "STATE", "PID", "ADDRESS", "ADMIN")
    rows = [header, *((p.name, conditions[p.name], str(p.pid), p.url, p.admin_url) for p in state.processes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def environment_of_kinds() -> dict[str, dict[str, str]]:
    """EDGE_ENV and its siblings, split as a shell would."""
    return {kind.value: _assignments(os.environ.get(f"{kind.name}_ENV", "")) for kind in Kind}


def _assignments(text: str) -> dict[str, str]:
    words: Sequence[str] = shlex.split(text)
    if wrong := [word for word in words if "=" not in word]:
        raise ProcessError(f"expected NAME=value, not {wrong[0]!r}")
    return dict(word.split("=", 1) for word in words)


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 16:
        raise argparse.ArgumentTypeError("from 1 to 16")
    return number


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    sys.exit(main())
