"""The engine does no I/O and reads no clock: nothing that could is imported anywhere in it."""

import ast
from pathlib import Path

import pytest

import edge.stomp

MODULES = sorted(Path(edge.stomp.__file__).parent.glob("**/*.py"))

ALLOWED = {"collections.abc", "dataclasses", "enum", "re", "typing"}
"""What the engine needs of the standard library; none of it can wait, read, write or tell the time."""


def imported(source: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
    return names


def foreign(source: str) -> set[str]:
    return {
        name
        for name in imported(source)
        if name not in ALLOWED and name != "edge.stomp" and not name.startswith("edge.stomp.")
    }


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_a_module_of_the_engine_imports_only_itself_and_pure_modules(module: Path) -> None:
    assert foreign(module.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_a_module_of_the_engine_defines_nothing_asynchronous(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    kinds = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)
    assert not [node for node in ast.walk(tree) if isinstance(node, kinds)]


@pytest.mark.parametrize(
    "line",
    [
        *("import asyncio", "import time", "import socket as s", "from time import monotonic"),
        *("from asyncio import Queue", "def f():\n    import os", "from . import websocket", "import edge.hub"),
    ],
)
def test_the_check_itself_sees_every_way_to_import(line: str) -> None:
    assert foreign(line)


def test_the_check_looks_at_every_module() -> None:
    assert {"parser.py", "connection.py", "heartbeat.py", "message_template.py"} <= {m.name for m in MODULES}
