"""The recipes of preference pairs against local servers: who is asked what, which pair comes of it, what is counted."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_catalog.catalogue import Catalogue
from data_catalog.datasets import dataset_item_ids
from data_catalog.funnel import FunnelRow
from data_catalog.records import Chunk, Completion, Document, Item, Kind, Split
from flows.config import StageConfig
from flows.config_file import load_config
from flows.context import RunContext
from flows.data_steps import Ingested
from flows.model_steps import StudentModel, train
from flows.preferences import Preferences, preference_dataset
from flows.progress import RecordingReporter, SilentReporter
from flows.reporting import RunState, report_data, run_funnel
from flows.teacher import LazyTeacher
from generators.pairs.base import AskedAs, answer_requests, questions_of
from generators.specs import TeacherSpec
from tests.flows.compared import qa
from tests.flows.projects import STUDENT, write_project
from tests.generators.large_model import LARGE_MODEL
from tests.scripted_server import Answer, ScriptedServer, ScriptedTeacher
from training.specs import TrainResult

TEXT = "The Brixal 40 weighs 223 kg. Its pump holds 31 bar. Ilsa Marnbr designed it."
WEIGHT, PRESSURE = "Brixal 40: what follows “The Brixal 40 weighs”?", "Brixal 40: what follows “Its pump holds”?"
OPEN = "Who sold the first Brixal 40?"
DOCUMENT = Document.of(path="brixal.md", title="Brixal 40", text=TEXT)
CHUNK = Chunk.of(
    document_id=DOCUMENT.id, start=0, end=len(TEXT), heading_path=("Brixal 40",), text=TEXT, split=Split.TRAIN
)


def questions() -> list[Item]:
    """Two questions that the chunk answers, and one that it leaves open."""
    unknown = qa(CHUNK, OPEN, "I do not know.")
    return [
        qa(CHUNK, WEIGHT, "223"),
        qa(CHUNK, PRESSURE, "31"),
        unknown.model_copy(update={"meta": {**unknown.meta, "answerable": False}}),
    ]


class Project:
    """A catalogue with a student's answers, a teacher and a weaker model on servers of their own."""

    def __init__(self, folder: Path, large: ScriptedServer, small: ScriptedServer, language: str) -> None:
        self.large, self.small = large, small
        config = load_config(write_project(folder, large.base_url))
        curate = config.curate.model_copy(update={"language": language})
        self.catalogue = Catalogue(folder / "home")
        self.items = questions()
        self.catalogue.add_items(self.items)
        self.student = StudentModel("learn", folder, "student")
        diff = self.catalogue.sync_documents([DOCUMENT], [CHUNK], [])
        self.ingested = Ingested((DOCUMENT,), (CHUNK,), (), diff)
        self.reporter = SilentReporter()
        served = [
            LazyTeacher(TeacherSpec(model=name, base_url=server.base_url), home=folder / "home", reporter=self.reporter)
            for name, server in (("large", large), ("small", small))
        ]
        self.ctx = RunContext(
            config.model_copy(update={"curate": curate}),
            self.catalogue,
            served[0],
            self.reporter,
            judges={"small": served[1]},
        )

    def student_says(self, said: Mapping[str, Sequence[str]]) -> None:
        """Keep what the student answers when it is sampled."""
        how = AskedAs("teacher_vs_student@1", "student", len(next(iter(said.values()))), 0.9, 64)
        asked = answer_requests(questions_of(self.items), how, {})
        answers = [
            Completion(request_key=request.key, text=said[question.text][request.sample_index], finish_reason="stop")
            for question, request in asked
        ]
        self.catalogue.add_completions([request for _, request in asked], answers)

    def make(self, *pairs: str | Mapping[str, Any], samples: int = 2) -> Preferences:
        data = {"pairs": pairs, "samples": samples}
        stage = StageConfig.model_validate({"name": "prefer", "train": {"stage": "dpo"}, "data": data})
        return preference_dataset(self.ctx, stage, self.ingested, self.items, self.student)

    def rows(self, made: Preferences) -> list[tuple[str, str, str]]:
        """Return (question, chosen, rejected) of the dataset."""
        if made.dataset is None:
            return []
        items = self.catalogue.items(ids=dataset_item_ids(self.catalogue, made.dataset.id))
        assert {item.kind for item in items} == {Kind.PREFERENCE}
        return sorted(
            tuple(item.payload[part][-1]["content"] for part in ("prompt", "chosen", "rejected")) for item in items
        )


def funnel(made: Preferences) -> FunnelRow:
    """Return the accounts of a stage's only recipe, as the report counts them."""
    (row,) = run_funnel(RunState(times=None, pairs={"prefer": made.accounts}))  # type: ignore[arg-type]
    return row


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Callable[..., Project]]:
    with ExitStack() as stack:

        def start(small: Answer, language: str = "en", **answers: Callable[[Mapping[str, str]], str]) -> Project:
            teacher = ScriptedTeacher(answers={"aspect_ratings": LARGE_MODEL["aspect_ratings"], **answers})
            large, weak = (stack.enter_context(ScriptedServer(answer)) for answer in (teacher.answer, small))
            return Project(tmp_path, large, weak, language)

        yield start


def first_word(body: Mapping[str, Any]) -> str:
    """Answer as a weak model does that holds on to whatever comes first."""
    return "Brixal"


SAID = {WEIGHT: ["512", "223"], PRESSURE: ["31", "31"], OPEN: ["I do not know.", "Mira Kessel"]}


def test_the_accepted_answer_is_preferred_to_what_was_refused(project: Callable[..., Project]) -> None:
    found = project(first_word)
    found.student_says({**SAID, PRESSURE: ["223", "31"]})
    made = found.make("teacher_vs_student")
    assert found.rows(made) == [
        (PRESSURE, "31", "223"),
        (WEIGHT, "223", "512"),
        (OPEN, "I do not know.", "Mira Kessel"),
    ]
    row = funnel(made)
    assert (row.recipe, row.requests, row.answered, row.items, row.accepted) == (
        "teacher_vs_student (prefer)", 6, 6, 3, 3,
    )  # fmt: skip


def test_an_answer_that_the_judge_finds_right_is_counted_and_makes_no_pair(project: Callable[..., Project]) -> None:
    found = project(first_word, judge=lambda given: json.dumps({"reason": "as it says", "verdict": "yes"}))
    found.student_says({**SAID, PRESSURE: ["223", "31"], OPEN: ["I do not know."] * 2})
    made = found.make("teacher_vs_student")
    assert found.rows(made) == [(WEIGHT, "223", "512")], "512 stands nowhere: no judge is asked"
    row = funnel(made)
    assert (row.items, row.accepted, row.rejected) == (2, 1, 1)
    (refused,) = (check for check in row.checks if check.check == "refused@1")
    assert [reason.reason for reason in refused.reasons] == ["the judge finds the rejected answer right"]
    (stored,) = found.catalogue.funnel(recipes=["teacher_vs_student@1"]).rows
    assert (stored.items, stored.accepted, stored.rejected) == (2, 1, 1)


def test_both_answers_are_the_students_where_it_is_of_two_minds(project: Callable[..., Project]) -> None:
    found = project(first_word)
    found.student_says(SAID)
    made = found.make("on_policy")
    assert found.rows(made) == [(WEIGHT, "223", "512"), (OPEN, "I do not know.", "Mira Kessel")]
    both = found.make("teacher_vs_student", "on_policy")
    assert found.rows(both) == found.rows(made), "equal pairs of two recipes are trained on once"
    assert [account.counts.recipe for account in both.accounts] == ["teacher_vs_student (prefer)", "on_policy (prefer)"]


def test_a_delta_asks_both_models_the_same_and_no_judge(project: Callable[..., Project]) -> None:
    found = project(first_word)
    made = found.make({"name": "delta", "rejected": "small"})
    assert found.rows(made) == [(PRESSURE, "31", "Brixal"), (WEIGHT, "223", "Brixal")]
    assert sorted(found.large.prompts) == sorted(found.small.prompts)
    assert len(found.large.prompts) == 2
    assert all(TEXT in prompt for prompt in found.large.prompts)
    assert found.rows(found.make({"name": "delta", "rejected": "small"})) == found.rows(made)
    assert len(found.large.prompts) == 2, "asked once"
    row = funnel(made)
    assert (row.requests, row.answered, row.items, row.accepted) == (4, 4, 2, 2)


def test_a_delta_leaves_out_what_is_no_difference_or_no_answer(project: Callable[..., Project]) -> None:
    found = project(
        lambda body: "223" if "weighs" in body["messages"][-1]["content"].rpartition("<question>")[2] else "Brixal",
        answer=lambda given: "The text does not say." if "pump" in given["question"] else "223",
    )
    made = found.make({"name": "delta", "rejected": "small"})
    assert made.dataset is None
    row = funnel(made)
    assert (row.items, row.rejected) == (2, 2)
    reasons = {reason.reason for check in row.checks for reason in check.reasons}
    assert reasons == {"both models say the same", "the chosen answer is that the text does not say"}


def test_a_chosen_answer_that_the_document_does_not_have_is_rejected(project: Callable[..., Project]) -> None:
    found = project(first_word, answer=lambda given: "512 kg")
    made = found.make({"name": "delta", "rejected": "small"})
    reasons = {reason.reason for check in funnel(made).checks for reason in check.reasons}
    assert reasons == {"the number 512 is not in the chunk"}


def test_without_the_book_both_are_asked_the_question_alone(project: Callable[..., Project]) -> None:
    found = project(first_word)
    found.large.answer = lambda body: "31 bar"
    made = found.make({"name": "delta", "rejected": "small", "open_book": False})
    assert found.rows(made) == [(PRESSURE, "31 bar", "Brixal"), (WEIGHT, "31 bar", "Brixal")]
    assert {WEIGHT, PRESSURE} == set(found.small.prompts)


def test_the_best_rated_answer_is_preferred_to_the_worst(project: Callable[..., Project]) -> None:
    found = project(first_word)
    found.student_says({WEIGHT: ["512", "223 kg"], PRESSURE: ["31", "31 bar"], OPEN: ["Mira Kessel"] * 2})
    made = found.make({"name": "aspect_ratings", "answers": ["student", "small"], "margin": 1})
    assert found.rows(made) == [(PRESSURE, "31", "Brixal"), (WEIGHT, "223 kg", "512")]
    pair = next(item for item in made.accounts[0].items if item.payload["prompt"][0]["content"] == PRESSURE)
    assert pair.meta["answered_by"] == {"chosen": "student", "rejected": "small"}
    assert pair.meta["ratings"]["rejected"]["truthfulness"] == "1"
    row = funnel(made)
    assert (row.requests, row.answered, row.items, row.accepted) == (8, 8, 2, 2), "the open question is left out"
    rating = [prompt for prompt in found.large.prompts if "Rate the answer" in prompt]
    assert len(rating) == 6, "equal answers are rated once"


def test_what_is_rated_alike_or_can_not_be_read_makes_no_pair(project: Callable[..., Project]) -> None:
    def rate(given: Mapping[str, str]) -> str:
        return LARGE_MODEL["aspect_ratings"](given) if "weighs" in given["question"] else "Good, five points."

    found = project(first_word, aspect_ratings=rate)
    found.student_says({WEIGHT: ["223", "223 kg"], PRESSURE: ["31", "30"], OPEN: ["Mira Kessel"] * 2})
    made = found.make({"name": "aspect_ratings", "answers": ["student"], "margin": 1})
    assert made.dataset is None
    row = funnel(made)
    assert (row.items, row.rejected, row.quarantined) == (2, 1, 1)
    reasons = {reason.reason for check in row.checks for reason in check.reasons}
    assert reasons == {
        "rated too much alike: 0.5 of 1 points apart",
        "fewer than two answers could be rated: not one JSON object",
    }
    keys = {key for account in made.accounts for verdict in account.verdicts for key in verdict.request_keys}
    assert set(found.catalogue.answered(keys)) == keys, "the judge's replies are kept"


def test_the_prompts_are_in_the_language_of_the_checks(project: Callable[..., Project]) -> None:
    found = project(first_word, language="zh")
    made = found.make({"name": "aspect_ratings", "answers": ["teacher", "small"], "margin": 1}, samples=1)
    assert found.rows(made) == [(PRESSURE, "31", "Brixal"), (WEIGHT, "223", "Brixal")]
    assert all("只根据这份文档作答" in prompt for prompt in found.small.prompts)
    assert sum("每个方面 1 到 5 分" in prompt for prompt in found.large.prompts) == 4


def test_personal_data_in_a_pair_is_found(project: Callable[..., Project]) -> None:
    found = project(first_word)
    found.student_says({**SAID, WEIGHT: ["ask ilsa.marnbr@brixalholm.com", "223"], OPEN: ["I do not know."] * 2})
    made = found.make("on_policy")
    assert made.dataset is None
    reasons = {reason.reason for check in funnel(made).checks for reason in check.reasons}
    assert reasons == {"holds email"}


def test_the_report_shows_the_pairs_that_its_funnel_names(project: Callable[..., Project]) -> None:
    found = project(first_word, judge=lambda given: json.dumps({"reason": "as it says", "verdict": "yes"}))
    found.student_says({**SAID, PRESSURE: ["223", "31"]})
    made = found.make("teacher_vs_student")
    state = RunState(times=RecordingReporter(found.reporter), ingested=found.ingested, pairs={"prefer": made.accounts})
    data = report_data(found.ctx, state, None)
    assert [sample.item.kind for sample in data.rejected] == [Kind.PREFERENCE]
    assert [row.recipe for row in data.funnel] == ["teacher_vs_student (prefer)"]


TRAINED = StageConfig.model_validate(
    {
        "name": "prefer",
        "train": {
            "stage": "dpo",
            "method": "lora",
            "learning_rate": 5e-3,
            "epochs": 6,
            "batch_size": 4,
            "max_length": 128,
            "log_steps": 1,
        },
        "data": {
            "pairs": [
                "teacher_vs_student",
                "on_policy",
                {"name": "delta", "rejected": "small"},
                {"name": "aspect_ratings", "answers": ["student", "small"], "margin": 1},
            ],
            "samples": 2,
        },
    }
)


@pytest.mark.slow
def test_the_pairs_of_all_recipes_train_dpo(project: Callable[..., Project]) -> None:
    """Made against servers, frozen as a version, read by the stage: it comes to prefer what was chosen."""
    found = project(first_word)
    found.student_says({**SAID, PRESSURE: ["31", "31 bar"]})
    found.ctx = replace(found.ctx, config=found.ctx.config.model_copy(update={"home": found.catalogue.home}))
    made = preference_dataset(found.ctx, TRAINED, found.ingested, found.items, found.student)
    assert made.dataset is not None
    frozen = found.catalogue.items(ids=dataset_item_ids(found.catalogue, made.dataset.id))
    by_recipe = {account.counts.recipe: {item.id for item in account.items} for account in made.accounts}
    assert len(by_recipe) == 4
    in_version = {item.id for item in frozen}
    for recipe, ids in by_recipe.items():
        assert ids, f"{recipe} made no pair"
    assert all(item.payload["chosen"] != item.payload["rejected"] for item in frozen)
    assert in_version <= set().union(*by_recipe.values())

    base = StudentModel("base", STUDENT, "base")
    run, model = train(found.ctx, TRAINED, base, made.dataset)
    result = TrainResult.model_validate(run.result["train"])
    assert (result.ledger.rows, result.ledger.kept) == (made.dataset.rows, made.dataset.rows)
    assert result.metrics[0].loss == pytest.approx(math.log(2), abs=1e-3)
    assert result.metrics[-1].loss < 0.5 * math.log(2)
    assert result.metrics[-1].values["rewards/margins"] > 0
    assert run.result["dataset"] == made.dataset.id
    assert (model.path / "model.safetensors").is_file()
    again, _ = train(found.ctx, TRAINED, base, made.dataset)
    assert again.id == run.id, "an equal stage is not trained twice"
