"""Near-duplicate search on generated corpora with planted copies, beside datasketch where it is installed.

    python -m benchmarks.curation [--sizes 10000 100000] [--threshold 0.8] [--peer PYTHON]

Prints, for each size: texts per second, peak memory, and recall and precision against what was planted, judged by exact
similarity. `--peer` names a Python that has datasketch (`pip install datasketch`), which gets the same texts, the same
number of MinHash values and the same threshold. Every measurement is a process of its own, one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

SHINGLE = 5
VALUES = 126
"""MinHash values, as many as `generators.near_duplicates` takes."""

Corpus = list[list[str]]


def corpus(size: int, seed: int = 1) -> Corpus:
    """Return texts of 20 to 120 words; a tenth are copies of an earlier one with up to one word in twenty changed."""
    random = Random(seed)
    vocabulary = [f"w{number}" for number in range(20_000)]
    texts: Corpus = []
    for number in range(size):
        if number > 10 and random.random() < 0.1:
            text = list(texts[random.randrange(len(texts))])
            for _ in range(random.randrange(1 + len(text) // 20)):
                text[random.randrange(len(text))] = random.choice(vocabulary)
        else:
            text = random.choices(vocabulary, k=random.randrange(20, 120))
        texts.append(text)
    return texts


def runs(text: list[str]) -> set[tuple[str, ...]]:
    """Return the runs of five words of a text."""
    return {tuple(text[at : at + SHINGLE]) for at in range(len(text) - SHINGLE + 1)}


def ours(texts: Corpus, threshold: float) -> set[int]:
    """Return the places of texts that are like an earlier one."""
    from generators.near_duplicates import near_duplicates

    return {pair.second for pair in near_duplicates(texts, threshold)}


def datasketch(texts: Corpus, threshold: float) -> set[int]:
    """Return the same by datasketch's MinHash LSH; what it finds is checked by its estimate of the similarity."""
    from datasketch import MinHash, MinHashLSH  # type: ignore[import-not-found,unused-ignore]

    index = MinHashLSH(threshold=threshold, num_perm=VALUES)
    found = set()
    signatures: dict[int, MinHash] = {}
    for place, text in enumerate(texts):
        signature = MinHash(num_perm=VALUES)
        signature.update_batch([" ".join(run).encode() for run in runs(text)])
        if any(signature.jaccard(signatures[other]) >= threshold for other in index.query(signature)):
            found.add(place)
        signatures[place] = signature
        index.insert(place, signature)
    return found


def true_copies(texts: Corpus, threshold: float) -> set[int]:
    """Return the places of texts that are at least `threshold` like an earlier one, by exact similarity."""
    holders: dict[tuple[str, ...], list[int]] = {}
    found = set()
    sets = []
    for place, text in enumerate(texts):
        mine = runs(text)
        sets.append(mine)
        near = {other for run in mine for other in holders.get(run, ())}
        if any(len(mine & sets[other]) / len(mine | sets[other]) >= threshold for other in near):
            found.add(place)
        for run in mine:
            holders.setdefault(run, []).append(place)
    return found


SEARCHES = {"ours": ours, "datasketch": datasketch, "exact": true_copies}


def measure(name: str, size: int, threshold: float) -> dict[str, object]:
    """Run one search in this process."""
    texts = corpus(size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    found = SEARCHES[name](texts, threshold)
    seconds = time.perf_counter() - started
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": seconds, "mib": grown / 1024, "found": sorted(found)}


def measured_apart(python: str, name: str, size: int, threshold: float) -> dict[str, object]:
    """Run one search in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    argv = [python, "-m", "benchmarks.curation", "--only", name, "--sizes", str(size), "--threshold", str(threshold)]
    said = subprocess.run(argv, env=environment, check=True, capture_output=True, text=True).stdout
    result: dict[str, object] = json.loads(said)
    return result


def table(sizes: list[int], threshold: float, peer: str | None) -> Iterator[str]:
    """Yield the lines of the result."""
    yield f"{'texts':>9}  {'search':<11} {'texts/s':>9} {'memory':>9} {'recall':>7} {'precision':>9}"
    for size in sizes:
        true = set(measured_apart(sys.executable, "exact", size, threshold)["found"])  # type: ignore[call-overload]
        seconds = {}
        for name, python in (("ours", sys.executable), *((("datasketch", peer),) if peer else ())):
            result = measured_apart(python, name, size, threshold)
            found, seconds[name] = set(result["found"]), float(result["seconds"])  # type: ignore[call-overload,arg-type]
            right = len(found & true)
            yield (
                f"{size:>9,}  {name:<11} {size / seconds[name]:>9,.0f} {result['mib']:>5,.0f} MiB "
                f"{right / len(true):>7.1%} {right / max(1, len(found)):>9.1%}"
            )
        if peer:
            yield f"{'':>9}  ours / datasketch {seconds['datasketch'] / seconds['ours']:.1f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--threshold", type=float, default=0.8)
    parser.add_argument("--peer", help="a Python with datasketch")
    parser.add_argument("--only", choices=SEARCHES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        sys.stdout.write(json.dumps(measure(arguments.only, arguments.sizes[0], arguments.threshold)))
        return
    from benchmarks.machine import describe

    print(describe())
    for line in table(arguments.sizes, arguments.threshold, arguments.peer):
        print(line, flush=True)


if __name__ == "__main__":
    main()
