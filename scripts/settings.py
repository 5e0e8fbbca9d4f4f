"""Writes docs/settings.md from the settings classes, or with --check tells whether it is as they say."""

import argparse
import sys
from pathlib import Path

from edge.config import EdgeSettings
from services.chat.config import ChatSettings
from services.notify.config import NotifySettings
from services.presence.config import PresenceSettings
from services.runtime.config import RuntimeSettings, Settings, describe

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"

_HEAD = """\
# Settings

Read from the environment once, at start. An unknown or malformed one stops the process with a list of every problem.
Each may also be given as `<NAME>_FILE`, the path of a file that holds the value: that is how secrets are mounted. Lists
are written with commas. Made from the code by `make settings`.
"""

_GROUPS: tuple[tuple[str, type[Settings]], ...] = (
    ("Every process", RuntimeSettings),
    ("edge", EdgeSettings),
    ("chat", ChatSettings),
    ("presence", PresenceSettings),
    ("notify", NotifySettings),
)


def page() -> str:
    parts = [_HEAD]
    for title, cls in _GROUPS:
        parts.append(f"\n## {title}\n\n| variable | type | default | what it does |\n| --- | --- | --- | --- |\n")
        for row in describe(cls):
            default = f"`{row.default}`" if row.default else ""
            kind = row.type.replace("|", "\\|")
            parts.append(f"| `{row.name}` | {kind} | {default} | {row.description} |\n")
    return "".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 where the page is out of date")
    if not parser.parse_args().check:
        PAGE.write_text(page())
        return 0
    if PAGE.read_text() == page():
        return 0
    print(f"{PAGE.name} is not what the settings say: run `make settings`")
    return 1


if __name__ == "__main__":
    sys.exit(main())
