"""notify.v1 over gRPC: unpacks a request, calls the use case, packs the answer. Rules live in the use cases."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from protos.notify.v1 import notify_pb2, notify_pb2_grpc
from services.notify import convert
from services.notify.devices import DeviceService
from services.notify.errors import BadRequest
from services.notify.live import LiveHub, LiveStream
from services.notify.model import DeviceId, UserId
from services.notify.queue import Queue

SERVICE_NAME = notify_pb2.DESCRIPTOR.services_by_name["NotifyService"].full_name

_MAX_LISTED = 1_000
_MAX_REPLAYED = 1_000
# Users in one message of a stream; an edge sends more in several.
_MAX_CHANGES = 50_000

_Context = grpc.aio.ServicerContext[Any, Any]


class NotifyServicer(notify_pb2_grpc.NotifyServiceServicer):
    def __init__(self, devices: DeviceService, hub: LiveHub, queue: Queue, draining: asyncio.Event) -> None:
        self._devices = devices
        self._hub = hub
        self._queue = queue
        self._draining = draining

    async def RegisterDevice(
        self, request: notify_pb2.RegisterDeviceRequest, context: _Context
    ) -> notify_pb2.RegisterDeviceResponse:
        address = convert.address_from(request)
        device, created = await self._devices.register(
            convert.user_id_from(request.user_id), convert.device_id_of(address), address
        )
        return notify_pb2.RegisterDeviceResponse(device=convert.device(device), created=created)

    async def ListDevices(
        self, request: notify_pb2.ListDevicesRequest, context: _Context
    ) -> notify_pb2.ListDevicesResponse:
        devices = await self._devices.list(convert.user_id_from(request.user_id))
        return notify_pb2.ListDevicesResponse(devices=map(convert.device, devices))

    async def RemoveDevice(
        self, request: notify_pb2.RemoveDeviceRequest, context: _Context
    ) -> notify_pb2.RemoveDeviceResponse:
        await self._devices.remove(convert.user_id_from(request.user_id), DeviceId(request.device_id))
        return notify_pb2.RemoveDeviceResponse()

    async def GetPushSetup(
        self, request: notify_pb2.GetPushSetupRequest, context: _Context
    ) -> notify_pb2.GetPushSetupResponse:
        return notify_pb2.GetPushSetupResponse(
            platforms=map(convert.platform, self._devices.platforms),
            webpush_public_key=self._devices.webpush_public_key,
        )

    async def StreamNotifications(
        self, requests: AsyncIterator[notify_pb2.StreamNotificationsRequest], context: _Context
    ) -> AsyncIterator[notify_pb2.StreamNotificationsResponse]:
        """Ends when the edge goes, does not keep up, or this replica drains."""
        stream = LiveStream()
        reading = asyncio.create_task(self._read_requests(stream, requests))
        closing = asyncio.create_task(self._close_on_drain(stream))
        try:
            while waiting := await stream.take():
                yield convert.live_response(waiting)
        finally:
            self._hub.ended(stream)
            for task in (reading, closing):
                task.cancel()
            await asyncio.wait((reading, closing))
            if not reading.cancelled() and (error := reading.exception()) is not None:
                raise error

    async def _read_requests(
        self, stream: LiveStream, requests: AsyncIterator[notify_pb2.StreamNotificationsRequest]
    ) -> None:
        try:
            async for request in requests:
                if len(request.attach_user_ids) + len(request.detach_user_ids) > _MAX_CHANGES:
                    raise BadRequest(problem=f"users: expected at most {_MAX_CHANGES} in one message")
                self._hub.detach(stream, map(UserId, request.detach_user_ids))
                self._hub.attach(stream, map(UserId, request.attach_user_ids))
        finally:
            self._hub.ended(stream)

    async def _close_on_drain(self, stream: LiveStream) -> None:
        await self._draining.wait()
        self._hub.ended(stream)

    async def ListDeadLetters(
        self, request: notify_pb2.ListDeadLettersRequest, context: _Context
    ) -> notify_pb2.ListDeadLettersResponse:
        if not 1 <= request.limit <= _MAX_LISTED:
            raise BadRequest(problem=f"limit: expected 1 to {_MAX_LISTED}")
        letters = await self._queue.list_dead(limit=request.limit)
        return notify_pb2.ListDeadLettersResponse(dead_letters=map(convert.dead_letter, letters))

    async def ReplayDeadLetters(
        self, request: notify_pb2.ReplayDeadLettersRequest, context: _Context
    ) -> notify_pb2.ReplayDeadLettersResponse:
        if len(request.job_ids) > _MAX_REPLAYED:
            raise BadRequest(problem=f"job_ids: expected at most {_MAX_REPLAYED}")
        return notify_pb2.ReplayDeadLettersResponse(replayed=await self._queue.replay_dead(frozenset(request.job_ids)))


def register(servicer: NotifyServicer, server: grpc.aio.Server) -> None:
    notify_pb2_grpc.add_NotifyServiceServicer_to_server(servicer, server)
