"""Pod Security *restricted*, and our own rules, for every pod of every overlay; and that each rule can be broken."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.manifests.kustomize import get, of_kind, overlay
from tests.manifests.restricted import OURS, RESTRICTED
from tests.manifests.workloads import PROCESSES, Workload, workload, workloads

_OVERLAYS = ("dev", "production")
_PODS = [(name, each) for name in _OVERLAYS for each in workloads(overlay(name))]
_RULES = {**RESTRICTED, **OURS}

Pod = dict[str, Any]


def _container(pod: Pod) -> dict[str, Any]:
    container: dict[str, Any] = pod["containers"][0]
    return container


def _context(pod: Pod) -> dict[str, Any]:
    context: dict[str, Any] = _container(pod)["securityContext"]
    return context


# For each rule a change that breaks it.
_BREAKS: dict[str, Callable[[Pod], object]] = {
    "one container, none that starts before it or is added later": lambda pod: pod.update(initContainers=[{}]),
    "no namespace of the host": lambda pod: pod.update(hostPID=True),
    "no port of the host": lambda pod: _container(pod)["ports"][0].update(hostPort=80),
    "probes and hooks ask no other host": lambda pod: _container(pod)["livenessProbe"]["httpGet"].update(host="a"),
    "only harmless kinds of volumes": lambda pod: pod["volumes"].append({"name": "etc", "hostPath": {"path": "/etc"}}),
    "not privileged": lambda pod: _context(pod).update(privileged=True),
    "no escalation": lambda pod: _context(pod).pop("allowPrivilegeEscalation"),
    "not root": lambda pod: _context(pod).update(runAsUser=0),
    "a seccomp profile": lambda pod: pod["securityContext"].pop("seccompProfile"),
    "no capability": lambda pod: _context(pod)["capabilities"].update(add=["NET_RAW"]),
    "/proc as usual": lambda pod: _context(pod).update(procMount="Unmasked"),
    "no sysctl": lambda pod: pod["securityContext"].update(sysctls=[{"name": "kernel.msgmax", "value": "1"}]),
    "SELinux and AppArmor as usual": lambda pod: _context(pod).update(appArmorProfile={"type": "Unconfined"}),
    "the root file system is read-only": lambda pod: _context(pod).pop("readOnlyRootFilesystem"),
    "a user of its own, by number": lambda pod: pod["securityContext"].pop("runAsUser"),
    "an account of its own, without a token": lambda pod: pod.pop("automountServiceAccountToken"),
    "no variables about services": lambda pod: pod.pop("enableServiceLinks"),
    "memory is limited, CPU and memory are requested": lambda pod: _container(pod)["resources"].update(limits={}),
    "an image with a version": lambda pod: _container(pod).update(image="parley"),
    "ready and alive are asked": lambda pod: _container(pod).pop("readinessProbe"),
    "scratch space is bounded": lambda pod: pod["volumes"].append({"name": "any", "emptyDir": {}}),
    "no secret in a variable": lambda pod: _container(pod)["envFrom"].append({"secretRef": {"name": "chat"}}),
    "time to end": lambda pod: pod.update(terminationGracePeriodSeconds=0),
}


@pytest.mark.parametrize(("overlay_name", "pods"), _PODS, ids=[f"{name}-{each.name}" for name, each in _PODS])
def test_pod_keeps_every_rule(overlay_name: str, pods: Workload) -> None:
    assert [text for text, holds in _RULES.items() if not holds(pods)] == [], overlay_name


@pytest.mark.parametrize("rule", _RULES)
def test_rule_finds_who_breaks_it(rule: str) -> None:
    sound = workload(overlay("production"), "chat")
    pod = copy.deepcopy(dict(sound.pod))
    _BREAKS[rule](pod)
    assert not _RULES[rule](Workload(sound.kind, sound.name, sound.labels, pod))


@pytest.mark.parametrize("name", _OVERLAYS)
def test_namespace_enforces_restricted(name: str) -> None:
    labels = get(overlay(name), "Namespace", "parley")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("name", _OVERLAYS)
def test_accounts_have_no_token_and_nobody_has_a_role(name: str) -> None:
    accounts = of_kind(overlay(name), "ServiceAccount")
    assert {each["metadata"]["name"] for each in accounts} == {each.name for each in workloads(overlay(name))}
    assert all(each["automountServiceAccountToken"] is False for each in accounts)
    assert not [each["kind"] for each in overlay(name) if "Role" in each["kind"]]


@pytest.mark.parametrize("process", PROCESSES)
def test_process_survives_the_loss_of_a_node_and_its_own_rollout(process: str) -> None:
    manifests = overlay("production")
    deployment = get(manifests, "Deployment", process)
    selected = {"app.kubernetes.io/name": process}
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert "replicas" not in deployment["spec"], "the autoscaler's number would be overwritten by each apply"
    spread = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert {each["topologyKey"] for each in spread} == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
    assert all(each["labelSelector"]["matchLabels"] == selected for each in spread)
    budget = get(manifests, "PodDisruptionBudget", process)["spec"]
    assert budget == {"maxUnavailable": 1, "selector": {"matchLabels": selected}}
    scaler = get(manifests, "HorizontalPodAutoscaler", process)["spec"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": process}
    assert 3 <= scaler["minReplicas"] < scaler["maxReplicas"]
