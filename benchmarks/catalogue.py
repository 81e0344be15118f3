"""How long questions to a large catalogue take: `python -m benchmarks.catalogue`.

Makes a catalogue of a million items (a hundred from each of 10,000 documents, each with its chunk, request, answer and
verdict), 10,000 training runs on 500 dataset versions of 2,000 items, and 5,000 models of two training stages each, by
bulk inserts into a temporary directory; the log is a real chain. Then it asks, in this process, what `tutelage trace`
and `tutelage models` ask, three times each, and prints the median. Each must take less than half a second.

The files of the models are not made: no question looks at them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa

from benchmarks.machine import describe
from data_catalog.catalogue import Catalogue
from data_catalog.lineage import trace
from data_catalog.records import Stage
from data_catalog.registry import Registry, RegistryEvent
from data_catalog.registry_log import GENESIS
from data_catalog.rows import json_text

LIMIT_SECONDS = 0.5
REPEATS = 3
ITEMS = 1_000_000
RUNS = 10_000
ITEMS_PER_DOCUMENT = 100
ITEMS_PER_CHUNK = 10
DATASETS = 500
STAGES = 2

IDS = """
CREATE MACRO id_of(prefix, number) AS prefix || '-' || md5(prefix || number)
"""
FILL = (
    """
    INSERT INTO documents
    SELECT id_of('doc', i), 'handbook/' || i || '.md', 'Document ' || i, 'The text of document ' || i, 'text/markdown',
        1.0, NULL
    FROM range($items // $per_document) numbers(i)
    """,
    """
    INSERT INTO chunks
    SELECT id_of('chunk', i), id_of('doc', i * $per_chunk // $per_document), 0, 40, ['Document', 'Part ' || i],
        'The text of chunk ' || i, 'train', NULL
    FROM range($items // $per_chunk) numbers(i)
    """,
    """
    INSERT INTO requests
    SELECT id_of('req', i), 'teacher', '[]', '{}', NULL, 0, 'grounded_qa@1', 'direct.v1.en', '{}',
        id_of('chunk', i // $per_chunk), id_of('doc', i // $per_document), NULL, 1.0
    FROM range($items) numbers(i)
    """,
    """
    INSERT INTO completions
    SELECT id_of('req', i), 'The answer to question ' || i, NULL, 'stop', 100, 20, 0.5, 1.0
    FROM range($items) numbers(i)
    """,
    """
    INSERT INTO items
    SELECT id_of('item', i), 'messages', '{"messages":[{"role":"user","content":"Question ' || i || '?"}]}',
        'grounded_qa@1', 'train', id_of('chunk', i // $per_chunk), id_of('doc', i // $per_document), [id_of('req', i)],
        '{}', 1.0
    FROM range($items) numbers(i)
    """,
    """
    INSERT INTO item_requests SELECT id_of('req', i), id_of('item', i) FROM range($items) numbers(i)
    """,
    """
    INSERT INTO verdicts
    SELECT id_of('item', i), 'length@1', 'passed', '', 1.0, [], 1.0, 0 FROM range($items) numbers(i)
    """,
    """
    INSERT INTO dataset_versions
    SELECT id_of('dataset', i), 'messages', $items // $datasets, 'datasets/' || i || '.parquet', '', 1.0, NULL
    FROM range($datasets) numbers(i)
    """,
    """
    INSERT INTO dataset_names SELECT 'manuals-learn', id_of('dataset', i), i FROM range($datasets) numbers(i)
    """,
    """
    INSERT INTO dataset_items SELECT id_of('dataset', i % $datasets), id_of('item', i) FROM range($items) numbers(i)
    """,
    """
    INSERT INTO step_runs
    SELECT id_of('run', i), 'train:learn', sha256('run' || i), 'done', i, i + 60, '{}', '' FROM range($runs) numbers(i)
    """,
    """
    INSERT INTO gates
    SELECT id_of('gate', i), id_of('candidate', i // $stages), 'weights-base', 'learn', 'PASS', '[]', i, id_of('run', i)
    FROM range($runs) numbers(i)
    """,
    """
    INSERT INTO models
    SELECT id_of('model', i), 'models/' || id_of('model', i), $manifest, '{"base":"weights-base","stages":[]}', i, NULL
    FROM range($runs // $stages) numbers(i)
    """,
    """
    INSERT INTO model_sources
    SELECT id_of('model', i // $stages), i % $stages, 'learn', id_of('run', i), id_of('dataset', i % $datasets),
        id_of('gate', i)
    FROM range($runs) numbers(i)
    """,
)
MANIFEST = json_text([[f"model-{part:05}-of-00010.safetensors", 2_000_000_000, "0" * 64] for part in range(10)])


def fill(catalogue: Catalogue, items: int, runs: int) -> None:
    """Fill an empty catalogue."""
    given = {
        "items": items,
        "runs": runs,
        "per_document": ITEMS_PER_DOCUMENT,
        "per_chunk": ITEMS_PER_CHUNK,
        "datasets": DATASETS,
        "stages": STAGES,
        "manifest": MANIFEST,
    }
    with catalogue.store.writing() as con:
        con.execute(IDS.replace("CREATE", "CREATE TEMP"))
        for sql in FILL:
            con.execute(sql, {name: value for name, value in given.items() if f"${name}" in sql})
        models = [row[0] for row in con.execute("SELECT id FROM models ORDER BY registered_at").fetchall()]
        con.register("incoming", _log(models))
        con.execute("INSERT INTO registry_events BY NAME SELECT * FROM incoming")


def _log(models: Sequence[str]) -> pa.Table:
    """Return a whole chain in which each model is registered, and every tenth promoted to production."""
    events: list[RegistryEvent] = []
    for number, model in enumerate(models):
        moves = [("register", Stage.CANDIDATE)] + ([("promote", Stage.PRODUCTION)] if number % 10 == 0 else [])
        for action, stage in moves:
            draft = RegistryEvent(
                seq=len(events) + 1,
                happened_at=float(number),
                actor="benchmark",
                action=action,
                stage=stage,
                model_id=model,
                details={},
                previous_hash=events[-1].hash if events else GENESIS,
                hash="",
            )
            events.append(draft.model_copy(update={"hash": draft.computed_hash()}))
    return pa.Table.from_pylist([event.model_dump(mode="json") | {"details": "{}"} for event in events])


def questions(catalogue: Catalogue) -> dict[str, Callable[[], object]]:
    """Return what is asked, by its name."""
    registry = Registry(catalogue)
    with catalogue.store.reading() as con:

        def one(sql: str) -> str:
            return str(con.execute(sql).fetchall()[0][0])

        wanted = {
            "trace of an item": one("SELECT id FROM items LIMIT 1 OFFSET 7"),
            "trace of the beginning of an id": one("SELECT id FROM items LIMIT 1 OFFSET 7").removeprefix("item-")[:12],
            "trace of a request": one("SELECT key FROM requests LIMIT 1 OFFSET 7"),
            "trace of a document": one("SELECT id FROM documents LIMIT 1 OFFSET 7"),
            "trace of a path": "handbook/7.md",
            "trace of a run": one("SELECT id FROM step_runs LIMIT 1 OFFSET 7"),
            "trace of a model": one("SELECT id FROM models LIMIT 1 OFFSET 7"),
            "trace of production": "production",
        }
    asked: dict[str, Callable[[], object]] = {name: partial(trace, catalogue, one) for name, one in wanted.items()}
    return asked | {"models": registry.models}


def median_seconds(question: Callable[[], object]) -> float:
    """Return the median time of a question, in seconds."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        question()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill, ask, print; the exit status is 1 where a question took too long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=ITEMS, help="items in the catalogue")
    parser.add_argument("--runs", type=int, default=RUNS, help="training runs in the catalogue")
    options = parser.parse_args(arguments)
    print(describe())
    with tempfile.TemporaryDirectory(prefix="tutelage-benchmark-") as home:
        catalogue = Catalogue(Path(home))
        started = time.perf_counter()
        fill(catalogue, options.items, options.runs)
        size = catalogue.path.stat().st_size / 1e6
        print(
            f"\n{options.items:,} items, {options.runs:,} runs, {options.runs // STAGES:,} models: {size:,.0f} MB, "
            f"filled in {time.perf_counter() - started:.0f} s"
        )
        met = True
        for name, question in questions(catalogue).items():
            seconds = median_seconds(question)
            met &= seconds < LIMIT_SECONDS
            verdict = "held" if seconds < LIMIT_SECONDS else "missed"
            print(f"{name:34}{seconds:8.3f} s   limit {LIMIT_SECONDS:g} s: {verdict}", flush=True)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
