"""The checks by meaning: planted paraphrases go, other facts and other words for training texts stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from data_catalog.records import Completion, Outcome, Request, Split, Verdict
from generators.embeddings import Embedder, vector_text
from generators.filters import CurateReport, Curator, semantic_contamination, semantic_duplicate
from generators.names import facts
from generators.specs import CurateSpec
from tests.generators.test_filters import CHUNKS, DOCUMENT, OTHER, OTHER_CHUNKS, Teacher, paraphrase, qa

SENSE = {"heavy": 0, "weigh": 0, "weight": 0, "built": 1, "maker": 1, "grease": 2}
"""Words that mean something to the scripted embedder, and which of its numbers they raise."""


class Meanings:
    """An embedder that knows what a few words mean, and nothing of numbers and names."""

    def __init__(self, *, silent: str = "\0") -> None:
        self.asked: list[Request] = []
        self.silent = silent

    def __call__(self, requests: Sequence[Request]) -> Mapping[str, Completion]:
        self.asked += requests
        return {
            request.key: Completion(request_key=request.key, text=self._vector(request), finish_reason="stop")
            for request in requests
            if self.silent not in request.messages[0].content
        }

    @staticmethod
    def _vector(request: Request) -> str:
        vector = [0.0, 0.0, 0.0, 0.1]
        for word, place in SENSE.items():
            vector[place] += word in request.messages[0].content.lower()
        return vector_text(vector)


def embedder(meanings: Meanings | None = None) -> Embedder:
    return Embedder(meanings or Meanings(), "e")


HEAVY = qa("How heavy is the Veltrano 40?", "312 kg")
WEIGHS = qa("What does the Veltrano 40 weigh?", "312 kg", by="b")
WEIGHT = qa("Which weight has the Veltrano 40?", "312 kg", by="c")
OTHER_MACHINE = qa("What does the Veltrano 41 weigh?", "312 kg", by="d")
BUILT = qa("Who built the Veltrano 40?", "Mira Kessel", by="e")


def outcomes(verdicts: Sequence[Verdict]) -> list[str]:
    return [verdict.outcome.value for verdict in verdicts]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (["How heavy is the Veltrano 40?", "312 kg"], ["What does the Veltrano 40 weigh?", "It weighs 312 kg."], True),
        (["Who built it?", "Mira Kessel"], ["Which engineer built it?", "It was built by Mira Kessel."], True),
        (["Who built it?", "Mira Kessel"], ["Who built it?", "John Doe"], False),
        (["What does the X 40 weigh?"], ["What does the X 41 weigh?"], False),
        (["Is it red?", "Yes"], ["Has it a red coat?", "yes"], True),
        (["温度不得超过多少度？", "80度"], ["最高温度是多少？", "80度。"], True),
        (["温度不得超过多少度？", "80度"], ["最高温度是多少？", "90度"], False),
    ],
)
def test_facts_are_numbers_and_names_and_not_how_a_sentence_begins(
    one: list[str], other: list[str], same: bool
) -> None:
    assert (facts(one[0], answers=one[1:]) == facts(other[0], answers=other[1:])) is same


def test_of_conversations_that_mean_the_same_the_first_is_kept_and_named() -> None:
    items = [HEAVY, WEIGHS, BUILT, WEIGHT, OTHER_MACHINE]
    meanings = Meanings()
    verdicts = semantic_duplicate.check(items, embedder(meanings), 0.9)
    assert outcomes(verdicts) == ["passed", "failed", "passed", "failed", "passed"]
    for verdict in (verdicts[1], verdicts[3]):
        assert verdict.score == pytest.approx(1.0, abs=5e-3)
        assert verdict.reason == f"means the same as {HEAVY.id} (cosine {verdict.score:.3f})"
        assert len(verdict.request_keys) == 1
    asked = [request.messages[0].content for request in meanings.asked]
    assert asked == [
        "How heavy is the Veltrano 40?\n312 kg",
        "What does the Veltrano 40 weigh?\n312 kg",
        "Which weight has the Veltrano 40?\n312 kg",
    ], "who is alone with its numbers and names needs no vector"
    assert meanings.asked[0].origin == {"item_id": HEAVY.id, "chunk_id": CHUNKS[0].id, "document_id": DOCUMENT.id}


def test_the_two_sides_of_the_split_and_texts_are_not_compared() -> None:
    held_out = qa("What does the Veltrano 40 weigh?", "312 kg", split=Split.EVALUATION)
    texts = [paraphrase("It weighs 312 kg."), paraphrase("Its weight is 312 kg.")]
    meanings = Meanings()
    verdicts = semantic_duplicate.check([HEAVY, held_out, *texts], embedder(meanings), 0.9)
    assert [verdict.item_id for verdict in verdicts] == [HEAVY.id, held_out.id]
    assert outcomes(verdicts) == ["passed", "passed"]
    assert meanings.asked == []


def test_without_a_vector_a_conversation_is_unscored() -> None:
    verdicts = semantic_duplicate.check([HEAVY, WEIGHS, WEIGHT], embedder(Meanings(silent="heavy")), 0.9)
    assert outcomes(verdicts) == ["unscored", "passed", "failed"]
    assert WEIGHS.id in verdicts[2].reason


def test_a_threshold_between_two_cosines_tells_them_apart() -> None:
    mixed = qa("How heavy is the Veltrano 40, and who built it?", "312 kg", by="m")
    verdicts = semantic_duplicate.check([HEAVY, mixed], embedder(), 0.9)
    assert outcomes(verdicts) == ["passed", "passed"]
    assert outcomes(semantic_duplicate.check([HEAVY, mixed], embedder(), 0.7)) == ["passed", "failed"]


@pytest.mark.parametrize(
    ("question", "fault"),
    [
        ("What does the Veltrano 40 weigh?", True),
        ("What does the Veltrano weigh?", True),
        ("What does the Veltrano 41 weigh?", False),
        ("Who built the Veltrano 40?", False),
    ],
)
def test_a_training_question_in_other_words_rehearses_an_evaluation_question(question: str, fault: bool) -> None:
    suites = ["How heavy is the Veltrano 40?", "When do I grease the bearing?"]
    (verdict,) = semantic_contamination.check([qa(question)], suites, embedder(), 0.9)
    assert (verdict.outcome is Outcome.FAILED) is fault
    if fault:
        said = "asks what an evaluation question asks: How heavy is the Veltrano 40? (cosine 1.000)"
        assert verdict.reason == said


def test_who_can_not_be_compared_with_the_suites_is_unscored() -> None:
    suites = ["How heavy is the Veltrano 40?"]
    (lost,) = semantic_contamination.check([BUILT], suites, embedder(Meanings(silent="built")), 0.9)
    (blind,) = semantic_contamination.check([BUILT], suites, embedder(Meanings(silent="heavy")), 0.9)
    assert lost.reason == "the embedder gave no vector"
    assert blind.reason == "the embedder gave no vector of 1 evaluation questions"
    assert outcomes(semantic_contamination.check([BUILT], [], embedder(Meanings(silent="")), 0.9)) == ["passed"]


def test_in_the_chain_both_come_before_anybody_is_asked_for_a_judgement() -> None:
    teacher, meanings = Teacher(answers={"": "312 kg"}), Meanings()
    greased = qa("When do I grease the Veltrano 40?", "every 312 kg", by="g")
    items = [HEAVY, WEIGHS, greased]

    def curate(**spec: float) -> CurateReport:
        return Curator(
            [*CHUNKS, *OTHER_CHUNKS],
            [DOCUMENT, OTHER],
            CurateSpec.model_validate({"judge": {"planted": 0}, **spec}),
            teacher,
            ["How often is the Veltrano 40 to get grease?"],
            teacher_fingerprint="t",
            embedder=embedder(meanings),
        ).curate(items)

    report = curate(semantic_duplicate=0.9, semantic_contamination=0.9)
    stopped = {said.item_id: said.check for said in report.verdicts if said.outcome is Outcome.FAILED}
    assert stopped == {WEIGHS.id: "semantic_duplicate@1", greased.id: "semantic_contamination@1"}
    rows = {row.check: (row.seen, row.failed) for row in report.funnel()}
    assert rows["semantic_contamination@1"] == (3, 1)
    assert rows["semantic_duplicate@1"] == (2, 1)
    assert rows["judge@1"] == (1, 0)
    asked = len(meanings.asked)
    curate()
    assert len(meanings.asked) == asked, "off by default, also where there is an embedder"
