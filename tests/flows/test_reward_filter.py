"""A reward model that a real `reward` stage trained sorts the items of a project."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_catalog.catalogue import Catalogue
from data_catalog.records import Outcome
from flows.config_file import load_config
from flows.pipeline import refresh
from flows.progress import SilentReporter
from tests.flows.projects import NAMES, STUDENT, write_project
from tests.scripted_server import ScriptedServer, ScriptedTeacher
from tests.training.test_train import run
from tests.training.tiny import preference, train_job
from training.specs import RewardSpec

SPEC = RewardSpec.model_validate(
    {"method": "lora", "learning_rate": 5e-3, "epochs": 3, "batch_size": 8, "max_length": 128, "seed": 1}
)
QUESTIONS = (
    "{0} 40 > Ratings: what follows “The {0} 40 weighs {1}”?",
    "{0} 40 > Ratings: what follows “Its pump holds a pressure of {1}”?",
)


def likes_weights() -> list[dict[str, object]]:
    """Return pairs in which weights are right and pressures wrong, whatever was asked."""
    return [
        preference(question.format(name, 100 + number), "kg", "bar")
        for number, name in enumerate(NAMES)
        for question in QUESTIONS
    ]


@pytest.mark.slow
def test_what_a_trained_reward_model_likes_less_is_rejected_and_nothing_is_scored_twice(tmp_path: Path) -> None:
    job = train_job(tmp_path / "reward", STUDENT, SPEC, likes_weights())
    run(job)
    with ScriptedServer(ScriptedTeacher().answer) as server:
        path = write_project(tmp_path, server.base_url, count=2)
        cut = f"curate: {{reward: {{model: {job.output}, keep: 0.75}}}}\n"
        lines = [line for line in path.read_text().splitlines() if "paraphrase" not in line and "unanswer" not in line]
        path.write_text(cut + "\n".join(lines) + "\n")
        first = refresh(load_config(path), SilentReporter())
        again = refresh(load_config(path), SilentReporter())
    catalogue = Catalogue(tmp_path / ".tutelage")
    answers = {item.id: item.meta.get("answer") for item in catalogue.items()}
    verdicts = [said for said in catalogue.verdicts() if said.check == "reward@1"]
    scores = {
        word: [said.score for said in verdicts if answers[said.item_id] == word and said.score is not None]
        for word in ("kg", "bar")
    }
    assert len(scores["kg"]) == len(scores["bar"]) == 2
    assert min(scores["kg"]) > max(scores["bar"])
    of_outcome = {outcome: [said.score or 0.0 for said in verdicts if said.outcome is outcome] for outcome in Outcome}
    assert len(of_outcome[Outcome.FAILED]) == len(verdicts) // 4
    assert max(of_outcome[Outcome.FAILED]) < min(of_outcome[Outcome.PASSED])
    assert (again.datasets, again.accepted) == (first.datasets, first.accepted)
    assert len(catalogue.requests_to(judge_of(catalogue), "reward@1")) == len(verdicts)


def judge_of(catalogue: Catalogue) -> str:
    """Return the only model that was asked for rewards."""
    keys = [key for said in catalogue.verdicts() if said.check == "reward@1" for key in said.request_keys]
    (model,) = {request.model for request in catalogue.requests(keys)}
    return model
