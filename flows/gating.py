"""The gate behind a stage. Where it is INCONCLUSIVE and a suite has a budget, more is asked, and it looks again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data_catalog.evaluation_records import GateRecord, SampleScore
from data_catalog.records import StepRun
from evaluation.gates import GateDecision, GateOutcome, decide, labels_of
from evaluation.sequential import fractions, plan_looks, rules_at_look, shared_among
from evaluation.specs import Against
from evaluation.suites import Suite
from flows import model_steps
from flows.config import StageConfig
from flows.context import RunContext
from flows.model_steps import StudentModel, SuiteScores


@dataclass(frozen=True)
class Scored:
    """A model and what it scored."""

    model: StudentModel
    scores: SuiteScores


@dataclass(frozen=True)
class Gated:
    """What a gate decided, and the scores that it had come to: of the candidate, and of what it was compared with."""

    record: GateRecord
    decision: GateDecision
    candidate: Scored
    rivals: Mapping[Against, Scored]


def gate_stage(
    ctx: RunContext,
    stage: StageConfig,
    candidate: Scored,
    rivals: Mapping[Against, Scored],
    run: StepRun,
    suites: Sequence[Suite],
) -> Gated:
    """Decide a stage's gate, in as many looks as it needs and may have, and store the last decision.

    Args:
        ctx: the run.
        stage: its gate, how often it may look, and how the error is spread over the looks.
        candidate: the trained model, scored on `suites`.
        rivals: by what they are; scored on `suites` at least.
        run: of the training.
        suites: as they were asked; what may be added is their reserve.
    """
    named = {rule.suite for rule in stage.gate}
    # Each round of `improve` is one more chance to pass by luck.
    rules = shared_among(stage.gate, ctx.config.improve + 1)
    growing = [suite for suite in suites if suite.name in named and suite.reserve]
    plan = plan_looks(
        {suite.name: len(suite.samples) for suite in growing},
        {suite.name: len(suite.all_samples) for suite in growing},
        stage.gate_looks,
    )
    seen = fractions(plan)
    labels = labels_of({suite.name: suite.all_samples for suite in suites})
    asked = {suite.name: suite.digest for suite in suites}
    ctx.reporter.step_started(f"gate:{stage.name}")
    for look, sizes in enumerate(plan):
        grown = [suite.grown(sizes[suite.name]) for suite in growing]
        asked |= {suite.name: suite.digest for suite in grown}
        candidate = _scored(ctx, candidate, grown)
        for against in sorted({rule.against for rule in stage.gate if rule.against in rivals}):
            rivals = {**rivals, against: _scored(ctx, rivals[against], grown)}
        decision = decide(
            rules_at_look(rules, seen, look, stage.gate_spending),
            candidate.scores,
            {against: rival.scores for against, rival in rivals.items()},
            labels=labels,
            correction=stage.gate_correction,
        )
        if len(plan) > 1:
            _tell(ctx, stage, look, plan[look : look + 2], decision)
        if decision.outcome is not GateOutcome.INCONCLUSIVE:
            break
    record = model_steps.record_decision(ctx, stage, candidate.model, rivals[Against.BASE].model, decision, run, asked)
    return Gated(record, decision, candidate, rivals)


def _scored(ctx: RunContext, scored: Scored, grown: Sequence[Suite]) -> Scored:
    """Return a model with its scores on these samples: those that are there, and a suite anew where some are missing.

    Answers are kept, so that only what is new is asked.
    """
    found: dict[str, Sequence[SampleScore]] = {}
    missing = []
    for suite in grown:
        known = {entry.sample_id: entry for entry in scored.scores.get(suite.name, ())}
        if all(sample.id in known for sample in suite.samples):
            found[suite.name] = [known[sample.id] for sample in suite.samples]
        else:
            missing.append(suite)
    if missing:
        found |= model_steps.evaluate(ctx, missing, scored.model)
    return Scored(scored.model, {**scored.scores, **found})


def _tell(
    ctx: RunContext, stage: StageConfig, look: int, sizes: Sequence[Mapping[str, int]], decision: GateDecision
) -> None:
    here = ", ".join(f"{name} {size:,}" for name, size in sizes[0].items())
    text = f"gate {stage.name}, look {look + 1} ({here} samples): {decision.outcome.name}"
    if decision.outcome is GateOutcome.INCONCLUSIVE and len(sizes) > 1:
        text += f"; asks more, up to {', '.join(f'{name} {size:,}' for name, size in sizes[1].items())}"
    ctx.reporter.note(text)
