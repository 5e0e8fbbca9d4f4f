"""The HTTP API: `/api/v1` of wire.md, as aiohttp serves it.

`routing` says what a route is, `api` which there are and what they do, `shapes` what goes in and out, `openapi` tells
clients of all three; `serving` is the way in and out of aiohttp. `pages` is the web page, and no part of the API.
"""

from edge.gateway.api import Api, Chat
from edge.gateway.serving import Gateway

__all__ = ["Api", "Chat", "Gateway"]
