"""Rules and dashboard: every expression parses, and asks only for what the running processes tell."""

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import promql_parser
import pytest

from edge.config import EdgeSettings
from tests.manifests.deployed import Deployed
from tests.manifests.kustomize import REPOSITORY, Manifest, get, of_kind, overlay
from tests.manifests.operating import PAGES
from tests.manifests.workloads import PROCESSES

_RULES: Sequence[Mapping[str, Any]] = [
    rule
    for group in get(overlay("monitoring"), "PrometheusRule", "parley")["spec"]["groups"]
    for rule in group["rules"]
]
_ALERTS = {rule["alert"]: rule for rule in _RULES if "alert" in rule}
_RECORDED = {rule["record"] for rule in _RULES if "record" in rule}
_DASHBOARD: Mapping[str, Any] = json.loads(
    get(overlay("monitoring"), "ConfigMap", "parley-dashboard")["data"]["parley.json"]
)
_PANELS: Sequence[Mapping[str, Any]] = [panel for panel in _DASHBOARD["panels"] if panel["type"] != "row"]
_SHOWN = [target["expr"] for panel in _PANELS for target in panel["targets"]]

# What Prometheus and its operator add to every series (honorLabels: a metric's own label of that name wins).
_ADDED_LABELS = {"job", "namespace", "pod", "instance", "container", "endpoint", "service", "le"}
# Made by Prometheus itself.
_BUILT_IN = {"up"}
_SUFFIXES = ("_bucket", "_sum", "_count")
_KINDS = {"counter", "gauge", "histogram"}


def _parsed(expression: str) -> promql_parser.Expr:
    return promql_parser.parse(expression.replace("$__rate_interval", "5m"))


def _walked(expression: str) -> Sequence[promql_parser.Expr]:
    found: list[promql_parser.Expr] = []

    def visit(node: promql_parser.Expr) -> bool:
        found.append(node)
        return True

    promql_parser.walk(_parsed(expression), visit)
    return found


def _selectors(expression: str) -> Sequence[promql_parser.VectorSelector]:
    return [node for node in _walked(expression) if isinstance(node, promql_parser.VectorSelector)]


def _metrics(expressions: Sequence[str]) -> set[str]:
    names = {selector.name for each in expressions for selector in _selectors(each)}
    return {name for name in names if name is not None and name not in _RECORDED | _BUILT_IN}


_ASKED = _metrics([*(rule["expr"] for rule in _RULES), *_SHOWN])


@pytest.mark.parametrize("rule", _RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_rule_is_well_formed(rule: Mapping[str, Any]) -> None:
    assert _selectors(rule["expr"]), "an expression without a series is always or never true"
    if "for" in rule:
        assert promql_parser.parse_duration(rule["for"]) <= timedelta(hours=1)
    if "alert" in rule:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert set(rule["annotations"]) == {"summary", "runbook"}
    else:
        assert set(rule) == {"record", "expr"}


def test_alerts_and_their_pages_are_the_same() -> None:
    sections = re.findall(r"^## (\w+)$", (PAGES / "alerts.md").read_text(), re.MULTILINE)
    assert sections == list(_ALERTS)
    for name, rule in _ALERTS.items():
        assert rule["annotations"]["runbook"] == f"docs/operating/alerts.md#{name.lower()}"
        text = (PAGES / "alerts.md").read_text().partition(f"## {name}\n\n")[2]
        assert text.startswith(f"**{rule['labels']['severity']}.** "), name


def test_panels_have_names_of_their_own_and_do_not_overlap() -> None:
    titles = [panel["title"] for panel in _PANELS]
    assert len(titles) == len(set(titles))
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in _PANELS]
    assert len(places) == len(set(places))
    assert len({panel["id"] for panel in _DASHBOARD["panels"]}) == len(_DASHBOARD["panels"])
    assert all(target["expr"] and target["legendFormat"] for panel in _PANELS for target in panel["targets"])


def test_panels_that_the_pages_name_are_there() -> None:
    named = set(re.findall(r"(?<![*\w])\*([A-Z][^*\n]+)\*(?!\*)", (PAGES / "alerts.md").read_text())) - {"Parley"}
    titles = {panel["title"] for panel in _PANELS}
    assert {name for name in named if not any(title.startswith(name) for title in titles)} == set()


# Only there is a push provider configured.
@pytest.mark.parametrize("deployed", ["production"], indirect=True)
def test_metrics_that_are_asked_for_exist_in_running_processes(deployed: Deployed) -> None:
    told: set[str] = set()
    for process in PROCESSES:
        for name, kind in re.findall(r"^# TYPE (\S+) (\w+)$", deployed.metrics(process), re.MULTILINE):
            told |= {f"{name}{suffix}" for suffix in _SUFFIXES} if kind == "histogram" else {name}
    assert told > _ASKED, sorted(_ASKED - told)


def test_labels_that_are_asked_for_are_labels_of_those_metrics() -> None:
    labels = dict(_labels_in_the_code())
    for expression in (*(rule["expr"] for rule in _RULES), *_SHOWN):
        own = set().union(*(labels[_base(name)] for name in _metrics([expression]) if name.startswith("parley_")))
        assert _labels_of(expression) <= own | _ADDED_LABELS, expression


def test_metrics_that_documents_name_exist_in_the_code() -> None:
    known = dict(_labels_in_the_code())
    for page in PAGES.iterdir():
        named = set(re.findall(r"`(parley_\w+)`", page.read_text()))
        assert {name for name in named if _base(name) not in known} == set(), page.name


def test_limit_of_connections_is_the_setting() -> None:
    assert f"0.8 * {EdgeSettings().max_connections}" in _ALERTS["ParleyEdgeFull"]["expr"]
    assert not any("MAX_CONNECTIONS=" in file.read_text() for file in (REPOSITORY / "k8s").rglob("*.env"))


@pytest.mark.parametrize("name", ["dev", "production"])
def test_monitor_finds_the_admin_port_of_every_process_once(name: str) -> None:
    monitor = get(overlay("monitoring"), "ServiceMonitor", "parley")["spec"]
    (endpoint,) = monitor["endpoints"]
    assert endpoint["honorLabels"] is True
    assert endpoint["path"] == "/metrics"
    wanted = monitor["selector"]["matchLabels"].items()
    found = [
        service["metadata"]["labels"][monitor["jobLabel"]]
        for service in of_kind(overlay(name), "Service")
        if wanted <= service["metadata"]["labels"].items() and endpoint["port"] in _port_names(service)
    ]
    assert sorted(found) == sorted(PROCESSES)


def _port_names(service: Manifest) -> set[str]:
    return {port["name"] for port in service["spec"]["ports"]}


def _base(name: str) -> str:
    """The name in the code's words: without what the kind of metric adds."""
    for suffix in (*_SUFFIXES, "_total"):
        name = name.removesuffix(suffix)
    return name


def _labels_of(expression: str) -> set[str]:
    """By matchers and by aggregation."""
    found = {matcher.name for selector in _selectors(expression) for matcher in selector.matchers.matchers}
    for node in _walked(expression):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            found |= set(node.modifier.labels)
    return found


def _labels_in_the_code() -> Iterator[tuple[str, set[str]]]:
    """Every call of `Metrics.counter`, `gauge` and `histogram` in the code: the metric's full name and its labels."""
    for package in ("edge", "services"):
        for path in (REPOSITORY / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _KINDS:
                    yield from _metric_of(node)


def _metric_of(call: ast.Call) -> Iterator[tuple[str, set[str]]]:
    if not (call.args and isinstance(call.args[0], ast.Constant)):
        return
    labels = [keyword.value for keyword in call.keywords if keyword.arg == "labels"] + call.args[2:3]
    yield f"parley_{call.args[0].value!s}", {str(each) for label in labels for each in ast.literal_eval(label)}
