"""What a sweep may vary: how ranges and choices are read, what is refused, and what is drawn."""

from __future__ import annotations

import math
import random

import pytest

from data_catalog.errors import ConfigError
from flows.sweeping.space import names_of, parse_parameter, with_values
from training.method_specs import LoraSpec
from training.specs import DpoSpec, SftSpec

SFT = SftSpec(method=LoraSpec(rank=16))


def test_a_rate_is_drawn_evenly_in_its_logarithm() -> None:
    rate = parse_parameter("learning_rate=1e-5..1e-3", SFT)
    assert rate.log
    source = random.Random(1)
    drawn = [rate.draw(source) for _ in range(400)]
    assert all(isinstance(value, float) and 1e-5 <= value <= 1e-3 for value in drawn)
    below = sum(value < 1e-4 for value in drawn if isinstance(value, float)) / len(drawn)
    assert math.isclose(below, 0.5, abs_tol=0.08)


@pytest.mark.parametrize(
    ("text", "log", "whole"),
    [
        ("learning_rate=1e-5..1e-3:linear", False, False),
        ("weight_decay=0..0.1", False, False),
        ("weight_decay=1e-4..0.1:log", True, False),
        ("method.rank=4..64:log", True, True),
        ("batch_size=2..8", False, True),
    ],
)
def test_scale_and_whole_numbers(text: str, log: bool, whole: bool) -> None:
    parameter = parse_parameter(text, SFT)
    assert (parameter.log, parameter.whole) == (log, whole)
    drawn = {parameter.draw(random.Random(seed)) for seed in range(60)}
    assert len(drawn) > 3
    assert all(isinstance(value, int) == whole for value in drawn)
    assert all(parameter.low <= float(str(value)) <= parameter.high for value in drawn)


def test_choices_are_numbers_words_and_nothing() -> None:
    assert parse_parameter("method.rank=8,16, 32", SFT).choices == (8, 16, 32)
    assert parse_parameter("schedule=linear,cosine", SFT).choices == ("linear", "cosine")
    assert parse_parameter("neftune_alpha=null,5", SFT).choices == (None, 5)
    assert parse_parameter("packing=true,false", SFT).choices == (True, False)
    assert parse_parameter("loss=sigmoid,ipo", DpoSpec()).choices == ("sigmoid", "ipo")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("learning_rat=1e-5..1e-3", "did you mean `learning_rate`?"),
        ("r=8,16", "did you mean `method.rank`?"),
        ("method.r=8,16", "did you mean `method.rank`?"),
        ("beta=0.1,0.2", "a stage of kind sft by lora has no `beta`"),
        ("seed=1,2", "the best of several seeds is luck"),
        ("learning_rate=1e-3..1e-5", "learning_rate=1e-05..0.001"),
        ("learning_rate=1e-3..1e-3", "two different ends"),
        ("learning_rate=0..1e-3", "numbers above 0 on a logarithmic scale"),
        ("learning_rate=1e-5..2", "does not take learning_rate=2"),
        ("learning_rate=1e-5..fast", "a range of two numbers"),
        ("learning_rate=1e-5..1e-3:cubic", "a scale of log or linear"),
        ("learning_rate", "learning_rate=1e-5..1e-3"),
        ("learning_rate=", "learning_rate=1e-5..1e-3"),
        ("method.rank=8", "two or more different values"),
        ("method.rank=8,8", "two or more different values"),
        ("method.rank=8,,16", "two or more different values"),
        ("method.rank=8,many", "does not take method.rank=many"),
        ("packing=true,maybe", "does not take packing=maybe"),
    ],
)
def test_what_cannot_be_varied_is_refused_with_what_can(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_parameter(text, SFT)
    assert says in str(refused.value)


def test_every_setting_that_is_offered_can_be_put_in() -> None:
    content = SFT.model_dump(mode="json")
    names = names_of(SFT)
    assert {"learning_rate", "method", "method.rank"} <= set(names)
    for name in names:
        value = content
        for part in name.split("."):
            value = value[part]
        if name != "method":
            assert with_values(SFT, {name: value}) == SFT, name  # type: ignore[dict-item]


def test_a_method_is_replaced_whole_and_keeps_its_settings_where_it_is_the_same() -> None:
    spec = SftSpec(method=LoraSpec(rank=32))
    assert with_values(spec, {"method": "lora"}) == spec
    assert with_values(spec, {"method": "ia3"}).method.name == "ia3"
    changed = with_values(spec, {"method.rank": 8, "method": "qlora"})
    assert (changed.method.name, changed.method.model_dump()["rank"]) == ("qlora", 8)
    with pytest.raises(ConfigError, match=r"does not take method=ia3, method.rank=8"):
        with_values(spec, {"method": "ia3", "method.rank": 8})
