"""What the stages share that need no reference: how TRL's experimental trainers are fed with tokenised pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from training.models import ModelSource
from training.packing import NO_LOSS
from training.rows import PairRow
from training.specs import StageSpec
from training.stages.base import GuardedTrainer, Material, Setting, trainer_arguments
from training.stages.pairs import PairStage, lay_out_answers


@dataclass(frozen=True)
class SidesCollator:
    """Makes a batch from `[{"row": index}, ...]`: chosen and rejected answers apart, as TRL joins them itself.

    Keys: `<side>_input_ids`, `<side>_attention_mask`, `<side>_labels`, each (pairs, tokens of that side).
    """

    rows: Sequence[PairRow]
    pad_token: int

    def __call__(self, examples: Sequence[dict[str, int]]) -> dict[str, torch.Tensor]:
        """Return the batch of these pairs, and their indices as `rows`."""
        indices = [example["row"] for example in examples]
        pairs = [self.rows[index] for index in indices]
        batch = {"rows": torch.tensor(indices)}
        for side in ("chosen", "rejected"):
            lines = lay_out_answers([(pair.prompt, getattr(pair, side)) for pair in pairs], self.pad_token)
            batch[f"{side}_input_ids"] = lines.input_ids
            batch[f"{side}_attention_mask"] = lines.attention_mask
            batch[f"{side}_labels"] = lines.input_ids.masked_fill(lines.completion_mask == 0, NO_LOSS)
        return batch


class ReferenceFreeTrainer(GuardedTrainer):
    """One of TRL's experimental trainers on pairs that are tokenised already."""

    fused_head = False

    @staticmethod
    def tokenize_row(row: dict[str, Any], *args: Any) -> dict[str, Any]:
        """Leave the row as it is."""
        return row

    def concatenated_forward(self, model: Any, batch: dict[str, torch.Tensor]) -> Any:
        """Run both sides as TRL does, without the logits of virtual tokens, which it has no labels for."""

        def behind_the_prompt(input_ids: torch.Tensor, **arguments: Any) -> Any:
            output = model(input_ids, **arguments)
            output.logits = output.logits[:, -input_ids.shape[1] :]
            return output

        return super().concatenated_forward(behind_the_prompt, batch)


class SidesStage(PairStage):
    """A stage whose trainer joins the two sides itself."""

    def collator(self, spec: StageSpec, material: Material, source: ModelSource) -> SidesCollator:
        """Return what lays chosen and rejected answers out apart."""
        return SidesCollator(material.rows, source.tokenizer.pad_token_id)


def arguments_of(spec: StageSpec, setting: Setting) -> dict[str, Any]:
    """Return what these trainers are told; without a `max_length` they warn and take one of their own."""
    return {**trainer_arguments(spec, setting), "max_length": spec.max_length, "disable_dropout": True}
