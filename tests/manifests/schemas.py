"""The schemas of Kubernetes that kubernetes-validate carries, in their strict form: an unknown field is an error.

Its own function stops at the first problem; these validators tell all of them.
"""

import functools
import json
import re
from collections.abc import Iterator
from importlib.resources import files

import jsonschema
from referencing import Registry, Resource

from tests.manifests.kustomize import Manifest

_SCHEMAS = files("kubernetes_validate") / "kubernetes-json-schema"
_is_strict = re.compile(r"v(\d+)\.(\d+)\.\d+-local-strict").fullmatch

# What a cluster has only with the Prometheus operator; tests of their own read those.
FOREIGN = "monitoring.coreos.com/v1"


def newest_versions(count: int) -> list[str]:
    """Names of schema folders, the oldest of the `count` newest first."""
    found = [folder.name for folder in _SCHEMAS.iterdir() if _is_strict(folder.name)]

    def minor(name: str) -> tuple[int, ...]:
        match = _is_strict(name)
        assert match is not None
        return tuple(int(part) for part in match.groups())

    return sorted(found, key=minor)[-count:]


def problems(version: str, manifest: Manifest) -> Iterator[str]:
    """Everything that is wrong with it by the schemas of that version."""
    group, _, api = manifest["apiVersion"].rpartition("/")
    prefix = f"{group.split('.')[0]}-" if group else ""
    schema = _SCHEMAS / version / f"{manifest['kind'].lower()}-{prefix}{api}.json"
    if not schema.is_file():
        yield f"{manifest['kind']} {manifest['apiVersion']} is unknown to {version}"
        return
    for error in _validator(version, schema.name).iter_errors(manifest):
        yield f"{manifest['kind']} {manifest['metadata']['name']}: {error.json_path}: {error.message}"


@functools.cache
def _validator(version: str, name: str) -> jsonschema.Draft202012Validator:
    schema = json.loads((_SCHEMAS / version / name).read_text())
    definitions = _definitions(version)
    return jsonschema.Draft202012Validator(schema, registry=definitions @ (Resource.from_contents(schema) @ Registry()))


@functools.cache
def _definitions(version: str) -> Resource[object]:
    return Resource.from_contents(json.loads((_SCHEMAS / version / "_definitions.json").read_text()))
