"""chrF and BLEU through sacrebleu: published values, Chinese, parameters, and the message where it is missing."""

from __future__ import annotations

import sys

import pytest

from data_catalog.errors import MissingDependency
from evaluation.scorers.bleu import Bleu
from evaluation.scorers.chrf import Chrf
from evaluation.scorers.parts import Scorer
from tests.evaluation.scored import scored

LONG = "The pump is fastened with twelve bolts on the left side of the frame."
CHINESE = "水泵用十二颗螺栓固定在机架左侧。"


@pytest.mark.parametrize("scorer", [Bleu(), Chrf(), Chrf(word_order=2)])
def test_equal_texts_score_one_and_unrelated_ones_next_to_nothing(scorer: Scorer) -> None:
    assert scored(scorer, LONG, LONG) == pytest.approx(1)
    assert scored(scorer, CHINESE, CHINESE) == pytest.approx(1)
    low = scored(scorer, "Oxygen", LONG)
    assert low is not None
    assert low < 0.2
    assert scored(scorer, "", LONG) == 0


def test_bleu_by_hand() -> None:
    """Precisions 5/6, 3/5, 2/4 and 1/3, no brevity penalty: their geometric mean."""
    value = (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert scored(Bleu(), "the cat sat on a mat", "the cat sat on the mat") == pytest.approx(value)


def test_chrf_by_hand() -> None:
    """Orders 1 to 3 of `abc` and `abd`: 2/3, 1/2 and 0 shared, on both sides alike; the mean is F."""
    assert scored(Chrf(), "abc", "abd") == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


@pytest.mark.parametrize("scorer", [Bleu(), Chrf()])
def test_the_nearest_of_several_references_counts_and_full_width_forms_are_folded(scorer: Scorer) -> None:
    assert scored(
        scorer, "ＸＲ-２００ is the pump on the left", "unrelated", "XR-200 is the pump on the left"
    ) == pytest.approx(1)


def test_every_parameter_has_its_effect() -> None:
    assert scored(Bleu(lowercase=True), LONG.upper(), LONG) == pytest.approx(1)
    assert scored(Bleu(), LONG.upper(), LONG) < 0.5  # type: ignore[operator]
    assert scored(Chrf(lowercase=True), LONG.upper(), LONG) == pytest.approx(1)
    assert scored(Chrf(), LONG.upper(), LONG) < 0.5  # type: ignore[operator]
    turned = " ".join(reversed(LONG.split()))
    assert scored(Chrf(word_order=2), turned, LONG) != scored(Chrf(), turned, LONG)
    # Unsegmented Chinese is one word to `13a`, so that any difference leaves nothing in common.
    changed = CHINESE.replace("左", "右")
    by_character = scored(Bleu(tokenizer="auto"), changed, CHINESE)
    assert by_character == scored(Bleu(tokenizer="zh"), changed, CHINESE)
    assert by_character > scored(Bleu(tokenizer="13a"), changed, CHINESE)  # type: ignore[operator]


@pytest.mark.parametrize("scorer", [Bleu(), Chrf()])
def test_without_the_package_the_install_command_is_named(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(MissingDependency, match="sacrebleu") as caught:
        scorer.prepare()
    assert "pip install 'tutelage[eval]'" in caught.value.next_step
