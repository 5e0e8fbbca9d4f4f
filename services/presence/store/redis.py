"""The store of replicas that share a Redis. Everything of the service that knows the library is here.

A batch of users costs one round trip to load and one to commit, with at most one command for each shard in each,
however many users it has; a renewal costs one command. Nothing waits longer than `_ANSWER_S`; after a failure all but
`tick` refuse at once until a tick has succeeded, so a Redis that is frozen slows nobody down.
"""

import asyncio
import math
import secrets
from collections.abc import Mapping, Sequence, Set
from itertools import islice
from typing import Any, Protocol, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from services.presence.errors import StoreUnavailable
from services.presence.machine import ABSENT, FINAL_SEQ, Verdict
from services.presence.model import EdgeId, Seq, UserId
from services.presence.store import (
    Admission,
    Change,
    Lease,
    Loaded,
    Origin,
    Outcome,
    Record,
    StoreListener,
    StoreTimes,
    Tick,
)
from services.presence.store import redis_scripts as scripts
from services.presence.store.records import decode_presences, decode_state, encode_presences, encode_state
from services.presence.store.redis_feed import RedisFeed
from services.presence.store.redis_keys import SHARDS, Keys, by_shard
from services.presence.store.redis_scripts import Script
from services.runtime.log import logger
from services.runtime.metrics import Metrics
from services.runtime.wire import milliseconds

# One round trip, waiting for a connection included. A batch of 1,000 users takes 10 ms on an idle 2-core machine.
_ANSWER_S = 1.0
_CONNECT_S = 1.0
# Batches under way at the same time; more wait for a connection, within _ANSWER_S.
_MAX_CONNECTIONS = 8
_RETRY_AFTER_MS = 500
# Users in one round trip: each script holds Redis up for about a millisecond.
_MAX_ACTIVITIES = 2_000

_VERDICTS = {b"taken": Verdict.TAKEN, b"needs_full": Verdict.NEEDS_FULL, b"superseded": Verdict.SUPERSEDED}

_log = logger(__name__)

Command = tuple[str | int | bytes, ...]


class RedisPresenceStore:
    """See `services.presence.store.PresenceStore`.

    Raises:
        ValueError: the URL or the prefix cannot be used.
    """

    def __init__(self, url: str, *, key_prefix: str, times: StoreTimes, metrics: Metrics) -> None:
        self._pool = BlockingConnectionPool.from_url(
            url, **_options(), max_connections=_MAX_CONNECTIONS, timeout=_ANSWER_S
        )
        self._client = Redis(connection_pool=self._pool)
        database = int(self._pool.connection_kwargs.get("db", 0))
        self._keys = Keys(key_prefix, database)
        self._ttl_ms = milliseconds(times.lease_ttl)
        self._grace_ms = milliseconds(times.grace)
        self._settle_ms = milliseconds(times.settle)
        self._gap_ms = milliseconds(times.unattended)
        self._take_within_ms = milliseconds(times.take_within)
        self._claim_ms = max(1, milliseconds(times.tick * 0.9))
        self._activity_kept_ms = milliseconds(times.activity_kept)
        probe_channel = self._keys.probe(secrets.token_hex(8))
        self._feed = RedisFeed(
            self._connect_feed,
            self._keys.channels,
            probe_channel=probe_channel,
            probe=lambda: self._probe(probe_channel),
            heard=self._hear,
            missed=self._missed,
        )
        metrics.gauge("presence_feed_up", "1 while announcements are heard.").set_function(
            lambda: float(self._feed.is_hearing)
        )
        self._listener: StoreListener | None = None
        self._is_away = True  # until the first tick has looked at how old the data are
        self._is_away_logged = False
        self._commands = metrics.counter("presence_redis_commands", "Commands sent to Redis.", labels=("operation",))
        self._round_trips = metrics.counter(
            "presence_redis_round_trips", "Pipelines sent to Redis.", labels=("operation",)
        )

    async def start(self, listener: StoreListener) -> None:
        self._listener = listener
        self._feed.start()

    async def close(self) -> None:
        self._listener = None
        await self._feed.close()
        await self._client.aclose()
        await self._pool.aclose()

    # ---- Leases.

    async def tick(self) -> Tick:
        keys = self._keys
        command = _evalsha(
            scripts.TICK,
            (keys.era, keys.ticked, keys.sweep, keys.edges),
            (
                *(secrets.token_hex(8), self._settle_ms, self._gap_ms, self._ttl_ms, self._claim_ms),
                *(keys.lease_prefix, FINAL_SEQ),
            ),
        )
        (answer,) = await self._run("tick", [command], even_if_away=True)
        if self._is_away:
            self._is_away = self._is_away_logged = False
            _log.info("presence_store_answers")
        now, era, claimed, *leases = cast(list[Any], answer)
        name, _, settles = era.decode().partition(":")
        return Tick(
            int(now),
            name,
            int(settles),
            bool(claimed),
            [
                _lease(edge.decode(), value.decode(), is_alive=bool(alive))
                for edge, value, alive in zip(leases[::3], leases[1::3], leases[2::3], strict=True)
            ],
        )

    async def admit(self, edge_id: EdgeId, seq: Seq, *, is_full: bool) -> Admission:
        keys = (self._keys.lease(edge_id), self._keys.edges)
        command = _evalsha(scripts.ADMIT, keys, (edge_id, seq, int(is_full), self._ttl_ms, FINAL_SEQ))
        ((now, verdict),) = cast(list[tuple[bytes, bytes]], await self._run("admit", [command]))
        return Admission(_VERDICTS[verdict], int(now) + self._take_within_ms)

    async def end_lease(self, edge_id: EdgeId) -> Lease:
        keys = (self._keys.lease(edge_id), self._keys.edges)
        command = _evalsha(scripts.END, keys, (edge_id, FINAL_SEQ, 4 * self._ttl_ms))
        (now,) = cast(list[bytes], await self._run("end_lease", [command]))
        return Lease(edge_id, FINAL_SEQ, int(now), is_alive=False)

    async def forget_lease(self, lease: Lease) -> None:
        arguments = (lease.edge_id, f"{lease.seq}:{lease.expires_ms}")
        await self._run("forget_lease", [_evalsha(scripts.FORGET, (self._keys.edges,), arguments)])

    # ---- Users.

    async def load(self, user_ids: Sequence[UserId]) -> Loaded:
        sharded = by_shard(dict.fromkeys(user_ids))
        commands: list[Command] = [
            ("MGET", *(key(shard, user_id) for user_id in users for key in (self._keys.user, self._keys.activity)))
            for shard, users in sharded.items()
        ]
        # Last: data that are lost between the commands are then missed here too, and nobody is taken for offline.
        *answers, era, time = await self._run("load", [*commands, ("GET", self._keys.era), ("TIME",)])
        loaded: dict[UserId, Record] = {}
        for users, answer in zip(sharded.values(), answers, strict=True):
            values = cast(list[bytes | None], answer)
            for user_id, raw, at in zip(users, values[::2], values[1::2], strict=True):
                loaded[user_id] = Record(decode_state(raw) if raw else ABSENT, raw or b"", int(at or 0))
        now_ms = _milliseconds(time)
        settles_ms = int(cast(bytes, era).rpartition(b":")[2]) if era else math.inf
        return Loaded(now_ms, now_ms >= settles_ms, loaded)

    async def load_edge(self, edge_id: EdgeId) -> Set[UserId]:
        commands: list[Command] = [("SMEMBERS", self._keys.members(shard, edge_id)) for shard in range(SHARDS)]
        answers = cast(list[Set[bytes]], await self._run("load_edge", commands))
        return {UserId(member.decode()) for members in answers for member in members}

    async def commit(self, changes: Sequence[Change], touched: Sequence[UserId], origin: Origin | None) -> Outcome:
        by_user = {change.user_id: change for change in changes}
        sharded = by_shard(dict.fromkeys((*touched, *by_user)))
        parts = {shard: [by_user[each] for each in users if each in by_user] for shard, users in sharded.items()}
        commands = [self._commit_command(shard, part, origin) for shard, part in parts.items()]
        answers = await self._run("commit", commands) if commands else []
        conflicts = {
            user_id
            for shard, answer in zip(parts, answers, strict=True)
            if answer == b"conflict"
            for user_id in sharded[shard]
        }
        return Outcome(conflicts, superseded=b"superseded" in answers)

    async def supersede(self, origin: Origin) -> bool:
        commands = [self._commit_command(shard, (), origin) for shard in range(SHARDS)]
        return b"superseded" not in await self._run("supersede", commands)

    async def find_orphans(self) -> Sequence[Lease]:
        commands: list[Command] = [("SMEMBERS", self._keys.shard_edges(shard)) for shard in range(SHARDS)]
        # Leases last: an edge has its lease before it has users.
        *answers, leases, time = await self._run("find_orphans", [*commands, ("HKEYS", self._keys.edges), ("TIME",)])
        orphans = set[bytes]().union(*cast(list[Set[bytes]], answers)) - set(cast(list[bytes], leases))
        return [await self._read_orphan(EdgeId(edge_id.decode()), _milliseconds(time)) for edge_id in sorted(orphans)]

    async def _read_orphan(self, edge_id: EdgeId, now_ms: int) -> Lease:
        commands: list[Command] = [("GET", self._keys.fence(shard, edge_id)) for shard in range(SHARDS)]
        fences = cast(list[bytes | None], await self._run("find_orphans", commands))
        return Lease(edge_id, Seq(max(1, *(int(fence or 0) for fence in fences))), now_ms, is_alive=False)

    async def find_due(self, *, limit: int) -> Sequence[UserId]:
        each = math.ceil(limit / SHARDS)
        commands = [_evalsha(scripts.DUE, (self._keys.due(shard),), (self._grace_ms, each)) for shard in range(SHARDS)]
        answers = cast(list[list[bytes]], await self._run("find_due", commands))
        return [UserId(user_id.decode()) for answer in answers for user_id in answer]

    async def record_activity(self, activities: Mapping[UserId, int]) -> None:
        users = iter(activities)
        while part := list(islice(users, _MAX_ACTIVITIES)):
            commands = [
                _evalsha(
                    scripts.ACTIVITY,
                    [self._keys.activity(shard, user_id) for user_id in of_shard],
                    (self._activity_kept_ms, *(activities[user_id] for user_id in of_shard)),
                )
                for shard, of_shard in by_shard(part).items()
            ]
            await self._run("record_activity", commands)

    def _commit_command(self, shard: int, changes: Sequence[Change], origin: Origin | None) -> Command:
        edge_id = EdgeId("") if origin is None else origin.edge_id
        announced = [change.announced for change in changes if change.announced is not None]
        arguments: list[str | int | bytes] = [
            0 if origin is None else origin.seq,
            0 if origin is None else origin.take_by_ms,
            4 * self._ttl_ms if origin is not None and origin.is_ending else 0,
            edge_id,
            self._keys.channels[shard],
            encode_presences(announced) if announced else b"",
        ]
        for change in changes:
            after = change.after
            arguments += (
                change.user_id,
                cast(bytes, change.before.token),
                encode_state(after),
                "" if after.lingers is None else after.lingers.until_ms,
                "1" if origin is not None and after.is_on(edge_id) else "",
            )
        keys = (
            self._keys.fence(shard, edge_id),
            self._keys.members(shard, edge_id),
            self._keys.due(shard),
            self._keys.shard_edges(shard),
            *(self._keys.user(shard, change.user_id) for change in changes),
        )
        return _evalsha(scripts.COMMIT, keys, arguments)

    # ---- What was announced.

    async def _connect_feed(self) -> "_FeedConnection":
        # Never used by the pool: an event may be long in coming, and nobody may get this connection by mistake.
        library_connection = self._pool.connection_class(**self._pool.connection_kwargs)
        connection = _FeedConnection(cast(_LibraryConnection, library_connection))
        await connection.connect()
        return connection

    async def _probe(self, channel: str) -> None:
        await self._run("probe", [("PUBLISH", channel, b"")], even_if_away=True)

    def _hear(self, payload: bytes) -> None:
        if self._listener is None:
            return
        try:
            presences = decode_presences(payload)
        except ValueError:
            _log.warning("presence_announcement_unreadable", bytes=len(payload))
            return
        self._listener.presence_changed(presences)

    def _missed(self) -> None:
        if self._listener is not None:
            self._listener.changes_were_missed()

    # ---- Asking.

    async def _run(self, operation: str, commands: Sequence[Command], *, even_if_away: bool = False) -> list[object]:
        """The answer to each, all of them or an error."""
        if self._is_away and not even_if_away:
            raise StoreUnavailable(retry_after_ms=_RETRY_AFTER_MS)
        try:
            async with asyncio.timeout(_ANSWER_S):
                answers = await self._ask(operation, commands)
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            if not self._is_away_logged:
                self._is_away_logged = True
                _log.warning("presence_store_away", operation=operation, error=repr(error))
            self._is_away = True
            raise StoreUnavailable(retry_after_ms=_RETRY_AFTER_MS) from error
        return answers

    async def _ask(self, operation: str, commands: Sequence[Command]) -> list[object]:
        answers = await self._send(operation, commands)
        if any(isinstance(answer, NoScriptError) for answer in answers):
            # Redis is new. What took effect in the meantime does no harm when it is done again: see `PresenceStore`.
            await self._send("script_load", [("SCRIPT", "LOAD", script.source) for script in scripts.ALL])
            answers = await self._send(operation, commands)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    async def _send(self, operation: str, commands: Sequence[Command]) -> list[object]:
        self._commands.labels(operation).inc(len(commands))
        self._round_trips.labels(operation).inc()
        async with self._client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            answers: list[object] = await pipeline.execute(raise_on_error=False)
        return answers


class _LibraryConnection(Protocol):
    """What is used of the library's connection, with the types that it leaves out."""

    async def connect(self) -> None: ...

    async def disconnect(self, nowait: bool = False) -> None: ...

    async def send_command(self, *words: str, check_health: bool = True) -> None: ...

    async def read_response(self, *, timeout: float) -> object: ...


class _FeedConnection:
    """See `services.presence.store.redis_feed.Connection`. Bare, as `PubSub` reconnects by itself and hides it."""

    def __init__(self, connection: _LibraryConnection) -> None:
        self._connection = connection

    async def connect(self) -> None:
        try:
            async with asyncio.timeout(_CONNECT_S):
                await self._connection.connect()
        except (RedisError, OSError) as error:
            await self.close()
            raise StoreUnavailable from error
        except BaseException:
            await self.close()
            raise

    async def send(self, *words: str) -> None:
        try:
            await self._connection.send_command(*words, check_health=False)
        except (RedisError, OSError) as error:
            raise StoreUnavailable from error

    async def receive(self) -> object:
        try:
            return await self._connection.read_response(timeout=math.inf)  # the library's default is 5 s
        except (RedisError, OSError) as error:
            raise StoreUnavailable from error

    async def close(self) -> None:
        await self._connection.disconnect(nowait=True)


def _options() -> dict[str, Any]:
    return {
        "protocol": 2,  # plain lists
        "decode_responses": False,
        "retry": Retry(NoBackoff(), 0),  # one retry layer, and it is the caller's
        # Ours is around every call. The library's goes through asyncio.wait_for, which loses cancellations (3.11).
        "socket_timeout": None,
        "socket_connect_timeout": _CONNECT_S,
        "client_name": "parley-presence",
    }


def _evalsha(script: Script, keys: Sequence[str], arguments: Sequence[str | int | bytes]) -> Command:
    return ("EVALSHA", script.sha, len(keys), *keys, *arguments)


def _milliseconds(time: object) -> int:
    """The answer to TIME."""
    seconds, micros = cast(tuple[bytes, bytes], time)
    return int(seconds) * 1000 + int(micros) // 1000


def _lease(edge_id: str, value: str, *, is_alive: bool) -> Lease:
    seq, _, expires_ms = value.partition(":")
    return Lease(EdgeId(edge_id), Seq(int(seq)), int(expires_ms), is_alive)
