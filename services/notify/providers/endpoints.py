"""Where a Web Push may go: endpoints are addresses that users gave, so none may lead into our own network.

Checked twice: the text when a device is registered, and every address that the name resolves to when a connection is
made, at the place where it is made: what is checked is what is connected to, so a name that resolves differently a
moment later (DNS rebinding) gains nothing. Redirects are not followed.
"""

import ipaddress
import socket
from typing import Final
from urllib.parse import urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

MAX_ENDPOINT: Final = 2_048
# RFC 6052: an IPv4 address inside an IPv6 one, which `is_global` does not look into.
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


class EndpointForbidden(OSError):
    """The endpoint leads where we do not go."""


def problem_of(endpoint: str) -> str | None:
    """What is wrong with the text of an endpoint; None where nothing is. For an operator's test setting this is not
    asked at all."""
    if len(endpoint) > MAX_ENDPOINT or not endpoint.isascii() or any(ord(c) <= 32 for c in endpoint):
        return "expected an absolute https URL"
    try:
        parts = urlsplit(endpoint)
        _ = parts.port
    except ValueError:
        return "expected an absolute https URL"
    if parts.scheme != "https" or not parts.hostname:
        return "expected an absolute https URL"
    if parts.username is not None or parts.password is not None:
        return "expected a URL without credentials"
    if _is_literal(parts.hostname) and not is_public(parts.hostname):
        return "expected a public address"
    return None


def is_public(address: str) -> bool:
    """Whether the address is on the Internet, and nobody's private, local, shared or multicast one."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64:
            return _is_public_one(ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF))
        if ip.ipv4_mapped is not None:
            return _is_public_one(ip.ipv4_mapped)
        if any(each is not None and not _is_public_one(each) for each in (ip.sixtofour, *(ip.teredo or ()))):
            return False
    return _is_public_one(ip)


def _is_public_one(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and not ip.is_unspecified


def _is_literal(host: str) -> bool:
    """Also `127.1`, `0x7f000001` and the like, which resolvers take for addresses."""
    try:
        socket.inet_aton(host)
    except OSError:
        return ":" in host
    return True


class PublicResolver(AbstractResolver):
    """Resolves names, and refuses those that lead to anything but public addresses."""

    def __init__(self, inner: AbstractResolver | None = None) -> None:
        self._inner = inner or ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if not all(is_public(each["host"]) for each in found):
            raise EndpointForbidden("an endpoint resolves to an address that is not public")
        return found

    async def close(self) -> None:
        await self._inner.close()
