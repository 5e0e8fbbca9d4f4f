"""A real process: its exit code, and every byte that it writes to stderr."""

import asyncio
import json
import os
import signal
import sys
from typing import Any

import aiohttp
import grpc
import pytest

from tests.integration.runtime.loopback import SERVICE, stream

PROGRAM = "tests.integration.runtime.sample_process"


class Ended:
    """How a process ended; reading `lines` fails when stderr held anything but JSON objects."""

    def __init__(self, code: int | None, stdout: bytes, stderr: bytes) -> None:
        self.code = code
        self.stdout = stdout
        self.stderr = stderr

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stderr.splitlines()]

    def event(self, name: str) -> dict[str, Any]:
        (line,) = [line for line in self.lines if line["event"] == name]
        return line


class Sample:
    """The program under test."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.read = b""

    @classmethod
    async def start(cls, mode: str = "", **environ: str) -> "Sample":
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-W",
                "always",
                "-m",
                PROGRAM,
                mode,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**inherited, "PARLEY_RUNTIME_ADMIN_PORT": "0", **environ},
            )
        )

    async def line(self, event: str) -> dict[str, Any]:
        """The next line of that event."""
        assert self.process.stderr is not None
        async with asyncio.timeout(20):
            while text := await self.process.stderr.readline():
                self.read += text
                line: dict[str, Any] = json.loads(text)
                if line["event"] == event:
                    return line
        raise AssertionError(f"no {event} in {self.read!r}")

    async def end(self, number: signal.Signals | None = None) -> Ended:
        if number is not None:
            self.process.send_signal(number)
        async with asyncio.timeout(20):
            stdout, stderr = await self.process.communicate()
        return Ended(self.process.returncode, stdout, self.read + stderr)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_with_code_0_and_nothing_but_json_on_stderr(number: signal.Signals) -> None:
    sample = await Sample.start()
    ready = await sample.line("process_ready")
    assert ready["process"] == "sample"
    ended = await sample.end(number)
    assert (ended.code, ended.stdout) == (0, b"")
    assert ended.event("process_leaving")["reason"] == number.name
    assert ended.event("process_ended")["exit_code"] == 0
    assert b":pw@" not in ended.stderr
    assert any("an old way" in line.get("message", "") for line in ended.lines)


async def test_a_signal_under_a_running_call_cuts_it_after_the_drain_time_without_a_stray_line() -> None:
    sample = await Sample.start(PARLEY_RUNTIME_DRAIN_S="0.3")
    port = (await sample.line("grpc_server_started"))["port"]
    await sample.line("process_ready")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = stream(channel, f"/{SERVICE}/UnaryStream")(b"wait", timeout=30)
        assert await call.read() == b"first"
        ended = await sample.end(signal.SIGTERM)
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()
    assert ended.code == 0
    assert [line["level"] for line in ended.lines if line["level"] == "error"] == []


async def test_a_peer_that_goes_away_makes_grpcs_own_threads_write_nothing() -> None:
    sample = await Sample.start("talk")
    await sample.line("process_ready")
    ended = await sample.end(signal.SIGTERM)
    assert ended.code == 0
    assert len(ended.lines) > 0


async def test_it_is_ready_until_the_signal_and_not_ready_during_the_notice() -> None:
    sample = await Sample.start(PARLEY_RUNTIME_ADMIN_PORT="0", PARLEY_RUNTIME_DRAIN_NOTICE_S="1")
    port = (await sample.line("admin_started"))["port"]
    await sample.line("process_ready")
    url = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{url}/readyz") as response:
            assert response.status == 200
        sample.process.send_signal(signal.SIGTERM)
        await sample.line("process_leaving")
        await asyncio.sleep(0.05)
        async with session.get(f"{url}/readyz") as response:
            assert response.status == 503
        async with session.get(f"{url}/metrics") as response:
            text = await response.text()
    assert "process_open_fds" in text
    assert "parley_loop_lag_seconds_bucket" in text
    assert (await sample.end()).code == 0


async def test_a_background_task_that_dies_ends_it_with_code_1() -> None:
    ended = await (await Sample.start("die")).end()
    assert ended.code == 1
    assert ended.event("task_failed")["task"] == "fragile"
    assert "the task's own trouble" in ended.event("task_failed")["exception"]
    assert ended.event("process_failed")["level"] == "error"


async def test_a_task_that_nobody_owns_ends_it_with_code_1_and_is_named() -> None:
    sample = await Sample.start("leak")
    await sample.line("process_ready")
    ended = await sample.end(signal.SIGTERM)
    assert ended.code == 1
    assert ended.event("task_left_running")["task"] == "forgotten"


async def test_a_failed_start_is_one_line_without_traceback_or_secret_and_code_1() -> None:
    ended = await (await Sample.start("fail")).end()
    assert ended.code == 1
    line = ended.event("start_failed")
    assert line["message"] == "build did not start: cannot reach mongodb://***@host"
    assert "exception" not in line


async def test_wrong_settings_end_it_with_code_1_and_a_list_for_people() -> None:
    ended = await (await Sample.start(PARLEY_RUNTIME_LOG_LEVLE="info", PARLEY_RUNTIME_DRAIN_S="soon")).end()
    assert ended.code == 1
    text = ended.stderr.decode()
    assert "Traceback" not in text
    assert "PARLEY_RUNTIME_LOG_LEVLE: no such setting; the closest is PARLEY_RUNTIME_LOG_LEVEL" in text
    assert "PARLEY_RUNTIME_DRAIN_S: expected float" in text
