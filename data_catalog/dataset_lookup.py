"""Which dataset version is meant? An id, the beginning of one, or a name: `sft` is the newest, `sft~1` one before."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from data_catalog import queries, rows
from data_catalog.errors import ConfigError
from data_catalog.records import DatasetVersion, Record

if TYPE_CHECKING:
    from data_catalog.catalogue import Catalogue

_NAME = re.compile(r"(?P<name>.+?)(?:~(?P<back>\d+))?")


class KnownDataset(Record):
    """A dataset version under one of its names."""

    version: DatasetVersion
    created_at: float
    """When the version was first written, seconds since the epoch."""
    named_at: float
    """When it was first given this name."""


def known_datasets(catalogue: Catalogue) -> list[KnownDataset]:
    """Return every version under each of its names, the newest first."""
    with catalogue.store.reading() as con:
        found = con.execute(queries.DATASETS, {"id": None}).fetchall()
    return [KnownDataset(version=rows.dataset_of(row), created_at=row[6], named_at=row[7]) for row in found]


def resolve_dataset(catalogue: Catalogue, wanted: str) -> KnownDataset:
    """Return the version that `wanted` means.

    Args:
        catalogue: where to look.
        wanted: an id, a prefix that fits one version (with or without `dataset-`), a name (its newest version), or a
            name and how many versions back, such as `sft~1`.

    Raises:
        ConfigError: nothing, or more than one version, has that name.
    """
    known = known_datasets(catalogue)
    parts = _NAME.fullmatch(wanted)
    named = [one for one in known if parts and one.version.name == parts["name"]]
    if parts and named:
        back = int(parts["back"] or 0)
        if back < len(named):
            return named[back]
        raise ConfigError(
            f"`{wanted}`: `{parts['name']}` has {len(named)} version{'s' * (len(named) != 1)}",
            valid=f"{parts['name']}~0 to {parts['name']}~{len(named) - 1}; ~0 is the newest",
            next_step="list what there is: tutelage data list",
        )
    fitting = {
        one.version.id: one
        for one in reversed(known)
        if wanted and (one.version.id.startswith(wanted) or one.version.id.removeprefix("dataset-").startswith(wanted))
    }
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    names = ", ".join(dict.fromkeys(one.version.name for one in known)) or "none yet"
    raise ConfigError(
        f"`{wanted}` fits {len(fitting) or 'no'} dataset versions" + (f": {', '.join(fitting)}" if fitting else ""),
        valid=f"an id, a prefix that fits one, or a name, with ~1 for the version before: {names}",
        next_step="list what there is: tutelage data list",
    )


def models_of(catalogue: Catalogue, dataset_id: str) -> list[tuple[str, str]]:
    """Return (model version, training stage) of every registered model that was trained on a version."""
    with catalogue.store.reading() as con:
        return [(model, stage) for model, stage in con.execute(queries.DATASET_MODELS, {"id": dataset_id}).fetchall()]
