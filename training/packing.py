"""How rows of tokens become the rectangles that a model is trained on.

Several rows share one line of a batch ("pack"). Position ids start at 0 with each row; transformers builds a
block-diagonal attention mask from them, so rows don't see one another. It does so only where the model is called
without an attention mask and with `use_cache=False`, as TRL's trainers do. Lengths are in tokens throughout.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Sampler

NO_LOSS = -100
"""The label of a position that carries no loss (torch's `ignore_index`)."""


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One row: `labels[i]` is `input_ids[i]` where that token is a target, `NO_LOSS` elsewhere."""

    id: str
    input_ids: np.ndarray
    labels: np.ndarray
    replay: bool = False

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def targets(self) -> int:
        """How many tokens carry loss. The first token has no predecessor, so it never does."""
        return int((self.labels[1:] != NO_LOSS).sum())


def best_fit_decreasing(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Put lengths into bins of `width`: longest first, each into the fullest bin that has room. O(n log n).

    Returns the indices of each bin. A length above `width` is refused.
    """
    bins: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (free room, bin), sorted
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        if length > width:
            raise ValueError(f"a row of {length} tokens does not fit a pack of {width}")
        place = bisect.bisect_left(rooms, (length, -1))
        if place == len(rooms):
            bins.append([])
            room, target = width, len(bins) - 1
        else:
            room, target = rooms.pop(place)
        bins[target].append(index)
        bisect.insort(rooms, (room - length, target))
    return bins


def choose_bins(lengths: Sequence[int], hidden_size: int, limit: int) -> list[list[int]]:
    """Pack rows into the rectangle that costs least, trying widths from the longest row up to `limit`.

    A layer costs about 24·h² floating-point operations per token for its weights and 4·w·h for attention over a line
    of w tokens, so a rectangle of n lines costs n·w·(1 + w/(6·h)): wide lines waste less padding but pay attention to
    rows they may not see.
    """
    best: tuple[float, list[list[int]]] | None = None
    width = max(lengths)
    while True:
        bins = best_fit_decreasing(lengths, width)
        used = max(sum(lengths[index] for index in row) for row in bins)
        cost = len(bins) * used * (1 + used / (6 * hidden_size))
        if best is None or cost < best[0]:
            best = (cost, bins)
        if width >= limit or len(bins) == 1:
            return best[1]
        width = min(limit, width * 3 // 2 + 1)


def lay_out(rows: Sequence[TokenRow], bins: Sequence[Sequence[int]], pad_token: int) -> dict[str, torch.Tensor]:
    """Return `input_ids`, `labels`, `position_ids`, each of shape (bins, longest bin), int64.

    The padding behind the last row of a line counts as one more row, without targets. Where every line holds a single
    row, positions simply run on: padding at the end can't be seen by what stands before it, and without a mask the
    fast causal kernel is used.
    """
    width = max(sum(len(rows[index]) for index in line) for line in bins)
    shape = (len(bins), width)
    input_ids = np.full(shape, pad_token, dtype=np.int64)
    labels = np.full(shape, NO_LOSS, dtype=np.int64)
    position_ids = np.broadcast_to(np.arange(width), shape).copy()
    packed = any(len(line) > 1 for line in bins)
    for number, line in enumerate(bins):
        start = 0
        for index in line:
            row = rows[index]
            end = start + len(row)
            input_ids[number, start:end] = row.input_ids
            labels[number, start + 1 : end] = row.labels[1:]
            position_ids[number, start:end] = np.arange(len(row))
            start = end
        if packed:
            position_ids[number, start:] = np.arange(width - start)
    return {
        "input_ids": torch.from_numpy(input_ids),
        "labels": torch.from_numpy(labels),
        "position_ids": torch.from_numpy(position_ids),
    }


@dataclass(frozen=True)
class RowCollator:
    """Makes a batch from `[{"row": index}, ...]`; the rows themselves stay in memory once.

    `packing` lays the same rows out in fewer, fuller lines; the loss of the batch is the same either way.
    """

    rows: Sequence[TokenRow]
    pad_token: int
    hidden_size: int
    max_length: int
    packing: bool
    masked: bool = False
    """Say by `attention_mask` what is padding, and leave positions to the model; for batches that are not packed."""

    def __call__(self, examples: Sequence[dict[str, int]]) -> dict[str, torch.Tensor]:
        """Return the batch of these rows, and their indices as `rows`."""
        indices = [example["row"] for example in examples]
        rows = [self.rows[index] for index in indices]
        lengths = [len(row) for row in rows]
        if self.packing:
            bins = choose_bins(lengths, self.hidden_size, max(self.max_length, max(lengths)))
        else:
            bins = [[index] for index in range(len(rows))]
        batch = lay_out(rows, bins, self.pad_token)
        if self.masked:
            del batch["position_ids"]
            width = batch["input_ids"].shape[1]
            batch["attention_mask"] = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
        return {**batch, "rows": torch.tensor(indices)}


class EpochOrder(Sampler[int]):
    """The order of rows in each epoch: a permutation that depends on seed and epoch alone.

    So a resumed run sees the rows that the interrupted one would have seen, whatever random numbers were drawn since.
    With `group_by`, batches of that many rows are made of rows of like length, so that padding wastes little: the
    permutation is cut into groups of 16 batches, each group sorted by length, and its batches shuffled again.

    With `own`, only the first `own` rows are part of every epoch; those behind them are divided equally among the
    `epochs` epochs, in their order.
    """

    _BATCHES_PER_GROUP = 16

    def __init__(
        self, lengths: Sequence[int], *, seed: int, group_by: int = 0, own: int | None = None, epochs: float = 1
    ) -> None:
        self._lengths = np.asarray(lengths)
        self._own = len(lengths) if own is None else own
        self._guests = (len(lengths) - self._own) // math.ceil(epochs)
        self._seed = seed
        self._batch = group_by
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._own + self._guests

    def _rows(self) -> np.ndarray:
        start = self._own + self._guests * self._epoch
        return np.concatenate([np.arange(self._own), np.arange(start, start + self._guests)])

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self._seed, self._epoch])
        order = generator.permutation(self._rows())
        if not self._batch:
            return iter(order.tolist())
        group = self._batch * self._BATCHES_PER_GROUP
        batches: list[list[int]] = []
        for start in range(0, len(order), group):
            part = order[start : start + group]
            part = part[np.argsort(self._lengths[part], kind="stable")]
            here = [part[first : first + self._batch].tolist() for first in range(0, len(part), self._batch)]
            # A short last batch must stay the last one of all, or the batches behind it would be cut differently.
            short = [here.pop()] if len(here[-1]) < self._batch else []
            batches += [here[index] for index in generator.permutation(len(here))] + short
        return iter([index for batch in batches for index in batch])
