"""The cut by rewards: by rank within each recipe and side of the split, or at a bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from data_catalog.records import Completion, Item, Outcome, Request, Reward, Split, Verdict
from generators.filters import CurateReport, Curator, reward
from generators.specs import CurateSpec, RewardFilterSpec
from tests.generators.test_filters import CHUNKS, DOCUMENT, OTHER, OTHER_CHUNKS, Teacher, open_question, paraphrase, qa


class Model:
    """Gives the reward that stands behind the last `=` of an answer."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def __call__(self, requests: Sequence[Request]) -> Mapping[str, Completion]:
        self.asked += requests
        values = {request.key: request.messages[-1].content.rpartition("=")[2] for request in requests}
        return {
            key: Completion(request_key=key, text=Reward(reward=float(value)).model_dump_json(), finish_reason="stop")
            for key, value in values.items()
            if value != "?"
        }


def answered(*values: str, split: Split = Split.TRAIN) -> list[Item]:
    return [qa(answer=f"312 kg ={value}", by=f"{number} {split}", split=split) for number, value in enumerate(values)]


def check(items: Sequence[Item], model: Model | None = None, **spec: Any) -> list[Verdict]:
    settings = RewardFilterSpec.model_validate({"model": "rewards", **spec})
    return reward.check(items, reward.Rater(model or Model(), "r"), settings)


def test_the_best_share_is_kept_and_of_equals_the_earlier_one() -> None:
    items = answered("1", "3", "2", "-1", "2")
    verdicts = check(items, keep=0.5)
    assert [said.outcome.value for said in verdicts] == ["failed", "passed", "passed", "failed", "passed"]
    assert [said.score for said in verdicts] == [1, 3, 2, -1, 2]
    assert verdicts[0].reason == "reward 1.000, not among the best of its recipe"
    verdicts = check(items, keep=0.4)
    assert [said.outcome.value for said in verdicts] == ["failed", "passed", "passed", "failed", "failed"]


def test_each_recipe_and_side_of_the_split_is_ranked_by_itself() -> None:
    low = open_question("Who sold it?")
    low = low.model_copy(
        update={"payload": {"messages": [low.payload["messages"][0], {"role": "assistant", "content": "No. =-9"}]}}
    )
    items = [*answered("1", "2"), *answered("0", split=Split.EVALUATION), low]
    verdicts = check(items, keep=0.5)
    assert [said.outcome.value for said in verdicts] == ["failed", "passed", "passed", "passed"]


def test_a_bound_is_a_bound_and_texts_are_left_out() -> None:
    model = Model()
    verdicts = check([*answered("0.5", "-0.25"), paraphrase("It weighs 312 kg.")], model, min_reward=0.0)
    assert [said.outcome for said in verdicts] == [Outcome.PASSED, Outcome.FAILED]
    assert verdicts[1].reason == "reward -0.250, below 0"
    assert [said.request_keys for said in verdicts] == [(one.key,) for one in model.asked]
    assert all(one.sampling.max_tokens == 0 and one.model == "r" for one in model.asked)
    assert model.asked[0].origin["item_id"] == verdicts[0].item_id


def test_what_the_model_can_not_read_is_unscored_and_counts_for_nothing() -> None:
    verdicts = check(answered("1", "?", "2"), keep=0.5)
    assert [said.outcome.value for said in verdicts] == ["failed", "unscored", "passed"]


@pytest.mark.parametrize("spec", [{}, {"keep": 0.5, "min_reward": 0.0}, {"keep": 1.0}, {"keep": 0.0}])
def test_there_is_one_cut(spec: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        RewardFilterSpec.model_validate({"model": "rewards", **spec})


def test_in_the_chain_it_comes_last_and_sees_what_is_left() -> None:
    def curate(**spec: Any) -> CurateReport:
        return Curator(
            [*CHUNKS, *OTHER_CHUNKS],
            [DOCUMENT, OTHER],
            CurateSpec.model_validate({"judge": {"planted": 0}, "round_trip": None, "anchored": False, **spec}),
            Teacher(judge={"Rejected": "no"}),
            [],
            teacher_fingerprint="t",
            rater=reward.Rater(Model(), "r"),
        ).curate(items)

    items = [
        qa(question=f"{word}, how heavy?", answer=f"{place} =1", by=word)
        for place, word in enumerate(("Rejected", "First", "Second"))
    ]
    report = curate(reward={"model": "rewards", "keep": 0.5})
    *_, last = report.funnel()
    assert (last.check, last.seen, last.passed) == ("reward@1", 2, 1)
    assert report.accepted_ids == {items[1].id}
    assert "reward@1" not in {row.check for row in curate().funnel()}
