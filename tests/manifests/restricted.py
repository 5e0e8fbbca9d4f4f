"""The Pod Security Standard *restricted*, rule by rule, and what this project asks of a pod beyond it.

Source of the first table: "Pod Security Standards" in the documentation of Kubernetes, restricted (which includes
baseline), as of 1.37. Rules about fields that only Windows or other container kinds have are left out: no pod here has
them, and `Workload.container` refuses a pod with more than one container.
"""

from collections.abc import Callable, Mapping
from typing import Any

from tests.manifests.workloads import Workload

Rule = Callable[[Workload], bool]

_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
_SECCOMP = {"RuntimeDefault", "Localhost"}


def _pod(workload: Workload) -> Mapping[str, Any]:
    context: Mapping[str, Any] = workload.pod.get("securityContext", {})
    return context


def _container(workload: Workload) -> Mapping[str, Any]:
    context: Mapping[str, Any] = workload.container.get("securityContext", {})
    return context


def _both(workload: Workload) -> Mapping[str, Any]:
    """What holds for the container: its own word, else the pod's."""
    return {**_pod(workload), **_container(workload)}


def _handlers(workload: Workload) -> list[Mapping[str, Any]]:
    hooks = workload.container.get("lifecycle", {}).values()
    probes = [value for name, value in workload.container.items() if name.endswith("Probe")]
    return [handler for each in (*hooks, *probes) for handler in each.values() if isinstance(handler, dict)]


RESTRICTED: Mapping[str, Rule] = {
    "one container, none that starts before it or is added later": lambda w: (
        len(w.pod["containers"]) == 1 and not w.pod.get("initContainers") and not w.pod.get("ephemeralContainers")
    ),
    "no namespace of the host": lambda w: not any(w.pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")),
    "no port of the host": lambda w: not any("hostPort" in port for port in w.container["ports"]),
    "probes and hooks ask no other host": lambda w: not any("host" in handler for handler in _handlers(w)),
    "only harmless kinds of volumes": lambda w: all(
        set(volume) - {"name"} <= _VOLUMES for volume in w.pod.get("volumes", [])
    ),
    "not privileged": lambda w: not _container(w).get("privileged", False),
    "no escalation": lambda w: _container(w).get("allowPrivilegeEscalation") is False,
    "not root": lambda w: _both(w).get("runAsNonRoot") is True and _both(w).get("runAsUser") != 0,
    "a seccomp profile": lambda w: _both(w).get("seccompProfile", {}).get("type") in _SECCOMP,
    "no capability": lambda w: (
        _container(w).get("capabilities", {}).get("drop") == ["ALL"] and not _container(w)["capabilities"].get("add")
    ),
    "/proc as usual": lambda w: _container(w).get("procMount", "Default") == "Default",
    "no sysctl": lambda w: not _pod(w).get("sysctls"),
    "SELinux and AppArmor as usual": lambda w: not {"seLinuxOptions", "appArmorProfile"} & set(_both(w)),
}

# What a policy checker would call high or medium, and what our own settings need.
OURS: Mapping[str, Rule] = {
    "the root file system is read-only": lambda w: _container(w).get("readOnlyRootFilesystem") is True,
    "a user of its own, by number": lambda w: (
        isinstance(_both(w).get("runAsUser"), int) and _both(w)["runAsUser"] > 100
    ),
    "an account of its own, without a token": lambda w: (
        w.pod.get("serviceAccountName") == w.name and w.pod.get("automountServiceAccountToken") is False
    ),
    "no variables about services": lambda w: w.pod.get("enableServiceLinks") is False,
    "memory is limited, CPU and memory are requested": lambda w: (
        set(w.container["resources"]["requests"]) == {"cpu", "memory"}
        and "memory" in w.container["resources"]["limits"]
    ),
    "an image with a version": lambda w: w.container["image"].partition(":")[2] not in ("", "latest"),
    "ready and alive are asked": lambda w: {"readinessProbe", "livenessProbe"} <= set(w.container),
    "scratch space is bounded": lambda w: all(
        "sizeLimit" in volume["emptyDir"] for volume in w.pod["volumes"] if "emptyDir" in volume
    ),
    "no secret in a variable": lambda w: (
        not any("secretRef" in source for source in w.container.get("envFrom", []))
        and not any("secretKeyRef" in each.get("valueFrom", {}) for each in w.container.get("env", []))
    ),
    "time to end": lambda w: w.grace_s > 0,
}
