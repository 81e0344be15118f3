"""Direct preference optimisation (arXiv 2305.18290) with all losses of TRL's DPOTrainer."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer

from training.specs import DpoSpec
from training.stages.base import Material, Setting, trainer_arguments
from training.stages.pairs import PairStage
from training.stages.reference import ReferenceTrainer, build


class PreferenceTrainer(ReferenceTrainer, DPOTrainer):
    """TRL's DPOTrainer with a cached reference."""

    loss_types: list[str]
    loss_weights: list[float]
    step0_expected = math.log(2)

    def reference_logps(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the log-probabilities of whole answers, shape (pairs, 2): chosen, rejected."""
        of_answers = self.answer_logps(batch["input_ids"], batch["attention_mask"], batch["completion_mask"])
        return torch.stack(of_answers.chunk(2), dim=1)

    def step0_loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the sigmoid loss, whichever losses are trained."""
        kept = self.loss_types, self.loss_weights
        self.loss_types, self.loss_weights = ["sigmoid"], [1.0]
        try:
            return torch.as_tensor(self.compute_loss(self.model, batch))
        finally:
            self.loss_types, self.loss_weights = kept


class Dpo(PairStage):
    """Preference pairs in, a model that prefers the chosen answers out."""

    name = "dpo"

    def trainer(
        self, spec: DpoSpec, model: Any, material: Material, setting: Setting, callbacks: list[TrainerCallback]
    ) -> PreferenceTrainer:
        """Return the trainer; `batch_size` counts pairs, and the loss is the weighted sum of the losses in `loss`."""

        def make() -> PreferenceTrainer:
            trainer = PreferenceTrainer(
                model=model,
                args=DPOConfig(
                    **trainer_arguments(spec, setting),
                    beta=spec.beta,
                    loss_type=list(spec.loss),
                    loss_weights=list(spec.loss.values()),
                    label_smoothing=spec.label_smoothing,
                    precompute_ref_log_probs=True,
                    disable_dropout=True,
                ),
                callbacks=callbacks,
                **self.parts(spec, material, setting),
            )
            self.order_rows(trainer, spec, material)
            return trainer

        return build(make, spec, setting.source)
