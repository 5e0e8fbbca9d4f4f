"""The embedded Parley with the built page, one for all scenarios: each has people of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.web import build
from tests.browser.scenario import Stage
from tests.e2e.deployments import ROOMY_LIMITS, Embedded


@pytest.fixture(scope="session")
def _deployment(session_directory: Path) -> Iterator[Embedded]:
    build()
    deployment = Embedded(session_directory / "browser", ROOMY_LIMITS)
    deployment.start()
    yield deployment
    deployment.stop()


@pytest.fixture
def stage(_deployment: Embedded) -> Stage:
    """Where a scenario is played; it may kill the server and start it again."""
    return Stage(_deployment)
