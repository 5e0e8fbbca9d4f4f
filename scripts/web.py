"""Builds the React client into `web/dist`, where the edge finds it.

    python -m scripts.web            builds it where Node is; where not, says that the plain page is served
    python -m scripts.web --needed   fails where it cannot be built: for tests and images

A build that fits its sources costs nothing but the reading of them; packages are installed only when their lock has
changed. The new build takes the place of the old one whole: an edge that starts meanwhile reads one or the other.
"""

import argparse
import fcntl
import hashlib
import re
import shutil
import subprocess
import sys

from scripts.setup import REPOSITORY, STATE, SetupError, install_node_packages, run, say

WEB = REPOSITORY / "web"
DIST = WEB / "dist"
# What the build reads; besides it only the packages, which the lock names.
_SOURCES = ("index.html", "package.json", "package-lock.json", "tsconfig.json", "vite.config.ts", "public", "src")
# Vite 8 and the types of this page need it.
_OLDEST_NODE = (20, 19)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.web", description=__doc__.splitlines()[0])
    parser.add_argument("--needed", action="store_true", help="fail where it cannot be built")
    is_needed = parser.parse_args().needed
    STATE.mkdir(parents=True, exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two commands at once would build into one another
        try:
            build()
        except SetupError as failure:
            if is_needed:
                print(f"web: {failure}", file=sys.stderr)
                return 1
            served = "the page as it was last built" if (DIST / "index.html").exists() else "the plain page"
            print(f"web: serving {served}: {str(failure).splitlines()[0]}", flush=True)
    return 0


def build() -> None:
    """Afterwards `web/dist` is what the sources say.

    Raises:
        SetupError: there is no Node, no packages, or the sources do not build; the text says what to do.
    """
    stamp = STATE / "web.stamp"
    digest = _digest()
    if stamp.exists() and stamp.read_text() == digest and (DIST / "index.html").exists():
        return
    check_node()
    install_node_packages(WEB)
    say("building web/")
    fresh = STATE / "web"
    vite = ["node", str(WEB / "node_modules" / "vite" / "bin" / "vite.js"), "build", str(WEB)]
    run("web", [*vite, "--outDir", str(fresh), "--emptyOutDir", "--logLevel", "warn"], "its sources do not build")
    shutil.rmtree(DIST, ignore_errors=True)
    shutil.move(fresh, DIST)
    stamp.write_text(digest)


def check_node() -> None:
    """
    Raises:
        SetupError: there is no Node that can build the page, or no npm.
    """
    wanted = ".".join(map(str, _OLDEST_NODE))
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise SetupError(f"the React client needs Node {wanted} or later with npm, and they are not here")
    told = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False).stdout
    version = re.match(r"v(\d+)\.(\d+)\.", told)
    if version is None or (int(version[1]), int(version[2])) < _OLDEST_NODE:
        raise SetupError(
            f"the React client needs Node {wanted} or later, and this is {told.strip() or 'none that runs'}"
        )


def _digest() -> str:
    """Of the names and contents of everything that the build reads."""
    sources = [path for name in _SOURCES for path in (WEB / name, *sorted((WEB / name).rglob("*"))) if path.is_file()]
    whole = hashlib.sha256()
    for path in sources:
        content = path.read_bytes()
        whole.update(f"{path.relative_to(WEB)}\0{len(content)}\0".encode() + content)
    return whole.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
