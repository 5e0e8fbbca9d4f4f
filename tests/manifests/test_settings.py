"""Ports, settings and secrets agree: among the manifests, with the settings classes, and with the documents."""

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import pytest

from edge.config import EdgeSettings
from services.chat.config import ChatSettings
from services.chat.servicer import SERVICE_NAME as CHAT
from services.notify.config import NotifySettings
from services.notify.servicer import SERVICE_NAME as NOTIFY
from services.presence.config import PresenceSettings
from services.presence.servicer import SERVICE_NAME as PRESENCE
from services.runtime.config import FILE_SUFFIX, RuntimeSettings, Settings
from tests.manifests.kustomize import Manifest, get, of_kind, overlay
from tests.manifests.workloads import PROCESSES, environment, find_secret, secret_mounts, workload, workloads

_OVERLAYS = ("dev", "production")
_CLASSES: Mapping[str, type[Settings]] = {
    "edge": EdgeSettings,
    "chat": ChatSettings,
    "presence": PresenceSettings,
    "notify": NotifySettings,
}
_GRPC_SERVICES = {"chat": CHAT, "presence": PRESENCE, "notify": NOTIFY}
# Beyond the drain time: components that are left get `CLOSE_S` each to close (services/runtime/process.py).
_CLOSING_S = 10
# Whose absence would be no error, but a silent default that is wrong here.
_NEEDED = {
    "edge": {"LISTEN", "CHAT_TARGETS", "PRESENCE_TARGETS", "NOTIFY_TARGETS"},
    "chat": {"LISTEN", "STORE_URL", "BUS_URL", "LAST_READ_URL", "QUEUE_URL", "PRESENCE_TARGETS"},
    "presence": {"LISTEN", "STORE_URL"},
    "notify": {"LISTEN", "STORE_URL", "QUEUE_URL", "PRESENCE_TARGETS"},
}

_each_overlay = pytest.mark.parametrize("name", _OVERLAYS)
_each_process = pytest.mark.parametrize("process", PROCESSES)


@_each_overlay
@_each_process
def test_variables_are_settings_of_that_process_and_none_is_missing(name: str, process: str) -> None:
    given = _given(overlay(name), process)
    known = {*_CLASSES[process].variables(), *RuntimeSettings.variables()}
    assert set(given) <= known
    assert {f"{_CLASSES[process].prefix()}{setting}" for setting in _NEEDED[process]} <= set(given)


@_each_process
def test_every_address_and_url_setting_is_given(process: str) -> None:
    urls = {
        variable for variable in _CLASSES[process].variables() if variable.endswith(("_TARGETS", "_URL", "_LISTEN"))
    }
    theirs = {"PARLEY_NOTIFY_FCM_URL", "PARLEY_NOTIFY_APNS_URL"}  # right as they are
    assert urls - theirs == {f"{_CLASSES[process].prefix()}{setting}" for setting in _NEEDED[process]}


@_each_overlay
@_each_process
def test_pod_listens_where_its_service_its_probes_and_its_container_say(name: str, process: str) -> None:
    pods = workload(overlay(name), process)
    given = _given(overlay(name), process)
    listen = int(given[f"{_CLASSES[process].prefix()}LISTEN"].rpartition(":")[2])
    main = "http" if process == "edge" else "grpc"
    assert pods.ports == {main: listen, "admin": int(given["PARLEY_RUNTIME_ADMIN_PORT"])}
    assert {probe.port for probe in pods.probes()} <= set(pods.ports.values())
    service = get(overlay(name), "Service", process)["spec"]
    assert {port["targetPort"]: port["port"] for port in service["ports"]} == pods.ports
    asked = {probe.service for probe in pods.probes() if probe.service is not None}
    assert asked == ({_GRPC_SERVICES[process]} if process in _GRPC_SERVICES else set())


@_each_overlay
def test_who_has_to_find_every_replica_asks_a_headless_service(name: str) -> None:
    for process in ("chat", "presence", "notify"):
        spec = get(overlay(name), "Service", process)["spec"]
        assert (spec["clusterIP"], spec["publishNotReadyAddresses"]) == ("None", True)
    assert "clusterIP" not in get(overlay(name), "Service", "edge")["spec"]


@_each_overlay
@_each_process
def test_grace_is_pre_stop_and_drain_and_the_time_to_close(name: str, process: str) -> None:
    pods = workload(overlay(name), process)
    drain_s = float(_given(overlay(name), process)["PARLEY_RUNTIME_DRAIN_S"])
    assert pods.grace_s == pods.pre_stop_s + drain_s + _CLOSING_S
    assert bool(pods.pre_stop_s) == (process == "edge"), "only the edge is behind balancers"


@_each_overlay
def test_selectors_select_the_pods_of_their_name(name: str) -> None:
    pods = {each.name: each for each in workloads(overlay(name))}
    for service in of_kind(overlay(name), "Service"):
        chosen = {each.name for each in pods.values() if service["spec"]["selector"].items() <= each.labels.items()}
        assert chosen == {service["metadata"]["name"]}


@_each_overlay
def test_ingress_leads_to_the_public_port_with_affinity(name: str) -> None:
    ingress = get(overlay(name), "Ingress", "edge")
    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert path["backend"]["service"] == {"name": "edge", "port": {"name": "http"}}
    assert (path["path"], path["pathType"]) == ("/", "Prefix")
    cookie = ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/session-cookie-name"]
    service = get(overlay(name), "Service", "edge")["metadata"]["annotations"]
    assert service["traefik.ingress.kubernetes.io/service.sticky.cookie.name"] == cookie


@_each_overlay
@_each_process
def test_every_file_of_a_secret_that_is_read_is_there_and_the_other_way_round(
    name: str, process: str, production_secrets: Mapping[str, Mapping[str, str]]
) -> None:
    pods = workload(overlay(name), process)
    read = [value for variable, value in environment(overlay(name), pods).items() if variable.endswith(FILE_SUFFIX)]
    there = [
        str(mount.directory / key)
        for mount in secret_mounts(pods)
        for key in find_secret(overlay(name), mount.secret) or production_secrets[mount.secret]
    ]
    assert sorted(read) == sorted(there)


def test_documented_secrets_are_those_of_the_overlay(production_secrets: Mapping[str, Mapping[str, str]]) -> None:
    mounted = {
        mount.secret for process in PROCESSES for mount in secret_mounts(workload(overlay("production"), process))
    }
    assert mounted == set(production_secrets)
    assert not of_kind(overlay("production"), "Secret"), "no secret is kept in the repository"


def test_production_is_told_so_and_gives_nobody_a_token() -> None:
    given = _given(overlay("production"), "edge")
    assert given["PARLEY_RUNTIME_ENVIRONMENT"] == "production"
    assert not [variable for variable in given if "DEV" in variable]
    assert "PARLEY_EDGE_JWT_KEY" in given


def test_backends_of_dev_are_its_own_services() -> None:
    manifests = overlay("dev")
    services = {
        (each["metadata"]["name"], port["port"])
        for each in of_kind(manifests, "Service")
        for port in each["spec"]["ports"]
    }
    found = set()
    for secret in of_kind(manifests, "Secret"):
        for url in (find_secret(manifests, secret["metadata"]["name"]) or {}).values():
            parts = urlsplit(url)
            assert parts.hostname is not None
            found.add((parts.hostname.removeprefix("mongodb-0."), parts.port))
    assert found == {("mongodb", 27017), ("redis", 6379), ("rabbitmq", 5672)}
    assert found <= services


def test_documented_urls_use_the_ports_that_the_policies_open(
    production_secrets: Mapping[str, Mapping[str, str]],
) -> None:
    for process in ("chat", "presence", "notify"):
        policy = get(overlay("production"), "NetworkPolicy", f"{process}-backends")
        opened = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
        urls = [urlsplit(text) for text in production_secrets[process].values() if "://" in text.partition("\n")[0]]
        assert {url.port for url in urls} == opened, process


def _given(manifests: Sequence[Manifest], process: str) -> Mapping[str, str]:
    """Setting → value, or the path of the file that holds it."""
    variables = environment(manifests, workload(manifests, process))
    return {name.removesuffix(FILE_SUFFIX): value for name, value in variables.items()}
