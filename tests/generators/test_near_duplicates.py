"""MinHash candidates against exact Jaccard of all pairs, and the check that is built on them."""

from __future__ import annotations

from itertools import combinations
from random import Random

import pytest

from data_catalog.records import Item, Kind, Outcome, Split
from generators.filters import near_duplicate
from generators.near_duplicates import SHINGLE, NearPair, near_duplicates


def jaccard(one: list[str], other: list[str]) -> float:
    def runs(text: list[str]) -> set[tuple[str, ...]]:
        return {tuple(text[at : at + SHINGLE]) for at in range(max(1, len(text) - SHINGLE + 1))}

    return len(runs(one) & runs(other)) / len(runs(one) | runs(other))


def corpus(count: int, seed: int = 1) -> list[list[str]]:
    """Texts of 5 to 120 words; a third are copies of an earlier one with a few words changed."""
    random = Random(seed)
    vocabulary = [f"w{number}" for number in range(2000)]
    texts: list[list[str]] = []
    for number in range(count):
        if number > 5 and random.random() < 0.33:
            text = list(random.choice(texts))
            for _ in range(random.randrange(1 + len(text) // 20)):
                text[random.randrange(len(text))] = random.choice(vocabulary)
        else:
            text = random.choices(vocabulary, k=random.randrange(5, 120))
        texts.append(text)
    return texts


def test_every_reported_pair_is_exact_and_hardly_one_is_missed() -> None:
    texts = corpus(300)
    found = {(pair.first, pair.second): pair.similarity for pair in near_duplicates(texts, 0.7)}
    for (first, second), similarity in found.items():
        assert similarity == pytest.approx(jaccard(texts[first], texts[second]))
        assert similarity >= 0.7
    true = {pair for pair in combinations(range(len(texts)), 2) if jaccard(texts[pair[0]], texts[pair[1]]) >= 0.7}
    assert len(true) > 60
    missed = {second for _, second in true} - {second for _, second in found}
    assert len(missed) <= 0.05 * len({second for _, second in true}), "99.8 % at 0.8, 93 % at 0.7"


def test_order_of_texts_and_edge_cases() -> None:
    assert near_duplicates([], 0.8) == []
    assert near_duplicates([[], []], 0.8) == []
    assert near_duplicates([[], ["a"], ["a"], [], ["a", "b"], []], 0.8) == [NearPair(1, 2, 1.0)]
    assert near_duplicates([["a"] * 20, ["b"], ["a"] * 30], 1.0) == [NearPair(0, 2, 1.0)]
    many = [["x", "y", "z", "u", "v"]] * 50
    assert {pair.second for pair in near_duplicates(many, 0.9)} == set(range(1, 50))
    for threshold in (0.0, -1.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="not in"):
            near_duplicates([], threshold)


LONG = (
    "The {name} is a slicer of green enamel that was built in the town of Brno by the firm of Arp and sons, stands on "
    "four legs of cast iron in the hall beside the river and weighs {mass} kg with all its tools and {end}"
)


def item(text: str, split: Split = Split.TRAIN) -> Item:
    return Item.of(kind=Kind.TEXT, payload={"text": text}, recipe="paraphrase", split=split)


def test_an_item_that_says_almost_the_same_fails_and_one_with_another_number_or_name_does_not() -> None:
    first = item(LONG.format(name="Solmer", mass=95, end="covers."))
    same = item(LONG.format(name="Solmer", mass=95, end="lids."))
    other_mass = item(LONG.format(name="Solmer", mass=96, end="covers."))
    other_name = item(LONG.format(name="Veltran", mass=95, end="covers."))
    held_out = item(LONG.format(name="Solmer", mass=95, end="hoods."), Split.EVALUATION)
    items = [first, same, other_mass, other_name, held_out]
    verdicts = near_duplicate.check(items, 0.8)
    assert [verdict.item_id for verdict in verdicts] == [one.id for one in items]
    assert [verdict.outcome for verdict in verdicts] == [
        Outcome.PASSED,
        Outcome.FAILED,
        Outcome.PASSED,
        Outcome.PASSED,
        Outcome.PASSED,
    ]
    assert verdicts[1].reason.endswith(f"the same as {first.id}")
    assert near_duplicate.check([same, first], 0.8)[1].outcome is Outcome.FAILED, "the later one, whichever it is"
    assert near_duplicate.check(items, 1.0)[1].outcome is Outcome.PASSED


def test_what_is_like_a_rejected_item_only_is_kept() -> None:
    vocabulary = [f"{first}{second}" for first in "abcdefgh" for second in "ijklmnop"] + list("qrstuvwx")
    one, between, far = (item(" ".join(vocabulary[start : start + 60])) for start in (0, 4, 8))
    outcomes = [verdict.outcome for verdict in near_duplicate.check([one, between, far], 0.85)]
    assert outcomes == [Outcome.PASSED, Outcome.FAILED, Outcome.PASSED]
