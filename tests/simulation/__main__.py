"""`python -m tests.simulation --seeds N --from S`: runs seeds, and shows the whole trace of the first that fails."""

import argparse
import sys
import time
from collections import Counter

from tests.simulation.run import simulate_many


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000, help="how many, one after the other (1000)")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first one (0)")
    parser.add_argument("--digest", action="store_true", help="print only a digest of all that happened")
    arguments = parser.parse_args()
    counts: Counter[str] = Counter()
    digests = []
    began_s = time.perf_counter()
    for run in simulate_many(range(arguments.first, arguments.first + arguments.seeds)):
        if run.problems:
            sys.stderr.write(run.report() + "\n")
            return 1
        counts.update(run.record.counts)
        digests.append(run.digest())
    if arguments.digest:
        sys.stdout.write("\n".join(digests) + "\n")
        return 0
    took_s = time.perf_counter() - began_s
    told = ", ".join(f"{what} {count}" for what, count in sorted(counts.items()))
    sys.stdout.write(f"{arguments.seeds} seeds from {arguments.first} hold, in {took_s:.1f} s: {told}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
