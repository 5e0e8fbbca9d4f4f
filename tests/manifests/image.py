"""What the Dockerfile says, read just as far as the tests need it."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.manifests.kustomize import REPOSITORY


@dataclass(frozen=True, slots=True)
class Copy:
    """One COPY: from the checkout, or from an earlier stage."""

    sources: Sequence[str]
    target: str
    stage: str | None


@dataclass(frozen=True, slots=True)
class Stage:
    base: str
    name: str | None
    instructions: Sequence[tuple[str, str]]

    def all_of(self, instruction: str) -> Sequence[str]:
        return [rest for word, rest in self.instructions if word == instruction]

    def last_of(self, instruction: str) -> str:
        return self.all_of(instruction)[-1]

    @property
    def copies(self) -> Sequence[Copy]:
        found = []
        for rest in self.all_of("COPY"):
            words = shlex.split(rest)
            stage = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else None
            found.append(Copy(words[:-1], words[-1], stage))
        return found

    @property
    def variables(self) -> Mapping[str, str]:
        return dict(word.split("=", 1) for rest in self.all_of("ENV") for word in shlex.split(rest))


def stages(dockerfile: Path = REPOSITORY / "Dockerfile") -> Sequence[Stage]:
    """In their order; the last one is the image."""
    text = re.sub(r"^\s*#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    found: list[Stage] = []
    instructions: list[tuple[str, str]] = []
    for line in filter(None, lines):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            instructions = []
            found.append(Stage(base, name or None, instructions))
        else:
            instructions.append((word, rest.strip()))
    return found
