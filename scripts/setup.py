"""Makes a checkout ready to work in: virtual environment, servers for tests, Node packages for tests.

    python3 scripts/setup.py           everything that `make check` needs
    python3 scripts/setup.py --run     only what `make run` needs: no root, no packages of the system
    python3 scripts/setup.py --python  that, and the Python packages of the static checks

Runs under the system's Python before anything is installed, so it uses the standard library alone. Each
step leaves a stamp that tells what it was made from; a step whose stamp still fits costs nothing. Silent when
there is nothing to do, one line for each step that there is; on failure the end of its output, and what to do
about it.
"""

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 - this file meets Pythons that the project refuses
    sys.exit(
        f"setup: Python 3.11 or later is needed; {sys.executable} is {sys.version.split()[0]}. "
        "Install a newer one and name it: make PYTHON=python3.11 setup"
    )

REPOSITORY = Path(__file__).resolve().parents[1]
STATE = REPOSITORY / ".local" / "setup"
VENV = REPOSITORY / ".venv"
# What the processes need, and all that with what tests and checks need; the same versions in both.
LOCK = REPOSITORY / "requirements.lock"
DEV_LOCK = REPOSITORY / "requirements-dev.lock"

# Debian package: a file it brings, and the folder of the repository that needs it (None: always).
APT_PACKAGES: dict[str, tuple[str, str | None]] = {
    "redis-server": ("usr/bin/redis-server", None),
    "rabbitmq-server": ("usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server", None),
    "nodejs": ("usr/bin/node", "tests/e2e/js"),
    "npm": ("usr/bin/npm", "tests/e2e/js"),
    "chromium": ("usr/bin/chromium", "tests/browser"),
}

# Folders with a package-lock.json of their own.
NODE_FOLDERS = ("tests/e2e/js", "tests/browser/js", "web")

_TAIL_LINES = 25


class SetupError(Exception):
    """A step failed; the text says what to do."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="setup.py", description=__doc__.splitlines()[0])
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--run", action="store_true", help="only what `make run` needs")
    only.add_argument("--python", action="store_true", help="only the Python packages, those of the checks too")
    arguments = parser.parse_args()
    STATE.mkdir(parents=True, exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two commands at once would install into one another
        try:
            make_venv()
            install_python_packages(LOCK if arguments.run else DEV_LOCK)
            if not (arguments.run or arguments.python):
                install_system_packages()
                for folder in NODE_FOLDERS:
                    install_node_packages(REPOSITORY / folder)
        except SetupError as failure:
            print(f"setup: {failure}", file=sys.stderr)
            return 1
    return 0


def make_venv() -> None:
    if _is_usable(VENV / "bin" / "python"):
        return
    say(f"making .venv with Python {sys.version.split()[0]}")
    hint = "the module venv must work; on Debian: apt-get install python3-venv"
    run("venv", [sys.executable, "-m", "venv", "--clear", str(VENV)], hint)


def install_python_packages(lock: Path) -> None:
    """Installs exactly the versions of `lock`. The larger lock holds the smaller one, so it stamps both."""
    stamps = {each: Stamp(each.stem, [each, VENV / "pyvenv.cfg"]) for each in (LOCK, DEV_LOCK)}
    if stamps[lock].fits:
        return
    say(f"installing {lock.name} into .venv")
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet"]
    run("pip", [*pip, "-r", str(lock)], "pip needs its package index; then run `make setup` again")
    for each in {LOCK, lock}:
        stamps[each].write()


def install_system_packages() -> None:
    missing = [name for name in APT_PACKAGES if _is_needed(name) and not _is_installed(name)]
    if not missing:
        return
    names = " ".join(missing)
    hint = f"install by hand: {names}"
    if shutil.which("apt-get") is None:
        raise SetupError(f"the tests need {names}, and there is no apt-get here; {hint}")
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if as_root and shutil.which("sudo") is None:
        raise SetupError(f"the tests need {names}, and neither root nor sudo is at hand; {hint}")
    say(f"installing {names} (Debian packages)")
    apt = [*as_root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=300"]
    run("apt", [*apt, "update"], f"the package lists cannot be fetched; {hint}")
    run("apt", [*apt, "install", "-y", "--no-install-recommends", *missing], hint)
    if absent := [name for name in missing if not _is_installed(name)]:
        raise SetupError(f"installed, but not where they are looked for: {' '.join(absent)}")


def install_node_packages(folder: Path) -> None:
    lock = folder / "package-lock.json"
    if not lock.exists():
        return
    stamp = Stamp(f"node-{folder.relative_to(REPOSITORY).as_posix().replace('/', '-')}", [lock])
    if stamp.fits and (folder / "node_modules").is_dir():
        return
    say(f"installing the Node packages of {folder.relative_to(REPOSITORY)}")
    hint = "npm needs its package index; then run `make setup` again"
    run("npm", ["npm", "ci", "--no-audit", "--no-fund", "--prefix", str(folder)], hint)
    stamp.write()


class Stamp:
    """Remembers what a step was made from."""

    def __init__(self, name: str, sources: list[Path]) -> None:
        self._path = STATE / f"{name}.stamp"
        self._sources = sources

    @property
    def fits(self) -> bool:
        return self._path.exists() and self._path.read_text() == self._digest()

    def write(self) -> None:
        self._path.write_text(self._digest())

    def _digest(self) -> str:
        contents = [source.read_bytes() if source.exists() else b"" for source in self._sources]
        return hashlib.sha256(b"\0".join(contents)).hexdigest()


def run(name: str, command: list[str], hint: str) -> None:
    """Run a command with its output kept in `.local/setup/NAME.log`.

    Raises:
        SetupError: it failed; the text carries the end of its output and the hint.
    """
    log = STATE / f"{name}.log"
    with log.open("wb") as output:
        try:
            done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, cwd=REPOSITORY, check=False)
            code = done.returncode
        except FileNotFoundError as missing:
            output.write(f"{missing}\n".encode())
            code = 127
    if code != 0:
        end = "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
        raise SetupError(f"`{' '.join(command[:6])} …` failed with {code}\n{end}\nsetup: {hint}")


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


def _is_usable(python: Path) -> bool:
    """Whether that interpreter works: a virtual environment breaks when its Python is removed."""
    check = "import pip, sys; sys.exit(sys.version_info < (3, 11))"
    try:
        return subprocess.run([str(python), "-c", check], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _is_needed(package: str) -> bool:
    folder = APT_PACKAGES[package][1]
    return folder is None or (REPOSITORY / folder).is_dir()


def _is_installed(package: str) -> bool:
    pattern = APT_PACKAGES[package][0]
    return any(Path("/").glob(pattern)) or shutil.which(Path(pattern).name) is not None


if __name__ == "__main__":
    sys.exit(main())
