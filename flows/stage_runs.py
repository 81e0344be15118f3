"""The stages of a run, one after the other: the dataset, the training, the scores, the gate."""

from __future__ import annotations

from collections.abc import Sequence

from data_catalog.errors import DataError
from data_catalog.records import DatasetVersion, Item, Stage
from data_catalog.registry import Registry
from evaluation.gates import GateOutcome
from evaluation.specs import Against
from flows import data_steps, model_steps
from flows.config import StageConfig
from flows.context import RunContext
from flows.data_steps import Ingested
from flows.fingerprints import model_fingerprint
from flows.gating import Scored, gate_stage
from flows.labelled import labelled_dataset, score_held_out
from flows.model_steps import StudentModel, TrainedStage
from flows.preferences import preference_dataset
from flows.reporting import RunState
from training.compatibility import PREFERENCE
from training.specs import TrainResult


def train_stages(ctx: RunContext, state: RunState) -> TrainedStage | None:
    """Train, evaluate and gate each stage in turn; return the stage whose gate said FAIL, if one did."""
    assert state.base is not None, "_make_data sets the base"
    rivals = {Against.BASE: Scored(state.base, state.base_scores)} | _production(ctx, state)
    newest = rivals[Against.BASE]
    judge: StudentModel | None = None
    for stage in ctx.config.stages:
        if stage.train.judged and judge is None:
            ctx.reporter.note(f"stage {stage.name} is left out: no reward model was trained before it")
            continue
        dataset = _dataset(ctx, state, stage, newest.model)
        if dataset is None:
            continue
        if stage.train.stage == "reward":
            # It answers nothing, so it is not evaluated, and the next stage starts from where this one did.
            _, judge = model_steps.train(ctx, stage, newest.model, dataset)
            continue
        rewards = judge if stage.train.judged else None
        run_, trained = model_steps.train(ctx, stage, newest.model, dataset, rewards)
        held_out = score_held_out(ctx, stage, newest.model, trained) if stage.train.stage == "classify" else None
        candidate = Scored(trained, model_steps.evaluate(ctx, state.suites, trained))
        record, decision = None, None
        if stage.gate:
            gated = gate_stage(ctx, stage, candidate, {**rivals, Against.PREVIOUS: newest}, run_, state.suites)
            record, decision, candidate = gated.record, gated.decision, gated.candidate
            rivals = {against: gated.rivals[against] for against in rivals}
            state.base_scores = rivals[Against.BASE].scores
        result = TrainResult.model_validate(run_.result["train"])
        done = TrainedStage(stage, trained, dataset, run_, result, candidate.scores, record, decision, held_out)
        state.stages.append(done)
        if decision is not None and decision.outcome is GateOutcome.FAIL:
            return done
        newest = candidate
    if not state.stages:
        raise DataError("every stage was left out, so there is no new model", next_step="add a stage of kind sft")
    return None


def _dataset(ctx: RunContext, state: RunState, stage: StageConfig, model: StudentModel) -> DatasetVersion | None:
    assert state.ingested is not None, "_make_data ingests"
    if stage.train.stage in PREFERENCE:
        made = preference_dataset(ctx, stage, state.ingested, state.curated.accepted, model)
        state.pairs = {**state.pairs, stage.name: made.accounts}
        return made.dataset
    return plain_dataset(ctx, stage, state.ingested, state.curated.accepted)


def plain_dataset(ctx: RunContext, stage: StageConfig, ingested: Ingested, accepted: Sequence[Item]) -> DatasetVersion:
    """Write the dataset version of a stage that no student has to be asked for."""
    if stage.train.stage == "classify":
        return labelled_dataset(ctx, stage)
    return data_steps.stage_dataset(ctx, stage, ingested, accepted)


def _production(ctx: RunContext, state: RunState) -> dict[Against, Scored]:
    """Score what is in production now, where a gate compares with it and there is something."""
    wanted = any(rule.against is Against.PRODUCTION for stage in ctx.config.stages for rule in stage.gate)
    version = Registry(ctx.catalogue).stages().get(Stage.PRODUCTION) if wanted else None
    if version is None:
        return {}
    path = ctx.home / version.path
    model = StudentModel("production", path, model_fingerprint(path, home=ctx.home))
    return {Against.PRODUCTION: Scored(model, model_steps.evaluate(ctx, state.suites, model))}
