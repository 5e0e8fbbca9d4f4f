"""The admin port answers what an orchestrator asks."""

import asyncio
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from services.runtime.loop_lag import LoopLag
from services.runtime.metrics import AdminServer, Metrics, Readiness


class Bench:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.readiness = Readiness()
        self.admin = AdminServer("127.0.0.1", 0, self.registry, self.readiness)

    async def get(self, path: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.admin.port}{path}"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status, await response.text()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    await made.admin.start()
    yield made
    await made.admin.stop()


async def test_metrics_are_those_of_the_given_registry(bench: Bench) -> None:
    Metrics(bench.registry).counter("things", "Things").inc()
    status, text = await bench.get("/metrics")
    assert status == 200
    assert "parley_things_total 1.0" in text


async def test_alive_is_not_ready(bench: Bench) -> None:
    assert await bench.get("/healthz") == (200, '{"alive": true}')
    assert await bench.get("/readyz") == (503, '{"ready":false,"failing":["process"]}')


async def test_ready_once_told_and_while_every_check_holds(bench: Bench) -> None:
    bench.readiness.set(True)
    assert await bench.get("/readyz") == (200, '{"ready":true,"failing":[]}')
    bench.readiness.add_check("store", lambda: False)
    assert await bench.get("/readyz") == (503, '{"ready":false,"failing":["store"]}')


async def test_a_port_that_is_taken_is_an_error(bench: Bench) -> None:
    second = AdminServer("127.0.0.1", bench.admin.port, bench.registry, bench.readiness)
    with pytest.raises(OSError, match="address already in use"):
        await second.start()
    await second.stop()


async def test_a_client_that_never_finishes_does_not_hold_the_stop_up(bench: Bench) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", bench.admin.port)
    writer.write(b"POST /metrics HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nunfinished")
    await writer.drain()
    assert (await bench.get("/healthz"))[0] == 200  # so the other request has been read, too
    await asyncio.wait_for(bench.admin.stop(), 5)
    writer.close()


async def test_a_blocked_event_loop_shows_as_lag() -> None:
    registry = CollectorRegistry()
    lag = LoopLag(Metrics(registry))
    await lag.start()
    await asyncio.sleep(0.01)
    time.sleep(0.4)  # noqa: ASYNC251 - the blockage itself
    async with asyncio.timeout(5):
        while not registry.get_sample_value("parley_loop_lag_seconds_count"):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
    await lag.stop()
    worst = registry.get_sample_value("parley_loop_lag_seconds_sum")
    assert worst is not None
    assert worst > 0.2
