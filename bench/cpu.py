"""What each process, and the whole machine, spent between two moments: read from /proc, in clock ticks.

A process is counted with its living descendants (a broker has helpers). One tick is 10 ms: over a window of ten seconds
the error is a thousandth of a core. Linux only.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
# Fields of /proc/PID/stat behind the closing parenthesis, which is the only place where a name can hold a blank.
_PARENT, _USER, _SYSTEM = 1, 11, 12
# Fields of the first line of /proc/stat behind "cpu".
_IDLE, _IO_WAIT, _STEAL = 3, 4, 7


@dataclass(frozen=True, slots=True)
class CpuSnapshot:
    """Seconds since each process started; since boot for the machine. `missing` were not there to be read."""

    seconds: Mapping[str, float]
    machine_busy_s: float
    missing: frozenset[str]


@dataclass(frozen=True, slots=True)
class CpuUse:
    """Seconds used between two snapshots, by name; `others_s` is what all other processes of the machine used."""

    seconds: Mapping[str, float]
    machine_busy_s: float
    gone: tuple[str, ...]

    @property
    def others_s(self) -> float:
        return max(0.0, self.machine_busy_s - sum(self.seconds.values()))


def read_cpu(pids: Mapping[str, int]) -> CpuSnapshot:
    stats = _all_processes()
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in stats.items():
        children.setdefault(parent, []).append(pid)
    return CpuSnapshot(
        seconds={
            name: sum(stats[one][1] for one in _tree(pid, children)) * _TICK_S
            for name, pid in pids.items()
            if pid in stats
        },
        machine_busy_s=_machine_busy_s(),
        missing=frozenset(name for name, pid in pids.items() if pid not in stats),
    )


def used_between(before: CpuSnapshot, after: CpuSnapshot) -> CpuUse:
    return CpuUse(
        seconds={
            name: max(0.0, after.seconds[name] - seconds)
            for name, seconds in before.seconds.items()
            if name in after.seconds
        },
        machine_busy_s=after.machine_busy_s - before.machine_busy_s,
        gone=tuple(sorted(before.missing | after.missing)),
    )


def _all_processes() -> dict[int, tuple[int, int]]:
    """pid → (parent, ticks)"""
    found = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            fields = Path(entry.path, "stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue  # it ended between the listing and the reading
        found[int(entry.name)] = (int(fields[_PARENT]), int(fields[_USER]) + int(fields[_SYSTEM]))
    return found


def _tree(root: int, children: Mapping[int, list[int]]) -> list[int]:
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def _machine_busy_s() -> float:
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    ticks = [int(field) for field in fields]
    return (sum(ticks) - ticks[_IDLE] - ticks[_IO_WAIT] - ticks[_STEAL]) * _TICK_S
