"""The pages of docs/operating: commands that need no cluster run as they stand, the others name only what exists."""

import itertools
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.manifests.kustomize import PROGRAMS, REPOSITORY, build, get, overlay
from tests.manifests.operating import PAGES, blocks, run_offline
from tests.manifests.schemas import newest_versions, problems

_pages = sorted(PAGES.glob("*.md"))
_each_page = pytest.mark.parametrize("page", _pages, ids=lambda page: page.stem)
# sh: run here. console: for a cluster, or Docker. javascript: for mongosh. Without a name: to be read.
_LANGUAGES = {"sh", "console", "javascript", ""}
_KINDS = {
    "deployment": "Deployment",
    "statefulset": "StatefulSet",
    "service": "Service",
    "horizontalpodautoscaler": "HorizontalPodAutoscaler",
}
# Programs that the commands for a cluster may begin with.
_PROGRAMS = {"kubectl", "docker", "curl", "mongodump", "mongorestore"}


def _commands(page: Path) -> Iterator[str]:
    for block in blocks(page):
        if block.language == "console":
            yield from block.commands()


def _kubectl_commands() -> list[str]:
    return sorted({command for page in _pages for command in _commands(page) if command.startswith("kubectl ")})


@_each_page
def test_blocks_say_what_they_are(page: Path) -> None:
    assert {block.language for block in blocks(page)} <= _LANGUAGES
    assert {command.split()[0] for command in _commands(page)} <= _PROGRAMS


def test_commands_of_an_upgrade_give_the_new_version(deploying_checkout: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(deploying_checkout, checkout)
    run_offline(PAGES / "upgrading.md", checkout)
    images = set(re.findall(r"image: (\S+)", (checkout / ".local" / "next.yaml").read_text()))
    assert images == {"images.example.com/parley:0.2.0"}


@_each_page
def test_no_page_has_offline_commands_that_no_test_runs(page: Path) -> None:
    has_commands = any(block.language == "sh" for block in blocks(page))
    assert has_commands == (page.stem in {"deploying", "upgrading"})


def test_overlay_of_ones_own_is_valid_and_has_nothing_of_the_example_left(deploying_checkout: Path) -> None:
    text = (deploying_checkout / ".local" / "production.yaml").read_text()
    manifests = list(yaml.safe_load_all(text))
    assert [problem for each in manifests for problem in problems(newest_versions(1)[0], each)] == []
    ingress = get(manifests, "Ingress", "edge")["spec"]
    assert ingress["rules"][0]["host"] == ingress["tls"][0]["hosts"][0] == "chat.example.com"
    left = {"10.20.", "image: example.org", "chat.example.org", "login.example.org"}
    assert {each for each in left if each in text} == set()


def test_development_overlay_is_what_the_command_builds(deploying_checkout: Path) -> None:
    built = tuple(yaml.safe_load_all((deploying_checkout / ".local" / "dev.yaml").read_text()))
    assert built == overlay("dev")


@pytest.mark.parametrize("command", _kubectl_commands())
def test_kubectl_knows_the_command_and_its_flags(command: str) -> None:
    words = shlex.split(command.partition(" -- ")[0])
    done = subprocess.run(
        [PROGRAMS / "kubectl", *words[1:], "--help"], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert not done.stdout.startswith("kubectl controls"), "not a command: the general help"


@pytest.mark.parametrize("command", _kubectl_commands())
def test_commands_name_what_the_manifests_hold(command: str, deploying_checkout: Path) -> None:
    words = shlex.split(command)
    everything = [*overlay("production"), *overlay("dev")]
    names = {(each["kind"], each["metadata"]["name"]) for each in everything}
    for word in words:
        kind, _, name = word.partition("/")
        if kind in _KINDS and name:
            assert (_KINDS[kind], name) in names, word
    for flag, value in itertools.pairwise(words):
        if flag == "--kustomize":
            assert build(deploying_checkout / value)
        if flag == "--filename":
            assert (deploying_checkout / value).is_file()
        if flag == "--namespace":
            assert value == "parley"
        if flag == "-m":
            assert (REPOSITORY / f"{value.replace('.', '/')}.py").is_file()


@_each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]*)(#[\w-]+)?\)", page.read_text()):
        path, anchor = target
        where = (page.parent / path).resolve() if path else page
        assert where.is_file(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", where.read_text(), re.MULTILINE)
            assert anchor[1:] in {title.lower().replace(" ", "-") for title in titles}, target


def test_settings_that_pages_name_exist() -> None:
    known = (REPOSITORY / "docs" / "settings.md").read_text()
    for page in _pages:
        for name in re.findall(r"PARLEY_[A-Z_]+[A-Z]", page.read_text()):
            assert f"`{name}`" in known, f"{page.name}: {name}"
