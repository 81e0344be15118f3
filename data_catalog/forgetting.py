"""What a document has touched, and the cheapest way to a model that never saw it.

No weight is edited: a model forgets by being made without the document, or by giving its name to one that was.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from data_catalog import queries, rows
from data_catalog.approvals import standing_problem
from data_catalog.exclusions import find_excludable, texts_of
from data_catalog.lineage import NodeKey, descendants
from data_catalog.records import ModelVersion, Record, Stage
from data_catalog.registry_log import pointers, read_events, version_stack
from data_catalog.retention import model_in

if TYPE_CHECKING:
    import duckdb

    from data_catalog.catalogue import Catalogue


_ORDER = (Stage.PRODUCTION, Stage.STAGING, Stage.CANDIDATE)
"""The stages that a user of the models meets, the most exposed first."""


class DatasetTouched(Record):
    """A dataset version that holds items of the document."""

    id: str
    names: tuple[str, ...]
    rows: int
    items: int
    """How many of the rows are the document's."""


class StageCost(Record):
    """A training stage of a model and how long it took, in seconds; None where that is not known."""

    name: str
    seconds: float | None


class ModelTouched(Record):
    """A model that was trained on items of the document, or started from one that was."""

    id: str
    stages: tuple[Stage, ...]
    removed: bool
    """Its files are no longer kept."""
    reused: tuple[str, ...]
    """Training stages before the first that saw the document: they are not trained again."""
    retrained: tuple[StageCost, ...]
    """Training stages from the first that saw it on; all of them where the model started from one that had."""


class Way(Record):
    """One way to a stage without the document."""

    stage: Stage
    model_id: str | None
    """A version that never saw it; None where one has to be made."""
    seconds: float | None
    """Of training, as long as it took last time; None where that is not known."""
    commands: tuple[str, ...]
    note: str


class ForgetPlan(Record):
    """All that forgetting a document is about."""

    kind: str
    id: str
    documents: tuple[str, ...]
    """The texts: one, or all that were ever at the path."""
    items: tuple[str, ...]
    datasets: tuple[DatasetTouched, ...]
    models: tuple[ModelTouched, ...]
    ways: tuple[Way, ...]
    """For each stage that points to a model that saw it, the cheapest way first."""


def plan_forgetting(catalogue: Catalogue, wanted: str) -> ForgetPlan:
    """Follow a document (its id, the beginning of one, or a path) to everything that was made from it.

    Raises:
        ConfigError: nothing, more than one thing, or no document has that name.
    """
    with catalogue.store.reading() as con:
        key = find_excludable(con, wanted)
        documents = texts_of(con, key)
        touched = descendants(con, [NodeKey("document", one) for one in documents])
        items = sorted(one.id for one in touched if one.kind == "item")
        found = con.execute(queries.MODELS).fetchall()
        versions = {row[0]: (rows.model_of(row), row[5] is not None) for row in found}
        bases = {one: _base(catalogue, version) for one, (version, _) in versions.items()}
        affected = _with_successors({one.id for one in touched if one.kind == "model"}, bases)
        datasets = {one.id for one in touched if one.kind == "dataset"}
        current = pointers(con)
        seconds = dict(con.execute(queries.RUN_SECONDS).fetchall())
        models = tuple(
            _model(version, removed, current, datasets, seconds, from_start=bases[version.id] in affected)
            for version, removed in versions.values()
            if version.id in affected
        )
        return ForgetPlan(
            kind=key.kind,
            id=key.id,
            documents=tuple(documents),
            items=tuple(items),
            datasets=tuple(_datasets(con, datasets, items)),
            models=models,
            ways=tuple(way for stage in _ORDER for way in _ways(con, stage, key.id, models, versions)),
        )


def _base(catalogue: Catalogue, version: ModelVersion) -> str | None:
    """Return the registered model that a version was trained from, or None where it was none of this registry's."""
    key = model_in(catalogue.models_dir, version.lineage.get("base_path"))
    return key.id if key else None


def _with_successors(affected: Collection[str], bases: Mapping[str, str | None]) -> set[str]:
    """Add the models that started from a registered model that is affected."""
    found = set(affected)
    while more := {one for one, base in bases.items() if base in found} - found:
        found |= more
    return found


def _model(
    version: ModelVersion,
    removed: bool,
    current: Mapping[Stage, str],
    datasets: Collection[str],
    seconds: Mapping[str, float],
    *,
    from_start: bool,
) -> ModelTouched:
    stages = version.lineage.get("stages", ())
    saw = [position for position, stage in enumerate(stages) if stage.get("dataset_id") in datasets]
    first = saw[0] if saw and not from_start else 0
    return ModelTouched(
        id=version.id,
        stages=tuple(stage for stage, model_id in current.items() if model_id == version.id),
        removed=removed,
        reused=tuple(stage["name"] for stage in stages[:first]),
        retrained=tuple(
            StageCost(name=stage["name"], seconds=seconds.get(stage.get("run_id"))) for stage in stages[first:]
        ),
    )


def _datasets(
    con: duckdb.DuckDBPyConnection, touched: Collection[str], items: Sequence[str]
) -> Iterator[DatasetTouched]:
    con.register("wanted", rows.ids(items))
    for one, names, count, own in con.execute(queries.DATASETS_WITH_ITEMS).fetchall():
        if one in touched:
            yield DatasetTouched(id=one, names=tuple(names), rows=count, items=own)


def _ways(
    con: duckdb.DuckDBPyConnection,
    stage: Stage,
    wanted: str,
    models: Sequence[ModelTouched],
    versions: Mapping[str, tuple[ModelVersion, bool]],
) -> Iterator[Way]:
    """Yield the ways to a clean version in `stage`, the cheapest first; none where it is clean already."""
    current = next((model for model in models if stage in model.stages), None)
    if current is None:
        return
    touched = {model.id for model in models}
    clean = [one for one, (_, removed) in versions.items() if one not in touched and not removed]
    if stage is not Stage.CANDIDATE:
        yield from _ready_version(con, stage, clean, versions)
    known = [cost.seconds for cost in current.retrained]
    reused = f"; {', '.join(current.reused)} as before, if the filters accept the same items" if current.reused else ""
    yield Way(
        stage=stage,
        model_id=None,
        seconds=None if None in known else sum(filter(None, known)),
        commands=(
            f"tutelage forget {wanted} --apply",
            "tutelage run CONFIG",
            *(() if stage is Stage.CANDIDATE else (f"tutelage promote candidate --to {stage}",)),
        ),
        note=f"trains {', '.join(cost.name for cost in current.retrained) or 'every stage'} again{reused}",
    )


def _ready_version(
    con: duckdb.DuckDBPyConnection,
    stage: Stage,
    clean: Sequence[str],
    versions: Mapping[str, tuple[ModelVersion, bool]],
) -> Iterator[Way]:
    """Yield the way to a version that is there: the one to roll back to, or the newest whose gates passed."""
    earlier = version_stack(read_events(con, stage))[-2:-1]
    if earlier and earlier[0] in clean:
        yield _nothing_to_train(stage, earlier[0], f"tutelage rollback {stage}", "the version before")
        return
    for one in clean:
        if not standing_problem(con, versions[one][0]):
            command = f"tutelage promote {one} --to {stage}"
            yield _nothing_to_train(stage, one, command, "the newest version that never saw it and whose gates passed")
            return


def _nothing_to_train(stage: Stage, model_id: str, command: str, note: str) -> Way:
    return Way(stage=stage, model_id=model_id, seconds=0.0, commands=(command,), note=note)
