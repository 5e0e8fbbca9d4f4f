"""presence.v1 over gRPC: unpacks a request, calls the use case, packs the answer. Rules live in the use cases."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from protos.presence.v1 import presence_pb2, presence_pb2_grpc
from services.presence import convert
from services.presence.reads import Reads
from services.presence.reports import Reports
from services.presence.store import PresenceStore
from services.presence.streams import WatchStream
from services.presence.watches import Watches

SERVICE_NAME = presence_pb2.DESCRIPTOR.services_by_name["PresenceService"].full_name

_Context = grpc.aio.ServicerContext[Any, Any]


class PresenceServicer(presence_pb2_grpc.PresenceServiceServicer):
    def __init__(
        self,
        reports: Reports,
        reads: Reads,
        watches: Watches,
        store: PresenceStore,
        draining: asyncio.Event,
        *,
        lease_ttl_ms: int,
        coalesce_s: float,
    ) -> None:
        self._reports = reports
        self._reads = reads
        self._watches = watches
        self._store = store
        self._draining = draining
        self._lease_ttl_ms = lease_ttl_ms
        self._coalesce_s = coalesce_s

    async def ReportSessions(
        self, request: presence_pb2.ReportSessionsRequest, context: _Context
    ) -> presence_pb2.ReportSessionsResponse:
        is_taken = await self._reports.take(convert.report_from(request))
        return presence_pb2.ReportSessionsResponse(full_report_needed=not is_taken, lease_ttl_ms=self._lease_ttl_ms)

    async def ReleaseLease(
        self, request: presence_pb2.ReleaseLeaseRequest, context: _Context
    ) -> presence_pb2.ReleaseLeaseResponse:
        await self._reports.release(convert.edge_id_from(request.edge_id))
        return presence_pb2.ReleaseLeaseResponse()

    async def GetPresence(
        self, request: presence_pb2.GetPresenceRequest, context: _Context
    ) -> presence_pb2.GetPresenceResponse:
        presences = await self._reads.get(convert.user_ids_from(request.user_ids))
        return presence_pb2.GetPresenceResponse(presences=map(convert.presence, presences))

    async def RecordActivity(
        self, request: presence_pb2.RecordActivityRequest, context: _Context
    ) -> presence_pb2.RecordActivityResponse:
        await self._store.record_activity(convert.activities_from(request.activities))
        return presence_pb2.RecordActivityResponse()

    async def WatchPresence(
        self, requests: AsyncIterator[presence_pb2.WatchPresenceRequest], context: _Context
    ) -> AsyncIterator[presence_pb2.WatchPresenceResponse]:
        """Ends when the edge goes or this replica drains."""
        stream = WatchStream(coalesce_s=self._coalesce_s)
        self._watches.stream_began(stream)
        reading = asyncio.create_task(self._read_requests(stream, requests))
        closing = asyncio.create_task(self._close_on_drain(stream))
        try:
            while (update := await stream.take()) is not None:
                yield convert.update(update)
        finally:
            stream.close()
            for task in (reading, closing):
                task.cancel()
            await asyncio.wait((reading, closing))
            self._watches.stream_ended(stream)
            if not reading.cancelled() and (error := reading.exception()) is not None:
                raise error

    async def _close_on_drain(self, stream: WatchStream) -> None:
        await self._draining.wait()
        stream.close()

    async def _read_requests(
        self, stream: WatchStream, requests: AsyncIterator[presence_pb2.WatchPresenceRequest]
    ) -> None:
        """Follows what the edge asks until it stops asking."""
        try:
            async for request in requests:
                self._watches.unwatch(stream, convert.interest_from(request.unwatch_user_ids))
                self._watches.watch(stream, convert.interest_from(request.watch_user_ids))
        finally:
            stream.close()


def register(servicer: PresenceServicer, server: grpc.aio.Server) -> None:
    presence_pb2_grpc.add_PresenceServiceServicer_to_server(servicer, server)
