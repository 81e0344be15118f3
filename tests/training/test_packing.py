"""Packing changes where rows stand, never what they see or what the loss is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from training.packing import NO_LOSS, EpochOrder, RowCollator, TokenRow, best_fit_decreasing, choose_bins, lay_out

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=60)


def rows_of(lengths: list[int], vocabulary: int = 50, seed: int = 0) -> list[TokenRow]:
    generator = np.random.default_rng(seed)
    rows = []
    for number, length in enumerate(lengths):
        ids = generator.integers(5, vocabulary, length)
        labels = np.where(generator.random(length) < 0.5, ids, NO_LOSS)
        labels[-1] = ids[-1]
        rows.append(TokenRow(f"row-{number}", ids, labels))
    return rows


@given(LENGTHS)
def test_every_row_is_in_exactly_one_bin_that_holds_it(lengths: list[int]) -> None:
    bins = best_fit_decreasing(lengths, 64)
    assert sorted(index for line in bins for index in line) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in line) <= 64 for line in bins)


@given(LENGTHS)
def test_best_fit_wastes_less_than_half(lengths: list[int]) -> None:
    # Two bins that are both at most half full would have been one.
    half_full = [line for line in best_fit_decreasing(lengths, 64) if sum(lengths[i] for i in line) <= 32]
    assert len(half_full) <= 1


def test_a_row_longer_than_a_pack_is_refused() -> None:
    with pytest.raises(ValueError, match="a row of 9 tokens does not fit a pack of 8"):
        best_fit_decreasing([3, 9], 8)


def test_packing_is_tighter_than_padding_on_uneven_rows() -> None:
    lengths = [60, 5, 7, 20, 31, 12, 9, 44]
    bins = choose_bins(lengths, hidden_size=192, limit=256)
    area = len(bins) * max(sum(lengths[index] for index in line) for line in bins)
    assert area < len(lengths) * max(lengths)
    assert sum(lengths) <= area


@given(LENGTHS)
def test_layout_keeps_tokens_targets_and_positions(lengths: list[int]) -> None:
    rows = rows_of(lengths)
    bins = best_fit_decreasing(lengths, 64)
    batch = lay_out(rows, bins, pad_token=0)
    for number, line in enumerate(bins):
        start = 0
        for index in line:
            row, end = rows[index], start + lengths[index]
            assert batch["input_ids"][number, start:end].tolist() == row.input_ids.tolist()
            assert batch["position_ids"][number, start:end].tolist() == list(range(lengths[index]))
            # The first token of a row would be predicted from the row before it.
            assert batch["labels"][number, start] == NO_LOSS
            assert batch["labels"][number, start + 1 : end].tolist() == row.labels[1:].tolist()
            start = end
        assert (batch["labels"][number, start:] == NO_LOSS).all()


@pytest.fixture(scope="module")
def model(base: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(base, attn_implementation="sdpa").eval()


def test_packed_rows_do_not_see_one_another(model: torch.nn.Module) -> None:
    """Each row's logits in a pack are those of the row alone: the mask is block-diagonal, positions start at 0."""
    rows = rows_of([9, 30, 4, 17, 1, 25])
    bins = [[0, 2, 3], [1], [4, 5]]
    batch = lay_out(rows, bins, pad_token=0)
    with torch.no_grad():
        packed = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
        for number, line in enumerate(bins):
            start = 0
            for index in line:
                alone = model(input_ids=torch.from_numpy(rows[index].input_ids)[None]).logits[0]
                end = start + len(rows[index])
                torch.testing.assert_close(packed[number, start:end], alone, rtol=1e-5, atol=1e-5)
                start = end


@pytest.mark.parametrize("wrong", ["positions run on", "a cache is kept"])
def test_what_would_make_rows_see_one_another(model: torch.nn.Module, wrong: str) -> None:
    """The test above can fail. With a cache transformers builds no block-diagonal mask; TRL's trainers keep none."""
    rows = rows_of([9, 30])
    batch = lay_out(rows, [[0, 1]], pad_token=0)
    options = {"position_ids": batch["position_ids"], "use_cache": True} if "cache" in wrong else {"use_cache": False}
    with torch.no_grad():
        seen = model(input_ids=batch["input_ids"], **options).logits[0, 9:]
        alone = model(input_ids=torch.from_numpy(rows[1].input_ids)[None]).logits[0]
    assert (seen - alone).abs().max() > 1e-2


def test_loss_and_gradients_are_those_of_unpacked_rows(model: torch.nn.Module) -> None:
    rows = rows_of([12, 40, 7, 23, 31, 5])
    examples = [{"row": index} for index in range(len(rows))]
    results = []
    for packing in (True, False):
        batch = RowCollator(rows, 0, 64, 128, packing)(examples)
        model.zero_grad()
        logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
        loss.backward()
        gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        results.append((loss.detach(), gradients, batch["input_ids"].numel()))
    (packed_loss, packed_gradients, packed_area), (loss, gradients, area) = results
    torch.testing.assert_close(packed_loss, loss)
    torch.testing.assert_close(packed_gradients, gradients, rtol=1e-4, atol=1e-6)
    assert packed_area < area


@given(st.integers(1, 70), st.integers(0, 8), st.integers(0, 5))
def test_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch_alone(count: int, batch: int, epoch: int) -> None:
    lengths = [(number * 37) % 50 + 1 for number in range(count)]
    order, again = (EpochOrder(lengths, seed=3, group_by=batch) for _ in range(2))
    order.set_epoch(epoch)
    again.set_epoch(epoch + 1)
    list(again)
    again.set_epoch(epoch)
    assert sorted(order) == list(range(count))
    assert list(order) == list(again)


def test_length_grouping_makes_batches_of_like_length() -> None:
    lengths = np.random.default_rng(0).integers(5, 200, 640).tolist()
    spread = []
    for group_by in (0, 8):
        order = list(EpochOrder(lengths, seed=1, group_by=group_by))
        batches = [[lengths[i] for i in order[start : start + 8]] for start in range(0, 640, 8)]
        spread.append(sum(max(batch) * 8 - sum(batch) for batch in batches))
    assert spread[1] < spread[0] / 4


@pytest.mark.parametrize("group_by", [0, 4])
def test_each_epoch_has_all_own_rows_and_its_share_of_the_others(group_by: int) -> None:
    order = EpochOrder([5] * 22, seed=1, group_by=group_by, own=10, epochs=2.5)
    seen = []
    for epoch in range(3):
        order.set_epoch(epoch)
        rows = sorted(order)
        assert len(rows) == len(order) == 14
        assert rows[:10] == list(range(10))
        seen += rows[10:]
    assert seen == list(range(10, 22))


def test_epochs_differ() -> None:
    order = EpochOrder([1] * 50, seed=1)
    first = list(order)
    order.set_epoch(1)
    assert list(order) != first
