"""Near-duplicate search on generated corpora with planted copies, beside datasketch where it is installed.

    python -m benchmarks.curation [--sizes 10000 100000] [--threshold 0.8] [--peer PYTHON] [--vectors 1024]

Prints, for each size: texts per second, peak memory, and recall and precision against what was planted, judged by exact
similarity. `--peer` names a Python that has datasketch (`pip install datasketch`), which gets the same texts, the same
number of MinHash values and the same threshold. With `--vectors D` the search by meaning is measured instead, on random
vectors of D numbers. Every measurement is a process of its own, one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt

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


def vectors_of(size: int, width: int, seed: int = 1) -> npt.NDArray[np.float32]:
    """Return random unit vectors; a tenth are copies of an earlier one with a tenth of noise (cosine about 0.995)."""
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((size, width), np.float32)
    copies = np.flatnonzero(random.random(size) < 0.1)
    copies = copies[copies > 0]
    noise = 0.1 * random.standard_normal((len(copies), width), np.float32)
    vectors[copies] = vectors[(random.random(len(copies)) * copies).astype(np.int64)] + noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def measure_vectors(size: int, width: int) -> dict[str, object]:
    """Run the search by meaning in this process; the memory is what it takes beside the vectors."""
    from generators.embeddings import alike

    vectors = vectors_of(size, width)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    found = alike(vectors, 0.9)
    seconds = time.perf_counter() - started
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "seconds": seconds,
        "mib": grown / 1024,
        "held": vectors.nbytes / 2**20,
        "found": [one.place for one in found],
    }


def table_of_vectors(sizes: list[int], width: int) -> Iterator[str]:
    """Yield the lines of the search by meaning."""
    yield f"{'vectors':>9}  {'numbers':>7} {'vectors/s':>9} {'seconds':>9} {'held':>9} {'beside':>9} {'found':>7}"
    for size in sizes:
        result = measured_apart(sys.executable, "vectors", size, 0.9, ["--vectors", str(width)])
        seconds, found = float(result["seconds"]), len(result["found"])  # type: ignore[arg-type]
        yield (
            f"{size:>9,}  {width:>7,} {size / seconds:>9,.0f} {seconds:>9.1f} {result['held']:>5,.0f} MiB "
            f"{result['mib']:>5,.0f} MiB {found:>7,}"
        )


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


def measured_apart(python: str, name: str, size: int, threshold: float, more: Sequence[str] = ()) -> dict[str, object]:
    """Run one search in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    argv = [python, "-m", "benchmarks.curation", "--only", name, "--sizes", str(size), "--threshold", str(threshold)]
    argv += more
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
    parser.add_argument("--vectors", type=int, metavar="D", help="measure the search by meaning, with D numbers each")
    parser.add_argument("--only", choices=[*SEARCHES, "vectors"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only == "vectors":
        sys.stdout.write(json.dumps(measure_vectors(arguments.sizes[0], arguments.vectors)))
        return
    if arguments.only:
        sys.stdout.write(json.dumps(measure(arguments.only, arguments.sizes[0], arguments.threshold)))
        return
    from benchmarks.machine import describe

    print(describe())
    lines = (
        table_of_vectors(arguments.sizes, arguments.vectors)
        if arguments.vectors
        else table(arguments.sizes, arguments.threshold, arguments.peer)
    )
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    main()
