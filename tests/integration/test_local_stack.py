"""The runner of the local stack, with real servers and stand-ins for our processes.

The stand-ins are the point: they can fail to start, ignore SIGTERM and tell what they were given. That the real
processes work together is the subject of the end-to-end tests.
"""

import json
import os
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.processes import ProcessError, read_pid_file
from scripts.stack import ProcessState, Stack, read_state
from scripts.stack.stack import leftovers, stop_leftovers

_REPOSITORY = Path(__file__).parents[2]

_STAND_IN = """
import http.server, json, os, signal, sys
if os.environ.get("STAND_IN") == "broken":
    sys.exit("the settings cannot be used")
if os.environ.get("STAND_IN") == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
class Admin(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(dict(os.environ)).encode())
http.server.HTTPServer(("127.0.0.1", int(os.environ["PARLEY_RUNTIME_ADMIN_PORT"])), Admin).serve_forever()
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout that has an edge and chat, not yet presence and notify."""
    root = tmp_path / "checkout"
    for package in ("edge", "services/chat"):
        (root / package).mkdir(parents=True)
        (root / package / "__main__.py").write_text(_STAND_IN)
    return root


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "stack"
    yield directory
    stop_leftovers(directory)


def test_every_process_is_told_where_the_others_are(checkout: Path, base: Path) -> None:
    with Stack(base, edges=2, chats=2, rabbitmq=False, root=checkout, die_with_parent=True) as stack:
        assert list(stack.processes) == ["mongod", "redis", "chat-1", "chat-2", "edge-1", "edge-2"]
        edge, chat = _environment(stack, "edge-2"), _environment(stack, "chat-1")
        first, second = stack.processes["chat-1"].port, stack.processes["chat-2"].port
        assert edge["PARLEY_EDGE_CHAT_TARGETS"] == f"127.0.0.1:{first},127.0.0.1:{second}"
        assert "PARLEY_EDGE_PRESENCE_TARGETS" not in edge, "presence does not run"
        assert chat["PARLEY_CHAT_LISTEN"] == f"127.0.0.1:{first}"
        assert chat["PARLEY_CHAT_STORE_URL"] == stack.mongod.url_of("parley")
        key = Path(edge["PARLEY_EDGE_DEV_KEY_FILE"])
        assert key == Path(_environment(stack, "edge-1")["PARLEY_EDGE_DEV_KEY_FILE"])
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_further_settings_reach_a_kind_or_one_process(checkout: Path, base: Path) -> None:
    extra = {"edge": {"COLOUR": "red"}, "edge-2": {"COLOUR": "blue"}}
    with Stack(base, edges=2, rabbitmq=False, root=checkout, die_with_parent=True, extra_env=extra) as stack:
        assert _environment(stack, "edge-1")["COLOUR"] == "red"
        assert _environment(stack, "edge-2")["COLOUR"] == "blue"
        assert "COLOUR" not in _environment(stack, "chat-1")


def test_killed_process_returns_on_its_ports_and_the_state_file_follows(checkout: Path, base: Path) -> None:
    with Stack(base, rabbitmq=False, root=checkout, die_with_parent=True) as stack:
        before = _state_of(base, "chat-1")
        stack.kill("chat-1")
        assert "chat-1" not in leftovers(base)
        stack.restart("chat-1")
        after = _state_of(base, "chat-1")
        assert (after.url, after.admin_url) == (before.url, before.admin_url)
        assert after.pid == stack.processes["chat-1"].pid != before.pid


def test_failure_on_the_way_up_shows_the_log_and_stops_the_rest(checkout: Path, base: Path) -> None:
    broken = {"edge": {"STAND_IN": "broken"}}
    stack = Stack(base, rabbitmq=False, root=checkout, extra_env=broken)
    with pytest.raises(ProcessError, match=r"(?s)edge-1 ended while starting.*settings cannot be used"):
        stack.start()
    assert leftovers(base) == {}
    assert read_state(base) is None


def test_process_that_ignores_sigterm_is_killed_and_named(
    checkout: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stubborn = {"chat": {"STAND_IN": "stubborn"}}
    stack = Stack(base, rabbitmq=False, root=checkout, extra_env=stubborn, die_with_parent=True)
    monkeypatch.setattr(stack.processes["chat-1"], "stop_grace_s", 0.2)
    stack.start()
    assert stack.stop() == ["chat-1"]
    assert leftovers(base) == {}


def test_stack_of_a_command_stays_up_after_it_and_goes_down_with_another(base: Path, checkout: Path) -> None:
    _start_from_another_process(base, checkout)
    try:
        running = leftovers(base)
        assert set(running) == {"mongod", "redis", "chat-1", "edge-1"}
        with pytest.raises(ProcessError, match="runs already"):
            Stack(base, rabbitmq=False, root=checkout).start()
        assert _run_command(base, "status").returncode == 0
    finally:
        down = _run_command(base, "down")
    assert (down.returncode, down.stderr) == (0, "")
    assert not any(identity.is_alive for identity in running.values())
    assert _run_command(base, "status").returncode == 1


def test_pid_file_of_a_stack_that_died_with_the_machine_ends_nobody(base: Path) -> None:
    (base / "chat-1").mkdir(parents=True)
    (base / "chat-1" / "chat-1.pid").write_text(f"{os.getpid()} 1\n")
    assert leftovers(base) == {}
    assert stop_leftovers(base) == []
    assert read_pid_file(base / "chat-1" / "chat-1.pid") is None


def _environment(stack: Stack, name: str) -> dict[str, str]:
    """What a stand-in says that it was given."""
    admin_port = next(service.admin_port for service in stack.services if service.name == name)
    with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/") as answer:
        given: dict[str, str] = json.load(answer)
    return given


def _state_of(base: Path, name: str) -> ProcessState:
    state = read_state(base)
    assert state is not None
    return next(process for process in state.processes if process.name == name)


def _start_from_another_process(base: Path, checkout: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from scripts.stack import Stack; "
        "Stack(Path(sys.argv[1]), rabbitmq=False, root=Path(sys.argv[2])).start()"
    )
    subprocess.run([sys.executable, "-c", program, str(base), str(checkout)], cwd=_REPOSITORY, check=True)


def _run_command(base: Path, command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scripts.stack", "--base", str(base), command],
        cwd=_REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
