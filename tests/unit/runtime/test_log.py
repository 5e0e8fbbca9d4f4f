"""Logs are JSON lines of one shape, from us and from the libraries."""

import asyncio
import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from pydantic import SecretStr

from services.runtime import log
from services.runtime.config import RuntimeSettings


class Lines:
    """What was logged, parsed."""

    def __init__(self) -> None:
        self.stream = io.BytesIO()

    def configure(self, **settings: Any) -> None:
        log.configure(RuntimeSettings(**settings), "sample", stream=self.stream)

    @property
    def all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    @property
    def one(self) -> dict[str, Any]:
        (line,) = self.all
        return line


@pytest.fixture
def lines() -> Iterator[Lines]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    correlation = log.correlation_id.set("")
    captured = Lines()
    captured.configure()
    yield captured
    log.correlation_id.reset(correlation)
    logging.captureWarnings(False)
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def test_a_line_says_when_how_grave_what_and_where(lines: Lines) -> None:
    log.logger("a.module").info("thing_done", count=3)
    line = lines.one
    assert list(line)[:3] == ["time", "level", "event"]
    assert line["time"].endswith("Z")
    assert (line["level"], line["event"], line["process"], line["source"]) == (
        "info",
        "thing_done",
        "sample",
        "a.module",
    )
    assert line["count"] == 3


def test_a_logger_made_before_configuring_obeys_it(lines: Lines) -> None:
    early = log.logger("early")
    lines.configure(log_level="error")
    early.warning("too_quiet")
    early.error("loud_enough")
    assert [line["event"] for line in lines.all] == ["loud_enough"]


def test_the_correlation_id_is_on_every_line_of_its_task_only(lines: Lines) -> None:
    async def work(name: str) -> None:
        log.bind_correlation(name)
        await asyncio.sleep(0)
        log.logger("x").info("step", task=name)

    async def both() -> None:
        await asyncio.gather(work("first"), work("second"))
        log.logger("x").info("outside")

    asyncio.run(both())
    seen = [(line.get("task"), line.get("correlation_id")) for line in lines.all]
    assert seen == [("first", "first"), ("second", "second"), (None, None)]


@pytest.mark.parametrize("strange", [None, "", "a" * 65, "a\nb", 'x"y', "ü"])
def test_an_unacceptable_correlation_id_is_replaced(lines: Lines, strange: str | None) -> None:
    bound = log.bind_correlation(strange)
    assert bound != strange
    assert len(bound) == 36
    assert log.correlation_id.get() == bound


def test_new_correlation_ids_differ_and_sort_by_time() -> None:
    made = [log.new_correlation_id() for _ in range(100)]
    assert len(set(made)) == 100
    assert made == sorted(made)


def test_secrets_are_masked_in_fields_texts_and_tracebacks(lines: Lines) -> None:
    try:
        raise OSError("cannot reach mongodb://user:pw@host")
    except OSError:
        log.logger("x").exception("failed", token="abc", url="redis://:hunter2@r", nested={"passcode": "1"})
    text = lines.stream.getvalue().decode()
    assert "Traceback" in text
    for secret in ("abc", "hunter2", ":pw@", '"1"'):
        assert secret not in text


def test_library_logs_take_the_same_way(lines: Lines) -> None:
    logging.getLogger("pymongo.thing").warning("lost %s", "mongodb://u:pw@h")
    line = lines.one
    assert (line["event"], line["level"], line["source"]) == ("library_message", "warning", "pymongo.thing")
    assert line["message"] == "lost mongodb://***@h"


def test_library_debug_logs_stay_out_even_at_our_debug_level(lines: Lines) -> None:
    lines.configure(log_level="debug")
    logging.getLogger("aio_pika").debug("body of a frame")
    log.logger("x").debug("ours")
    assert [line["event"] for line in lines.all] == ["ours"]


def test_a_library_log_with_wrong_arguments_is_still_a_line(lines: Lines) -> None:
    record = logging.makeLogRecord({"name": "lib", "levelno": 40, "msg": "%d items", "args": ("no number",)})
    log.LibraryLogs().handle(record)  # directly: pytest's own handlers would raise
    assert lines.one["message"] == "%d items"


def test_a_library_traceback_is_inside_the_line(lines: Lines) -> None:
    try:
        raise ValueError("inside")
    except ValueError:
        logging.getLogger("lib").exception("oh")
    assert "ValueError: inside" in lines.one["exception"]


def test_warnings_are_lines_too(lines: Lines) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old thing", DeprecationWarning, stacklevel=1)
    assert "old thing" in lines.one["message"]


def test_configuring_twice_writes_each_line_once(lines: Lines) -> None:
    lines.configure()
    logging.getLogger("lib").warning("once")
    assert len(lines.all) == 1


def test_ids_are_hashed_alike_with_one_key_and_never_shown(lines: Lines) -> None:
    lines.configure(hash_ids=True, hash_ids_key=SecretStr("k"))
    log.bind_correlation("corr")
    log.logger("x").info("one", owner_id="alice", owner_ids=["alice", "bob"], count=1)
    lines.configure(hash_ids=True, hash_ids_key=SecretStr("k"))
    log.logger("x").info("two", owner_id="alice")
    first, second = lines.all
    assert first["owner_id"] == first["owner_ids"][0] == second["owner_id"]
    assert first["owner_ids"][0] != first["owner_ids"][1]
    assert first["correlation_id"] == "corr"
    assert b"alice" not in lines.stream.getvalue()


def test_without_a_key_the_hashes_differ_from_start_to_start(lines: Lines) -> None:
    for _ in range(2):
        lines.configure(hash_ids=True)
        log.logger("x").info("one", owner_id="alice")
    first, second = lines.all
    assert first["owner_id"] != second["owner_id"]


def test_what_json_cannot_hold_is_written_as_text(lines: Lines) -> None:
    log.logger("x").info("odd", big=2**80, broken="\ud800")
    assert lines.one["big"] == str(2**80)


def test_the_console_format_is_for_people_and_masks_as_well(lines: Lines) -> None:
    lines.configure(log_format="console")
    log.logger("x").info("thing_done", token="abc")
    text = lines.stream.getvalue().decode()
    assert "thing_done" in text
    assert not text.startswith("{")
    assert "abc" not in text
