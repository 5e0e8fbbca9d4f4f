"""The processes of a stack by kind, and what each says of itself on its admin port."""

from collections.abc import Sequence

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from scripts.stack import Kind, Service
from tests.e2e.deployments import FullStack


def services_of(stack: FullStack, kind: Kind) -> Sequence[Service]:
    return [service for service in stack.stack.services if service.kind is kind]


async def read_figure(http: aiohttp.ClientSession, service: Service, name: str) -> float:
    """The sum of that metric's samples; 0 where there are none yet."""
    async with http.get(f"{service.admin_url}/metrics") as response:
        text = await response.text()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    )
