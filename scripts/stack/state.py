"""What runs, and where, for whoever did not start it: `state.json` in the directory of the stack.

The pid files say what is alive; this file says how to reach it. It is written when everything is ready and after
each restart, and removed when the stack is stopped.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.processes import ProcessIdentity

FILE_NAME = "state.json"


@dataclass(frozen=True, slots=True)
class ProcessState:
    """One process. `kind` is chat, presence, notify or edge, or `server`; what does not apply is empty."""

    name: str
    kind: str
    pid: int
    started_at_ticks: int
    """Field 22 of /proc/PID/stat: together with the pid it names this process and no later one."""
    url: str = ""
    address: str = ""
    admin_url: str = ""
    log: str = ""
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The settings that the stack gave it, not its whole environment."""

    @property
    def identity(self) -> ProcessIdentity:
        return ProcessIdentity(self.pid, self.started_at_ticks)


@dataclass(frozen=True, slots=True)
class StackState:
    processes: tuple[ProcessState, ...]

    def of_kind(self, kind: str) -> tuple[ProcessState, ...]:
        return tuple(process for process in self.processes if process.kind == kind)


def read_state(base_dir: Path) -> StackState | None:
    """What the last `up` wrote; None when the stack is not up. Its processes may have died since."""
    try:
        content: dict[str, Any] = json.loads((base_dir / FILE_NAME).read_text())
    except FileNotFoundError:
        return None
    return StackState(tuple(ProcessState(**process) for process in content["processes"]))


def write_state(base_dir: Path, state: StackState) -> None:
    """Replace the file at once: a reader sees the old one or the new one. Only the owner may read settings."""
    path = base_dir / FILE_NAME
    draft = path.with_suffix(".draft")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(dataclasses.asdict(state), file, indent=2)
    draft.replace(path)


def remove_state(base_dir: Path) -> None:
    (base_dir / FILE_NAME).unlink(missing_ok=True)
