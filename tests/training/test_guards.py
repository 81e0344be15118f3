"""Each guard, and the input that makes it fire."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.errors import TrainingError
from tests.training.tiny import build_tokenizer
from training import guards


def test_pad_token_must_not_be_the_end_token() -> None:
    tokenizer = build_tokenizer()
    assert "'<|pad|>'" in guards.check_pad_token(tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    with pytest.raises(TrainingError, match="padding token"):
        guards.check_pad_token(tokenizer)


def test_nan_loss_names_the_rows() -> None:
    guards.check_finite_loss(torch.tensor(1.5), 3, ["a"])
    with pytest.raises(TrainingError, match="nan at step 3, on the rows a, b"):
        guards.check_finite_loss(torch.tensor(math.nan), 3, ["a", "b"])
    with pytest.raises(TrainingError, match="and 4 more"):
        guards.check_finite_loss(torch.tensor(math.inf), 1, [f"r{n}" for n in range(20)])


def test_dpo_starts_at_ln_2() -> None:
    assert "0.6931" in guards.check_step0(math.log(2) + 1e-5, math.log(2), torch.float32)
    for loss in (0.686, 0.771, math.nan):  # a PiSSA base, a reloaded base
        with pytest.raises(TrainingError, match="the reference is not the model that is trained"):
            guards.check_step0(loss, math.log(2), torch.float32)


@given(st.lists(st.floats(-50, 0), min_size=1, max_size=8), st.floats(0.01, 1))
def test_dpo_loss_is_ln_2_where_policy_is_reference(logps: list[float], beta: float) -> None:
    chosen = torch.tensor(logps, dtype=torch.float64)
    loss = guards.preference_loss(chosen, chosen - 1, chosen, chosen - 1, beta)
    assert float(loss) == pytest.approx(math.log(2))


def test_dpo_loss_falls_as_the_chosen_answer_gets_likelier() -> None:
    zero = torch.zeros(1)
    losses = [float(guards.preference_loss(zero + step, zero, zero, zero, 0.5)) for step in range(3)]
    assert losses == sorted(losses, reverse=True)
    assert losses[2] == pytest.approx(math.log(1 + math.exp(-1.0)))


def test_an_adapter_must_change_something() -> None:
    assert "0.5" in guards.check_adapter_active(0.5)
    for nothing in (0.0, math.nan):
        with pytest.raises(TrainingError, match="does not change"):
            guards.check_adapter_active(nothing)


def test_parity_is_relative_to_the_largest_logit() -> None:
    guards.check_parity("merging", 9e-4, 10.0, 1e-4)
    for difference in (2e-3, math.nan):
        with pytest.raises(TrainingError, match="merging: logits differ"):
            guards.check_parity("merging", difference, 10.0, 1e-4)


def test_end_and_start_and_prefix() -> None:
    guards.check_end_supervised("a", [5, 3], {3})
    for targets in ([5], []):
        with pytest.raises(TrainingError, match="does not end a turn"):
            guards.check_end_supervised("a", targets, {3})
    guards.check_single_start("a", [1, 2], 1)
    with pytest.raises(TrainingError, match="two beginning-of-sequence"):
        guards.check_single_start("a", [1, 1, 2], 1)
    guards.check_prompt_is_prefix("a", [1, 2], [1, 2, 3])
    for whole in ([1, 3, 3], [1]):
        with pytest.raises(TrainingError, match="from token 1 of 2"):
            guards.check_prompt_is_prefix("a", [1, 2], whole)


def test_guards_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        guards.check_end_supervised("a", [5], {3})
    assert caught.value.valid
    assert caught.value.next_step
