"""Simple preference optimisation (arXiv 2405.14734), through TRL's experimental CPOTrainer with its SimPO loss."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback
from trl.experimental.cpo import CPOConfig, CPOTrainer

from training.specs import SimpoSpec
from training.stages.base import Material, Setting
from training.stages.reference_free import ReferenceFreeTrainer, SidesStage, arguments_of


class SimpleTrainer(ReferenceFreeTrainer, CPOTrainer):
    """TRL's CPOTrainer on tokenised pairs."""


class Simpo(SidesStage):
    """Preference pairs in, a model that prefers the chosen answers by the token out."""

    name = "simpo"

    def trainer(
        self, spec: SimpoSpec, model: Any, material: Material, setting: Setting, callbacks: list[TrainerCallback]
    ) -> SimpleTrainer:
        """Return the trainer; `batch_size` counts pairs."""
        config = CPOConfig(
            **arguments_of(spec, setting),
            loss_type="simpo",
            beta=spec.beta,
            simpo_gamma=spec.gamma,
            cpo_alpha=spec.sft_weight,
        )
        trainer = SimpleTrainer(model=model, args=config, callbacks=callbacks, **self.parts(spec, material, setting))
        self.order_rows(trainer, spec, material)
        trainer.settle(spec)
        return trainer
