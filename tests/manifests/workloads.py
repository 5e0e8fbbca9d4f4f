"""What runs, read from built manifests: pods, their environment, their secrets and their probes."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from tests.manifests.kustomize import Manifest, find, get, of_kind

PROCESSES = ("edge", "chat", "presence", "notify")
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


@dataclass(frozen=True, slots=True)
class Probe:
    """One question of the kubelet: by gRPC where `service` is there, by HTTP where `path` is."""

    when: str
    port: int
    service: str | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """The pods of one Deployment or StatefulSet. Each has one container."""

    kind: str
    name: str
    labels: Mapping[str, str]
    pod: Manifest

    @property
    def container(self) -> Manifest:
        container: Manifest
        (container,) = self.pod["containers"]
        return container

    @property
    def ports(self) -> Mapping[str, int]:
        return {port["name"]: port["containerPort"] for port in self.container["ports"]}

    @property
    def pre_stop_s(self) -> int:
        hook = self.container.get("lifecycle", {}).get("preStop", {})
        return int(hook["sleep"]["seconds"]) if hook else 0

    @property
    def grace_s(self) -> int:
        return int(self.pod["terminationGracePeriodSeconds"])

    def probes(self) -> Iterator[Probe]:
        for when in PROBES:
            told = self.container[when]
            if "grpc" in told:
                yield Probe(when, told["grpc"]["port"], service=told["grpc"]["service"])
            else:
                yield Probe(when, self._port(told["httpGet"]["port"]), path=told["httpGet"]["path"])

    def _port(self, told: int | str) -> int:
        return told if isinstance(told, int) else self.ports[told]


def workloads(manifests: Sequence[Manifest]) -> Sequence[Workload]:
    return [
        Workload(
            kind,
            each["metadata"]["name"],
            each["spec"]["template"]["metadata"]["labels"],
            each["spec"]["template"]["spec"],
        )
        for kind in ("Deployment", "StatefulSet")
        for each in of_kind(manifests, kind)
    ]


def workload(manifests: Sequence[Manifest], name: str) -> Workload:
    (found,) = (each for each in workloads(manifests) if each.name == name)
    return found


def environment(manifests: Sequence[Manifest], process: Workload) -> Mapping[str, str]:
    """The variables of the container, as the kubelet would set them (later sources win)."""
    container = process.container
    assert "env" not in container, "settings come from ConfigMaps, secrets from files"
    variables: dict[str, str] = {}
    for source in container["envFrom"]:
        variables |= get(manifests, "ConfigMap", source["configMapRef"]["name"])["data"]
    return variables


@dataclass(frozen=True, slots=True)
class SecretMount:
    """A Secret as files: each key is a file in `directory`."""

    secret: str
    directory: PurePosixPath


def secret_mounts(process: Workload) -> Sequence[SecretMount]:
    secrets = {each["name"]: each["secret"]["secretName"] for each in process.pod["volumes"] if "secret" in each}
    return [
        SecretMount(secrets[mount["name"]], PurePosixPath(mount["mountPath"]))
        for mount in process.container["volumeMounts"]
        if mount["name"] in secrets
    ]


def secret_data(secret: Manifest) -> Mapping[str, str]:
    """Key → text."""
    data: Mapping[str, Any] = secret.get("data") or {}
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


def find_secret(manifests: Sequence[Manifest], name: str) -> Mapping[str, str] | None:
    secret = find(manifests, "Secret", name)
    return None if secret is None else secret_data(secret)
