"""Settings: every value that an operator may change, read from the environment once, at start.

A setting that is misspelt or malformed stops the process before it has done anything, with a list of every
problem; a silent default in production is worse than a process that does not start.

The name of a variable is the prefix of its class and the upper-case field name. `<NAME>_FILE` gives the path
of a file that holds the value instead (one trailing line end is removed), which is how secrets are mounted.
"""

import difflib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin, overload

from pydantic import Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from services.runtime.redaction import scrub

ROOT = "PARLEY_"
FILE_SUFFIX = "_FILE"

# One machine may hold the settings of all processes in one file; a process ignores those of the others.
PROCESS_PREFIXES = tuple(f"{ROOT}{name}_" for name in ("RUNTIME", "EDGE", "CHAT", "PRESENCE", "NOTIFY"))


class ConfigError(Exception):
    """The environment cannot be used. `problems` holds one line for each thing that is wrong."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        self.problems = problems
        super().__init__("\n".join(("the settings cannot be used:", *(f"  - {line}" for line in problems))))


class Settings(BaseSettings):
    """Base of a group of settings: frozen, closed, and never read from anywhere but `load`.

    A subclass sets `model_config = SettingsConfigDict(env_prefix="PARLEY_<PROCESS>_")`. Each field has a
    default and a description; lists are written with commas. `SubClass(field=value)` builds one in a test.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", validate_default=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if cls.prefix() not in PROCESS_PREFIXES:
            raise TypeError(f"{cls.__name__}: env_prefix must be one of {', '.join(PROCESS_PREFIXES)}")
        for name, field in cls.model_fields.items():
            if field.is_required() or not field.description:
                raise TypeError(f"{cls.__name__}.{name} needs a default and a description")
            if f"{name}{FILE_SUFFIX.lower()}" in cls.model_fields:
                raise TypeError(f"{cls.__name__}.{name} cannot be told from {name}{FILE_SUFFIX.lower()}")

    @classmethod
    def prefix(cls) -> str:
        return cls.model_config.get("env_prefix", "")

    @classmethod
    def variables(cls) -> dict[str, str]:
        """Variable name → field name, in the order of the fields."""
        return {f"{cls.prefix()}{name.upper()}": name for name in cls.model_fields}


class RuntimeSettings(Settings):
    """What every process has in common."""

    model_config = SettingsConfigDict(env_prefix="PARLEY_RUNTIME_")

    environment: Literal["development", "production"] = Field(
        default="development",
        description="production refuses development conveniences and turns gRPC reflection off",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="the least severe level that is written"
    )
    log_format: Literal["json", "console"] = Field(
        default="json", description="json: one object per line; console: for people"
    )
    hash_ids: bool = Field(
        default=False,
        description="write a keyed hash in place of every id in the logs, except the correlation id",
    )
    hash_ids_key: SecretStr = Field(
        default=SecretStr(""),
        description="the key of that hash; the same for all processes makes their logs comparable; "
        "empty: a new one at each start",
    )
    start_timeout_s: float = Field(
        default=30.0, gt=0, description="how long one component of the process may take to start"
    )
    drain_s: float = Field(
        default=25.0,
        ge=0,
        description="how long the process may take to leave after SIGTERM; keep it under terminationGracePeriodSeconds",
    )
    drain_notice_s: float = Field(
        default=0.0,
        ge=0,
        description="part of drain_s: how long to stay up once readiness is false, for balancers to see it",
    )
    admin_host: str = Field(default="127.0.0.1", description="where the admin port listens")
    admin_port: int = Field(default=9090, ge=0, le=65535, description="metrics, health and readiness; 0: any free port")
    grpc_max_message_bytes: int = Field(
        default=8 * 1024 * 1024, gt=0, description="the largest gRPC message, sent or received"
    )
    grpc_max_concurrent_rpcs: int = Field(
        default=2_000, ge=0, description="more calls at once are refused RESOURCE_EXHAUSTED; 0: no limit"
    )
    grpc_max_connection_age_ms: int = Field(
        default=600_000, ge=0, description="a client is asked to reconnect after this (±10 %); 0: never"
    )
    grpc_max_connection_age_grace_ms: int = Field(
        default=10_000, gt=0, description="how long its calls may go on after that"
    )
    grpc_keepalive_time_ms: int = Field(
        default=1_000, gt=0, description="ping a connection that has been silent for this long"
    )
    grpc_keepalive_timeout_ms: int = Field(
        default=1_000, gt=0, description="drop the connection when the ping stays unanswered for this long"
    )


S1 = TypeVar("S1", bound=Settings)
S2 = TypeVar("S2", bound=Settings)
S3 = TypeVar("S3", bound=Settings)
S4 = TypeVar("S4", bound=Settings)
S5 = TypeVar("S5", bound=Settings)

Environ = Mapping[str, str]


@overload
def load(a: type[S1], /, *, environ: Environ | None = None) -> S1: ...
@overload
def load(a: type[S1], b: type[S2], /, *, environ: Environ | None = None) -> tuple[S1, S2]: ...
@overload
def load(a: type[S1], b: type[S2], c: type[S3], /, *, environ: Environ | None = None) -> tuple[S1, S2, S3]: ...
@overload
def load(
    a: type[S1], b: type[S2], c: type[S3], d: type[S4], /, *, environ: Environ | None = None
) -> tuple[S1, S2, S3, S4]: ...
@overload
def load(
    a: type[S1], b: type[S2], c: type[S3], d: type[S4], e: type[S5], /, *, environ: Environ | None = None
) -> tuple[S1, S2, S3, S4, S5]: ...
def load(*classes: type[Settings], environ: Environ | None = None) -> Any:
    """One instance per class (the instance itself when one class is asked for).

    Names under the prefixes of `classes` and under PARLEY_RUNTIME_ must be known; those of other processes
    are ignored; any other PARLEY_ name is a problem.

    Raises:
        ConfigError: lists every problem there is, not the first.
    """
    variables = dict(os.environ if environ is None else environ)
    checked: tuple[type[Settings], ...] = classes
    if RuntimeSettings not in classes:
        checked = (*classes, RuntimeSettings)
    problems = [*_unknown_names(checked, variables)]
    built: list[Settings] = []
    for cls in checked:
        values = _values(cls, variables, problems)
        try:
            built.append(cls(**values))
        except ValidationError as error:
            problems.extend(_malformed(cls, error, values))
    if problems:
        raise ConfigError(tuple(problems))
    loaded = tuple(built[: len(classes)])
    return loaded[0] if len(loaded) == 1 else loaded


def exit_for(error: ConfigError) -> NoReturn:
    """Say on stderr what is wrong with the settings and end the process with code 1 (before logs exist)."""
    sys.stderr.write(f"{error}\n")
    raise SystemExit(1)


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One line of the settings reference: text for people; a secret shows no default."""

    name: str
    type: str
    default: str
    description: str


def describe(*classes: type[Settings]) -> list[SettingRow]:
    """The rows of the generated settings reference, in the order of the classes and their fields."""
    return [
        SettingRow(
            name=variable,
            type=_type_text(field),
            default=_default_text(field),
            description=field.description or "",
        )
        for cls in classes
        for variable, field in zip(cls.variables(), cls.model_fields.values(), strict=True)
    ]


def _unknown_names(classes: tuple[type[Settings], ...], variables: Environ) -> Iterator[str]:
    owned = tuple({cls.prefix() for cls in classes})
    known = [name for cls in classes for name in cls.variables()]
    accepted = {*known, *(f"{name}{FILE_SUFFIX}" for name in known)}
    for name in sorted(variables):
        if not name.startswith(ROOT) or name in accepted:
            continue
        if name.startswith(owned):
            yield f"{name}: no such setting{_closest(name, known)}"
        elif not name.startswith(PROCESS_PREFIXES):
            yield f"{name}: belongs to no process ({', '.join(PROCESS_PREFIXES)}){_closest(name, known)}"


def _closest(name: str, known: list[str]) -> str:
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; the closest is {found[0]}" if found else ""


def _values(cls: type[Settings], variables: Environ, problems: list[str]) -> dict[str, object]:
    values: dict[str, object] = {}
    for variable, field_name in cls.variables().items():
        file_variable = f"{variable}{FILE_SUFFIX}"
        if variable in variables and file_variable in variables:
            problems.append(f"{variable}: given twice, also as {file_variable}")
            continue
        if variable in variables:
            text = variables[variable]
        elif file_variable in variables:
            try:
                with open(variables[file_variable], encoding="utf-8") as file:
                    text = file.read().removesuffix("\n").removesuffix("\r")
            except (OSError, UnicodeDecodeError) as error:
                problems.append(f"{file_variable}: cannot be read: {error}")
                continue
        else:
            continue
        values[field_name] = _split(cls.model_fields[field_name], text)
    return values


def _is_list(field: FieldInfo) -> bool:
    return get_origin(field.annotation) in (tuple, list, set, frozenset)


def _split(field: FieldInfo, text: str) -> object:
    if not _is_list(field):
        return text
    return [part.strip() for part in text.split(",") if part.strip()]


def _malformed(cls: type[Settings], error: ValidationError, values: dict[str, object]) -> Iterator[str]:
    for detail in error.errors(include_url=False, include_context=False):
        if not detail["loc"]:
            yield f"{cls.prefix()}*: {detail['msg']}"
            continue
        name = str(detail["loc"][0])
        field = cls.model_fields[name]
        secret = field.annotation is SecretStr
        given = "" if secret or name not in values else f", not {scrub(str(values[name]))!r}"
        yield f"{cls.prefix()}{name.upper()}: expected {_type_text(field)}{given} ({detail['msg']})"


def _type_text(field: FieldInfo) -> str:
    annotation = field.annotation
    if get_origin(annotation) is Literal:
        base = " | ".join(str(choice) for choice in get_args(annotation))
    elif annotation is SecretStr:
        base = "secret"
    elif _is_list(field):
        base = "list, separated by commas"
    else:
        base = annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
    limits = [_limit_text(item) for item in field.metadata]
    return " ".join([base, *(text for text in limits if text)])


def _limit_text(item: object) -> str:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤", "min_length": "length ≥", "max_length": "length ≤"}
    parts = [f"{sign} {value}" for name, sign in signs.items() if (value := getattr(item, name, None)) is not None]
    return ", ".join(parts)


def _default_text(field: FieldInfo) -> str:
    if field.annotation is SecretStr:
        return ""
    default = field.get_default(call_default_factory=True)
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple | list | set | frozenset):
        return ",".join(str(item) for item in default)
    return "" if default is None else str(default)
