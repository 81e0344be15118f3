"""`improve: n`: what a gate failed is asked about again, and the stages are trained anew, until the gate says PASS.

A round asks only about what was failed: the chunks that state the answers, and the documents on which the model
answered what they don't say. The suites' own questions never enter: they are no part of a prompt, and the
decontamination removes whatever comes near them. A gate's error is shared by all rounds (`flows.gating`), since each is
one more chance to pass by luck. Yet what was failed on a suite chooses the data that the suite then judges: a score
after a round speaks of questions like the suite's, not of the documents as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from data_catalog.records import Chunk, Request, Split
from evaluation.gates import Comparison, GateDecision, GateOutcome, labels_of, sliced_ids
from evaluation.scorers.abstention import Abstention
from evaluation.specs import GateRule, Requirement
from flows import generation
from flows.context import RunContext
from flows.diagnosis import Diagnosis, diagnose_scores
from flows.model_steps import TrainedStage
from flows.report import ImproveRound
from flows.reporting import RunState
from flows.stage_runs import train_stages
from generators.recipes.unanswerable import Unanswerable

Train = Callable[[RunContext, RunState], TrainedStage | None]
"""Trains and gates the stages into the state; returns the stage whose gate said FAIL, if one did."""

_RANK = {GateOutcome.FAIL: 0, GateOutcome.INCONCLUSIVE: 1, GateOutcome.PASS: 2}


class Standing(NamedTuple):
    """How far a run has come; the greater, the nearer to passing."""

    stages: int
    """Stages that were trained: a gate that says FAIL ends the run."""
    rank: int
    gap: float
    """Of the rule that is furthest from its threshold, in score units; negative where it misses it."""

    @property
    def outcome(self) -> GateOutcome:
        """Of the worst gate."""
        return next(outcome for outcome, rank in _RANK.items() if rank == self.rank)


@dataclass(frozen=True)
class Target:
    """What is to be asked about again."""

    failures: int
    chunks: frozenset[str] = frozenset()
    """Chunks of the training side that state what was failed."""
    unknown: frozenset[str] = frozenset()
    """Documents on which a question was answered that they don't answer."""
    documents: int = 0
    elsewhere: int = 0
    """Failed samples whose answer no chunk of the training side states."""

    def covers(self, request: Request) -> bool:
        """Whether a request is about what was failed, and on the training side."""
        origin = request.origin
        if origin["split"] != Split.TRAIN.value:
            return False
        if origin["recipe"] == Unanswerable.name:
            return origin.get("document_id") in self.unknown
        return origin.get("chunk_id") in self.chunks  # seed tasks are about no chunk


def improve(
    ctx: RunContext, state: RunState, failed: TrainedStage | None, *, train: Train = train_stages
) -> TrainedStage | None:
    """Do up to `improve` rounds; stop where a gate says PASS, nothing can be asked, or a round comes no nearer.

    The state is left as the best round made it.

    Returns:
        the stage whose gate said FAIL in that round, if one did.
    """
    best = standing(state.stages)
    if not ctx.config.improve or best is None or best.outcome is GateOutcome.PASS:
        return failed
    state.rounds.append(ImproveRound(number=0, outcome=best.outcome, gap=best.gap))
    for number in range(1, ctx.config.improve + 1):
        target = find_target(ctx, state)
        _tell_target(ctx, number, target)
        before, before_failed = replace(state), failed
        if not _ask_again(ctx, state, target):
            ctx.reporter.note(f"improve ends before round {number}: there is nothing that can be asked again")
            break
        learned = {item.id for item in state.curated.accepted} != {item.id for item in before.curated.accepted}
        reached = None
        if learned:
            state.stages = []
            failed = train(ctx, state)
            reached = standing(state.stages)
        kept = reached is not None and reached > best
        state.rounds.append(_round(number, target, before, state, reached, kept=kept))
        if reached is None or not kept:
            why = "its gate came no nearer to passing; not kept" if learned else "nothing new was accepted"
            ctx.reporter.note(f"improve ends after round {number}: {why}")
            _restore(state, before)
            return before_failed
        ctx.reporter.note(f"improve, round {number}: {reached.outcome.name}, nearer than before; kept")
        best = reached
        if best.outcome is GateOutcome.PASS:
            break
    return failed


def _round(
    number: int, target: Target, before: RunState, after: RunState, reached: Standing | None, *, kept: bool
) -> ImproveRound:
    return ImproveRound(
        number=number,
        failed=target.failures,
        chunks=len(target.chunks),
        documents=target.documents,
        asked=len(after.generated.wanted) - len(before.generated.wanted),
        accepted=len(after.curated.accepted) - len(before.curated.accepted),
        outcome=reached.outcome if reached is not None else None,
        gap=reached.gap if reached is not None else None,
        kept=kept,
    )


def standing(stages: Sequence[TrainedStage]) -> Standing | None:
    """Return how far a run has come; None where nothing was gated."""
    decisions = [trained.decision for trained in stages if trained.decision is not None]
    if not decisions:
        return None
    gaps = [gap(comparison) for decision in decisions for comparison in decision.comparisons]
    return Standing(
        stages=len(stages),
        rank=min(_RANK[decision.outcome] for decision in decisions),
        gap=min(gaps, default=0.0),
    )


def gap(comparison: Comparison) -> float:
    """Return by how much a rule exceeds its threshold, as it was seen; 0 where there was nothing to compare with."""
    if comparison.difference is None:
        return 0.0
    if comparison.require.of_limit:
        return comparison.difference
    sign = -1 if comparison.require is Requirement.BETTER else 1
    return comparison.difference + sign * comparison.margin


def find_target(ctx: RunContext, state: RunState) -> Target:
    """Diagnose the suites whose rules the first unsettled gate did not pass, and find what states their answers."""
    assert state.ingested is not None, "the data is made before"
    # Elsewhere, no answer to compare with says nothing of what the documents hold.
    abstaining = {suite.name for suite in state.suites if isinstance(suite.spec.scorer, Abstention)}
    return target_of(_diagnoses(ctx, state), state.ingested.chunks, abstaining)


def target_of(diagnoses: Sequence[Diagnosis], chunks: Sequence[Chunk], abstaining: Collection[str]) -> Target:
    """Find what states the answers of what was failed.

    Args:
        diagnoses: of the suites in question.
        chunks: all of them; those of the training side can be asked about.
        abstaining: names of the suites on which a model should say that it does not know.
    """
    train = {chunk.id: chunk.document_id for chunk in chunks if chunk.split is Split.TRAIN}
    documents = set(train.values())
    stating, unknown = set[str](), set[str]()
    failures = reached = 0
    for found in diagnoses:
        for failure in found.failures:
            failures += 1
            if failure.chunk_id in train:
                stating.add(failure.chunk_id)
                reached += 1
            elif not failure.score.answers and found.suite in abstaining and failure.document_id in documents:
                unknown.add(failure.document_id)
                reached += 1
    return Target(
        failures=failures,
        chunks=frozenset(stating),
        unknown=frozenset(unknown),
        documents=len({train[chunk] for chunk in stating} | unknown),
        elsewhere=failures - reached,
    )


def _diagnoses(ctx: RunContext, state: RunState) -> list[Diagnosis]:
    labels = labels_of({suite.name: suite.all_samples for suite in state.suites})
    for position, trained in enumerate(state.stages):
        if trained.decision is None or trained.decision.outcome is GateOutcome.PASS:
            continue
        samples: dict[str, set[str]] = {}
        for rule, comparison in _unpassed(trained, trained.decision):
            taken = sliced_ids(rule, labels) if rule.slice else {one.sample_id for one in trained.scores[rule.suite]}
            samples.setdefault(comparison.suite, set()).update(taken)
        datasets = [earlier.dataset.id for earlier in state.stages[: position + 1]]
        return [
            diagnose_scores(
                ctx.catalogue, suite, [one for one in trained.scores[suite] if one.sample_id in chosen], datasets
            )
            for suite, chosen in samples.items()
        ]
    return []


def _unpassed(trained: TrainedStage, decision: GateDecision) -> list[tuple[GateRule, Comparison]]:
    pairs = zip(trained.stage.gate, decision.comparisons, strict=True)
    # What is too long is not to be found in any document.
    return [
        (rule, found)
        for rule, found in pairs
        if found.outcome is not GateOutcome.PASS and rule.require is not Requirement.BRIEF
    ]


def _ask_again(ctx: RunContext, state: RunState, target: Target) -> bool:
    """Ask about the target and judge what comes of it; return whether there was anything to ask."""
    assert state.ingested is not None, "the data is made before"
    if not state.supply.demand(state.generated.requests, target.covers):
        return False
    ctx.teacher.prepare()
    wanted = generation.generation_requests(ctx, state.ingested, state.supply)
    before = state.generated, state.curated
    state.generated, state.curated = generation.ask_more(
        ctx, state.ingested, wanted, state.supply, state.questions, before
    )
    ctx.teacher.rest()
    return True


def _tell_target(ctx: RunContext, number: int, target: Target) -> None:
    text = (
        f"improve, round {number}: {target.failures:,} failed samples, stated by {len(target.chunks):,} chunks; asked "
        f"again are {target.documents:,} documents"
    )
    if target.elsewhere:
        text += f"; of {target.elsewhere:,} no chunk that is trained on states the answer"
    ctx.reporter.note(text)


def _restore(state: RunState, before: RunState) -> None:
    """Take back what a round made; what it asked stays in the catalogue and in the list of rounds."""
    state.generated, state.curated, state.stages = before.generated, before.curated, before.stages
    state.pairs = before.pairs
