"""Last reads in Redis: a sorted set for each conversation, member → seq, moved with ZADD GT, which never goes back."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from services.chat.lastread import Member
from services.chat.model import ConversationId, Seq, UserId
from services.runtime.log import logger

KEY_PREFIX: Final = "parley:chat:lastread:"
# A conversation that nobody reads in is forgotten after this.
_KEPT_S: Final = 7 * 86_400
# Redis answers in less than a millisecond; who waits longer had better write.
_TIMEOUT_S: Final = 0.25
# After a failure nobody waits for it again for so long.
_REST_S: Final = 1.0

_log = logger(__name__)


class RedisLastRead:
    """See `services.chat.lastread.LastRead`."""

    def __init__(self, url: str) -> None:
        self._client: Redis = Redis.from_url(
            url,
            decode_responses=True,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        self._rests_until = 0.0

    async def start(self) -> None:
        return None

    async def close(self) -> None:
        await self._client.aclose()

    async def find(self, members: Sequence[Member]) -> Mapping[Member, Seq]:
        asked: defaultdict[ConversationId, list[UserId]] = defaultdict(list)
        for conversation_id, user_id in members:
            asked[conversation_id].append(user_id)
        if not asked or self._is_resting():
            return {}
        pipeline = self._client.pipeline(transaction=False)
        for conversation_id, user_ids in asked.items():
            pipeline.zmscore(KEY_PREFIX + conversation_id, list(user_ids))
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                answers = await pipeline.execute()
        except (RedisError, OSError, TimeoutError) as error:
            self._rest(error)
            return {}
        return {
            Member(conversation_id, user_id): Seq(int(score))
            for (conversation_id, user_ids), scores in zip(asked.items(), answers, strict=True)
            for user_id, score in zip(user_ids, scores, strict=True)
            if score is not None
        }

    async def record(self, reads: Mapping[Member, Seq]) -> None:
        moved: defaultdict[ConversationId, dict[str, float]] = defaultdict(dict)
        for (conversation_id, user_id), seq in reads.items():
            moved[conversation_id][user_id] = seq
        if not moved or self._is_resting():
            return
        pipeline = self._client.pipeline(transaction=False)
        for conversation_id, scores in moved.items():
            pipeline.zadd(KEY_PREFIX + conversation_id, scores, gt=True)
            pipeline.expire(KEY_PREFIX + conversation_id, _KEPT_S)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await pipeline.execute()
        except (RedisError, OSError, TimeoutError) as error:
            self._rest(error)

    def _is_resting(self) -> bool:
        return asyncio.get_running_loop().time() < self._rests_until

    def _rest(self, error: Exception) -> None:
        self._rests_until = asyncio.get_running_loop().time() + _REST_S
        _log.debug("last_read_away", kind=type(error).__name__)
