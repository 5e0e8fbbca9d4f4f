"""Builds the notify service from its parts; the only place here that names concrete classes."""

import ssl
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from services.notify.config import NotifySettings
from services.notify.convert import (
    PRESENCE_SERVICE,
    decode_job,
    decode_presence_response,
    encode_job,
    encode_presence_request,
)
from services.notify.delivery import Delivery
from services.notify.devices import DeviceService
from services.notify.live import LiveHub
from services.notify.model import Platform
from services.notify.presence import GrpcPresence, PresenceReader, UnknownPresence
from services.notify.providers import Provider
from services.notify.providers.apns import Apns
from services.notify.providers.fcm import Fcm
from services.notify.providers.guarded import Guarded
from services.notify.providers.webpush import WebPush
from services.notify.queue import Queue, QueueOptions, open_queue
from services.notify.servicer import SERVICE_NAME, NotifyServicer, register
from services.notify.store import open_store
from services.runtime.clock import Clock
from services.runtime.config import ConfigError
from services.runtime.process import Process
from services.runtime.server import GrpcServer
from services.runtime.targets import Targets


class _Store:
    def __init__(self, url: str) -> None:
        self.opened = open_store(url)

    async def start(self) -> None:
        await self.opened.start()

    async def stop(self) -> None:
        await self.opened.close()


class _Providers:
    def __init__(self, providers: Mapping[Platform, Guarded]) -> None:
        self._providers = providers

    async def start(self) -> None:
        for provider in self._providers.values():
            await provider.start()

    async def stop(self) -> None:
        for provider in self._providers.values():
            await provider.close()


class _Consumption:
    """Jobs come once everything else is there, and stop coming before anything else goes: a replica whose edges have
    been sent away must not take their users for absent."""

    def __init__(self, queue: Queue, delivery: Delivery) -> None:
        self._queue = queue
        self._delivery = delivery

    async def start(self) -> None:
        await self._queue.start()
        await self._queue.consume(self._delivery.handle)

    async def stop(self) -> None:
        await self._queue.close()


async def build(process: Process, settings: NotifySettings, *, queue: Queue | None = None) -> GrpcServer:
    """Adds the service's components to `process`, in start order.

    `queue` is for one process that holds the publisher too: a memory queue that both sides were given. It is started
    and closed here.
    """
    clock, metrics = process.clock, process.metrics
    options = queue_options(settings)
    jobs = queue or open_queue(settings.queue_url, options)
    store = _Store(settings.store_url)
    push_timeout = timedelta(seconds=settings.push_timeout_s)
    providers = {
        provider.platform: Guarded(provider, timeout=push_timeout, clock=clock, metrics=metrics)
        for provider in open_providers(settings, clock)
    }
    hub = LiveHub(metrics)
    delivery = Delivery(
        store.opened,
        store.opened,
        jobs,
        hub,
        _presence(process, settings),
        providers,
        encode=encode_job,
        decode=decode_job,
        options=options,
        clock=clock,
        metrics=metrics,
        grace=timedelta(seconds=settings.grace_s),
        push_timeout=push_timeout,
    )
    devices = DeviceService(
        store.opened,
        providers,
        clock,
        max_devices=settings.max_devices,
        private_endpoints=settings.webpush_private_endpoints,
    )
    metrics.gauge("notify_queue_connected", "1: the broker is there").set_function(lambda: int(jobs.is_connected))
    server = GrpcServer.from_settings(settings.listen, process.settings, metrics=metrics)
    servicer = NotifyServicer(devices, hub, jobs, server.draining)
    server.add(lambda grpc_server: register(servicer, grpc_server), SERVICE_NAME)

    process.add(store, "notify_store")
    process.add(_Providers(providers), "notify_providers")
    process.add_server(server, "notify_server")
    process.add(_Consumption(jobs, delivery), "notify_queue")
    return server


def queue_options(settings: NotifySettings) -> QueueOptions:
    defaults = QueueOptions()
    return QueueOptions(
        retry_delays=tuple(timedelta(seconds=s) for s in settings.retry_delays_s),
        delays=(*defaults.delays, timedelta(seconds=settings.grace_s)),
        prefetch=settings.prefetch,
        prefix=settings.queue_prefix,
    )


def open_providers(settings: NotifySettings, clock: Clock) -> list[Provider]:
    """Those that are configured; not yet started.

    Raises:
        ConfigError: a credential is not one.
    """
    providers: list[Provider] = []
    name = ""
    try:
        if key := settings.vapid_private_key.get_secret_value():
            name = "PARLEY_NOTIFY_VAPID_PRIVATE_KEY"
            private = settings.webpush_private_endpoints
            providers.append(WebPush(key, settings.vapid_subject, clock=clock, private_endpoints=private))
        if account := settings.fcm_service_account.get_secret_value():
            name = "PARLEY_NOTIFY_FCM_SERVICE_ACCOUNT"
            providers.append(Fcm(account, clock=clock, url=settings.fcm_url))
        if key := settings.apns_key.get_secret_value():
            name = "PARLEY_NOTIFY_APNS_KEY"
            providers.append(_apns(key, settings, clock))
    except ValueError:  # without its text, which may show the secret
        raise ConfigError((f"{name}: not a credential of this kind",)) from None
    return providers


def _apns(key: str, settings: NotifySettings, clock: Clock) -> Apns:
    context = None
    if settings.apns_ca_file:
        try:
            context = ssl.create_default_context(cafile=str(Path(settings.apns_ca_file)))
        except OSError as error:
            raise ConfigError((f"PARLEY_NOTIFY_APNS_CA_FILE: cannot be used: {error}",)) from error
    return Apns(
        key,
        key_id=settings.apns_key_id,
        team_id=settings.apns_team_id,
        topic=settings.apns_topic,
        clock=clock,
        url=settings.apns_url,
        ssl_context=context,
    )


def _presence(process: Process, settings: NotifySettings) -> PresenceReader:
    if not settings.presence_targets:
        return UnknownPresence()
    presence = GrpcPresence(
        Targets(
            PRESENCE_SERVICE,
            settings.presence_targets,
            package="services.notify",
            clock=process.clock,
            metrics=process.metrics,
        ),
        encode=encode_presence_request,
        decode=decode_presence_response,
    )
    process.on_stop(presence.close, "notify_presence")
    return presence
