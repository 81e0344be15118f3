"""`tutelage gc`: the model versions, datasets and run folders that nothing needs any more, listed or deleted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_catalog.catalogue import Catalogue
from data_catalog.errors import ConfigError
from data_catalog.lineage import NodeKey, find_node
from data_catalog.registry import Registry
from data_catalog.retention import Unreachable, find_unreachable, model_in, remove_unreachable
from flows.model_steps import stage_directory
from flows.project import Project, configured_student

KINDS = ("model", "dataset", "run")
"""What can be kept by name."""


@dataclass(frozen=True)
class Leftover:
    """Something that nothing needs any more."""

    kind: str
    id: str
    path: str
    """Relative to the project's home."""
    bytes: int


def list_garbage(project: Project, keep: Sequence[str] = ()) -> list[Leftover]:
    """Return what `collect_garbage` would delete. Arguments and errors as there."""
    catalogue = Catalogue(project.home)
    Registry(catalogue).verify_chain()
    return list(_leftovers(project.home, find_unreachable(catalogue, _named(catalogue, project, keep))))


def collect_garbage(project: Project, keep: Sequence[str] = (), *, actor: str) -> list[Leftover]:
    """Delete what no stage, rollback, approval in force or name needs; return what it was.

    Args:
        project: whose home is cleaned up.
        keep: ids, beginnings of ids, or stages of models, datasets and runs that are kept in any case.
        actor: who does it, for the registry's log.

    Raises:
        CatalogueBusy: a run of the project is active.
        ConfigError: a name in `keep` fits nothing, or nothing that can be kept.
        RegistryError: the registry's log was tampered with, so what the stages need is not known.
    """
    catalogue = Catalogue(project.home)
    with catalogue.run_lock("tutelage gc --apply"):
        Registry(catalogue).verify_chain()
        named = _named(catalogue, project, keep)
        # Measured before anything is deleted.
        leftovers = list(_leftovers(project.home, find_unreachable(catalogue, named)))
        removed = remove_unreachable(catalogue, named, actor=actor)
        for run in removed.runs:
            folder = stage_directory(project.home, run.step, run.fingerprint)
            if folder.is_dir():
                shutil.rmtree(folder)
    # What was promoted since it was measured is kept, and so is not among what was deleted.
    return [leftover for leftover in leftovers if not (project.home / leftover.path).exists()]


def _named(catalogue: Catalogue, project: Project, keep: Sequence[str]) -> set[NodeKey]:
    named = set()
    with catalogue.store.reading() as con:
        for name in keep:
            key = find_node(con, name)
            if key.kind not in KINDS:
                raise ConfigError(f"`{name}` is a {key.kind}", valid="a model, a dataset or a run to keep")
            named.add(key)
    student = model_in(catalogue.models_dir, configured_student(project))
    return named | ({student} if student else set())


def _leftovers(home: Path, found: Unreachable) -> Iterator[Leftover]:
    for kind, paths in (("model", found.models), ("dataset", found.datasets)):
        for one, path in paths.items():
            yield Leftover(kind, one, path, _size(home / path))
    for run in found.runs:
        folder = stage_directory(home, run.step, run.fingerprint)
        if folder.is_dir():
            yield Leftover("run", run.run_ids[-1], folder.relative_to(home).as_posix(), _size(folder))


def _size(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())
