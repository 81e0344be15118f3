"""`tutelage inspect-batch`: a stage's first rows as they reach the model, and what training relies on in all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TextIO

import click

from data_catalog.catalogue import Catalogue
from data_catalog.dataset_lookup import known_datasets, resolve_dataset
from data_catalog.errors import ConfigError
from data_catalog.records import RunStatus
from data_catalog.row_files import read_payloads
from flows import workers
from flows.config import Config, StageConfig
from flows.model_steps import stage_directory
from flows.project import CATALOGUE_NAME
from flows.report.words import visible
from training.specs import InspectCheck, InspectJob, InspectResult, SeenRow

_COLOURS = {"system": "magenta", "user": "cyan", "assistant": "yellow"}
RUNS = 100_000
"""Steps that are searched for a stage's newest training: all; a sweep alone leaves hundreds."""
_BETWEEN = "\u2502"


def inspect_batch(
    config: Config, stage_name: str, *, rows: int = 4, file: Path | None = None, dataset: str | None = None
) -> InspectResult:
    """Look at the batches of a stage: of `file`, of the dataset version that is named, or of the stage's newest one.

    Raises:
        ConfigError: there is no such stage, file or version.
        DataError: the file's rows can't be read.
        TrainingError: the rows or the model can't be used.
    """
    stage = next((stage for stage in config.stages if stage.name == stage_name), None)
    if stage is None:
        names = ", ".join(stage.name for stage in config.stages)
        raise ConfigError(f"no stage `{stage_name}`", valid=names, next_step="name one with --stage")
    with tempfile.TemporaryDirectory(prefix="tutelage-inspect-") as folder:
        path = _written(file, Path(folder)) if file is not None else dataset_file(config, stage, dataset)
        job = InspectJob(
            spec=stage.train,
            model=start_model(config, stage),
            base=config.student.model,
            dataset=path,
            replay=config.replay if stage.data.replay_share > 0 else None,
            replay_share=stage.data.replay_share,
            rows=rows,
        )
        return workers.inspect(job, home=config.home)


def start_model(config: Config, stage: StageConfig) -> Path:
    """Return the model that a stage starts from: what the stage before it left last, or else the student itself."""
    if not (config.home / CATALOGUE_NAME).is_file():
        return config.student.model
    earlier = config.stages[: config.stages.index(stage)]
    done = [run for run in Catalogue(config.home).step_runs(limit=RUNS) if run.status is RunStatus.DONE]
    for before in reversed([one for one in earlier if one.train.stage != "reward"]):
        for run in done:
            model = stage_directory(config.home, run.step, run.fingerprint) / "model"
            if run.step == f"train:{before.name}" and (model / "config.json").is_file():
                return model
    return config.student.model


def _written(file: Path, folder: Path) -> Path:
    """Return a file of payloads, one a line, made of rows of any known format."""
    path = folder / "rows.jsonl"
    payloads = read_payloads(file).payloads
    path.write_text("".join(json.dumps(payload, ensure_ascii=False) + "\n" for payload in payloads), "utf-8")
    return path


def dataset_file(config: Config, stage: StageConfig, wanted: str | None) -> Path:
    """Return the file of the dataset version that is named, or of the newest that a run has written for the stage."""
    name = f"{config.project}-{stage.name}"
    known = (config.home / CATALOGUE_NAME).is_file()
    if wanted is None and not (
        known and any(one.version.name == name for one in known_datasets(Catalogue(config.home)))
    ):
        raise ConfigError(
            f"stage {stage.name} has no dataset version yet",
            valid="rows of a file, or a version that a run has written",
            next_step="name a file with --rows FILE, or run `tutelage refresh CONFIG` first",
        )
    catalogue = Catalogue(config.home)
    return config.home / resolve_dataset(catalogue, wanted or name).version.path


def wants_colour(stream: TextIO) -> bool:
    """Whether colours help: on a terminal, unless NO_COLOR is set (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def inspection_lines(result: InspectResult, *, colour: bool) -> Iterator[str]:
    """Yield what was seen for people; without `colour`, what carries loss stands in «»."""
    style = "bold green" if colour else "«»"
    yield f"tokens are set apart by {_BETWEEN}; what carries loss is {style}"
    for row in result.rows:
        yield ""
        yield from _row_lines(row, colour=colour)
    yield ""
    yield from (_check_line(check, colour=colour) for check in result.checks)


def _row_lines(row: SeenRow, *, colour: bool) -> Iterator[str]:
    part = f" {row.part}" if row.part else ""
    yield f"{row.row}{part}: {len(row.ids):,} tokens, {sum(row.loss):,} with loss"
    width = max((len(role) for role in row.roles), default=0)
    start = 0
    for role, group in groupby(row.roles):
        end = start + len(list(group))
        said = "".join(_stretches(row.tokens[start:end], row.loss[start:end], role, colour=colour))
        yield f"  {role:<{width}}  {said}"
        start = end


def _stretches(tokens: Sequence[str], loss: Sequence[bool], role: str, *, colour: bool) -> Iterator[str]:
    place = 0
    for carries, group in groupby(loss):
        end = place + len(list(group))
        text = _BETWEEN.join(map(_shown, tokens[place:end]))
        place = end
        if not colour:
            yield f"«{text}»" if carries else text
        elif carries:
            yield click.style(text, fg="green", bold=True)
        else:
            yield click.style(text, fg=_COLOURS.get(role, "white"))


def _shown(token: str) -> str:
    return visible(token).replace("\n", "\u23ce").replace("\t", "\u21e5")


def _check_line(check: InspectCheck, *, colour: bool) -> str:
    word = "PASS" if check.passed else "FAIL"
    if colour:
        word = click.style(word, fg="green" if check.passed else "red", bold=True)
    fix = f"\n      fix: {check.fix}" if check.fix else ""
    return f"{word}  {check.name}: {visible(check.seen)}{fix}"
