"""What the stages share that train on preference pairs: from rows to pairs, and how a batch of pairs is laid out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from data_catalog.errors import TrainingError
from training.ledger import LedgerBook
from training.models import ModelSource
from training.packing import EpochOrder
from training.rows import Encoder, PairRow, RawRow
from training.specs import StageSpec
from training.stages.base import Collator, Material, Stage, probe_of


class PairStage(Stage):
    """A stage on `{"prompt", "chosen", "rejected"}` rows."""

    needs_chat_template = True

    def encode(
        self,
        spec: StageSpec,
        source: ModelSource,
        rows: Sequence[RawRow],
        replay: Sequence[RawRow],
        replay_share: float,
    ) -> Material:
        """Encode the pairs; no replay can be mixed in."""
        if replay_share:
            raise TrainingError(
                f"a {self.name} stage can't mix in replay rows: they are not preference pairs",
                valid="replay_share: 0",
                next_step="keep other skills with the likelihood of chosen answers (dpo: `loss: {sigmoid: 1, sft: 1}`; "
                "simpo: `sft_weight`) or a larger beta",
            )
        book = LedgerBook()
        pairs = Encoder(source, spec.max_length).pairs(rows, book)
        ledger = book.close(
            max_lost_share=spec.max_lost_share,
            replay_rows=0,
            tokens=sum(2 * len(pair.prompt) + len(pair.chosen) + len(pair.rejected) for pair in pairs),
            target_tokens=sum(len(pair.chosen) + len(pair.rejected) for pair in pairs),
        )
        guards = {
            "end_supervised": f"in both answers of all {len(pairs)} pairs",
            "prompt_is_prefix": "in all pairs",
            "single_start": "in all pairs",
            "chosen_is_not_rejected": "in all pairs",
        }
        return Material(pairs, ledger, probe_of([pair.prompt + pair.chosen for pair in pairs]), guards)

    def collator(self, spec: StageSpec, material: Material, source: ModelSource) -> Collator:
        """Return what lays chosen and rejected answers out in one rectangle."""
        return PairCollator(material.rows, source.tokenizer.pad_token_id)

    def order(self, spec: StageSpec, material: Material) -> EpochOrder:
        """Return an order by chance in which pairs of like length are neighbours."""
        return EpochOrder([len(pair) for pair in material.rows], seed=spec.seed, group_by=spec.batch_size)


@dataclass(frozen=True)
class Lines:
    """Prompts with an answer each, padded on the right. Each field has the shape (lines, tokens), int64."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    completion_mask: torch.Tensor
    """1 where a token belongs to the answer."""


def lay_out_answers(lines: Iterable[tuple[list[int], list[int]]], pad_token: int) -> Lines:
    """Lay (prompt, answer) lines out in one rectangle."""
    lines = list(lines)
    shape = (len(lines), max(len(prompt) + len(answer) for prompt, answer in lines))
    input_ids = np.full(shape, pad_token, dtype=np.int64)
    attention_mask = np.zeros(shape, dtype=np.int64)
    completion_mask = np.zeros(shape, dtype=np.int64)
    for number, (prompt, answer) in enumerate(lines):
        end = len(prompt) + len(answer)
        input_ids[number, :end] = prompt + answer
        attention_mask[number, :end] = 1
        completion_mask[number, len(prompt) : end] = 1
    return Lines(torch.from_numpy(input_ids), torch.from_numpy(attention_mask), torch.from_numpy(completion_mask))


@dataclass
class PairCollator:
    """Makes a batch from `[{"row": index}, ...]`: all chosen answers, then all rejected ones, padded on the right.

    Shapes: (2·pairs, tokens). `reference` is filled in once: (rows, 2) log-probabilities of chosen and rejected.
    """

    rows: Sequence[PairRow]
    pad_token: int
    reference: np.ndarray | None = field(default=None)

    def __call__(self, examples: Sequence[dict[str, int]]) -> dict[str, Any]:
        """Return the batch of these pairs, and their indices as `rows`."""
        indices = [example["row"] for example in examples]
        pairs = [self.rows[index] for index in indices]
        chosen = [(pair.prompt, pair.chosen) for pair in pairs]
        rejected = [(pair.prompt, pair.rejected) for pair in pairs]
        batch = {**vars(lay_out_answers(chosen + rejected, self.pad_token)), "rows": torch.tensor(indices)}
        if self.reference is not None:
            chosen_logps, rejected_logps = torch.from_numpy(self.reference[indices]).unbind(dim=1)
            batch |= {"ref_chosen_logps": chosen_logps, "ref_rejected_logps": rejected_logps}
        return batch
