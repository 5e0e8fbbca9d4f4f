"""The web client without a browser: its types, and the rules of its library under Node."""

import subprocess
from pathlib import Path

WEB = Path(__file__).parents[2] / "web"
_PATIENCE_S = 90


def npm(script: str) -> None:
    done = subprocess.run(
        ["npm", "run", "--silent", script], cwd=WEB, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_types_of_the_web_client_fit() -> None:
    npm("check")


def test_the_chat_client_keeps_its_rules() -> None:
    npm("test")
