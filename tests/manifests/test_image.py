"""The Dockerfile and compose.yaml, as far as can be told without Docker: what goes in, who runs it, what it is told."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml

from services.runtime.config import FILE_SUFFIX
from tests.manifests.image import stages
from tests.manifests.kustomize import REPOSITORY, overlay
from tests.manifests.workloads import PROCESSES, environment, find_secret, secret_mounts, workload, workloads

_COMPOSE: Mapping[str, Any] = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())
_LAST = stages()[-1]


def test_image_runs_as_the_user_of_the_manifests_and_starts_what_they_name() -> None:
    assert _LAST.last_of("ENTRYPOINT") == '["python", "-m"]'
    for process in PROCESSES:
        pods = workload(overlay("production"), process)
        context = pods.pod["securityContext"]
        assert _LAST.last_of("USER") == f"{context['runAsUser']}:{context['runAsGroup']}"
        assert "command" not in pods.container, "the image knows the program"
        (module,) = pods.container["args"]
        assert (REPOSITORY / module.replace(".", "/") / "__main__.py").is_file()
        assert set(pods.ports.values()) <= {int(port) for port in _LAST.last_of("EXPOSE").split()}


def test_last_stage_installs_nothing_and_takes_no_tools_along() -> None:
    commands = " ".join(_LAST.all_of("RUN"))
    assert not re.search(r"\b(pip install|apt-get|npm|gcc|make)\b", commands)
    assert "rm -rf /usr/local/lib/python3.11/ensurepip /usr/local/lib/python3.11/site-packages" in commands
    packages = next(stage for stage in stages() if stage.name == "packages")
    assert packages.base == _LAST.base, "the environment names its interpreter by path"
    assert any("venv --without-pip" in command for command in packages.all_of("RUN"))
    assert {copy.stage for copy in _LAST.copies} == {None, "packages", "web"}


def test_image_has_the_packages_that_are_shipped_and_the_versions_of_the_lock() -> None:
    shipped = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    copied = {source.rstrip("/") for copy in _LAST.copies if copy.stage is None for source in copy.sources}
    assert copied == {pattern.removesuffix("*") for pattern in shipped["include"]}
    packages = next(stage for stage in stages() if stage.name == "packages")
    assert any("--no-deps" in command and "-r requirements.lock" in command for command in packages.all_of("RUN"))


def test_everything_that_is_copied_exists_and_is_sent_to_the_builder() -> None:
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    sent = {line.removeprefix("!").rstrip("/") for line in lines if line.startswith("!")}
    assert "*" in lines, "everything else stays out"
    for stage in stages():
        for copy in stage.copies:
            for source in copy.sources if copy.stage is None else ():
                assert (REPOSITORY / source).exists(), source
                assert PurePosixPath(source).parts[0] in sent, source


def test_secrets_and_leavings_are_not_sent_to_the_builder() -> None:
    lines = set((REPOSITORY / ".dockerignore").read_text().splitlines())
    assert {"**/*.pem", "**/.env", "**/*.db", "**/node_modules/", "**/__pycache__/"} <= lines


@pytest.mark.parametrize("process", PROCESSES)
def test_compose_tells_each_process_what_the_development_cluster_does(process: str) -> None:
    service = _COMPOSE["services"][process]
    told: dict[str, str] = {}
    for file in service["env_file"]:
        told |= _read_variables(file)
    told |= service.get("environment", {})
    manifests = overlay("dev")
    pods = workload(manifests, process)
    secrets = {
        str(mount.directory / key): text
        for mount in secret_mounts(pods)
        for key, text in (find_secret(manifests, mount.secret) or {}).items()
    }
    cluster = {
        name.removesuffix(FILE_SUFFIX): secrets.get(value, value).replace("mongodb-0.mongodb:", "mongodb:")
        for name, value in environment(manifests, pods).items()
    }
    assert told == cluster
    assert service["command"] == pods.container["args"]


@pytest.mark.parametrize("process", PROCESSES)
def test_compose_locks_each_process_in_and_gives_it_time_to_leave(process: str) -> None:
    service = _COMPOSE["services"][process]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    grace_s = workload(overlay("dev"), process).grace_s - workload(overlay("dev"), process).pre_stop_s
    assert service["stop_grace_period"] == f"{grace_s}s"


def test_compose_opens_ports_to_this_machine_only() -> None:
    ports = [port for service in _COMPOSE["services"].values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:8080:8080"]


def test_compose_and_the_development_cluster_use_the_same_images() -> None:
    composed = {service["image"] for service in _COMPOSE["services"].values()}
    assert composed == {each.container["image"] for each in workloads(overlay("dev"))}


def _read_variables(file: str) -> Mapping[str, str]:
    lines = (REPOSITORY / file).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
