"""The web page: the files of one directory, read once at start, each at its own path and `index.html` also at `/`.

No path of a request ever becomes a path of a file, so there is nothing to climb out of. The page may load only what
this edge serves, has no way to make HTML or code out of text (Trusted Types), and nobody may frame it.

What the build puts below `assets/` has its content's hash in its name and is kept by browsers for good. For everything
else they ask each time whether it has changed (ETag), which costs a round trip and never shows yesterday's page.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import ETag, hdrs, web

from services.runtime.config import ConfigError

_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".txt": "text/plain; charset=utf-8",
}
# All files are kept in memory.
_MAX_TOTAL_BYTES: Final = 32 << 20

_WEB: Final = Path(__file__).parents[2] / "web"
_HASHED: Final = "/assets/"
# A year, which is what caches take "for good" to mean (RFC 9111 names no limit; RFC 8246 adds immutable).
_FOR_GOOD: Final = "public, max-age=31536000, immutable"
_ASK_EACH_TIME: Final = "no-cache"
# What the page never asks of a browser, and so nothing that got into it could.
_NO_DEVICES: Final = "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()"

_is_host = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?").fullmatch

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    content: bytes
    content_type: str
    etag: ETag


def default_web_root() -> str:
    """The page that comes along: the React client where it has been built, else the plain page."""
    built = _WEB / "dist"
    return str(built if (built / "index.html").is_file() else _WEB / "plain")


def page_routes(web_root: str) -> list[web.RouteDef]:
    """Routes for every file below `web_root` whose type is known; none where `web_root` is empty.

    Raises:
        ConfigError: there is no page, or more than a page.
    """
    if not web_root:
        return []
    files = _read_files(Path(web_root))
    routes = [web.get(file.path, _serve(file)) for file in files]
    routes += [web.get("/", _serve(file)) for file in files if file.path == "/index.html"]
    if len(routes) == len(files):
        raise ConfigError((f"PARLEY_EDGE_WEB_ROOT: expected a directory with an index.html, not {web_root!r}",))
    return routes


def _read_files(root: Path) -> list[_File]:
    files, total = [], 0
    for path in sorted(root.rglob("*")):
        place = path.relative_to(root)
        content_type = _TYPES.get(path.suffix)
        is_hidden = any(part.startswith(".") for part in place.parts)
        if content_type is None or is_hidden or path.is_symlink() or not path.is_file():
            continue
        content = path.read_bytes()
        total += len(content)
        if total > _MAX_TOTAL_BYTES:
            raise ConfigError((f"PARLEY_EDGE_WEB_ROOT: expected at most {_MAX_TOTAL_BYTES >> 20} MiB of files",))
        etag = ETag(hashlib.sha256(content).hexdigest()[:32])
        files.append(_File(f"/{place.as_posix()}", content, content_type, etag))
    return files


def _serve(file: _File) -> _Handler:
    async def serve(request: web.Request) -> web.Response:
        is_known = any(etag.value in (file.etag.value, "*") for etag in request.if_none_match or ())
        response = web.Response(status=304) if is_known else web.Response(body=file.content)
        if not is_known:
            response.headers[hdrs.CONTENT_TYPE] = file.content_type
        response.etag = file.etag
        response.headers[hdrs.CACHE_CONTROL] = _FOR_GOOD if file.path.startswith(_HASHED) else _ASK_EACH_TIME
        response.headers["Content-Security-Policy"] = _policy(request.headers.get(hdrs.HOST, ""))
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        response.headers["Permissions-Policy"] = _NO_DEVICES
        return response

    return serve


def _policy(host: str) -> str:
    """'self' covers WebSockets of the same host by CSP level 3; browsers of level 2 want them named."""
    sockets = f" ws://{host} wss://{host}" if _is_host(host) else ""
    return (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'{sockets}; "
        "worker-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types parley"
    )
