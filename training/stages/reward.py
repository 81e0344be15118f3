"""Reward models (Bradley-Terry, arXiv 2203.02155, section 3.5), through TRL's RewardTrainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainerCallback
from trl import RewardConfig, RewardTrainer

from training.methods import Method
from training.models import ModelSource
from training.reward_model import reward_method
from training.rows import PairRow
from training.specs import RewardSpec, StageSpec
from training.stages.base import GuardedTrainer, Material, Setting, trainer_arguments
from training.stages.pairs import PairStage, lay_out_answers


@dataclass(frozen=True)
class ConversationCollator:
    """Makes a batch from `[{"row": index}, ...]`: all chosen conversations, then all rejected ones."""

    rows: Sequence[PairRow]
    pad_token: int

    def __call__(self, examples: Sequence[dict[str, int]]) -> dict[str, torch.Tensor]:
        """Return the batch of these pairs, and their indices as `rows`."""
        indices = [example["row"] for example in examples]
        pairs = [self.rows[index] for index in indices]
        chosen = [(pair.prompt, pair.chosen) for pair in pairs]
        rejected = [(pair.prompt, pair.rejected) for pair in pairs]
        lines = lay_out_answers(chosen + rejected, self.pad_token)
        return {
            "input_ids": lines.input_ids,
            "attention_mask": lines.attention_mask,
            "rows": torch.tensor(indices),
        }


class BradleyTerryTrainer(GuardedTrainer, RewardTrainer):
    """TRL's RewardTrainer on pairs that are tokenised already."""

    fused_head = False

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset


class Reward(PairStage):
    """Preference pairs in, a reward model out; it judges answers for a stage behind it and answers nothing itself."""

    name = "reward"

    def method(self, spec: StageSpec) -> Method:
        """Return the method on a body with a reward head."""
        return reward_method(spec)

    def collator(self, spec: StageSpec, material: Material, source: ModelSource) -> ConversationCollator:
        """Return what lays whole conversations out in one rectangle."""
        return ConversationCollator(material.rows, source.tokenizer.pad_token_id)

    def trainer(
        self, spec: RewardSpec, model: Any, material: Material, setting: Setting, callbacks: list[TrainerCallback]
    ) -> BradleyTerryTrainer:
        """Return the trainer; `batch_size` counts pairs."""
        config = RewardConfig(
            **trainer_arguments(spec, setting), center_rewards_coefficient=spec.centring, disable_dropout=True
        )
        trainer = BradleyTerryTrainer(
            model=model,
            args=config,
            callbacks=callbacks,
            **self.parts(spec, material, setting),
        )
        self.order_rows(trainer, spec, material)
        trainer.settle(spec)
        return trainer
