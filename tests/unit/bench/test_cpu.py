"""CPU is charged to the right process, helpers included."""

import os
import subprocess
import sys
import time

from bench.cpu import CpuSnapshot, read_cpu, used_between

_BURN = "import time\nuntil = time.process_time() + 0.2\nwhile time.process_time() < until: pass\n"
_BURN_AND_STAY = _BURN + "print('burnt', flush=True)\ntime.sleep(60)"
_HELPER = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {_BURN_AND_STAY!r}])"


def test_a_process_is_charged_with_what_its_helper_burns() -> None:
    with subprocess.Popen([sys.executable, "-c", _HELPER], stdout=subprocess.PIPE, start_new_session=True) as parent:
        before = read_cpu({"busy": parent.pid, "idle": os.getppid()})
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"burnt\n"
        use = used_between(before, read_cpu({"busy": parent.pid, "idle": os.getppid()}))
        os.killpg(parent.pid, 9)
    assert use.seconds["busy"] >= 0.15
    assert use.machine_busy_s >= 0.1
    assert use.gone == ()


def test_a_process_that_ended_is_named() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    now = read_cpu({"self": os.getpid(), "ended": child.pid})
    assert used_between(now, now).gone == ("ended",)


def test_what_is_left_of_the_machine_belongs_to_others() -> None:
    before = CpuSnapshot(seconds={"edge": 1.0}, machine_busy_s=10.0, missing=frozenset())
    after = CpuSnapshot(seconds={"edge": 2.5}, machine_busy_s=14.0, missing=frozenset())
    use = used_between(before, after)
    assert (use.seconds["edge"], use.others_s) == (1.5, 2.5)


def test_reading_is_cheap_enough_to_stand_beside_a_measurement() -> None:
    began = time.process_time()
    read_cpu({"self": os.getpid()})
    assert time.process_time() - began < 0.5
