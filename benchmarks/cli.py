"""How long `tutelage --help` takes, beside a bare start of the same Python: `python -m benchmarks.cli`.

The limit is 0.3 s: the command line must answer before anything heavy is imported. The two commands alternate, so that
a busy moment of the machine hits both.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks.machine import describe

LIMIT_SECONDS = 0.3

# The entry point's own two steps; the console script adds nothing but its path.
HELP = "import sys; sys.argv = ['tutelage', '--help']; from flows.cli import main; main()"
BARE = "pass"


def seconds(program: str) -> float:
    """Return the wall time in seconds of one `python -c program`. Raises CalledProcessError when it fails."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def alternate(programs: Sequence[str], repeats: int) -> list[list[float]]:
    """Return the wall times of each program, run in turn `repeats` times after one uncounted round."""
    for program in programs:
        seconds(program)
    rounds = [[seconds(program) for program in programs] for _ in range(repeats)]
    return [list(column) for column in zip(*rounds, strict=True)]


def main(arguments: list[str] | None = None) -> int:
    """Print the medians and their ratio; the exit status is 1 above the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args(arguments).repeats
    print(describe())
    bare, shown = alternate((BARE, HELP), repeats)
    median, base = statistics.median(shown), statistics.median(bare)
    print(f"tutelage --help   {median:.3f} s median of {repeats}, {min(shown):.3f} to {max(shown):.3f}")
    print(f"python -c pass    {base:.3f} s median of {repeats}, {min(bare):.3f} to {max(bare):.3f}")
    print(f"ratio             {median / base:.1f}x a bare start; limit {LIMIT_SECONDS} s: {verdict(median)}")
    return 0 if median <= LIMIT_SECONDS else 1


def verdict(median: float) -> str:
    """Return `held` or by how much the limit was missed."""
    return "held" if median <= LIMIT_SECONDS else f"missed by {median - LIMIT_SECONDS:.3f} s"


if __name__ == "__main__":
    sys.exit(main())
