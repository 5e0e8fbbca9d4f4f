"""Who can talk to whom, by the NetworkPolicies of an overlay.

The rules are those of networking.k8s.io/v1: a pod that no policy of a direction selects is open in that direction; one
that is selected may do what any of those policies allows, and nothing else; a connection needs both ends' consent.
What is outside of the namespace has no policies here, so it consents to everything.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any, Literal, NamedTuple

from tests.manifests.kustomize import Manifest, of_kind

Direction = Literal["Ingress", "Egress"]
_NAMESPACE_NAME = "kubernetes.io/metadata.name"


class Arrow(NamedTuple):
    """`source` may open a connection to `port` of `target`."""

    source: str
    target: str
    port: int


@dataclass(frozen=True, slots=True)
class Peer:
    """Somebody with an address: a pod where there is a namespace, else a machine."""

    name: str
    address: str
    namespace: str | None = None
    labels: Mapping[str, str] | None = None


def arrows(
    manifests: Sequence[Manifest], peers: Sequence[Peer], ports: Sequence[int], *, protocol: str = "TCP"
) -> Iterator[Arrow]:
    """Every connection between two different peers that is possible, of those that touch the namespace `parley`."""
    policies = of_kind(manifests, "NetworkPolicy")
    for source in peers:
        for target in peers:
            if source is target or "parley" not in (source.namespace, target.namespace):
                continue
            for port in ports:
                leaves = _consents(policies, "Egress", source, target, protocol, port)
                if leaves and _consents(policies, "Ingress", target, source, protocol, port):
                    yield Arrow(source.name, target.name, port)


def _consents(
    policies: Sequence[Manifest], direction: Direction, own: Peer, other: Peer, protocol: str, port: int
) -> bool:
    if own.namespace != "parley":
        return True
    selecting = [
        each["spec"]
        for each in policies
        if direction in each["spec"]["policyTypes"] and _selects(each["spec"]["podSelector"], own.labels or {})
    ]
    rules = [rule for spec in selecting for rule in spec.get(direction.lower(), [])]
    return not selecting or any(_rule_allows(rule, direction, other, protocol, port) for rule in rules)


def _rule_allows(rule: Manifest, direction: Direction, other: Peer, protocol: str, port: int) -> bool:
    peers = rule.get("from" if direction == "Ingress" else "to", [])
    ports = rule.get("ports", [])
    is_port = not ports or any(each.get("protocol", "TCP") == protocol and each["port"] == port for each in ports)
    return is_port and (not peers or any(_is_peer(each, other) for each in peers))


def _is_peer(told: Manifest, other: Peer) -> bool:
    if "ipBlock" in told:
        address = ip_address(other.address)
        inside = address in ip_network(told["ipBlock"]["cidr"])
        return inside and not any(address in ip_network(each) for each in told["ipBlock"].get("except", []))
    if other.namespace is None:
        return False
    if "namespaceSelector" in told:
        is_namespace = _selects(told["namespaceSelector"], {_NAMESPACE_NAME: other.namespace})
    else:
        is_namespace = other.namespace == "parley"
    return is_namespace and _selects(told.get("podSelector", {}), other.labels or {})


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items()
    return all(labels.get(key) == value for key, value in wanted) and all(
        _expression_holds(each, labels) for each in selector.get("matchExpressions", [])
    )


def _expression_holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    assert expression["operator"] == "In", "no other operator is used"
    return labels.get(expression["key"]) in expression["values"]
