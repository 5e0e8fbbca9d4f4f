"""Any of a service's addresses, for calls that every replica answers alike: in turn, past those that fail.

For who calls another service now and then. The edge, whose every request is such a call, watches the health of each
replica instead.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

import grpc

from services.runtime.channel import open_channel
from services.runtime.clock import Clock
from services.runtime.errors import ServiceError, Unavailable
from services.runtime.log import logger
from services.runtime.metrics import Metrics
from services.runtime.resilience import Breaker, Caller, CallPolicy

Request = TypeVar("Request")
Response = TypeVar("Response")

_log = logger(__name__)


class NoTarget(Unavailable):
    template = "no address of {service} is known here"


class Targets:
    """Args:
    service: its full name.
    targets: host:port each.
    package: whose error classes are wanted (see `errors.from_rpc_error`).
    """

    def __init__(self, service: str, targets: Sequence[str], *, package: str, clock: Clock, metrics: Metrics) -> None:
        self._service = service
        self._replicas = [_Replica(service, target, package, clock, metrics) for target in targets]
        self._next = 0

    async def close(self) -> None:
        await asyncio.gather(*(replica.channel.close() for replica in self._replicas))

    async def call(
        self,
        method: str,
        request: Request,
        *,
        encode: Callable[[Request], bytes],
        decode: Callable[[bytes], Response],
        policy: CallPolicy,
    ) -> Response:
        """The first answer. Each address is tried once, by the policy.

        Raises:
            ServiceError: the last address's refusal or failure.
        """
        failure: ServiceError = NoTarget(service=self._service)
        first = self._next
        self._next += 1
        for number in range(first, first + len(self._replicas)):
            replica = self._replicas[number % len(self._replicas)]
            rpc: grpc.aio.UnaryUnaryMultiCallable[Request, Response] = replica.channel.unary_unary(
                f"/{self._service}/{method}", request_serializer=encode, response_deserializer=decode
            )
            try:
                return await replica.caller.call(rpc, request, policy=policy, method=method)
            except ServiceError as error:
                _log.info("target_failed", target=replica.target, method=method, reason=error.reason)
                failure = error
        raise failure


class _Replica:
    def __init__(self, service: str, target: str, package: str, clock: Clock, metrics: Metrics) -> None:
        self.target = target
        self.channel = open_channel(target)
        breaker = Breaker(f"{service.rpartition('.')[2]}@{target}", clock=clock, metrics=metrics)
        self.caller = Caller(breaker, clock, metrics, package=package)
