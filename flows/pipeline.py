"""The main job: documents in, a gated and registered model out.

`run` does everything and is what `tutelage run` and the Prefect flow `pipeline` call; `refresh` stops before training.
Each step looks first whether it was done already with equal inputs, so the same command also continues an interrupted
run. The order is laid out for two cores: the base is evaluated while the teacher's server loads.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from data_catalog.catalogue import Catalogue
from data_catalog.errors import GateError
from data_catalog.identity import digest
from data_catalog.records import Split
from evaluation.gates import check_slices, labels_of
from evaluation.specs import SuiteSpec
from evaluation.suites import load_suite, questions
from flows import data_steps, generation, model_steps
from flows.config import Config
from flows.context import RunContext
from flows.improving import improve
from flows.judging import introduce_judges
from flows.leaks import check_replay
from flows.model_card import write_card
from flows.model_steps import StudentModel, SuiteScores, TrainedStage
from flows.progress import RecordingReporter, Reporter
from flows.report import write_report
from flows.report.views import headline
from flows.reporting import RunState, funnel_table, gate_table, report_data
from flows.stage_runs import train_stages
from flows.teacher import LazyTeacher
from flows.workers import WorkerHost
from generators.engine import open_requests
from generators.recipes import RECIPES, recipes_of
from generators.refill import Supply
from generators.target import load_target
from training.compatibility import PREFERENCE

HELD_OUT = "held_out"
"""The suite of generated questions on chunks that were set aside at ingest."""


@dataclass(frozen=True)
class RunSummary:
    """How a run ended. `gates` and `funnel` are rows of plain values for tables."""

    outcome: str
    headline: str
    report: Path
    model_version: str | None
    next_command: str
    seconds: float
    funnel: tuple[Mapping[str, object], ...] = ()
    gates: tuple[Mapping[str, object], ...] = ()


@dataclass(frozen=True)
class RefreshSummary:
    """What a refresh found and made."""

    added: int
    changed: int
    removed: int
    unchanged: int
    asked: int
    cached: int
    accepted: int
    datasets: Mapping[str, str]
    seconds: float


@contextmanager
def open_run(config: Config, reporter: Reporter, command: str) -> Iterator[RunContext]:
    """Hold the project's run lock, open its catalogue, and end teacher and workers whatever happens."""
    catalogue = Catalogue(config.home)
    with ExitStack() as stack:
        stack.enter_context(catalogue.run_lock(command))
        teacher, *others = (
            stack.enter_context(LazyTeacher(spec, home=config.home, reporter=reporter))
            for spec in (config.teacher, *config.judges.values())
        )
        host = stack.enter_context(WorkerHost(config.home))
        judges = dict(zip(config.judges, others, strict=True))
        yield RunContext(
            config=config,
            catalogue=catalogue,
            teacher=teacher,
            reporter=reporter,
            host=host,
            judges=judges,
            targets=tuple(map(load_target, config.generate.targets)),
        )


def run(config: Config, reporter: Reporter) -> RunSummary:
    """Do the whole job.

    Raises:
        GateError: a gate said FAIL; the report is written, nothing is registered.
        DataError: too little was accepted, the judge can't judge, or the replay file holds evaluation questions.
        TutelageError: anything else; what was done is kept and the same command continues.
    """
    times = RecordingReporter(reporter)
    with open_run(config, times, "tutelage run") as ctx:
        state = RunState(times=times)
        _make_data(ctx, state)
        failed = improve(ctx, state, train_stages(ctx, state))
        if failed is None:
            write_card(state.stages[-1].model.path, config, *_base(state), state.stages)
            state.version = model_steps.register(ctx, state.stages, config_digest(config))
        summary = _summarise(ctx, state, failed)
    if failed is not None:
        raise _gate_error(failed, summary)
    return summary


def refresh(config: Config, reporter: Reporter) -> RefreshSummary:
    """Ingest, generate, curate and write the next dataset versions; train nothing."""
    times = RecordingReporter(reporter)
    with open_run(config, times, "tutelage refresh") as ctx:
        state = RunState(times=times)
        _make_data(ctx, state, evaluate_base=False)
        assert state.ingested is not None, "_make_data ingests"
        datasets = {
            stage.name: data_steps.stage_dataset(ctx, stage, state.ingested, state.curated.accepted).id
            for stage in config.stages
            if stage.train.stage not in PREFERENCE
        }
    diff = state.ingested.diff
    return RefreshSummary(
        added=len(diff.added),
        changed=len(diff.changed),
        removed=len(diff.removed),
        unchanged=len(diff.unchanged),
        asked=state.generated.asked + state.curated.asked,
        cached=state.generated.cached + state.curated.cached,
        accepted=len(state.curated.accepted),
        datasets=datasets,
        seconds=time.time() - state.started,
    )


def config_digest(config: Config) -> str:
    """Return the digest of what the configuration says of the model; where it lies and who promotes it is left out."""
    said = config.model_dump(mode="json", exclude={"home", "promotion", "schedule"})
    own = [recipe.label for name, recipe in recipes_of(config.generate.recipes).items() if name not in RECIPES]
    return digest({**said, "own_recipes": own} if own else said)


def _make_data(ctx: RunContext, state: RunState, *, evaluate_base: bool = True) -> None:
    state.ingested = data_steps.ingest(ctx)
    state.suites = [load_suite(name, spec) for name, spec in ctx.config.suites.items()]
    labels = labels_of({suite.name: suite.all_samples for suite in state.suites})
    for stage in ctx.config.stages:
        check_slices(stage.gate, labels)
    if ctx.config.replay is not None:
        check_replay(ctx.config.replay, state.suites)
    supply = Supply(ctx.config.generate.recipes)
    wanted = generation.generation_requests(ctx, state.ingested, supply)
    targeted = generation.targeted_requests(ctx, state.ingested)
    first = generation.allowed(ctx, [*wanted, *targeted])
    if open_requests([entry.request for entry in first], ctx.catalogue).to_ask:
        ctx.teacher.prepare()
    state.base = model_steps.base_model(ctx)
    if evaluate_base:
        introduce_judges(ctx, state.suites)
        state.base_scores = model_steps.evaluate(ctx, state.suites, state.base)
    state.supply = supply
    state.questions = [question for suite in state.suites for question in questions(suite)]
    state.generated, state.curated = generation.generate_and_curate(
        ctx, state.ingested, wanted, supply, state.questions
    )
    if targeted:
        _ask_targeted(ctx, state, targeted)
    if evaluate_base:
        _add_held_out(ctx, state)
    ctx.teacher.rest()


def _ask_targeted(ctx: RunContext, state: RunState, targeted: Sequence[generation.Wanted]) -> None:
    """Ask what the targets name, after the rounds: those are to come to what they came to before."""
    assert state.ingested is not None, "_make_data ingests"
    ctx.reporter.note(f"targets: {len(targeted):,} more requests, and nothing new about anything else")
    for entry in targeted:
        state.supply.took(entry.place, entry.request.origin["subject"], entry.request.sample_index)
    before = state.generated, state.curated
    state.generated, state.curated = generation.ask_more(
        ctx, state.ingested, targeted, state.supply, state.questions, before
    )


def _add_held_out(ctx: RunContext, state: RunState) -> None:
    """Make a suite of the accepted questions whose chunks were set aside, and score the base on it."""
    held_out = [item for item in state.curated.accepted if item.split is Split.EVALUATION and "answer" in item.meta]
    rows = {
        item.meta["question"]: {"id": item.id, "question": item.meta["question"], "answers": [item.meta["answer"]]}
        for item in held_out
    }
    if not rows or HELD_OUT in ctx.config.suites:
        return
    lines = [json.dumps(rows[key], ensure_ascii=False) for key in sorted(rows)]
    path = ctx.home / "suites" / f"{HELD_OUT}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    suite = load_suite(HELD_OUT, SuiteSpec(path=path))
    state.suites.append(suite)
    assert state.base is not None, "the base is evaluated first"
    state.base_scores = {**state.base_scores, **model_steps.evaluate(ctx, [suite], state.base)}


def _base(state: RunState) -> tuple[StudentModel, SuiteScores]:
    assert state.base is not None, "_make_data sets the base"
    return state.base, state.base_scores


def _summarise(ctx: RunContext, state: RunState, failed: TrainedStage | None) -> RunSummary:
    """Write the report and say in one line what was learned."""
    ctx.reporter.step_started("report")
    data = report_data(ctx, state, failed)
    report = write_report(ctx.home / "reports" / f"{ctx.config.project}.html", data)
    ctx.reporter.step_done("report", str(report))
    outcome = data.outcome
    return RunSummary(
        outcome=outcome.name if outcome is not None else "UNGATED",
        headline=headline(data),
        report=report,
        model_version=state.version.id if state.version else None,
        next_command=data.next_commands[0].command,
        seconds=time.time() - state.started,
        funnel=tuple(funnel_table(data)),
        gates=tuple(gate_table(data)),
    )


def _gate_error(failed: TrainedStage, summary: RunSummary) -> GateError:
    assert failed.decision is not None, "only a gate fails a stage"
    reasons = "\n".join(f"  {comparison.reason}" for comparison in failed.decision.comparisons)
    error = GateError(
        f"the gate after stage {failed.stage.name} said {failed.decision.outcome.name}; "
        f"nothing is registered\n{reasons}",
        valid="every rule of the gate passes",
        next_step=f"open {summary.report}: it shows the flipped answers and where the data were lost",
    )
    error.summary = summary
    return error
