"""Direct preference optimisation (arXiv 2305.18290), through TRL's DPOTrainer.

The reference is the model that the stage starts from. Its log-probabilities are computed once, before training.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer

from data_catalog.errors import TrainingError
from training.guards import check_dpo_step0
from training.ledger import LedgerBook
from training.methods import method_for
from training.models import ModelSource
from training.packing import NO_LOSS, EpochOrder
from training.rows import Encoder, PairRow, RawRow
from training.specs import DpoSpec
from training.stages.base import (
    GuardedTrainer,
    Material,
    Setting,
    Stage,
    index_dataset,
    probe_of,
    trainer_arguments,
)


@dataclass
class PairCollator:
    """Makes a batch from `[{"row": index}, ...]`: all chosen answers, then all rejected ones, padded on the right.

    Shapes: (2·pairs, tokens). `reference` is filled in once: (rows, 2) log-probabilities of chosen and rejected.
    """

    rows: Sequence[PairRow]
    pad_token: int
    reference: np.ndarray | None = field(default=None)

    def __call__(self, examples: Sequence[dict[str, int]]) -> dict[str, torch.Tensor]:
        """Return the batch of these pairs, and their indices as `rows`."""
        indices = [example["row"] for example in examples]
        pairs = [self.rows[index] for index in indices]
        lines = [(pair.prompt, pair.chosen) for pair in pairs] + [(pair.prompt, pair.rejected) for pair in pairs]
        shape = (len(lines), max(len(pair) for pair in pairs))
        input_ids = np.full(shape, self.pad_token, dtype=np.int64)
        attention_mask = np.zeros(shape, dtype=np.int64)
        completion_mask = np.zeros(shape, dtype=np.int64)
        for number, (prompt, answer) in enumerate(lines):
            end = len(prompt) + len(answer)
            input_ids[number, :end] = prompt + answer
            attention_mask[number, :end] = 1
            completion_mask[number, len(prompt) : end] = 1
        batch = {
            "input_ids": torch.from_numpy(input_ids),
            "attention_mask": torch.from_numpy(attention_mask),
            "completion_mask": torch.from_numpy(completion_mask),
            "rows": torch.tensor(indices),
        }
        if self.reference is not None:
            chosen, rejected = torch.from_numpy(self.reference[indices]).unbind(dim=1)
            batch |= {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
        return batch


class PreferenceTrainer(GuardedTrainer, DPOTrainer):
    """TRL's DPOTrainer on pairs that are tokenised already, with the reference cached in the collator."""

    loss_types: list[str]
    loss_weights: list[float]

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        # TRL's reference is an adapter switched off, or a copy of it. Off, PiSSA and OLoRA show what is left of the
        # base; of a trained IA3 TRL copies nothing. `cache_reference` asks the model itself before its first step.
        return dataset

    @torch.no_grad()
    def cache_reference(self, as_reference: AbstractContextManager[None]) -> None:
        """Compute the reference log-probabilities of all pairs, in batches of like length.

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
                reference[indices] = self._answer_logps(batch).float().cpu().numpy()
        self.model.train()
        collator.reference = reference

    def _answer_logps(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the log-probabilities of whole answers, shape (pairs, 2): chosen, rejected."""
        labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, NO_LOSS)
        output = self.model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            labels=labels,
            use_cache=False,
            fused_lm_head=True,
        )
        # Virtual tokens stand before the others and carry no loss.
        of_answers = output.log_probs[:, 1 - labels.shape[1] :].sum(dim=1)
        return torch.stack(of_answers.chunk(2), dim=1)

    def check_step0(self, dtype: torch.dtype, *, is_reference: bool) -> str:
        """Return the sigmoid loss of a first batch, which must be ln 2 where the model still is its own reference.

        Raises TrainingError where it is not. A fresh soft prompt moves the model before it is trained, so there the
        loss is only told.

        TRL's own loss is asked, on the model as it will be trained, so the reference, the adapter and the masks are
        what they will be.
        """
        indices = range(min(self.args.per_device_train_batch_size, len(self.data_collator.rows)))
        batch = self._prepare_inputs(self.data_collator([{"row": index} for index in indices]))
        kept = self.loss_types, self.loss_weights
        self.loss_types, self.loss_weights = ["sigmoid"], [1.0]
        try:
            with torch.no_grad(), self.accelerator.autocast():
                loss = float(self.compute_loss(self.model, batch))
        finally:
            self.loss_types, self.loss_weights = kept
            for metrics in self._metrics.values():
                metrics.clear()
            self._total_train_tokens = 0
        return check_dpo_step0(loss, dtype) if is_reference else f"{loss:.6f}, with a fresh prompt before the model"


class Dpo(Stage):
    """Preference pairs in, a model that prefers the chosen answers out."""

    name = "dpo"
    needs_chat_template = True

    def encode(
        self,
        spec: DpoSpec,
        source: ModelSource,
        rows: Sequence[RawRow],
        replay: Sequence[RawRow],
        replay_share: float,
    ) -> Material:
        """Encode `{"prompt", "chosen", "rejected"}` rows; `batch_size` counts pairs."""
        if replay_share:
            raise TrainingError(
                "a dpo stage can't mix in replay rows: they are not preference pairs",
                valid="replay_share: 0",
                next_step="keep other skills with sft_weight (the likelihood of chosen answers) or a larger beta",
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

    def trainer(
        self, spec: DpoSpec, model: Any, material: Material, setting: Setting, callbacks: list[TrainerCallback]
    ) -> PreferenceTrainer:
        """Return the trainer; with `sft_weight` the loss is DPO + weight · negative log-likelihood of the chosen."""
        mixed = spec.sft_weight > 0
        config = DPOConfig(
            **trainer_arguments(spec, setting),
            beta=spec.beta,
            loss_type=["sigmoid", "sft"] if mixed else ["sigmoid"],
            loss_weights=[1.0, spec.sft_weight] if mixed else None,
            precompute_ref_log_probs=True,
            disable_dropout=True,
        )
        with warnings.catch_warnings():
            # TRL's copy of the adapter is called "ref", which PEFT finds in "prefix_tuning_". It does not stay.
            warnings.filterwarnings("ignore", "Adapter name 'ref'", UserWarning)
            trainer = PreferenceTrainer(
                model=model,
                args=config,
                train_dataset=index_dataset(material.rows),
                data_collator=PairCollator(material.rows, setting.source.tokenizer.pad_token_id),
                processing_class=setting.source.tokenizer,
                callbacks=callbacks,
            )
        if "ref" in getattr(trainer.model, "peft_config", {}):
            # Cached log-probabilities take its place.
            trainer.model.delete_adapter("ref")
        trainer.row_ids = [pair.id for pair in material.rows]
        trainer.order = EpochOrder([len(pair) for pair in material.rows], seed=spec.seed, group_by=spec.batch_size)
        trainer.settle(spec)
        trainer.cache_reference(method_for(spec).reference(trainer.model, setting.source))
        return trainer
