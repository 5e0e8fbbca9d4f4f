"""What several tests of the manifests share: the commands of deploying.md, run once; and the processes, as deployed."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from scripts.servers import Mongod, RabbitNode, RedisServer
from tests.manifests.deployed import Backends, Deployed
from tests.manifests.kustomize import overlay
from tests.manifests.operating import PAGES, documented_secrets, make_checkout, run_offline


@pytest.fixture(scope="session")
def deploying_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which every offline command of deploying.md has been run."""
    checkout = make_checkout(tmp_path_factory.mktemp("checkout"))
    run_offline(PAGES / "deploying.md", checkout)
    return checkout


@pytest.fixture(scope="session")
def production_secrets(deploying_checkout: Path) -> Mapping[str, Mapping[str, str]]:
    return documented_secrets(deploying_checkout)


# Of this package: no process of it runs on while other suites do.
@pytest.fixture(scope="package", params=["dev", "production"])
def deployed(
    request: pytest.FixtureRequest,
    session_directory: Path,
    production_secrets: Mapping[str, Mapping[str, str]],
    mongod: Mongod,
    redis_server: RedisServer,
    rabbit_node: RabbitNode,
) -> Iterator[Deployed]:
    """The four processes of an overlay, ready."""
    name = str(request.param)
    backends = Backends(mongod.url_of(f"manifests_{name}"), redis_server.url, rabbit_node.url)
    secrets = production_secrets if name == "production" else {}
    with Deployed(session_directory / f"manifests-{name}", overlay(name), secrets, backends) as running:
        yield running
