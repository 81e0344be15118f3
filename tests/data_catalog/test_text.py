from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.text import (
    Phrases,
    answer_words,
    contains_words,
    fold_space,
    ngrams,
    normalise_answer,
    token_f1,
    words,
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The red pump.", "red pump"),
        ("５ ｋｇ", "5 kg"),
        ("1,200 litres", "1200 litres"),
        ("Ada’s oil", "Adas oil"),
        ("50%", "50 %"),
        ("\u22125 °C", "-5 °C"),
        ("每分钟三次。", "每 分钟 三次"),
        ("STRASSE", "straße"),
    ],
)
def test_wordings_of_the_same_answer_are_equal(one: str, other: str) -> None:
    assert normalise_answer(one) == normalise_answer(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3.5", "35"),
        ("-5", "5"),
        ("1,5", "15"),
        ("50", "50 %"),
        ("10 $", "10"),
        ("三次", "二次"),
        ("कि", "की"),
        ("A", ""),
    ],
)
def test_different_answers_stay_different(one: str, other: str) -> None:
    assert normalise_answer(one) != normalise_answer(other)


def test_every_chinese_character_is_a_word_and_every_number_is_one() -> None:
    assert words("泵A3每小时输送1,200.5升") == ["泵", "a3", "每", "小", "时", "输", "送", "1200.5", "升"]


def test_an_article_alone_is_kept() -> None:
    assert answer_words("A") == ["a"]
    assert answer_words("an oil pump") == ["oil", "pump"]


def test_token_f1_is_the_squad_measure() -> None:
    assert token_f1("red oil pump", "oil pump") == pytest.approx(2 * (2 / 3) * 1 / (2 / 3 + 1))
    assert token_f1("", "") == 1.0
    assert token_f1("pump", "?!") == 0.0


def test_containment_is_by_whole_words() -> None:
    assert contains_words(words("about 12 kg"), words("12 KG"))
    assert not contains_words(words("about 112 kg"), words("12 kg"))
    assert not contains_words(words("anything"), [])


def test_ngrams_of_a_short_text_are_none() -> None:
    assert ngrams(["a", "b", "c"], 2) == {("a", "b"), ("b", "c")}
    assert ngrams(["a"], 2) == set()
    assert ngrams(["a"], 0) == set()


def test_fold_space_touches_nothing_but_white_space() -> None:
    assert fold_space("  The\n\tOil,  １.5 ") == "The Oil, １.5"


@given(st.text())
def test_normalising_is_idempotent_and_agrees_with_itself(text: str) -> None:
    once = normalise_answer(text)
    assert normalise_answer(once).split() == answer_words(once)
    assert token_f1(text, text) == 1.0


@given(st.text(), st.text())
def test_token_f1_is_symmetric_and_bounded(one: str, other: str) -> None:
    score = token_f1(one, other)
    assert 0.0 <= score <= 1.0
    assert score == token_f1(other, one)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Tell me, how heavy is the Veltrano 40 today?", "how heavy is the veltrano 40"),
        ("How heavy is the Veltrano?", None),
        ("It is 重 what", "重"),
        ("who", "who"),
        ("whoever it was", None),
        ("", None),
    ],
)
def test_phrases_are_found_whole_and_nowhere_else(text: str, found: str | None) -> None:
    phrases = Phrases(map(words, ["How heavy is the Veltrano 40?", "How heavy is the Brixal 40?", "Who?", "重", ""]))
    inside = phrases.inside(words(text))
    assert (" ".join(inside) if inside else None) == found


def test_words_may_be_changed_by_who_asked_for_them() -> None:
    words("a b").append("c")
    assert words("a b") == ["a", "b"]
