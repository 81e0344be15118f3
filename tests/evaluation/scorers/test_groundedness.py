"""Groundedness: what stands in the source, what is invented, and what can't be judged."""

from __future__ import annotations

import pytest

from data_catalog.records import Outcome
from evaluation.scorers.groundedness import Groundedness
from tests.evaluation.scored import parts, sample, scored

SOURCE = "The Veltrano 40 was designed by Ilsa Marn. It weighs 1,200 kg and stands in Oslo."


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("It weighs 1200 kg.", 1),
        # One number of one is invented; of the runs "it weighs 900" and "weighs 900 kg" none stands there.
        ("It weighs 900 kg.", 0),
        ("It stands in Oslo", 2 / 3),
        ("Bergen", 0),
    ],
)
def test_english(text: str, value: float) -> None:
    found = scored(Groundedness(), text, source=SOURCE)
    assert found == pytest.approx(value)


def test_an_invented_name_costs_more_than_its_words() -> None:
    """Runs: `designed by ilsa` stands there, `by ilsa berg` does not; names: Ilsa stands there, Berg does not."""
    assert scored(Groundedness(), "designed by Ilsa Berg", source=SOURCE) == pytest.approx(2 / 4)


def test_chinese() -> None:
    source = "水泵用十二颗螺栓固定在机架左侧，重１２０公斤。"
    assert scored(Groundedness(), "固定在机架左侧", source=source) == 1
    assert scored(Groundedness(), "重120公斤", source=source) == 1
    assert scored(Groundedness(), "重130公斤", source=source) == 0


def test_the_parameters_have_their_effect() -> None:
    shuffled = "kg 1200 weighs"
    assert scored(Groundedness(), shuffled, source=SOURCE) == pytest.approx(1 / 2)
    assert scored(Groundedness(ngram=1), shuffled, source=SOURCE) == 1
    assert scored(Groundedness(source="passage"), "It weighs 1200 kg", passage=SOURCE) == 1


def test_an_answer_without_words_is_unscored_and_not_zero() -> None:
    assert parts(Groundedness(), "...", source=SOURCE) == (Outcome.UNSCORED, None)


def test_a_sample_without_its_source_is_refused() -> None:
    assert "field `source`" in Groundedness().refusal(sample(text="x"))
    assert Groundedness().refusal(sample(source="  ")) != ""
