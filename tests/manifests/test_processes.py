"""Each process starts with exactly the environment of its Deployment, and answers the kubelet's questions."""

import asyncio
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.e2e.waiting import eventually
from tests.manifests.deployed import Deployed
from tests.manifests.workloads import PROCESSES, Probe

# The kubelet's own default; the manifests give more.
_PROBE_S = 1.0


@pytest.mark.parametrize("process", PROCESSES)
async def test_process_is_ready_and_its_probes_are_the_ones_that_answer(deployed: Deployed, process: str) -> None:
    asked = list(deployed.workloads[process].probes())
    assert [probe.when for probe in asked] == ["startupProbe", "readinessProbe", "livenessProbe"]
    for probe in asked:
        assert await _answers(probe, deployed.port(process, probe.port)), probe


@pytest.mark.parametrize("process", PROCESSES)
async def test_question_that_is_not_in_the_manifest_is_not_answered(deployed: Deployed, process: str) -> None:
    for probe in deployed.workloads[process].probes():
        other = Probe(
            probe.when, probe.port, service=probe.service and f"{probe.service}s", path=probe.path and f"{probe.path}z"
        )
        assert not await _answers(other, deployed.port(process, probe.port)), other


@pytest.mark.parametrize("process", PROCESSES)
def test_process_writes_nowhere_but_to_its_output(deployed: Deployed, process: str) -> None:
    assert list(_files_open_for_writing(deployed.pid(process))) == []


async def test_edge_sees_every_service_that_it_was_told_of(deployed: Deployed) -> None:
    def sees_all() -> bool:
        up = [line for line in deployed.metrics("edge").splitlines() if line.startswith("parley_edge_replicas_up{")]
        assert {line.rpartition("} ")[2] for line in up} == {"1.0"}, up
        return any('service="chat"' in line for line in up)

    await eventually(sees_all, what="one replica of each service is up")


async def _answers(probe: Probe, port: int) -> bool:
    """As the kubelet judges: SERVING, or a status from 200 to 399."""
    if probe.service is not None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)  # its type stub lacks Check
            request = health_pb2.HealthCheckRequest(service=probe.service)
            try:
                answer = await stub.Check(request, timeout=_PROBE_S)
            except grpc.aio.AioRpcError:
                return False
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
    return await asyncio.to_thread(_answers_http, f"http://127.0.0.1:{port}{probe.path}")


def _answers_http(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=_PROBE_S) as answer:
            return bool(answer.status < 400)
    except urllib.error.HTTPError:
        return False


def _files_open_for_writing(pid: int) -> Iterator[str]:
    """Regular files that the process could write to, other than what it was started with (0, 1 and 2)."""
    for number in os.listdir(f"/proc/{pid}/fd"):
        if int(number) > 2:
            path = os.readlink(f"/proc/{pid}/fd/{number}")
            with open(f"/proc/{pid}/fdinfo/{number}") as about:
                flags = next(int(line.split()[1], 8) for line in about if line.startswith("flags"))
            if os.path.isfile(path) and flags & (os.O_WRONLY | os.O_RDWR):
                yield path
