"""What has to be kept, and what nothing needs any more: reachability over models, datasets and training runs.

Roots are what a stage points to or could be rolled back to, what an approval in force or the user names, the newest
dataset version of every name, and runs that were not finished. From there: a model needs the runs and datasets it was
trained in, and the registered model that it started from.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from data_catalog import queries, registry_log, rows
from data_catalog.datasets import remove_dataset_files
from data_catalog.lineage import NodeKey
from data_catalog.model_files import remove_directory
from data_catalog.records import Record, Stage
from data_catalog.registry_log import RegistryEvent, pointers, read_events, version_stack

if TYPE_CHECKING:
    import duckdb

    from data_catalog.catalogue import Catalogue


class TrainingRun(Record):
    """The finished runs of one training step with equal inputs, which share one folder."""

    step: str
    fingerprint: str
    run_ids: tuple[str, ...]


class Unreachable(Record):
    """What nothing needs any more, by id; only what still has its files."""

    models: Mapping[str, str] = {}
    """Path, relative to the project's home, by id."""
    datasets: Mapping[str, str] = {}
    """Path, relative to the project's home, by id."""
    runs: tuple[TrainingRun, ...] = ()


def reachable(roots: Iterable[NodeKey], needs: Mapping[NodeKey, Collection[NodeKey]]) -> set[NodeKey]:
    """Return everything that `roots` need, directly or not, and the roots themselves; circles are no trouble."""
    found: set[NodeKey] = set()
    waiting = list(roots)
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            waiting.extend(needs.get(key, ()))
    return found


def find_unreachable(catalogue: Catalogue, keep: Collection[NodeKey] = ()) -> Unreachable:
    """Return what nothing needs; `keep` are models, datasets and runs to keep in any case."""
    with catalogue.store.reading() as con:
        return _unreachable(con, catalogue, keep)


def remove_unreachable(catalogue: Catalogue, keep: Collection[NodeKey], *, actor: str) -> Unreachable:
    """Remove the files of models and datasets that nothing needs; return what `find_unreachable` would have.

    That they are gone is recorded before the first file is deleted, and for models in the registry's log: a promotion
    at the same time either comes first, and its version is kept, or is refused. What a kill left undeleted is found
    again. The folders of the runs are left to the caller, who knows where they are.
    """
    with catalogue.store.writing() as con:
        found = _unreachable(con, catalogue, keep)
        now = catalogue.clock()
        for model_id in found.models:
            if not con.execute(queries.MODEL_REMOVED_AT, {"id": model_id}).fetchall()[0][0]:
                registry_log.append(
                    con, now=now, actor=actor, action="remove", stage=Stage.ARCHIVED, model_id=model_id, details={}
                )
        for sql, ids in ((queries.MARK_MODELS_REMOVED, found.models), (queries.MARK_DATASETS_REMOVED, found.datasets)):
            con.register("wanted", rows.ids(ids))
            con.execute(sql, {"now": now})
    for path in found.models.values():
        remove_directory(catalogue.home / path)
    for path in found.datasets.values():
        remove_dataset_files(catalogue.home / path)
    return found


def _unreachable(con: duckdb.DuckDBPyConnection, catalogue: Catalogue, keep: Collection[NodeKey]) -> Unreachable:
    models = con.execute(queries.MODELS_AND_BASES).fetchall()
    runs = con.execute(queries.TRAINING_RUNS).fetchall()
    kept = reachable(
        {*keep, *_rooted_models(con, catalogue.clock()), *_newest_datasets(con), *_unfinished(runs)},
        _needs(con, models, catalogue.models_dir),
    )
    needed = {fingerprint for run_id, _, fingerprint, _ in runs if NodeKey("run", run_id) in kept}
    by_fingerprint: dict[tuple[str, str], list[str]] = {}
    for run_id, step, fingerprint, _ in runs:
        if fingerprint not in needed:
            by_fingerprint.setdefault((step, fingerprint), []).append(run_id)
    return Unreachable(
        models={
            model_id: path
            for model_id, path, _ in models
            if NodeKey("model", model_id) not in kept and (catalogue.home / path).exists()
        },
        datasets={
            dataset_id: path
            for dataset_id, path in con.execute(queries.DATASET_PATHS).fetchall()
            if NodeKey("dataset", dataset_id) not in kept and (catalogue.home / path).exists()
        },
        runs=tuple(
            TrainingRun(step=step, fingerprint=fingerprint, run_ids=tuple(ids))
            for (step, fingerprint), ids in by_fingerprint.items()
        ),
    )


def _rooted_models(con: duckdb.DuckDBPyConnection, now: float) -> Iterator[NodeKey]:
    for model_id in pointers(con).values():
        yield NodeKey("model", model_id)
    for stage in (Stage.STAGING, Stage.PRODUCTION):
        events = read_events(con, stage)
        for model_id in [*version_stack(events), *_approved(events, now)]:
            yield NodeKey("model", model_id)


def _approved(events: Iterable[RegistryEvent], now: float) -> list[str]:
    return [event.model_id for event in events if event.action == "approve" and event.details["expires_at"] > now]


def _newest_datasets(con: duckdb.DuckDBPyConnection) -> Iterator[NodeKey]:
    return (NodeKey("dataset", dataset_id) for (dataset_id,) in con.execute(queries.NEWEST_DATASETS).fetchall())


def _unfinished(runs: Iterable[rows.Row]) -> Iterator[NodeKey]:
    """A step that never ended well is continued from its checkpoints by the command that started it."""
    runs = list(runs)
    done = {fingerprint for _, _, fingerprint, status in runs if status == "done"}
    return (NodeKey("run", run_id) for run_id, _, fingerprint, _ in runs if fingerprint not in done)


def _needs(con: duckdb.DuckDBPyConnection, models: Iterable[rows.Row], models_dir: Path) -> dict[NodeKey, set[NodeKey]]:
    needs: dict[NodeKey, set[NodeKey]] = {}
    for model_id, run_id, dataset_id in con.execute(queries.MODEL_NEEDS).fetchall():
        needed = needs.setdefault(NodeKey("model", model_id), set())
        needed |= {NodeKey(kind, one) for kind, one in (("run", run_id), ("dataset", dataset_id)) if one}
    for model_id, _, lineage in models:
        base = model_in(models_dir, json.loads(lineage).get("base_path"))
        if base is not None:
            needs.setdefault(NodeKey("model", model_id), set()).add(base)
    return needs


def model_in(models_dir: Path, path: str | Path | None) -> NodeKey | None:
    """Return the registered model that `path` is the directory of, or None where it is none of this registry's."""
    if not path or Path(path).resolve().parent != models_dir.resolve():
        return None
    return NodeKey("model", Path(path).name)
