"""Which web pages may open a connection (RFC 6455, 10.2). Programs that are not browsers send no Origin and may."""

from collections.abc import Collection

from aiohttp import web


class Origins:
    """The edge's own origin and those of the settings; compared whole, never by prefix."""

    def __init__(self, allowed: Collection[str]) -> None:
        self._allowed = frozenset(allowed)

    def check(self, request: web.Request) -> None:
        """
        Raises:
            web.HTTPForbidden: a page of another origin asks.
        """
        origin = request.headers.get("Origin")
        if origin is None or origin in self._allowed:
            return
        if origin in (f"http://{request.host}", f"https://{request.host}"):
            return
        raise web.HTTPForbidden(text="this origin may not connect here: see PARLEY_EDGE_ALLOWED_ORIGINS")
