"""What an OpenAPI 3 document must be so that tools can read it, checked without one more library.

Not the whole specification: the parts whose absence makes generated clients and viewers fail.
"""

import re
from collections.abc import Iterator, Mapping

from tests.e2e.api import Json

_METHODS = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace"})
_PARAMETER = re.compile(r"\{([^{}/]+)\}")
_PLACES = frozenset({"path", "query", "header", "cookie"})


def problems_of(document: Json) -> list[str]:
    """Everything that is wrong with the document; empty when it is sound."""
    problems = [f"{field} is missing" for field in ("openapi", "info", "paths") if field not in document]
    if problems:
        return problems
    if not re.fullmatch(r"3\.[01]\.\d+", str(document["openapi"])):
        problems.append(f"openapi is {document['openapi']!r}")
    problems += [f"info.{field} is missing" for field in ("title", "version") if not document["info"].get(field)]
    problems += [
        f"{reference} leads nowhere" for reference in references_of(document) if not _find(document, reference)
    ]
    names: list[str] = []
    for path, method, operation in operations_of(document):
        where = f"{method.upper()} {path}"
        problems += [f"{where}: {problem}" for problem in _problems_of_operation(document, path, operation)]
        names += [operation["operationId"]] if "operationId" in operation else []
    problems += [f"operationId {name} is used twice" for name in {n for n in names if names.count(n) > 1}]
    return problems


def operations_of(document: Json) -> Iterator[tuple[str, str, Json]]:
    """(path, method, operation); parameters of the path are added to those of the operation."""
    for path, item in document["paths"].items():
        for method in _METHODS & item.keys():
            parameters = [*item.get("parameters", []), *item[method].get("parameters", [])]
            yield path, method, {**item[method], "parameters": parameters}


def routes_of(document: Json) -> set[tuple[str, str]]:
    """(METHOD, path) of each operation with the path of the first server in front and parameters as `{}`."""
    servers = document.get("servers") or [{"url": ""}]
    prefix = re.sub(r"^https?://[^/]*", "", servers[0]["url"]).rstrip("/")
    return {(method.upper(), _PARAMETER.sub("{}", prefix + path)) for path, method, _ in operations_of(document)}


def references_of(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references_of(inner)


def resolve(document: Json, value: Json) -> Json:
    """The value itself, or what its `$ref` names."""
    while "$ref" in value:
        found = _find(document, value["$ref"])
        assert found is not None, value
        value = found
    return value


def _find(document: Json, reference: str) -> Json | None:
    found: object = document
    if not reference.startswith("#/"):
        return None
    for part in reference[2:].split("/"):
        part = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return dict(found) if isinstance(found, Mapping) else None


def _problems_of_operation(document: Json, path: str, operation: Json) -> Iterator[str]:
    if not path.startswith("/"):
        yield "the path does not begin with a slash"
    responses = operation.get("responses")
    if not responses:
        yield "no responses"
    for status, response in (responses or {}).items():
        if not re.fullmatch(r"[1-5](\d\d|XX)|default", str(status)):
            yield f"{status!r} is no status"
        if "description" not in resolve(document, response):
            yield f"the response {status} has no description"
    declared: set[str] = set()
    for parameter in operation["parameters"]:
        parameter = resolve(document, parameter)
        if parameter.get("in") not in _PLACES or "schema" not in parameter:
            yield f"the parameter {parameter.get('name')!r} is not complete"
        if parameter.get("in") == "path":
            declared.add(parameter["name"])
            if parameter.get("required") is not True:
                yield f"the path parameter {parameter['name']!r} is not required"
    if declared != set(_PARAMETER.findall(path)):
        yield f"declares the path parameters {sorted(declared)}"
