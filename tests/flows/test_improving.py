"""`improve: n`: what a gate failed becomes the next prompts; rounds end where they should; the best one stays."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from data_catalog.catalogue import Catalogue
from data_catalog.errors import GateError
from data_catalog.evaluation_records import SampleScore
from data_catalog.records import Outcome, Request, RunStatus, Sampling, Split, StepRun
from data_catalog.text import words
from evaluation.gates import GateOutcome, decide
from evaluation.scorers.abstention import Abstention
from evaluation.specs import Against, GateRule
from flows import data_steps, pipeline
from flows.config_file import load_config
from flows.context import RunContext
from flows.improving import Target, find_target, gap, improve, standing
from flows.model_steps import StudentModel, TrainedStage
from flows.progress import RecordingReporter, SilentReporter
from flows.reporting import RunState
from flows.teacher import LazyTeacher
from tests.flows.projects import write_project
from tests.scripted_server import Body, ScriptedServer, ScriptedTeacher
from training.specs import TrainResult

GATE = "[{suite: gold, require: at_least, against: limit, limit: 0.9}]"


class Talkative:
    """The scripted teacher, who says it in other words when asked the same again, as a sampled answer would."""

    def __init__(self) -> None:
        self._teacher = ScriptedTeacher()
        self._asked: Counter[str] = Counter()

    def answer(self, body: Body) -> str:
        text, prompt = self._teacher.answer(body), json.dumps(body["messages"])
        self._asked[prompt] += 1
        for times in range(1, self._asked[prompt]):
            text = text.replace("On record: ", f"On record: noted by {'all and ' * times}more of them, ")
            text = text.replace(": what follows", f", once more {'and again ' * times}in short: what follows")
        return text


@contextmanager
def project(
    folder: Path, *, improve: int, teacher: Callable[[Body], str] | None = None
) -> Iterator[tuple[RunContext, RunState]]:
    """A project whose data are made, with the scripted teacher behind it; nothing is trained yet."""
    with ScriptedServer(teacher or Talkative().answer) as server:
        path = write_project(folder, server.base_url, gate=GATE, count=2)
        path.write_text(f"{path.read_text(encoding='utf-8')}improve: {improve}\n", encoding="utf-8")
        config, times = load_config(path), RecordingReporter(SilentReporter())
        with LazyTeacher(config.teacher, home=config.home, reporter=times) as lazy:
            ctx = RunContext(config, Catalogue(config.home), lazy, times)
            state = RunState(times=times)
            pipeline._make_data(ctx, state, evaluate_base=False)
            yield ctx, state


class Training:
    """Trains nothing: scores the suite as it is told, round by round, and lets the real gate decide."""

    def __init__(self, *rounds: Sequence[float]) -> None:
        self.rounds = list(rounds)
        self.items: list[set[str]] = []
        """Ids of the accepted items of each round."""

    def __call__(self, ctx: RunContext, state: RunState) -> TrainedStage | None:
        stage = ctx.config.stages[-1]
        assert state.ingested is not None
        dataset = data_steps.stage_dataset(ctx, stage, state.ingested, state.curated.accepted)
        self.items.append({item.id for item in state.curated.accepted})
        (suite,) = state.suites
        scores = [
            SampleScore(
                sample_id=sample.id,
                question=sample.question,
                answers=sample.answers,
                completion="?",
                outcome=Outcome.FAILED,
                score=score,
            )
            for sample, score in zip(suite.samples, self.rounds.pop(0), strict=True)
        ]
        # Many equal samples, so that the gate's statistics follow what is told here.
        repeated = [one.model_copy(update={"sample_id": f"{one.sample_id}-{n}"}) for n in range(100) for one in scores]
        decision = decide(stage.gate, {"gold": repeated}, {})
        run = StepRun(id="run", step="train:learn", fingerprint="f", status=RunStatus.DONE, started_at=0.0)
        model = StudentModel(stage.name, ctx.home, f"round-{len(self.items)}")
        result = cast(TrainResult, None)
        done = TrainedStage(stage, model, dataset, run, result, {"gold": scores}, None, decision)
        state.stages.append(done)
        return done if decision.outcome is GateOutcome.FAIL else None


@pytest.mark.slow
def test_a_round_asks_only_about_what_was_failed_and_never_the_gates_own_questions(tmp_path: Path) -> None:
    with project(tmp_path, improve=3) as (ctx, state):
        before = {entry.request.key for entry in state.generated.wanted}
        training = Training([0.0, 1.0], [1.0, 1.0])
        failed = improve(ctx, state, training(ctx, state), train=training)
        assert failed is None
        fresh = [entry.request for entry in state.generated.wanted if entry.request.key not in before]
        paths = {document.id: document.path for document in ctx.catalogue.documents()}
        assert fresh
        assert {Path(paths[request.origin["document_id"]]).name for request in fresh} == {"veltrano.md"}
        assert {request.origin["recipe"] for request in fresh} == {"grounded_qa", "paraphrase"}
        assert all(request.origin["split"] == Split.TRAIN.value for request in fresh)
        assert state.stages[-1].model.fingerprint == "round-2"
        assert training.items[0] < training.items[1]
        first, second = state.rounds
        assert (first.number, first.outcome, second.outcome, second.kept) == (
            0,
            GateOutcome.FAIL,
            GateOutcome.PASS,
            True,
        )
        assert (second.failed, second.chunks, second.documents, second.asked) == (1, 1, 1, len(fresh))
        notes = "\n".join(state.times.notes)
        assert "improve, round 1: 1 failed samples, stated by 1 chunks" in notes
        assert "improve, round 1: PASS, nearer than before; kept" in notes
        for question in state.questions:
            asked = " ".join(words(question))
            for entry in state.generated.wanted:
                assert all(asked not in " ".join(words(turn.content)) for turn in entry.request.messages)
            assert all(asked not in " ".join(words(str(item.payload))) for item in state.curated.accepted)


@pytest.mark.slow
def test_a_round_that_comes_no_nearer_ends_it_and_is_taken_back(tmp_path: Path) -> None:
    with project(tmp_path, improve=5) as (ctx, state):
        training = Training([0.0, 0.0], [1.0, 0.0], [0.5, 0.5])
        failed = improve(ctx, state, training(ctx, state), train=training)
        assert not training.rounds
        assert [entry.kept for entry in state.rounds] == [True, True, False]
        assert state.stages[-1].model.fingerprint == "round-2"
        assert failed is state.stages[-1]
        assert {item.id for item in state.curated.accepted} == training.items[1]
        assert "improve ends after round 2" in state.times.notes[-1]


@pytest.mark.slow
def test_a_round_in_which_nothing_new_is_accepted_trains_nothing(tmp_path: Path) -> None:
    with project(tmp_path, improve=2, teacher=ScriptedTeacher().answer) as (ctx, state):
        training = Training([0.0, 0.0])
        failed = training(ctx, state)
        assert improve(ctx, state, failed, train=training) is failed
        assert (state.rounds[1].accepted, state.rounds[1].outcome, state.rounds[1].kept) == (0, None, False)
        assert state.rounds[1].asked > 0
        assert state.times.notes[-1] == "improve ends after round 1: nothing new was accepted"


@pytest.mark.slow
def test_what_is_in_no_document_can_not_be_asked_about(tmp_path: Path) -> None:
    with project(tmp_path, improve=2) as (ctx, state):
        training = Training([0.0, 0.0])
        failed = training(ctx, state)
        trained = state.stages[-1]
        strange = [one.model_copy(update={"answers": ("Nobody Known",)}) for one in trained.scores["gold"]]
        trained.scores["gold"][:] = strange  # type: ignore[index]
        assert find_target(ctx, state).elsewhere == 2
        trained.scores["gold"][:] = [one.model_copy(update={"answers": ()}) for one in strange]  # type: ignore[index]
        assert find_target(ctx, state).elsewhere == 2
        (suite,) = state.suites
        state.suites = [suite.model_copy(update={"spec": suite.spec.model_copy(update={"scorer": Abstention()})})]
        target = find_target(ctx, state)
        assert (len(target.unknown), target.documents, target.elsewhere) == (2, 2, 0)
        unknown = [entry.request for entry in state.generated.wanted if target.covers(entry.request)]
        assert {request.origin["recipe"] for request in unknown} == {"unanswerable"}
        trained.scores["gold"][:] = strange  # type: ignore[index]
        assert improve(ctx, state, failed, train=training) is failed
        assert [entry.number for entry in state.rounds] == [0]
        assert any("no chunk that is trained on states the answer" in note for note in state.times.notes)
        assert "nothing that can be asked again" in state.times.notes[-1]


def trained(limit: float) -> TrainedStage:
    """A stage whose gate asked a perfect model for a score of `limit`."""
    rule = GateRule.model_validate({"suite": "gold", "require": "at_least", "against": "limit", "limit": limit})
    decision = decide([rule], scored(*[1.0] * 50), {})
    nothing = cast(Any, None)
    return TrainedStage(nothing, nothing, nothing, nothing, nothing, {}, None, decision)


def test_what_was_asked_about_no_document_is_not_asked_again() -> None:
    target = Target(failures=1, chunks=frozenset({"chunk-1"}))
    asked = {"split": "train", "recipe": "magpie", "opening": "<|im_start|>user\n"}
    request = Request(model="t", messages=(), sampling=Sampling(), origin=asked)
    assert not target.covers(request)
    assert target.covers(request.model_copy(update={"origin": {**asked, "chunk_id": "chunk-1"}}))


@pytest.mark.parametrize(("rounds", "limit"), [(0, 1.0), (3, 0.5)])
def test_nothing_is_improved_without_being_asked_or_without_need(rounds: int, limit: float) -> None:
    stage, config = trained(limit), SimpleNamespace(improve=rounds)
    state = RunState(times=RecordingReporter(SilentReporter()), stages=[stage])
    assert improve(cast(RunContext, SimpleNamespace(config=config)), state, stage, train=Training()) is stage
    assert state.rounds == []


def scored(*values: float) -> dict[str, list[SampleScore]]:
    return {
        "gold": [
            SampleScore(sample_id=str(n), question="?", completion="x", outcome=Outcome.PASSED, score=value)
            for n, value in enumerate(values)
        ]
    }


def test_the_gap_is_what_is_missing_to_the_threshold() -> None:
    rules = [
        {"require": "better", "margin": 0.1},
        {"require": "not_worse", "margin": 0.1},
        {"require": "at_least", "against": "limit", "limit": 0.6},
    ]
    decision = decide(
        [GateRule.model_validate({"suite": "gold", **rule}) for rule in rules],
        scored(1.0, 1.0, 0.0, 0.0),
        {Against.BASE: scored(1.0, 0.0, 0.0, 0.0)},
    )
    assert [gap(comparison) for comparison in decision.comparisons] == pytest.approx([0.15, 0.35, -0.1])
    assert standing([]) is None


@pytest.mark.slow
def test_a_run_improves_trains_anew_and_asks_nothing_when_repeated(tmp_path: Path) -> None:
    with ScriptedServer(Talkative().answer) as server:
        path = write_project(tmp_path, server.base_url, gate=GATE, count=2)
        before, _, after = path.read_text(encoding="utf-8").partition("  - name: read\n")
        _, _, after = after.partition("gate: []\n")
        path.write_text(f"{before}{after}improve: 1\n", encoding="utf-8")
        config = load_config(path)
        with pytest.raises(GateError) as caught:
            pipeline.run(config, SilentReporter())
        asked = len(server.received)
        trained = [step for step in Catalogue(config.home).step_runs() if step.step == "train:learn"]
        assert len({step.result["dataset"] for step in trained}) == 2
        html = caught.value.summary.report.read_text(encoding="utf-8")
        assert "Improvement" in html
        assert "round 1" in html
        again = RecordingReporter(SilentReporter())
        with pytest.raises(GateError):
            pipeline.run(config, again)
        assert len(server.received) == asked
        assert all(step.cached for step in again.times if step.step.startswith(("train:", "evaluate:")))
