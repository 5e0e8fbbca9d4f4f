"""`python -m tests.chaos.checker FILE…`: checks recorded histories again."""

import argparse
import sys
from pathlib import Path

from tests.chaos.checker import check
from tests.chaos.history import BrokenHistory, History


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.checker", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a history, as JSON lines")
    found = 0
    for path in parser.parse_args().files:
        try:
            findings = check(History.load(path))
        except (BrokenHistory, OSError) as error:
            sys.stdout.write(f"{path}: not checked: {error}\n")
            found += 1
            continue
        sys.stdout.write(f"{path}: {len(findings)} findings\n")
        for finding in findings:
            sys.stdout.write(f"  {finding}\n")
        found += len(findings)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
