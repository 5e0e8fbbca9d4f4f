"""Every overlay builds, and is what three versions of Kubernetes take."""

import copy
from pathlib import Path

import pytest

from tests.manifests.kustomize import K8S, OVERLAYS, build, get
from tests.manifests.schemas import FOREIGN, newest_versions, problems

_DIRECTORIES = (K8S / "base", *sorted(OVERLAYS.iterdir()))
_VERSIONS = newest_versions(3)


def test_there_are_the_overlays_that_the_documents_speak_of() -> None:
    assert {each.name for each in OVERLAYS.iterdir()} == {"dev", "production", "monitoring"}


@pytest.mark.parametrize("version", _VERSIONS)
@pytest.mark.parametrize("directory", _DIRECTORIES, ids=lambda each: each.name)
def test_every_object_is_valid_to_the_letter(directory: Path, version: str) -> None:
    manifests = [each for each in build(directory) if each["apiVersion"] != FOREIGN]
    assert manifests
    assert [problem for each in manifests for problem in problems(version, each)] == []


@pytest.mark.parametrize("directory", _DIRECTORIES, ids=lambda each: each.name)
def test_no_object_is_there_twice_and_all_are_in_the_namespace(directory: Path) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in build(directory)]
    assert len(names) == len(set(names))
    namespaces = {each["metadata"].get("namespace") for each in build(directory) if each["kind"] != "Namespace"}
    assert namespaces == {"parley"}


@pytest.mark.parametrize("version", _VERSIONS)
def test_misspelt_field_and_wrong_type_are_found_together(version: str) -> None:
    broken = copy.deepcopy(dict(get(build(K8S / "base"), "Deployment", "chat")))
    broken["spec"]["replica"] = 3
    broken["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = "35 s"
    assert len(list(problems(version, broken))) == 2
