"""The best N: by complexity x quality, none too like a better one; by vectors, or by word runs without them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from data_catalog.records import Completion, Item, Outcome, Request, Split, Verdict
from generators.embeddings import Embedder
from generators.filters import CurateReport, Curator, selection
from generators.specs import CurateSpec, SelectSpec
from tests.generators.test_filters import CHUNKS, DOCUMENT, OTHER, OTHER_CHUNKS, paraphrase, qa
from tests.generators.test_semantic import Meanings

GRADER = selection.load_grader(SelectSpec(items=1), "en", "t", None)


def graded(question: str, complexity: int | str, quality: int | str, answer: str = "312 kg", **more: Any) -> Item:
    """Return an item whose question says what points it shall have."""
    return qa(f"{question} c={complexity} q={quality}", answer, by=question, **more)


class Teacher:
    """Gives the points that stand in the question; a `?` gives nothing that can be read."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def __call__(self, requests: Sequence[Request]) -> Mapping[str, Completion]:
        self.asked += requests
        return {
            request.key: Completion(request_key=request.key, text=self._say(request), finish_reason="stop")
            for request in requests
        }

    @staticmethod
    def _say(request: Request) -> str:
        prompt = request.messages[-1].content
        mark = "q=" if "<answer>" in prompt else "c="
        return json.dumps({"reason": "so it is", "points": prompt.partition(mark)[2][0]})


def check(pool: Sequence[Item], embedder: Embedder | None = None, **spec: Any) -> list[Verdict]:
    asked = {item.id: GRADER.asks(item) for item in pool}
    answers = Teacher()([request for one in asked.values() for request in (one.complexity, one.quality)])
    return selection.check(pool, asked, answers, SelectSpec.model_validate(spec), embedder)


def test_the_best_by_the_product_of_both_are_kept_and_of_equals_the_earlier() -> None:
    items = [
        graded("How heavy is it?", 2, 3),
        graded("Who made it?", 6, 1),
        graded("Why is it red?", 3, 4),
        graded("When was it sold, and where to?", 1, 5),
    ]
    verdicts = check(items, items=2)
    assert [said.outcome.value for said in verdicts] == ["passed", "failed", "passed", "failed"]
    assert [said.score for said in verdicts] == [6, 6, 12, 5]
    assert verdicts[1].reason == "complexity 6 x quality 1 = 6: 2 others come first"
    assert all(len(said.request_keys) == 2 for said in verdicts)
    assert all(said.outcome is Outcome.PASSED for said in check(items, items=9))


def test_without_vectors_a_copy_of_a_better_one_makes_room_for_another() -> None:
    long = " ".join(f"word{number}" for number in range(60))
    items = [graded(f"{long}?", 3, 3), graded(f"Say: {long}?", 4, 4), graded("Who made it?", 1, 1)]
    verdicts = check(items, items=2)
    assert [said.outcome.value for said in verdicts] == ["failed", "passed", "passed"]
    assert verdicts[0].reason.startswith(f"complexity 3 x quality 3 = 9: too like {items[1].id} (Jaccard 0.")
    assert [said.outcome.value for said in check(items, items=2, max_jaccard=1.0)] == ["passed", "passed", "failed"]


def test_with_vectors_another_wording_is_too_alike() -> None:
    items = [graded("How heavy is it?", 2, 2), graded("What is its weight?", 5, 5), graded("Who built it?", 1, 1)]
    verdicts = check(items, Embedder(Meanings(), "e"), items=3)
    assert [said.outcome.value for said in verdicts] == ["failed", "passed", "passed"]
    assert f"too like {items[1].id} (cosine " in verdicts[0].reason
    assert all(said.outcome is Outcome.PASSED for said in check(items, items=3)), "word runs do not see it"


def test_points_that_can_not_be_read_leave_an_item_unscored_and_take_no_place() -> None:
    verdicts = check([graded("How heavy is it?", 7, 2), graded("Who made it?", 1, 1)], items=1)
    assert [said.outcome.value for said in verdicts] == ["unscored", "passed"]
    assert verdicts[0].reason == "the points: points is none of 1, 2, 3, 4, 5, 6"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_question_alone_is_graded_for_complexity_and_both_for_quality(language: str) -> None:
    asked = selection.load_grader(SelectSpec(items=1), language, "t", None).asks(qa())
    assert "312 kg" not in asked.complexity.messages[-1].content
    for request in (asked.complexity, asked.quality):
        assert qa().meta["question"] in request.messages[-1].content
        assert request.sampling.temperature == 0
        assert request.origin["item_id"] == qa().id
    assert "312 kg" in asked.quality.messages[-1].content


def test_in_the_chain_it_is_the_last_and_leaves_texts_and_the_evaluation_side_alone() -> None:
    def curate(**spec: Any) -> CurateReport:
        settings = {"judge": None, "round_trip": None, "evidence": False, "anchored": False, **spec}
        return Curator(
            [*CHUNKS, *OTHER_CHUNKS],
            [DOCUMENT, OTHER],
            CurateSpec.model_validate(settings),
            teacher,
            [],
            teacher_fingerprint="t",
        ).curate(items)

    teacher = Teacher()
    items = [
        graded("How heavy is it?", 1, 1),
        graded("Who made it?", 2, 2),
        graded("Which colour has it?", 1, 1, split=Split.EVALUATION),
        paraphrase("The Veltrano 40 weighs 312 kg and stands on four legs."),
    ]
    report = curate(select={"items": 1})
    *_, last = report.funnel()
    assert (last.check, last.seen, last.passed, last.failed) == ("selection@1", 2, 1, 1)
    assert report.rejected_ids == {items[0].id}
    asked = len(teacher.asked)
    assert asked == 4
    assert "selection@1" not in {row.check for row in curate().funnel()}
    assert len(teacher.asked) == asked
