"""The model card (README.md) that travels with a registered model: where it comes from and what it was seen to do.

It holds no time and no path of this machine, so that equal runs make equal bytes and so an equal model version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from data_catalog.evaluation_records import SampleScore
from evaluation.scoring import summarise
from flows.config import Config
from flows.model_steps import StudentModel, TrainedStage


def write_card(
    directory: Path,
    config: Config,
    base: StudentModel,
    base_scores: Mapping[str, Sequence[SampleScore]],
    stages: Sequence[TrainedStage],
) -> None:
    """Write `README.md` into a model directory."""
    (directory / "README.md").write_text(render_card(config, base, base_scores, stages), encoding="utf-8")


def render_card(
    config: Config,
    base: StudentModel,
    base_scores: Mapping[str, Sequence[SampleScore]],
    stages: Sequence[TrainedStage],
) -> str:
    """Return the card as Markdown with the YAML head that model hubs read."""
    lines = [
        "---",
        f"license: {config.student.licence.lower()}",
        "library_name: transformers",
        "tags: [tutelage, synthetic-data]",
        "---",
        f"# {config.project}",
        "",
        f"Taught by Tutelage from the documents of the project `{config.project}`.",
        "",
        f"- base: `{config.student.model.name}` (`{base.fingerprint}`)",
        f"- teacher that wrote the training data: `{Path(config.teacher.model).name}`",
        "",
        "## Stages",
        "",
        "| stage | kind | method | dataset | rows | steps | gate |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for trained in stages:
        spec, gate = trained.stage.train, trained.gate.outcome if trained.gate else "none"
        lines.append(
            f"| {trained.stage.name} | {spec.stage} | {spec.method.name} | `{trained.dataset.id}` "
            f"| {trained.dataset.rows} | {trained.result.steps} | {gate} |"
        )
    if not stages[-1].stage.train.method.merges:
        lines += [
            "",
            "The last stage's adapter can't be merged: `base/` and `adapter/` answer together, and only Tutelage opens",
            "this directory as one model. Another program that is pointed at `base/` answers as the base does.",
        ]
    lines += ["", "## Scores", "", _scores_table(base_scores, stages), ""]
    lines += [
        "Scores are means over the suite's scored samples; `tutelage trace` leads from this version to every document,",
        "prompt and answer behind it. The training data are machine-written: expect the teacher's mistakes where the",
        "filters missed them, and do not rely on answers outside the documents' domain.",
        "",
    ]
    return "\n".join(lines)


def _scores_table(base_scores: Mapping[str, Sequence[SampleScore]], stages: Sequence[TrainedStage]) -> str:
    columns = [("base", base_scores), *((trained.stage.name, trained.scores) for trained in stages)]
    head = "| suite | n | " + " | ".join(name for name, _ in columns) + " |"
    rule = "| --- | --- |" + " --- |" * len(columns)
    rows = [
        f"| {suite} | {len(base_scores[suite])} | "
        + " | ".join(_percent(scores.get(suite, ())) for _, scores in columns)
        + " |"
        for suite in base_scores
    ]
    return "\n".join([head, rule, *rows])


def _percent(scores: Sequence[SampleScore]) -> str:
    score = summarise(scores).score if scores else None
    return "unscored" if score is None else f"{100 * score:.1f} %"
