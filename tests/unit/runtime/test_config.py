"""Settings: every problem is named, nothing is guessed, nothing secret is shown."""

from pathlib import Path

import pytest
from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from services.runtime.config import ConfigError, RuntimeSettings, Settings, describe, load


class SampleSettings(Settings):
    model_config = SettingsConfigDict(env_prefix="PARLEY_NOTIFY_")

    port: int = Field(default=50053, ge=0, le=65535, description="where gRPC listens")
    store_url: str = Field(default="memory://", description="where the data is")
    signing_key: SecretStr = Field(default=SecretStr(""), description="signs things")
    origins: tuple[str, ...] = Field(default=("a", "b"), description="who may ask")
    reserve: float = Field(default=0.5, description="kept free")


def problems_of(environ: dict[str, str]) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(RuntimeSettings, SampleSettings, environ=environ)
    return caught.value.problems


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = load(SampleSettings, environ={})
    assert (settings.port, settings.store_url, settings.origins) == (50053, "memory://", ("a", "b"))


def test_values_are_read_by_prefix_and_upper_case_name() -> None:
    runtime, sample = load(
        RuntimeSettings,
        SampleSettings,
        environ={"PARLEY_RUNTIME_HASH_IDS": "true", "PARLEY_NOTIFY_PORT": "0", "PARLEY_NOTIFY_ORIGINS": "x, y,z"},
    )
    assert runtime.hash_ids is True
    assert (sample.port, sample.origins) == (0, ("x", "y", "z"))


def test_the_real_environment_is_used_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_NOTIFY_PORT", "7")
    assert load(SampleSettings).port == 7


def test_constructing_settings_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_NOTIFY_PORT", "7")
    assert SampleSettings().port == 50053


def test_settings_cannot_be_changed_afterwards() -> None:
    settings = SampleSettings()
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1


def test_a_misspelt_name_is_refused_with_the_closest_known_one() -> None:
    (problem,) = problems_of({"PARLEY_NOTIFY_STOR_URL": "x"})
    assert problem == "PARLEY_NOTIFY_STOR_URL: no such setting; the closest is PARLEY_NOTIFY_STORE_URL"


def test_the_common_prefix_is_checked_even_when_only_the_own_settings_are_loaded() -> None:
    with pytest.raises(ConfigError, match="PARLEY_RUNTIME_LOG_LEVEL"):
        load(SampleSettings, environ={"PARLEY_RUNTIME_LOG_LEVLE": "info"})
    with pytest.raises(ConfigError, match="expected debug"):
        load(SampleSettings, environ={"PARLEY_RUNTIME_LOG_LEVEL": "loud"})


def test_settings_of_other_processes_are_ignored() -> None:
    assert load(SampleSettings, environ={"PARLEY_EDGE_NO_MATTER_WHAT": "x", "PATH": "/bin"}) == SampleSettings()


def test_a_name_without_a_known_process_is_refused() -> None:
    (problem,) = problems_of({"PARLEY_PORT": "1"})
    assert problem.startswith("PARLEY_PORT: belongs to no process")


def test_every_problem_is_listed_at_once() -> None:
    found = problems_of(
        {
            "PARLEY_NOTIFY_PORT": "many",
            "PARLEY_NOTIFY_RESERVE": "half",
            "PARLEY_NOTIFY_PROT": "1",
            "PARLEY_RUNTIME_DRAIN_S": "-1",
        }
    )
    assert len(found) == 4
    text = "\n".join(found)
    assert "PARLEY_NOTIFY_PORT: expected int ≥ 0 ≤ 65535, not 'many'" in text
    assert "PARLEY_RUNTIME_DRAIN_S: expected float ≥ 0" in text


def test_a_setting_may_come_from_a_file_without_its_last_line_end(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text("s3cret \n")
    settings = load(SampleSettings, environ={"PARLEY_NOTIFY_SIGNING_KEY_FILE": str(secret)})
    assert settings.signing_key.get_secret_value() == "s3cret "


def test_a_setting_given_directly_and_by_file_is_refused(tmp_path: Path) -> None:
    (problem,) = problems_of({"PARLEY_NOTIFY_SIGNING_KEY": "a", "PARLEY_NOTIFY_SIGNING_KEY_FILE": str(tmp_path)})
    assert "given twice" in problem


def test_a_missing_file_is_a_problem(tmp_path: Path) -> None:
    (problem,) = problems_of({"PARLEY_NOTIFY_SIGNING_KEY_FILE": str(tmp_path / "absent")})
    assert problem.startswith("PARLEY_NOTIFY_SIGNING_KEY_FILE: cannot be read")


def test_problems_show_no_url_credentials() -> None:
    (problem,) = problems_of({"PARLEY_NOTIFY_PORT": "mongodb://user:pw@host/db"})
    assert "pw" not in problem
    assert "mongodb://***@host/db" in problem


def test_a_settings_class_needs_a_known_prefix() -> None:
    with pytest.raises(TypeError, match="env_prefix"):
        type("Bad", (Settings,), {"model_config": SettingsConfigDict(env_prefix="PARLEY_OTHER_")})


def test_a_field_needs_a_default_and_a_description() -> None:
    with pytest.raises(TypeError, match="port needs a default and a description"):

        class NoDescription(Settings):
            model_config = SettingsConfigDict(env_prefix="PARLEY_NOTIFY_")
            port: int = 1

    with pytest.raises(TypeError, match="port needs a default and a description"):

        class NoDefault(Settings):
            model_config = SettingsConfigDict(env_prefix="PARLEY_NOTIFY_")
            port: int = Field(description="no default")


def test_the_reference_has_one_row_for_each_setting_and_shows_no_secret() -> None:
    rows = {row.name: row for row in describe(RuntimeSettings, SampleSettings)}
    assert len(rows) == len(RuntimeSettings.model_fields) + len(SampleSettings.model_fields)
    assert (rows["PARLEY_NOTIFY_PORT"].type, rows["PARLEY_NOTIFY_PORT"].default) == ("int ≥ 0 ≤ 65535", "50053")
    assert rows["PARLEY_RUNTIME_LOG_FORMAT"].type == "json | console"
    assert rows["PARLEY_RUNTIME_HASH_IDS"].default == "false"
    assert (rows["PARLEY_NOTIFY_SIGNING_KEY"].type, rows["PARLEY_NOTIFY_SIGNING_KEY"].default) == ("secret", "")
    assert rows["PARLEY_NOTIFY_ORIGINS"].default == "a,b"
    assert rows["PARLEY_NOTIFY_STORE_URL"].description == "where the data is"
