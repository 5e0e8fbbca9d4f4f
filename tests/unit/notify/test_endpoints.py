"""Where a Web Push may go."""

import socket

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from services.notify.providers.endpoints import EndpointForbidden, PublicResolver, is_public, problem_of


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://push.example.org/x",
        "ftp://push.example.org/x",
        "https://",
        "//push.example.org/x",
        "https://user:pw@push.example.org/x",
        "https://127.0.0.1/x",
        "https://127.1/x",
        "https://2130706433/x",
        "https://0x7f000001/x",
        "https://10.0.0.8/x",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/x",
        "https://[::ffff:10.0.0.1]/x",
        "https://[fd00::1]/x",
        "https://push.example.org:99999/x",
        "https://push.example.org/ x",
        "https://push.example.org/\n",
        "https://push.example.org/" + "x" * 2_048,
    ],
)
def test_an_endpoint_that_leads_elsewhere_is_refused(endpoint: str) -> None:
    assert problem_of(endpoint)


@pytest.mark.parametrize(
    "endpoint", ["https://fcm.googleapis.com/fcm/send/x:y", "https://8.8.8.8/x", "https://a.b:8443/"]
)
def test_a_public_https_endpoint_is_accepted(endpoint: str) -> None:
    assert problem_of(endpoint) is None


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.1.1", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "fd12::1", "ff02::1", "::ffff:127.0.0.1",
        "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::", "not an address",
    ],
)  # fmt: skip
def test_an_address_of_ones_own_network_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_an_address_on_the_internet_is_public(address: str) -> None:
    assert is_public(address)


class Names(AbstractResolver):
    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in self._addresses
        ]

    async def close(self) -> None:
        """Nothing is open."""


async def test_a_name_is_refused_when_any_of_its_addresses_is_private() -> None:
    with pytest.raises(EndpointForbidden):
        await PublicResolver(Names("8.8.8.8", "10.0.0.1")).resolve("rebinding.example.org", 443)
    assert await PublicResolver(Names("8.8.8.8")).resolve("push.example.org", 443)
