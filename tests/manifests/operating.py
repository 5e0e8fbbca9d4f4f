"""The pages of docs/operating: their commands, and a checkout to run them in."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.manifests.kustomize import PROGRAMS, REPOSITORY
from tests.manifests.workloads import secret_data

PAGES = REPOSITORY / "docs" / "operating"
_fences = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Of a page; each takes a second at most.
_COMMANDS_S = 60


@dataclass(frozen=True, slots=True)
class Block:
    language: str
    text: str

    def commands(self) -> Iterator[str]:
        """One for each line; a line that ends in a backslash goes on in the next."""
        yield from filter(None, self.text.replace("\\\n", " ").splitlines())


def blocks(page: Path) -> Sequence[Block]:
    return [Block(language, text) for language, text in _fences.findall(page.read_text())]


def run_offline(page: Path, checkout: Path) -> None:
    """Every `sh` block of the page, one after the other, in one shell.

    Raises:
        AssertionError: one of them failed; the text is what it said.
    """
    script = "".join(block.text for block in blocks(page) if block.language == "sh")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=checkout,
        env={"PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}", "HOME": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
        timeout=_COMMANDS_S,
    )
    assert done.returncode == 0, done.stderr


def make_checkout(directory: Path) -> Path:
    """What the commands find: the manifests, and the key that an issuer would send."""
    shutil.copytree(REPOSITORY / "k8s", directory / "k8s")
    key = Ed25519PrivateKey.generate().public_key()
    (directory / "jwt-public.pem").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return directory


def documented_secrets(checkout: Path) -> Mapping[str, Mapping[str, str]]:
    """Secret → key → text, as the commands of deploying.md (run before) have made them."""
    made = yaml.safe_load_all((checkout / ".local" / "secrets" / "secrets.yaml").read_text())
    return {each["metadata"]["name"]: secret_data(each) for each in made if each}
