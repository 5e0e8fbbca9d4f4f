"""The network policies allow exactly the arrows of the design's picture; this table is the picture.

Everybody is tried against everybody on every port that anybody has, and one that nobody has.
"""

import copy
from collections.abc import Sequence

import pytest

from tests.manifests.kustomize import Manifest, overlay
from tests.manifests.networks import Arrow, Peer, arrows
from tests.manifests.workloads import workloads

# Among the processes, wherever they run.
_PICTURE = {
    Arrow("edge", "chat", 8090),
    Arrow("edge", "presence", 8091),
    Arrow("edge", "notify", 8092),
    Arrow("chat", "presence", 8091),  # who writes is active
    Arrow("notify", "presence", 8091),
    Arrow("notify", "the internet", 443),  # Web Push, FCM, APNs
}
# What each process stands on. Devices and the keys of pushes last in MongoDB too.
_BACKENDS = {
    ("chat", "MongoDB"),
    ("chat", "Redis"),
    ("chat", "RabbitMQ"),
    ("presence", "Redis"),
    ("notify", "MongoDB"),
    ("notify", "RabbitMQ"),
}
_PORTS = {
    "dev": {"MongoDB": 27017, "Redis": 6379, "RabbitMQ": 5672},
    "production": {"MongoDB": 27017, "Redis": 6379, "RabbitMQ": 5671},
}
_PROCESSES = ("edge", "chat", "presence", "notify")

_OUTSIDE = (
    Peer("the internet", "198.51.100.7"),
    Peer("the office", "192.168.7.7"),
    Peer("Prometheus", "10.244.8.1", "monitoring", {"app.kubernetes.io/name": "prometheus"}),
    Peer("names", "10.244.8.2", "kube-system", {"k8s-app": "kube-dns"}),
    Peer("the node's own", "10.244.8.3", "kube-system", {"k8s-app": "other"}),
    Peer("a stranger", "10.244.8.4", "default", {"app.kubernetes.io/name": "chat"}),
)
_NETWORKS = (Peer("MongoDB", "10.20.1.9"), Peer("Redis", "10.20.2.9"), Peer("RabbitMQ", "10.20.3.9"))
_BACKEND_PODS = {"mongodb": "MongoDB", "redis": "Redis", "rabbitmq": "RabbitMQ"}
_TRIED_PORTS = (22, 53, 443, 5671, 5672, 6379, 8080, 8090, 8091, 8092, 9090, 15672, 27017)


def _peers(name: str) -> Sequence[Peer]:
    pods = [
        Peer(_BACKEND_PODS.get(each.name, each.name), f"10.244.1.{number}", "parley", each.labels)
        for number, each in enumerate(workloads(overlay(name)), 1)
    ]
    debris = Peer("a pod of no workload", "10.244.1.99", "parley", {"app.kubernetes.io/part-of": "parley"})
    return [*pods, debris, *_OUTSIDE, *(() if name == "dev" else _NETWORKS)]


def _table(name: str) -> set[Arrow]:
    """What is to be possible, by name of overlay."""
    here = [peer for peer in _peers(name) if peer.namespace == "parley"]
    elsewhere = [peer for peer in _peers(name) if peer.namespace != "parley"]
    return (
        _PICTURE
        | {Arrow(process, backend, _PORTS[name][backend]) for process, backend in _BACKENDS}
        | {Arrow(peer.name, "edge", 8080) for peer in elsewhere}
        | {Arrow(peer.name, "names", 53) for peer in here}
    )


def _possible(manifests: Sequence[Manifest], name: str) -> set[Arrow]:
    return set(arrows(manifests, _peers(name), _TRIED_PORTS))


@pytest.mark.parametrize("name", ["dev", "production"])
def test_exactly_the_arrows_of_the_picture_are_possible(name: str) -> None:
    assert _possible(overlay(name), name) == _table(name)


@pytest.mark.parametrize("name", ["dev", "production"])
def test_names_are_asked_by_udp_and_nothing_else_is(name: str) -> None:
    asked = set(arrows(overlay(name), _peers(name), _TRIED_PORTS, protocol="UDP"))
    assert asked == {Arrow(peer.name, "names", 53) for peer in _peers(name) if peer.namespace == "parley"}


@pytest.mark.parametrize("name", ["dev", "production"])
def test_monitoring_adds_prometheus_at_the_admin_ports_and_nothing_else(name: str) -> None:
    added = _possible([*overlay(name), *overlay("monitoring")], name) - _table(name)
    assert added == {Arrow("Prometheus", process, 9090) for process in _PROCESSES}


@pytest.mark.parametrize("name", ["dev", "production"])
def test_policy_that_is_missing_changes_what_is_possible(name: str) -> None:
    policies = [each for each in overlay(name) if each["kind"] == "NetworkPolicy"]
    for policy in policies:
        if policy["metadata"]["name"] == "deny-all":
            continue  # what it catches is the pod of no workload: below
        without = [each for each in policies if each is not policy]
        assert _possible(without, name) != _table(name), policy["metadata"]["name"]
    without_deny = [each for each in policies if each["metadata"]["name"] != "deny-all"]
    assert Arrow("a stranger", "a pod of no workload", 22) in _possible(without_deny, name)


def test_wider_network_is_noticed() -> None:
    manifests = copy.deepcopy(list(overlay("production")))
    (policy,) = (each for each in manifests if each["metadata"]["name"] == "presence-backends")
    policy["spec"]["egress"][0]["to"][0]["ipBlock"]["cidr"] = "10.20.0.0/16"
    assert _possible(manifests, "production") - _table("production") == {
        Arrow("presence", "MongoDB", 6379),
        Arrow("presence", "RabbitMQ", 6379),
    }
