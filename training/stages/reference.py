"""What the stages share that hold the model to a reference: the model that the stage starts from.

Its log-probabilities are computed once, before training.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import numpy as np
import torch

from training.guards import check_step0
from training.methods import method_for
from training.models import ModelSource
from training.specs import StageSpec
from training.stages.base import GuardedTrainer, answer_logps

TrainerT = TypeVar("TrainerT", bound="ReferenceTrainer")


class ReferenceTrainer(GuardedTrainer):
    """A TRL trainer on rows that are tokenised already, with the reference cached in the collator.

    The collator has `rows`, and `reference`: (rows, 2) log-probabilities, which it adds to its batches.
    """

    step0_expected: float
    """What `step0_loss` is where the model still is its own reference."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        # TRL's reference is an adapter switched off, or a copy of it. Off, PiSSA and OLoRA show what is left of the
        # base; of a trained IA3 TRL copies nothing. `cache_reference` asks the model itself before its first step.
        return dataset

    @abstractmethod
    def reference_logps(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the two log-probabilities of each row of a batch that the stage compares with, shape (rows, 2)."""

    @abstractmethod
    def step0_loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return a loss by TRL's own code that tells every row's distance from its reference."""

    @torch.no_grad()
    def cache_reference(self, as_reference: AbstractContextManager[None]) -> None:
        """Compute the reference log-probabilities of all rows, in batches of like length.

        Called before the first step. While `as_reference` is open, the model is the one that the stage starts from.
        """
        collator, batch_size = self.data_collator, self.args.per_device_train_batch_size
        by_length = sorted(range(len(collator.rows)), key=lambda index: len(collator.rows[index]))
        reference = np.zeros((len(by_length), 2), dtype=np.float32)
        self.model.eval()
        with as_reference, self.accelerator.autocast():
            for start in range(0, len(by_length), batch_size):
                indices = by_length[start : start + batch_size]
                batch = self._prepare_inputs(collator([{"row": index} for index in indices]))
                reference[indices] = self.reference_logps(batch).float().cpu().numpy()
        self.model.train()
        collator.reference = reference

    def answer_logps(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, completion_mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the log-probability of each line's whole answer, shape (lines,)."""
        return answer_logps(self.model, input_ids, attention_mask, completion_mask)

    def check_step0(self, dtype: torch.dtype, *, is_reference: bool) -> str:
        """Return the loss of a first batch, which is known where the model still is its own reference.

        Raises TrainingError where it is another. A fresh soft prompt moves the model before it is trained, so there the
        loss is only told.

        TRL's own loss is asked, on the model as it will be trained, so the reference, the adapter and the masks are
        what they will be.
        """
        indices = range(min(self.args.per_device_train_batch_size, len(self.data_collator.rows)))
        batch = self._prepare_inputs(self.data_collator([{"row": index} for index in indices]))
        try:
            with torch.no_grad(), self.accelerator.autocast():
                loss = float(self.step0_loss(batch))
        finally:
            self.forget()
        if not is_reference:
            return f"{loss:.6f}, with a fresh prompt before the model"
        return check_step0(loss, self.step0_expected, dtype)


def build(make: Callable[[], TrainerT], spec: StageSpec, source: ModelSource) -> TrainerT:
    """Make a trainer without TRL's copy of the adapter, and compute the reference from the model itself."""
    with warnings.catch_warnings():
        # TRL's copy of the adapter is called "ref", which PEFT finds in "prefix_tuning_". It does not stay.
        warnings.filterwarnings("ignore", "Adapter name 'ref'", UserWarning)
        trainer = make()
    if "ref" in getattr(trainer.model, "peft_config", {}):
        # Cached log-probabilities take its place.
        trainer.model.delete_adapter("ref")
    trainer.settle(spec)
    trainer.cache_reference(method_for(spec).reference(trainer.model, source))
    return trainer
