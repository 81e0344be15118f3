"""What `tutelage forget` says and does: a plan as text, an exclusion, and taking one back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_catalog.catalogue import Catalogue
from data_catalog.errors import DataError
from data_catalog.exclusions import exclude, find_excludable, readmit
from data_catalog.forgetting import ForgetPlan, ModelTouched, Way
from flows.progress import clock

SHOWN_ITEMS = 20
"""Items that the text names; JSON has all."""


def forget(home: Path, document: str, *, actor: str) -> str:
    """Exclude a document from the next dataset versions on; return one sentence that says so.

    Raises:
        CatalogueBusy: a run of the project is active, which has read the document already.
        ConfigError: no document has that name.
    """
    catalogue = Catalogue(home)
    with catalogue.run_lock("tutelage forget --apply"):
        with catalogue.store.reading() as con:
            key = find_excludable(con, document)
        withdrawn = exclude(catalogue, key, actor=actor)
    what = "this text, wherever it lies," if key.kind == "document" else "whatever stands at this path"
    return f"{key.kind} {key.id}: {what} stays out; {withdrawn:,} items leave the next dataset version"


def undo(home: Path, document: str) -> str:
    """Take an exclusion back; return one sentence that says so.

    Raises:
        ConfigError: no document has that name.
        DataError: it is not excluded.
    """
    catalogue = Catalogue(home)
    with catalogue.store.reading() as con:
        key = find_excludable(con, document)
    if not readmit(catalogue, key):
        raise DataError(
            f"{key.kind} {key.id} is not excluded",
            valid="exactly what was given to `tutelage forget --apply`: the path or the id",
        )
    return f"{key.kind} {key.id} is no longer excluded; the next run or refresh reads it again, if it is still there"


def plan_lines(plan: ForgetPlan) -> list[str]:
    """Return the plan as lines of text."""
    return [
        f"{plan.kind} {plan.id}",
        *(f"  text {one}" for one in plan.documents if plan.kind == "path"),
        *_section("items", len(plan.items), _first(plan.items)),
        *_section(
            "dataset versions",
            len(plan.datasets),
            [f"{one.id}  {', '.join(one.names)}: {one.items:,} of {one.rows:,} rows" for one in plan.datasets],
        ),
        *_section("models", len(plan.models), [_model_line(one) for one in plan.models]),
        "",
        "ways to a model that never saw it, the cheapest first"
        if plan.ways
        else "no stage points to a model that saw it",
        *(line for way in plan.ways for line in _way_lines(way)),
    ]


def _section(title: str, count: int, lines: Sequence[str]) -> list[str]:
    return ["", f"{title}: {count:,}", *(f"  {line}" for line in lines)]


def _first(items: Sequence[str]) -> list[str]:
    more = [f"and {len(items) - SHOWN_ITEMS:,} more (--json has all)"] if len(items) > SHOWN_ITEMS else []
    return [*items[:SHOWN_ITEMS], *more]


def _model_line(model: ModelTouched) -> str:
    stages = ", ".join(stage.value for stage in model.stages) or "in no stage"
    return f"{model.id}  {stages}" + (", files removed" if model.removed else "")


def _way_lines(way: Way) -> list[str]:
    cost = (
        "time unknown" if way.seconds is None else f"{clock(way.seconds)} of training" if way.seconds else "no training"
    )
    made = way.model_id or "a new model"
    return [f"  {way.stage}: {made}, {cost}: {way.note}", *(f"      {command}" for command in way.commands)]
