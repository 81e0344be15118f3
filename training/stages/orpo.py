"""Odds ratio preference optimisation (arXiv 2403.07691), through TRL's experimental ORPOTrainer."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from training.specs import OrpoSpec
from training.stages.base import Material, Setting
from training.stages.reference_free import ReferenceFreeTrainer, SidesStage, arguments_of


class OddsRatioTrainer(ReferenceFreeTrainer, ORPOTrainer):
    """TRL's ORPOTrainer on tokenised pairs."""


class Orpo(SidesStage):
    """Preference pairs in; likelihood and preference are learned in one stage, so it may follow a base directly."""

    name = "orpo"

    def trainer(
        self, spec: OrpoSpec, model: Any, material: Material, setting: Setting, callbacks: list[TrainerCallback]
    ) -> OddsRatioTrainer:
        """Return the trainer; `batch_size` counts pairs."""
        config = ORPOConfig(**arguments_of(spec, setting), beta=spec.beta)
        trainer = OddsRatioTrainer(model=model, args=config, callbacks=callbacks, **self.parts(spec, material, setting))
        self.order_rows(trainer, spec, material)
        trainer.settle(spec)
        return trainer
