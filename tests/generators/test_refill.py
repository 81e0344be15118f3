"""Which subjects are asked again, how often, and when it ends."""

from __future__ import annotations

from functools import partial

import pytest
from pydantic import ValidationError

from data_catalog.records import Item, Kind, Request, Split
from generators.recipes import build_requests
from generators.recipes.answers import ParseFailure
from generators.recipes.grounded_qa import GroundedQA
from generators.refill import Supply
from generators.specs import RecipeSpec
from tests.generators.helpers import completed, count_words, cut, handbook

DOCUMENT = handbook()
CHUNKS = cut(DOCUMENT)


def requests_for(spec: RecipeSpec, supply: Supply) -> list[Request]:
    return build_requests(
        spec,
        [DOCUMENT],
        CHUNKS,
        teacher_fingerprint="t",
        count_tokens=count_words,
        context_tokens=500,
        samples_of=partial(supply.wanted, 0),
    )


def accepted_item(request: Request) -> Item:
    return Item.of(
        kind=Kind.MESSAGES, payload={"messages": []}, recipe="x", split=Split.TRAIN, request_keys=(request.key,)
    )


def test_only_what_lacks_is_asked_again_until_it_has_enough_or_reaches_the_most() -> None:
    spec = RecipeSpec(recipe="grounded_qa", samples=1, target=2, max_samples=4, temperature=0.7)
    supply = Supply([spec])
    first = requests_for(spec, supply)
    subjects = list(dict.fromkeys(request.origin["subject"] for request in first))
    templates = len({request.template for request in first})
    assert len(subjects) > 2
    assert len(first) == len(subjects) * templates
    done, declined, poor = subjects[0], subjects[1], subjects[2:]
    accepted = [accepted_item(request) for request in first if request.origin["subject"] == done]
    assert len(accepted) >= 2, "the product's own templates are several"
    refused = {request.key for request in first if request.origin["subject"] == declined}
    rounds = []
    asked = first
    while grown := supply.grow({0: asked}, accepted, refused):
        rounds.append(grown)
        fresh = requests_for(spec, supply)
        assert {request.origin["subject"] for request in fresh} == set(poor), "and nobody else"
        asked = [*asked, *fresh]
    assert rounds == [{0: len(poor)}] * 3
    count = {subject: sum(one.origin["subject"] == subject for one in asked) for subject in subjects}
    assert count == {done: templates, declined: templates, **dict.fromkeys(poor, 4 * templates)}
    assert len({request.key for request in asked}) == len(asked)


def test_without_a_target_everything_is_asked_once() -> None:
    spec = RecipeSpec(recipe="grounded_qa", samples=2)
    supply = Supply([spec])
    assert supply.grow({0: requests_for(spec, supply)}, [], set()) == {}


def test_the_last_round_takes_no_more_than_the_most() -> None:
    spec = RecipeSpec(recipe="grounded_qa", samples=3, target=1, max_samples=4, temperature=1)
    supply = Supply([spec])
    assert supply.grow({0: requests_for(spec, supply)}, [], set())
    assert {request.sample_index for request in requests_for(spec, supply)} == {3}


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"target": 1, "samples": 5, "max_samples": 3}, "max_samples 3 is less than samples 5"),
        ({"target": 1, "temperature": 0}, "temperature must be above 0"),
    ],
)
def test_a_target_that_can_never_be_reached_is_refused(settings: dict[str, int], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        RecipeSpec.model_validate({"recipe": "grounded_qa", **settings})


def test_the_same_word_in_every_place_declines() -> None:
    request = requests_for(spec := RecipeSpec(recipe="grounded_qa"), Supply([spec]))[0]
    none = completed(request, '{"evidence": "none", "question": "None", "answer": "none."}')
    assert GroundedQA().parse(request, none) == ParseFailure("the teacher finds nothing to ask", declined=True)
    some = completed(request, '{"evidence": "It weighs 312 kg", "question": "none", "answer": "none"}')
    assert isinstance(GroundedQA().parse(request, some), Item)


def test_what_was_failed_is_asked_again_whatever_it_has_and_nothing_else() -> None:
    spec = RecipeSpec(recipe="grounded_qa", samples=2, target=1, max_samples=2, temperature=0.7)
    supply = Supply([spec])
    first = requests_for(spec, supply)
    wanted = first[0].origin["chunk_id"]
    subjects = {request.origin["subject"] for request in first if request.origin["chunk_id"] == wanted}
    assert 0 < len(subjects) < len({request.origin["subject"] for request in first})
    for taken in (2, 4):
        assert supply.demand({0: first}, lambda request: request.origin["chunk_id"] == wanted) == {0: len(subjects)}
        fresh = requests_for(spec, supply)
        assert {request.origin["subject"] for request in fresh} == subjects
        assert {request.sample_index for request in fresh} == {taken, taken + 1}
        assert not {request.key for request in fresh} & {request.key for request in first}
    assert supply.demand({0: first}, lambda request: False) == {}
    assert requests_for(spec, supply) == []


def test_a_greedy_recipe_is_not_asked_again() -> None:
    spec = RecipeSpec(recipe="grounded_qa", temperature=0)
    supply = Supply([spec])
    assert supply.demand({0: requests_for(spec, supply)}, lambda request: True) == {}
