"""The names of keys and channels, so laid out that each script touches one Redis Cluster slot only.

    {ctl}:era           name of the era, and when it settles
    {ctl}:ticked        when a replica last ticked
    {ctl}:sweep         held for one tick by the replica that sweeps
    {ctl}:edges         hash: edge → seq and end of its lease, until its users are cleared
    {ctl}:lease:<edge>  the lease, with its TTL

    {<shard>}:u:<user>  a user's sessions, or what lingers of them (`records`); absent: offline
    {<shard>}:a:<user>  last activity, with a TTL of weeks
    {<shard>}:e:<edge>  set: users with sessions on that edge
    {<shard>}:f:<edge>  the last report of that edge which took effect here
    {<shard>}:edges     set: edges that have such a record, until their users are cleared
    {<shard>}:due       sorted set: lingering users by the end of their grace
    {<shard>}:changes   channel: what was announced

Users are spread over the shards by a hash of their id.
"""

import zlib
from collections.abc import Iterable, Mapping
from typing import Final

from services.presence.model import EdgeId, UserId

# Enough for a cluster of as many masters; each costs one command per batch and per sweep. To change it is to begin with
# empty keys.
SHARDS: Final = 16


class Keys:
    """
    Args:
        prefix: what every name begins with; no braces.
        database: the number of the Redis database. Pub/sub does not keep databases apart: the names do.

    Raises:
        ValueError: the prefix has braces.
    """

    def __init__(self, prefix: str, database: int) -> None:
        if set("{}") & set(prefix):
            raise ValueError("key_prefix: braces are for the slots")
        self._prefix = prefix
        self._channel_prefix = prefix if database == 0 else f"{prefix}db{database}:"
        self.era = self._control("era")
        self.ticked = self._control("ticked")
        self.sweep = self._control("sweep")
        self.edges = self._control("edges")
        self.lease_prefix = self._control("lease:")
        self.channels = tuple(f"{self._channel_prefix}{{{shard}}}:changes" for shard in range(SHARDS))

    def lease(self, edge_id: EdgeId) -> str:
        return self.lease_prefix + edge_id

    def probe(self, replica: str) -> str:
        """The channel on which a replica hears itself, and nobody else."""
        return f"{self._channel_prefix}probe:{replica}"

    def user(self, shard: int, user_id: UserId) -> str:
        return self._of(shard, f"u:{user_id}")

    def activity(self, shard: int, user_id: UserId) -> str:
        return self._of(shard, f"a:{user_id}")

    def members(self, shard: int, edge_id: EdgeId) -> str:
        return self._of(shard, f"e:{edge_id}")

    def fence(self, shard: int, edge_id: EdgeId) -> str:
        return self._of(shard, f"f:{edge_id}")

    def shard_edges(self, shard: int) -> str:
        return self._of(shard, "edges")

    def due(self, shard: int) -> str:
        return self._of(shard, "due")

    def _control(self, name: str) -> str:
        return f"{self._prefix}{{ctl}}:{name}"

    def _of(self, shard: int, name: str) -> str:
        return f"{self._prefix}{{{shard}}}:{name}"


def shard_of(user_id: UserId) -> int:
    return zlib.crc32(user_id.encode()) % SHARDS


def by_shard(user_ids: Iterable[UserId]) -> Mapping[int, list[UserId]]:
    sharded: dict[int, list[UserId]] = {}
    for user_id in user_ids:
        sharded.setdefault(shard_of(user_id), []).append(user_id)
    return sharded
