"""The web page: what is served where, for how long browsers may keep it, and what the page may do."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from edge.gateway.pages import default_web_root, page_routes
from services.runtime.config import ConfigError

PLAIN = Path(__file__).parents[3] / "web" / "plain"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A built page: one file with its hash in its name, and things that are nobody's business."""
    for name, content in {
        "index.html": "<!doctype html><title>page</title>",
        "service-worker.js": "self.skipWaiting()",
        "assets/index-abc123.js": "export {}",
        "notes.secret": "of a type that is not known",
        ".hidden/index.html": "hidden",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    (tmp_path / "link.html").symlink_to(PLAIN / "index.html")
    return tmp_path


@pytest.fixture
async def client(root: Path) -> AsyncIterator[TestClient[web.Request, web.Application]]:
    app = web.Application()
    app.add_routes(page_routes(str(root)))
    async with TestClient(TestServer(app)) as client:
        yield client


async def test_the_page_is_at_the_root_and_asked_for_each_time(
    client: TestClient[web.Request, web.Application],
) -> None:
    for path in ("/", "/index.html", "/service-worker.js"):
        answer = await client.get(path)
        assert answer.status == 200
        assert answer.headers["Cache-Control"] == "no-cache"
        again = await client.get(path, headers={"If-None-Match": answer.headers["ETag"]})
        assert again.status == 304


async def test_what_has_its_hash_in_its_name_is_kept_for_good(client: TestClient[web.Request, web.Application]) -> None:
    answer = await client.get("/assets/index-abc123.js")
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"


@pytest.mark.parametrize("path", ["/notes.secret", "/.hidden/index.html", "/link.html", "/assets/../../edge/app.py"])
async def test_nothing_else_is_served(client: TestClient[web.Request, web.Application], path: str) -> None:
    assert (await client.get(path)).status == 404


async def test_the_page_may_load_only_what_this_edge_serves_and_nobody_may_frame_it(
    client: TestClient[web.Request, web.Application],
) -> None:
    headers = (await client.get("/", headers={"Host": "chat.example.org"})).headers
    policy = {each.split()[0]: each.split()[1:] for each in headers["Content-Security-Policy"].split("; ")}
    assert policy["default-src"] == ["'none'"]
    assert policy["script-src"] == ["'self'"]
    assert policy["connect-src"] == ["'self'", "ws://chat.example.org", "wss://chat.example.org"]
    assert policy["frame-ancestors"] == ["'none'"]
    assert policy["require-trusted-types-for"] == ["'script'"]
    assert not any("unsafe" in value or "*" in value for values in policy.values() for value in values)
    assert headers["X-Content-Type-Options"] == "nosniff"


async def test_a_host_that_is_none_does_not_get_into_the_policy(
    client: TestClient[web.Request, web.Application],
) -> None:
    async with aiohttp.ClientSession() as session:
        answer = await session.get(client.make_url("/"), headers={"Host": "x; script-src *"})
    assert "connect-src 'self';" in answer.headers["Content-Security-Policy"]
    assert "*" not in answer.headers["Content-Security-Policy"]


def test_a_directory_without_a_page_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="an index"):
        page_routes(str(tmp_path))


def test_the_page_that_comes_along_can_be_served_whether_or_not_one_was_built() -> None:
    assert page_routes(default_web_root())
    assert page_routes(str(PLAIN))
