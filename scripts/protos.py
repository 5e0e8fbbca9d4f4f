"""Generates the Python of protos/ beside its sources, and checks that what is committed is what would be
generated.

    python -m scripts.protos             generate
    python -m scripts.protos --check     compare only; exit code 1 when they differ
    python -m scripts.protos --breaking  compare the contract with the latest release's (buf)
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
_GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.protos", description=__doc__.splitlines()[0])
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="compare only")
    mode.add_argument("--breaking", action="store_true", help="compare with the latest release")
    arguments = parser.parse_args()
    if arguments.breaking:
        return check_breaking()
    if arguments.check:
        return check_drift()
    replace_generated()
    return 0


def replace_generated() -> None:
    """Generate aside first: a mistake in a proto leaves the old code whole. Drop what has no proto."""
    with tempfile.TemporaryDirectory() as directory:
        fresh = Path(directory)
        generate(fresh)
        for stale in generated_in(REPOSITORY) - generated_in(fresh):
            (REPOSITORY / stale).unlink()
        for path in generated_in(fresh):
            (REPOSITORY / path).write_bytes((fresh / path).read_bytes())


def generate(output: Path) -> None:
    """Write the code of every proto below `output`, laid out as the protos are."""
    sources = sorted(str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob("protos/*/v*/*.proto"))
    kinds = ("python_out=", "grpc_python_out=", "mypy_out=", "mypy_grpc_out=only_async:")
    plugins = Path(sys.executable).parent  # protoc-gen-mypy and -mypy_grpc are looked up on PATH
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            "-I.",
            *(f"--{kind}{output}" for kind in kinds),
            *sources,
        ],
        cwd=REPOSITORY,
        env=os.environ | {"PATH": f"{plugins}{os.pathsep}{os.environ.get('PATH', os.defpath)}"},
        check=True,
        stderr=subprocess.PIPE,
        text=True,
    )


def generated_in(root: Path) -> set[Path]:
    return {path.relative_to(root) for pattern in _GENERATED for path in (root / "protos").rglob(pattern)}


def check_drift() -> int:
    """0 when the committed code is exactly what the protos give, 1 with a list of files when it is not."""
    with tempfile.TemporaryDirectory() as directory:
        fresh = Path(directory)
        generate(fresh)
        different = [
            path
            for path in sorted(generated_in(fresh) | generated_in(REPOSITORY))
            if _content(fresh / path) != _content(REPOSITORY / path)
        ]
    for path in different:
        print(f"{path}: not what its proto gives", file=sys.stderr)
    if different:
        print("run `make protos` and commit the result", file=sys.stderr)
    return 1 if different else 0


def check_breaking() -> int:
    """Compare with the newest tag `v*`: what has been released must stay readable. Nothing to do before the
    first."""
    described = subprocess.run(
        ["git", "describe", "--tags", "--abbrev=0", "--match", "v[0-9]*"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if described.returncode != 0:
        print("no release yet: the contract may still change")
        return 0
    buf = Path(sys.executable).with_name("buf")
    against = f".git#tag={described.stdout.strip()}"
    return subprocess.run([buf, "breaking", "--against", against], cwd=REPOSITORY, check=False).returncode


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as failure:
        sys.exit(f"{failure.stderr}\nprotoc failed")
