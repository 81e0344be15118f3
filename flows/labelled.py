"""The stage `classify` in a run: labelled texts from files, and how well held-out ones are classified before and after.

Texts come from `data.labelled` (JSONL, JSON, Parquet or CSV with `text` and `label`); those that are scored from
`data.held_out`, or else a share of the first is set aside by a hash of the text, so that it is the same one each time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_catalog.datasets import write_dataset
from data_catalog.errors import DataError
from data_catalog.identity import digest
from data_catalog.labelled import LabelTask
from data_catalog.records import DatasetVersion, Item, Kind, Split
from data_catalog.row_files import read_payloads
from data_catalog.row_formats import RowFormat
from data_catalog.text import fold
from evaluation import classifying
from evaluation.classifying import Classified, LabelledText
from evaluation.suites import Suite
from flows.config import StageConfig
from flows.context import RunContext
from flows.leaks import SHOWN, leaks
from flows.model_steps import HeldOut, StudentModel, ask_student
from training.specs import ClassifySpec

RECIPE = "labelled_file@1"


@dataclass(frozen=True)
class LabelledTexts:
    """The texts of a stage: those that it trains on, and those that it is scored on."""

    train: tuple[LabelledText, ...]
    held_out: tuple[LabelledText, ...]


def read_texts(stage: StageConfig) -> LabelledTexts:
    """Read and check the labelled texts of a `classify` stage.

    Raises:
        ConfigError: there is no such file, or its ending says nothing.
        DataError: a row is no labelled text, has a label that the stage doesn't know or no text; a text has two labels,
            or is both trained on and held out; a label, or either side, is left without rows.
    """
    task, data = _task(stage), stage.data
    assert data.labelled is not None, "the configuration is checked when it is read"
    texts = _read(data.labelled, task)
    if data.held_out is None:
        apart = [text for text in texts if _position(text) < data.held_out_share]
        train = [text for text in texts if _position(text) >= data.held_out_share]
    else:
        train, apart = texts, _read(data.held_out, task)
        if both := {fold(text.text) for text in train} & {fold(text.text) for text in apart}:
            raise DataError(
                f"{len(both):,} texts stand both in {data.labelled} and in {data.held_out}, such as {min(both)!r:.80}",
                valid="texts that are trained on, or held out",
                next_step="take them out of one of the files; scores on what was trained on say nothing",
            )
    _check(stage, train, apart)
    return LabelledTexts(tuple(train), tuple(apart))


def _task(stage: StageConfig) -> ClassifySpec:
    assert isinstance(stage.train, ClassifySpec), "a stage of another kind has no labelled texts"
    return stage.train


def _read(path: Path, task: LabelTask) -> list[LabelledText]:
    """Read a file of labelled texts, each once; every row must be usable."""
    rows = read_payloads(path, RowFormat.LABEL).payloads
    unknown = Counter(row["label"] for row in rows if row["label"] not in task.labels)
    if unknown:
        found = ", ".join(f"{label!r:.40} ({count:,} rows)" for label, count in unknown.most_common(5))
        raise DataError(
            f"{path} has labels that the stage doesn't know: {found}",
            valid=", ".join(task.labels),
            next_step="add each label with its words to `labels`, or correct the rows",
        )
    if empty := [number for number, row in enumerate(rows, start=1) if not row["text"].strip()]:
        raise DataError(
            f"{path} has {len(empty):,} rows without a text, such as row {empty[0]}",
            valid="a text that is not empty in every row",
            next_step="take these rows out",
        )
    labels: dict[str, str] = {}
    for row in rows:
        if labels.setdefault(row["text"], row["label"]) != row["label"]:
            raise DataError(
                f"{path} has {row['text']!r:.80} as {labels[row['text']]!r} and as {row['label']!r}",
                valid="one label for each text",
                next_step="decide on one of them",
            )
    return [LabelledText(text, label) for text, label in labels.items()]


def _position(text: LabelledText) -> float:
    """Return where a text stands in [0, 1); texts that differ in case or white space only stay together."""
    return int(digest(fold(text.text))[:8], 16) / 16**8


def _check(stage: StageConfig, train: Sequence[LabelledText], apart: Sequence[LabelledText]) -> None:
    have = Counter(text.label for text in train)
    if missing := [label for label in _task(stage).labels if not have[label]]:
        raise DataError(
            f"stage {stage.name} has no text with the label {', '.join(map(repr, missing))} to train on; there are "
            + (", ".join(f"{label}: {count:,}" for label, count in have.items()) or "none at all"),
            valid="texts of every label",
            next_step="add some, or take the label out of `labels`",
        )
    if not apart:
        raise DataError(
            f"stage {stage.name} has no text to be scored on: of {len(train):,} none is held out",
            valid="one text or more, better a hundred",
            next_step="name a file with `data.held_out`, raise `data.held_out_share`, or add texts",
        )


def labelled_dataset(ctx: RunContext, stage: StageConfig) -> DatasetVersion:
    """Write the dataset version that a `classify` stage trains on."""
    texts = read_texts(stage)
    items = [Item.of(kind=Kind.LABEL, payload=text._asdict(), recipe=RECIPE, split=Split.TRAIN) for text in texts.train]
    ctx.catalogue.add_items(items)
    return write_dataset(ctx.catalogue, f"{ctx.config.project}-{stage.name}", Kind.LABEL, items)


def check_labelled(stages: Sequence[StageConfig], suites: Sequence[Suite]) -> None:
    """Raise DataError where labelled texts can't be used, or hold a question of a suite among what is trained on."""
    for stage in stages:
        if not isinstance(stage.train, ClassifySpec):
            continue
        train = read_texts(stage).train
        found = list(leaks(enumerate(({"text": text.text} for text in train), start=1), suites))
        if found:
            examples = "\n".join(f"  {question!r:.200} of suite {suite}" for _, suite, question in found[:SHOWN])
            raise DataError(
                f"{len(found):,} labelled texts of stage {stage.name} hold questions that evaluation will ask\n"
                + examples,
                valid="texts to train on without the questions of any suite",
                next_step="take them out of `data.labelled`, or hold them out with `data.held_out`",
            )


def score_held_out(ctx: RunContext, stage: StageConfig, before: StudentModel, after: StudentModel) -> HeldOut:
    """Ask two models for the labels of the held-out texts; what was asked once is taken from the catalogue."""
    task, texts = _task(stage), read_texts(stage).held_out
    step = f"classify:{stage.name}"
    ctx.reporter.step_started(step, f"{len(texts):,} texts, {len(task.templates)} templates")
    found = []
    for model in (before, after):
        asked = classifying.requests(task, texts, model.fingerprint)
        answers = ask_student(ctx, step, model, asked)
        found.append(classifying.classify(task, texts, model.fingerprint, answers))
    told = HeldOut(*found)
    ctx.reporter.step_done(step, summary(told))
    for line in classifying.lines_of(told.after):
        ctx.reporter.note(f"{step}: {line}")
    return told


def summary(told: HeldOut) -> str:
    """Return accuracy before and after, and the spread over the templates, in one line."""
    return (
        f"{_accuracy(told.before)} → {_accuracy(told.after)}, {100 * told.after.majority:.1f} % by the commonest label"
    )


def classified_lines(told: HeldOut) -> Iterator[str]:
    """Yield what the report says of the held-out texts."""
    yield f"Held-out texts ({told.after.texts:,}): {summary(told)}."
    yield from classifying.lines_of(told.after)


def _accuracy(told: Classified) -> str:
    if told.best is None or told.spread is None:
        return "unscored"
    low, high = told.spread
    over = f" ({100 * low:.1f} to {100 * high:.1f} % in {len(told.templates)} templates)" if low < high else ""
    return f"{100 * told.best:.1f} %{over}"
