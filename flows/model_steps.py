"""A model and a dataset version in, a gated model out: the steps train, evaluate, gate and register."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data_catalog.approvals import NEEDS_APPROVAL
from data_catalog.evaluation_records import GateRecord, SampleScore
from data_catalog.identity import file_sha256
from data_catalog.records import Completion, DatasetVersion, ModelVersion, Request, StepRun
from data_catalog.registry import Registry, candidate_id
from evaluation import suites as evaluation_suites
from evaluation.classifying import Classified
from evaluation.gates import GateDecision
from evaluation.scorers.judged import JudgeScorer
from evaluation.scorers.parts import Judged
from evaluation.scoring import score_suite, score_templates, summarise
from evaluation.suites import Suite
from flows import workers
from flows.config import StageConfig
from flows.context import RunContext
from flows.fingerprints import model_fingerprint
from flows.judging import judge_answers
from training.specs import TrainJob, TrainResult

SAY_AHEAD_SECONDS = 120.0
"""From how long a training on it is said in advance how long it will take."""
SuiteScores = Mapping[str, Sequence[SampleScore]]


@dataclass(frozen=True)
class StudentModel:
    """A model directory on its way through the stages."""

    label: str
    """`base`, or the name of the stage that made it."""
    path: Path
    fingerprint: str


class HeldOut(NamedTuple):
    """What a `classify` stage made of its held-out texts: the model that it started from, and the one that it left."""

    before: Classified
    after: Classified


@dataclass(frozen=True)
class TrainedStage:
    """What one stage made, and how it was judged."""

    stage: StageConfig
    model: StudentModel
    dataset: DatasetVersion
    run: StepRun
    result: TrainResult
    scores: SuiteScores
    gate: GateRecord | None
    decision: GateDecision | None
    classified: HeldOut | None = None


def base_model(ctx: RunContext) -> StudentModel:
    """Return the student before any stage."""
    path = ctx.config.student.model
    return StudentModel("base", path, model_fingerprint(path, home=ctx.home))


def train(
    ctx: RunContext,
    stage: StageConfig,
    start: StudentModel,
    dataset: DatasetVersion,
    judge: StudentModel | None = None,
) -> tuple[StepRun, StudentModel]:
    """Train one stage in a process of its own, or return what an equal run made.

    `judge` is the reward model of a stage that is judged by one.
    """
    replay = ctx.config.replay if stage.data.replay_share > 0 else None
    name = f"train:{stage.name}"
    inputs = {
        "spec": stage.train.model_dump(mode="json"),
        "model": start.fingerprint,
        "dataset": dataset.id,
        "replay": file_sha256(replay) if replay else None,
        "replay_share": stage.data.replay_share,
        **({"reward_model": judge.fingerprint} if judge is not None else {}),
    }
    directory = stage_directory(ctx.home, name, StepRun.fingerprint_of(name, inputs))
    job = TrainJob(
        spec=stage.train,
        model=start.path,
        dataset=ctx.home / dataset.path,
        replay=replay,
        replay_share=stage.data.replay_share,
        reward_model=judge.path if judge is not None else None,
        output=directory / "model",
        work=directory / "work",
    )

    def work(run: StepRun) -> dict[str, Any]:
        ctx.teacher.rest()
        result = workers.train(job, home=ctx.home, host=ctx.host, on_event=lambda event: _tell_step(ctx, name, event))
        ctx.catalogue.add_metrics(run.id, [point.model_dump(mode="json") for point in result.metrics])
        shutil.rmtree(job.work / "checkpoints", ignore_errors=True)
        return {
            "train": result.model_dump(mode="json"),
            "model": model_fingerprint(job.output, home=ctx.home),
            "dataset": dataset.id,
        }

    def intact(result: Mapping[str, Any]) -> bool:
        present = (job.output / "config.json").is_file()
        return present and model_fingerprint(job.output, home=ctx.home) == result["model"]

    run = ctx.step(
        name,
        inputs,
        work,
        intact=intact,
        describe=_train_line,
        detail=f"{stage.train.method.name}, {dataset.rows:,} rows",
    )
    return run, StudentModel(stage.name, job.output, str(run.result["model"]))


def stage_directory(home: Path, step: str, fingerprint: str) -> Path:
    """Return the folder of a training step, such as `train:sft`: its model, logs and checkpoints."""
    return home / "stages" / f"{step.removeprefix('train:')}-{fingerprint[:16]}"


def _tell_step(ctx: RunContext, name: str, event: Mapping[str, Any]) -> None:
    if event.get("event") == "step":
        ctx.reporter.step_progress(name, int(event["step"]), int(event["steps"]), _step_detail(event))
    elif event.get("event") == "out_of_memory":
        ctx.reporter.note(
            f"{name}: out of memory; goes on with batch_size {event['batch_size']} and gradient_accumulation "
            f"{event['gradient_accumulation']}, the rows of a step are the same ({event['reason']})"
        )
    elif event.get("event") == "calibrated" and event["seconds"] > SAY_AHEAD_SECONDS:
        ctx.reporter.note(
            f"{name}: about {event['seconds'] / 60:,.0f} min to train, {event['step_seconds']:.2g} s for the largest "
            f"batch, {event['memory'] / 1e9:,.1f} GB of memory"
        )


def _step_detail(event: Mapping[str, Any]) -> str:
    """Say how a training goes: its loss, or what its answers earn, where it samples them."""
    reward, loss = event.get("reward"), event.get("loss")
    if isinstance(reward, float):
        equal = float(event.get("equal_groups", 0.0))
        return f"reward {reward:.3f}" + (f", {equal:.0%} of the groups equal" if equal else "")
    return f"loss {loss:.3f}" if isinstance(loss, float) else ""


def _train_line(result: Mapping[str, Any]) -> str:
    train_result = TrainResult.model_validate(result["train"])
    line = f"{train_result.steps:,} steps of {train_result.method}"
    rewards, ended = train_result.logged("reward"), train_result.logged("ended")
    if rewards and ended:
        earned = f"reward {rewards[0]:.3f} → {rewards[-1]:.3f}, answers that end {ended[0]:.0%} → {ended[-1]:.0%}"
        return f"{line}, {earned}{_equal(train_result.equal_groups)}"
    losses = [point.loss for point in train_result.metrics]
    return f"{line}, loss {losses[0]:.3f} → {losses[-1]:.3f}" if losses else line


def _equal(share: float) -> str:
    """Say how many groups of answers taught nothing, because all of a group earned the same."""
    return f", nothing learned from {share:.0%} of the prompts, whose answers all earned the same" if share else ""


def ask_student(ctx: RunContext, step: str, model: StudentModel, requests: Sequence[Request]) -> dict[str, Completion]:
    """Return the model's answers, from the catalogue where they stand there, from its weights where not."""
    keys = [request.key for request in requests]
    answers = ctx.catalogue.answered(keys)
    missing = {request.key: request for request in requests if request.key not in answers}
    if missing:
        fresh = workers.complete(
            model.path,
            model.fingerprint,
            list(missing.values()),
            home=ctx.home,
            host=ctx.host,
            on_event=lambda event: _tell_answers(ctx, step, event),
        )
        ctx.catalogue.add_completions(list(missing.values()), fresh)
        answers |= {completion.request_key: completion for completion in fresh}
    return answers


def _tell_answers(ctx: RunContext, step: str, event: Mapping[str, Any]) -> None:
    if event.get("event") == "batch":
        ctx.reporter.step_progress(step, int(event["done"]), int(event["total"]))


def evaluate(ctx: RunContext, suites: Sequence[Suite], model: StudentModel) -> dict[str, Sequence[SampleScore]]:
    """Score a model on every suite. Completions are kept, so an unchanged evaluation asks nothing."""
    step = f"evaluate:{model.label}"
    by_suite = {suite.name: evaluation_suites.requests(suite, model.fingerprint) for suite in suites}
    requests = [request for group in by_suite.values() for request in group]
    ctx.reporter.step_started(step, f"{len(requests):,} questions")
    known = len(ctx.catalogue.answered([request.key for request in requests]))
    answers = ask_student(ctx, step, model, requests)
    judged: dict[str, Judged] = {}
    for suite in suites:
        if isinstance(suite.spec.scorer, JudgeScorer):
            judged |= judge_answers(ctx, suite, model.fingerprint, base_model(ctx).fingerprint, answers)
    scores: dict[str, Sequence[SampleScore]] = {}
    for suite in suites:
        scores[suite.name] = score_suite(suite, model.fingerprint, answers, judged)
        ctx.catalogue.put_scores(model.fingerprint, suite.name, scores[suite.name])
    spreads = {suite.name: _spread(suite, model.fingerprint, answers, judged) for suite in suites}
    line = ", ".join(f"{name} {percent(found)}{spreads[name]}" for name, found in scores.items())
    ctx.reporter.step_done(step, line, cached=known == len(requests))
    return scores


def _spread(suite: Suite, fingerprint: str, answers: Mapping[str, Completion], judged: Mapping[str, Judged]) -> str:
    """Return ` (12.0 to 15.1 % in 3 templates)` where a suite is asked in several wordings."""
    if len(suite.templates) < 2:
        return ""
    totals = score_templates(suite, fingerprint, answers, judged)
    found = [total.score for total in totals if total.score is not None]
    if not found:
        return ""
    return f" ({100 * min(found):.1f} to {100 * max(found):.1f} % in {len(suite.templates)} templates)"


def percent(scores: Sequence[SampleScore]) -> str:
    """Return the mean score as `91.2 %`, or `unscored`."""
    score = summarise(scores).score
    return "unscored" if score is None else f"{100 * score:.1f} %"


def record_decision(
    ctx: RunContext,
    stage: StageConfig,
    model: StudentModel,
    base: StudentModel,
    decision: GateDecision,
    run: StepRun,
    asked: Mapping[str, str],
) -> GateRecord:
    """Store what a stage's gate decided about a model, and tell it; `asked` are the digests of the suites."""
    comparisons = [
        {**comparison.model_dump(mode="json"), "suite_digest": asked[comparison.suite]}
        for comparison in decision.comparisons
    ]
    record = GateRecord.of(
        candidate=candidate_id(model.path),
        baseline=base.fingerprint,
        stage_name=stage.name,
        outcome=decision.outcome.name,
        comparisons=comparisons,
        created_at=time.time(),
        run_id=run.id,
    )
    ctx.catalogue.put_gate(record)
    ctx.reporter.step_done(f"gate:{stage.name}", decision.outcome.name)
    for comparison in decision.comparisons:
        ctx.reporter.note(comparison.reason)
    return record


def register(ctx: RunContext, stages: Sequence[TrainedStage], config_digest: str) -> ModelVersion:
    """Store the last stage's model as an immutable version and make it the candidate."""
    last = stages[-1]
    base = base_model(ctx)
    lineage = {
        "project": ctx.config.project,
        "base": base.fingerprint,
        "base_path": str(base.path),
        "teacher": ctx.config.teacher.model,
        "licence": ctx.config.student.licence,
        "config_digest": config_digest,
        NEEDS_APPROVAL: list(ctx.config.promotion.needs_approval),
        "stages": [
            {
                "name": trained.stage.name,
                "run_id": trained.run.id,
                "dataset_id": trained.dataset.id,
                "gate_id": trained.gate.id if trained.gate else None,
                "model": trained.model.fingerprint,
            }
            for trained in stages
        ],
    }
    ctx.reporter.step_started("register")
    version = Registry(ctx.catalogue).register(last.model.path, lineage)
    ctx.reporter.step_done("register", f"{version.id} is the candidate")
    return version
