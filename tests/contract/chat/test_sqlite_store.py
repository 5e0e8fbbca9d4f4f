"""What only the SQLite store promises: about its file, and about its process being killed."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from services.chat.errors import StoreUnavailable
from services.chat.model import Seq
from services.chat.store import Appended, Store, open_store
from services.chat.store.sqlite import schema
from services.runtime.config import ConfigError
from tests.contract.chat.samples import ROOM, messages, seqs
from tests.e2e.waiting import eventually

_REPOSITORY = Path(__file__).parents[3]

# Appends one message after the other and prints the seq of each as soon as it is acknowledged.
_WRITER = """
import asyncio, sys
from services.chat.store import open_store
from tests.contract.chat.samples import entry, message

async def main():
    store = open_store(sys.argv[1])
    await store.start()
    for seq in range(1, 1_000_000):
        await store.append([message(seq)], entry(f"e{seq}"))
        print(seq, flush=True)

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat.db"


def store_at(path: Path) -> Store:
    return open_store(f"sqlite:///{path}")


def test_what_was_acknowledged_survives_a_kill(path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, f"sqlite:///{path}"], cwd=_REPOSITORY, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) == 50:
                break
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged = max([50, *(int(line) for line in writer.stdout.read().split())])

    stored, entries = asyncio.run(_read_all(path))

    assert stored[:acknowledged] == list(range(1, acknowledged + 1))
    assert len(stored) - acknowledged <= 1, "at most the one that was not acknowledged yet"
    assert entries == len(stored)


async def _read_all(path: Path) -> tuple[list[int], int]:
    store = store_at(path)
    await store.start()
    stored = seqs(await store.read_after(ROOM, Seq(0), limit=1000))
    entries = await store.count_entries()
    await store.close()
    return stored, entries


def test_a_commit_is_synced_to_the_disk(path: Path) -> None:
    with closing(schema.open_file(path, read_only=False)) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_the_directory_of_the_file_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    store = store_at(tmp_path / "data" / "chat" / "chat.db")
    await store.start()
    await store.close()

    assert (tmp_path / "data" / "chat").stat().st_mode & 0o777 == 0o700


async def test_a_relative_path_belongs_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("sqlite:///data/chat.db")
    await store.start()
    await store.close()

    assert (tmp_path / "data" / "chat.db").exists()


def test_a_store_in_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="names a file"):
        open_store("sqlite:///:memory:")


def refusal_of(path: Path) -> str:
    async def start() -> None:
        store = store_at(path)
        try:
            await store.start()
        finally:
            await store.close()

    with pytest.raises(ConfigError) as refusal:
        asyncio.run(start())
    return str(refusal.value)


def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.write_text("dear diary\n" * 100)

    assert f"{path} cannot be used as the store" in refusal_of(path)

    assert path.read_text() == "dear diary\n" * 100


def test_a_database_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE messages (id)")
        other.commit()
    before = path.read_bytes()

    assert f"{path} is a database of another program" in refusal_of(path)

    assert path.read_bytes() == before


def test_a_file_of_a_later_version_is_refused(path: Path) -> None:
    schema.open_file(path, read_only=False).close()
    with closing(sqlite3.connect(path)) as later:
        later.execute("PRAGMA user_version = 7")

    assert "was written by a later version (schema 7" in refusal_of(path)


def test_a_path_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    assert "cannot be used as the store" in refusal_of(tmp_path / "file" / "chat.db")
    assert "cannot be used as the store" in refusal_of(tmp_path)


async def test_stores_that_start_together_on_a_new_file_make_its_tables_once(tmp_path: Path) -> None:
    for turn in range(10):
        stores = [store_at(tmp_path / f"{turn}.db") for _ in range(6)]
        await asyncio.gather(*(store.start() for store in stores))

        assert await stores[0].append(messages(1, 1), None) == Appended(1)
        assert [await store.find_head(ROOM) for store in stores] == [1] * 6

        for store in stores:
            await store.close()


async def test_while_another_process_holds_the_file_writes_are_unavailable_and_reads_go_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "_BUSY_S", 0.2)
    store = store_at(path)
    await store.start()
    await store.append(messages(1, 3), None)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(StoreUnavailable):
            await store.append(messages(4, 4), None)
        assert await store.find_head(ROOM) == 3

        other.execute("ROLLBACK")
    assert await store.append(messages(4, 5), None) == Appended(2)
    await store.close()


async def test_a_batch_whose_caller_went_away_while_it_waited_is_stored_whole(path: Path) -> None:
    store = store_at(path)
    await store.start()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        append = asyncio.create_task(store.append(messages(1, 30), None))
        await asyncio.sleep(0.05)  # it is at the lock, or on its way there
        append.cancel()
        with pytest.raises(asyncio.CancelledError):
            await append
        other.execute("ROLLBACK")

    async def stored() -> bool:
        return await store.find_head(ROOM) == 30

    await eventually(stored)
    await store.close()
