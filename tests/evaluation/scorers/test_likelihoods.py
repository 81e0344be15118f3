"""The scorers of likelihoods: multiple choice, classification by verbaliser, perplexity; every parameter by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from data_catalog.errors import ConfigError, DataError
from data_catalog.records import Completion, Likelihood, Message, Outcome
from evaluation.samples import Sample
from evaluation.scorers import Answer, Scorer
from evaluation.scorers.classification import Classification
from evaluation.scorers.multiple_choice import MultipleChoice, Normalise
from evaluation.scorers.perplexity import Perplexity
from evaluation.scoring import score_suite
from evaluation.specs import SuiteSpec
from evaluation.suites import load_suite, per_template, requests_by_sample
from tests.evaluation.scored import sample

LABELS = {"fault": ("fault", "defect"), "wear": ("wear",)}


def likely(logprob: float, tokens: int = 1, end: float = 0.0) -> Likelihood:
    return Likelihood(logprob=logprob, tokens=tokens, end_logprob=end)


def weighed(scorer: Scorer, asked: Sample, *found: Likelihood) -> tuple[Any, str]:
    scorer.prepare()
    assert not scorer.refusal(asked)
    answer = Answer("", likelihoods=found)
    return scorer.score(asked, answer), scorer.shown(asked, answer)


@pytest.mark.parametrize(
    ("scorer", "value", "choice"),
    [
        # -4 / 2 bytes against -6 / 6 bytes; -4 / 1 token against -6 / 2; -4 against -6.
        (MultipleChoice(), 1, "a hand"),
        (MultipleChoice(normalise=Normalise.TOKENS), 1, "a hand"),
        (MultipleChoice(normalise=Normalise.NONE), 0, "an"),
        (MultipleChoice(normalise=Normalise.NONE, whole=True), 1, "a hand"),
        (MultipleChoice(normalise=Normalise.TOKENS, whole=True), 1, "a hand"),
    ],
)
def test_the_likeliest_choice_for_its_length(scorer: MultipleChoice, value: float, choice: str) -> None:
    asked = sample("a hand", choices=["an", "a hand"])
    assert weighed(scorer, asked, likely(-4.0, 1, -9.0), likely(-6.0, 2, -0.5)) == (value, choice)


def test_a_tie_of_choices_scores_the_chance_of_a_right_one() -> None:
    scorer = MultipleChoice(choices=("A", "B", "C"))
    assert weighed(scorer, sample("B"), *[likely(-1.0)] * 3) == (pytest.approx(1 / 3), "A = B = C")
    assert weighed(scorer, sample("B", "C"), *[likely(-1.0)] * 3)[0] == pytest.approx(2 / 3)


def test_a_rows_own_choices_go_before_those_of_the_suite() -> None:
    scorer = MultipleChoice(choices=("A", "B"))
    assert scorer.continuations(sample("x", choices=["x", "y"])) == ("x", "y")
    assert scorer.basis(sample("A")) == ("A", "B")


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (sample("A"), "two different `choices`"),
        (sample("A", choices=["A", "A"]), "two different `choices`"),
        (sample("A", choices="AB"), "list of texts"),
        (sample("A", choices=["A", " "]), "list of texts"),
        (sample(choices=["A", "B"]), "needs `answers`"),
        (sample("C", choices=["A", "B"]), "none of the choices"),
    ],
)
def test_a_sample_without_proper_choices_is_refused(asked: Sample, reason: str) -> None:
    assert reason in MultipleChoice().refusal(asked)


def test_a_label_is_as_likely_as_its_words_are_on_average() -> None:
    scorer = Classification(labels=LABELS)
    # (0.3 + 0.1) / 2 = 0.2 against 0.25; with the end behind it 0.25 * 0.5 is less than 0.2.
    words = [likely(math.log(0.3)), likely(math.log(0.1)), likely(math.log(0.25))]
    assert weighed(scorer, sample("fault"), *words) == (0, "wear")
    words[2] = likely(math.log(0.25), end=math.log(0.5))
    assert weighed(scorer, sample("fault"), *words) == (1, "fault")
    tiny = [likely(-2000.0), likely(-2010.0), likely(-2001.5)]
    assert weighed(scorer, sample("fault"), *tiny) == (1, "fault")


@pytest.mark.parametrize(
    "labels", [{}, {"fault": ("fault",)}, {"fault": (), "wear": ("wear",)}, {"fault": ("x",), "wear": ("x",)}]
)
def test_labels_that_cannot_be_told_apart_are_refused(labels: Any) -> None:
    with pytest.raises(ConfigError, match="classification"):
        Classification(labels=labels).prepare()


def test_a_row_needs_a_label_that_is_known() -> None:
    assert "needs `answers`" in Classification(labels=LABELS).refusal(sample())
    assert "none of the labels fault, wear" in Classification(labels=LABELS).refusal(sample("rust"))


def test_perplexity_is_the_reciprocal_of_the_mean_probability() -> None:
    plain = Sample(id="s", messages=(Message(role="assistant", content="红 red"),))
    value, shown = weighed(Perplexity(), plain, likely(4 * math.log(0.5), tokens=4))
    assert value == pytest.approx(0.5)
    assert shown == "perplexity 2 per token (4 tokens)"
    value, shown = weighed(Perplexity(per="byte"), plain, likely(7 * math.log(0.25), tokens=4))
    assert value == pytest.approx(0.25)
    assert shown == "perplexity 4 per byte (7 bytes)"
    assert weighed(Perplexity(), plain, likely(-1e9))[0] == 0
    assert "needs `text`" in Perplexity().refusal(sample())


def suite_of(folder: Path, rows: Sequence[dict[str, Any]], **fields: Any) -> Any:
    path = folder / "suite.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return load_suite("choices", SuiteSpec.model_validate({"path": path, **fields}))


def test_a_suite_asks_the_likelihood_of_each_choice_in_each_template(tmp_path: Path) -> None:
    rows = [
        {"question": "Colour?", "choices": ["red", "blue"], "answers": ["blue"]},
        {"question": "Size?", "choices": ["S", "M", "L"], "answers": ["S"]},
    ]
    templates = ["{question}", "Say: {question}"]
    suite = suite_of(tmp_path, rows, scorer="multiple_choice", templates=templates, system="Be brief.")
    groups = requests_by_sample(suite, "model-1")
    assert [len(group) for group in groups] == [4, 6]
    first, second = per_template(suite, groups[0])
    assert [request.messages[-1].content for request in (*first, *second)] == ["red", "blue", "red", "blue"]
    assert {request.sampling.max_tokens for group in groups for request in group} == {0}
    assert [turn.role for turn in second[0].messages] == ["system", "user", "assistant"]
    assert second[0].messages[1].content == "Say: Colour?"

    def answered(request: Any, logprob: float) -> Completion:
        text = likely(logprob).model_dump_json()
        return Completion(request_key=request.key, text=text, finish_reason="stop")

    values = [-9.0, -1.0, -1.0, -9.0]
    known = {request.key: answered(request, value) for request, value in zip(groups[0], values, strict=True)} | {
        request.key: answered(request, -1.0) for request in groups[1][:-1]
    }
    right, missing = score_suite(suite, "model-1", known)
    assert (right.score, right.completion) == (0.5, "blue")
    assert (missing.outcome, missing.score) == (Outcome.UNSCORED, None)


def test_plain_text_stands_alone(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": "The rotor is red."}, {"question": "Colour?", "answers": ["red"]}]
    suite = suite_of(tmp_path, rows, scorer="perplexity")
    (plain,), (asked,) = requests_by_sample(suite, "model-1")
    assert [turn.role for turn in plain.messages] == ["assistant"]
    assert [turn.role for turn in asked.messages] == ["user", "assistant"]
    assert suite.samples[0].question == "The rotor is red."
    with pytest.raises(DataError, match="no prompt stands before"):
        suite_of(tmp_path, rows, scorer="perplexity", system="Be brief.")
    with pytest.raises(DataError, match="`text` is for `scorer: perplexity`"):
        suite_of(tmp_path, rows[:1], scorer="stop")
    with pytest.raises(DataError, match="give one of"):
        suite_of(tmp_path, [{"text": "x", "question": "y"}], scorer="perplexity")
