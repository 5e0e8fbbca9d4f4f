"""Builds the presence service from its parts; the only place here that names concrete classes."""

from datetime import timedelta

from services.presence.config import PresenceSettings
from services.presence.reads import Reads
from services.presence.reports import Reports
from services.presence.servicer import SERVICE_NAME, PresenceServicer, register
from services.presence.store import PresenceStore, StoreTimes, open_store
from services.presence.sweeper import Sweeper
from services.presence.updates import Updates
from services.presence.watches import Watches
from services.runtime.process import Process
from services.runtime.server import GrpcServer
from services.runtime.wire import milliseconds


class _Store:
    """The store begins to tell once there is somebody to listen."""

    def __init__(self, store: PresenceStore, watches: Watches) -> None:
        self._store = store
        self._watches = watches

    async def start(self) -> None:
        await self._store.start(self._watches)

    async def stop(self) -> None:
        await self._store.close()


async def build(process: Process, settings: PresenceSettings) -> GrpcServer:
    """Adds the service's components to `process`, in start order; the server comes last and leaves first."""
    metrics = process.metrics
    times = StoreTimes(
        lease_ttl=timedelta(seconds=settings.lease_ttl_s),
        grace=timedelta(seconds=settings.grace_s),
        settle=timedelta(seconds=settings.settle_s),
        tick=timedelta(seconds=settings.tick_s),
        activity_kept=timedelta(seconds=settings.activity_kept_s),
    )
    grace_ms, lease_ttl_ms = milliseconds(times.grace), milliseconds(times.lease_ttl)
    store = open_store(
        settings.store_url, key_prefix=settings.key_prefix, times=times, clock=process.clock, metrics=metrics
    )
    reads = Reads(store, grace_ms=grace_ms, metrics=metrics)
    watches = Watches(reads, metrics)
    updates = Updates(store, grace_ms=grace_ms, metrics=metrics)
    reports = Reports(store, updates, lease_ttl_ms=lease_ttl_ms, metrics=metrics)
    sweeper = Sweeper(
        store,
        reports,
        updates,
        watches,
        tick_s=settings.tick_s,
        orphans_every_ms=lease_ttl_ms,
        metrics=metrics,
    )
    server = GrpcServer.from_settings(settings.listen, process.settings, metrics=metrics)
    servicer = PresenceServicer(
        reports,
        reads,
        watches,
        store,
        server.draining,
        lease_ttl_ms=lease_ttl_ms,
        coalesce_s=settings.coalesce_ms / 1000,
    )
    server.add(lambda grpc_server: register(servicer, grpc_server), SERVICE_NAME)

    process.add(_Store(store, watches), "presence_store")
    process.on_stop(reads.close, "presence_reads")
    process.add(watches, "presence_watches")
    process.add(sweeper, "presence_sweeper")
    process.add_server(server, "presence_server")
    return server
