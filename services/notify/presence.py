"""Asking presence who is online. It may be away at any time: then nobody knows, quickly, and the pushes go on.

The codec is passed in, as generated types stay in `convert`.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Final, Protocol

from services.notify.model import Status, UserId
from services.runtime.errors import ServiceError
from services.runtime.log import logger
from services.runtime.resilience import CallPolicy
from services.runtime.targets import Targets

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
    """Args:
    targets: every replica of presence.
    encode, decode: the request and response of its `GetPresence`.
    """

    def __init__(
        self,
        targets: Targets,
        *,
        encode: Callable[[Sequence[UserId]], bytes],
        decode: Callable[[bytes], Mapping[UserId, Status]],
    ) -> None:
        self._targets = targets
        self._encode = encode
        self._decode = decode

    async def close(self) -> None:
        await self._targets.close()

    async def read(self, user_ids: Sequence[UserId]) -> Mapping[UserId, Status]:
        known: dict[UserId, Status] = {}
        for first in range(0, len(user_ids), _MAX_USERS):
            page = user_ids[first : first + _MAX_USERS]
            try:
                known.update(
                    await self._targets.call(
                        "GetPresence", page, encode=self._encode, decode=self._decode, policy=_POLICY
                    )
                )
            except ServiceError as error:
                _log.info("presence_unknown", reason=error.reason)
        return known
