"""Classification of held-out texts from likelihoods that are made up: accuracies, calibration and templates by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.labelled import LabelTask
from data_catalog.records import Completion, Likelihood, Request
from evaluation.classifying import LabelledText, classify, lines_of, requests

TASK = LabelTask.model_validate({"labels": {"fault": ["fault", "a defect"], "wear": ["wear"]}, "content_free": ["N/A"]})
TWO = TASK.model_copy(update={"templates": ("{text}? {label}", "Say: {text} {label}")})
TEXTS = [LabelledText("it leaks", "fault"), LabelledText("it is thin", "wear"), LabelledText("it hums", "fault")]
Chance = Callable[[str, str], float]
"""From prompt and word to the word's probability per token."""


def answered(asked: list[Request], chance: Chance) -> dict[str, Completion]:
    found = {}
    for request in asked:
        prompt, word = (turn.content for turn in request.messages)
        tokens = len(word.split())
        log = math.log(chance(prompt, word)) * (tokens + 1)
        likelihood = Likelihood(logprob=log - 0.25, tokens=tokens, end_logprob=0.25)
        found[request.key] = Completion(
            request_key=request.key, text=likelihood.model_dump_json(), finish_reason="stop"
        )
    return found


def test_each_word_is_asked_once_in_each_template() -> None:
    asked = requests(TWO, [*TEXTS, LabelledText("N/A", "wear")], "m")
    assert len(asked) == 2 * 4 * 3
    assert len({request.key for request in asked}) == len(asked)
    assert all(request.of_likelihood and request.model == "m" for request in asked)
    assert [turn.content for turn in asked[-1].messages] == ["Say: it hums", "wear"]


def test_accuracies_by_hand() -> None:
    """Of words of different length the scores are per token; of several words, the mean counts."""

    def chance(prompt: str, word: str) -> float:
        if "leaks" in prompt:
            return {"fault": 0.5, "a defect": 0.2, "wear": 0.3}[word]  # (0.5 + 0.2) / 2 > 0.3
        if "thin" in prompt:
            return {"fault": 0.4, "a defect": 0.2, "wear": 0.31}[word]
        return {"fault": 0.1, "a defect": 0.2, "wear": 0.31}[word]

    found = classify(TASK, TEXTS, "m", answered(requests(TASK, TEXTS, "m"), chance))
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.majority == pytest.approx(2 / 3)
    assert (found.texts, found.unscored) == (3, 0)


def biased(prompt: str, word: str) -> float:
    """Three times as likely to say `wear`, whatever it reads."""
    if "N/A" in prompt:
        return {"fault": 0.2, "a defect": 0.2, "wear": 0.6}[word]
    towards = {"leaks": "fault", "thin": "wear", "hums": "fault"}[prompt.split()[-1].rstrip("?")]
    of_text = 0.7 if towards == "wear" else 0.3
    return 0.6 * of_text if word == "wear" else 0.2 * (1 - of_text)


def test_calibration_takes_out_what_a_text_that_says_nothing_gets() -> None:
    found = classify(TWO, TEXTS, "m", answered(requests(TWO, TEXTS, "m"), biased))
    assert found.accuracy == pytest.approx(1 / 3)
    assert found.calibrated == found.best == 1.0
    assert (found.corrected, found.spoilt) == (2, 0)
    assert found.bias == pytest.approx({"fault": 0.25, "wear": 0.75})
    assert [one.accuracy for one in found.templates] == pytest.approx([1 / 3, 1 / 3])
    assert [one.calibrated for one in found.templates] == [1.0, 1.0]
    assert found.recall == {"fault": 1.0, "wear": 1.0}
    assert found.interval is not None
    assert found.interval[0] < 1.0 == found.interval[1]
    lines = list(lines_of(found))
    assert lines[0] == "'{text}? {label}': 33.3 %, calibrated 100.0 %"
    assert lines[-1] == "for a text that says nothing: fault 25 %, wear 75 %; calibration corrects 2, spoils 0"
    bare = TWO.model_copy(update={"content_free": ()})
    plain = classify(bare, TEXTS, "m", answered(requests(bare, TEXTS, "m"), biased))
    assert (plain.calibrated, plain.bias, plain.best) == (None, {}, found.accuracy)
    assert list(lines_of(plain)) == ["'{text}? {label}': 33.3 %", "'Say: {text} {label}': 33.3 %"]


def test_templates_are_averaged_and_their_spread_is_told() -> None:
    """One template is sure and right, the other is unsure and wrong: together they are right."""

    def chance(prompt: str, word: str) -> float:
        right = "wear" if "thin" in prompt else "fault"
        share = 0.4 if prompt.startswith("Say") else 0.9
        share = share if (word == "wear") == (right == "wear") else 1 - share
        return 0.5 if "N/A" in prompt else share

    found = classify(TWO, TEXTS, "m", answered(requests(TWO, TEXTS, "m"), chance))
    assert [one.accuracy for one in found.templates] == [1.0, 0.0]
    assert found.spread == (0.0, 1.0)
    assert found.accuracy == found.calibrated == 1.0


def test_a_text_that_is_not_answered_in_every_template_is_unscored() -> None:
    asked = requests(TWO, TEXTS, "m")
    answers = answered(asked, biased)
    missing = next(request for request in asked if request.messages[0].content == "Say: it hums")
    del answers[missing.key]
    found = classify(TWO, TEXTS, "m", answers)
    assert (found.texts, found.unscored) == (3, 1)
    assert found.accuracy == 0.5
    assert "1 of 3 texts are unscored: with a template they are too long for the model" in list(lines_of(found))
    none = classify(TWO, TEXTS, "m", {})
    assert (none.unscored, none.accuracy, none.best, none.spread) == (3, None, None, None)


def test_a_tie_is_broken_by_lot() -> None:
    found = classify(TASK, TEXTS, "m", answered(requests(TASK, TEXTS, "m"), lambda prompt, word: 0.5))
    assert found.accuracy == found.calibrated == 0.5


@given(st.lists(st.floats(1e-6, 1), min_size=3, max_size=3), st.floats(1e-3, 1))
def test_a_factor_on_all_words_changes_nothing(chances: list[float], factor: float) -> None:
    """Only how the labels compare counts."""
    of_word = dict(zip(TASK.words, chances, strict=True))
    asked = requests(TASK, TEXTS, "m")
    one = classify(TASK, TEXTS, "m", answered(asked, lambda prompt, word: of_word[word]))
    other = classify(TASK, TEXTS, "m", answered(asked, lambda prompt, word: of_word[word] * factor))
    assert one.bias == pytest.approx(other.bias)
