"""Asking presence who is online. It may be away at any time: then nobody knows, quickly, and the pushes go on.

The codec is passed in, as generated types stay in `convert`.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Final, Protocol

import grpc

from services.notify.model import Status, UserId
from services.runtime.channel import open_channel
from services.runtime.clock import Clock
from services.runtime.errors import ServiceError
from services.runtime.log import logger
from services.runtime.metrics import Metrics
from services.runtime.resilience import Breaker, Caller, CallPolicy

# Presence answers from memory or one round trip to Redis; who waits longer had better push.
_POLICY: Final = CallPolicy(deadline=timedelta(seconds=1), attempts=2, idempotent=True)
# The contract's limit for one call.
_MAX_USERS: Final = 1_000

_log = logger(__name__)


class PresenceReader(Protocol):
    async def read(self, user_ids: Sequence[UserId]) -> Mapping[UserId, Status]:
        """Never raises: whoever is left out, or UNKNOWN, is not known just now."""


class UnknownPresence:
    """Where no presence service is configured."""

    async def read(self, user_ids: Sequence[UserId]) -> Mapping[UserId, Status]:
        return {}


class GrpcPresence:
    """Asks any of the targets, in turn; one that fails is passed over for the next one.

    Args:
        targets: host:port each, one or more.
        service: the full name of the service.
        encode, decode: its `GetPresence` request and response.
    """

    def __init__(
        self,
        targets: Sequence[str],
        *,
        service: str,
        encode: Callable[[Sequence[UserId]], bytes],
        decode: Callable[[bytes], Mapping[UserId, Status]],
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._method = f"/{service}/GetPresence"
        self._encode = encode
        self._decode = decode
        self._replicas = [_Replica(target, clock, metrics) for target in targets]
        self._next = 0

    async def close(self) -> None:
        await asyncio.gather(*(replica.channel.close() for replica in self._replicas))

    async def read(self, user_ids: Sequence[UserId]) -> Mapping[UserId, Status]:
        known: dict[UserId, Status] = {}
        for first in range(0, len(user_ids), _MAX_USERS):
            known.update(await self._read_page(user_ids[first : first + _MAX_USERS]))
        return known

    async def _read_page(self, user_ids: Sequence[UserId]) -> Mapping[UserId, Status]:
        for _ in self._replicas:
            replica = self._replicas[self._next % len(self._replicas)]
            self._next += 1
            rpc: grpc.aio.UnaryUnaryMultiCallable[Sequence[UserId], Mapping[UserId, Status]] = (
                replica.channel.unary_unary(
                    self._method, request_serializer=self._encode, response_deserializer=self._decode
                )
            )
            try:
                return await replica.caller.call(rpc, user_ids, policy=_POLICY, method="GetPresence")
            except ServiceError as error:
                _log.info("presence_unknown", replica=replica.target, reason=error.reason)
        return {}


class _Replica:
    def __init__(self, target: str, clock: Clock, metrics: Metrics) -> None:
        self.target = target
        self.channel = open_channel(target)
        breaker = Breaker(f"presence@{target}", clock=clock, metrics=metrics)
        self.caller = Caller(breaker, clock, metrics, package="services.notify")
