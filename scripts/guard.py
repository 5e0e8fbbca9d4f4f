"""Ends guarded processes as soon as the process that started them is gone, however it went.

Runs as a process of its own (`python -I -S guard.py`) and therefore imports only the standard library. Its
standard input is a pipe that only the parent holds: `+ PID TICKS` and `- PID` lines keep the list, end of
file means that the parent is gone, by SIGKILL too. PR_SET_PDEATHSIG is no substitute: it fires when the
*thread* that forked ends, and needs code between fork and exec, which is unsafe once gRPC has started
threads.
"""

import os
import signal
import sys

_STARTTIME_FIELD = 19  # /proc/PID/stat after the closing parenthesis: `starttime` is the 22nd field of the whole line


def _started_at(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return int(stat.read().rpartition(b")")[2].split()[_STARTTIME_FIELD])
    except (OSError, IndexError):
        return None


def main() -> None:
    guarded: dict[int, int] = {}
    for line in sys.stdin:
        sign, *numbers = line.split()
        if sign == "+":
            guarded[int(numbers[0])] = int(numbers[1])
        else:
            guarded.pop(int(numbers[0]), None)
    for pid, started_at in guarded.items():
        if _started_at(pid) == started_at:
            try:
                os.killpg(pid, signal.SIGKILL)
            except OSError as gone:
                print(f"guard: process {pid}: {gone}", file=sys.stderr)


if __name__ == "__main__":
    main()
