"""Proximal policy optimisation (arXiv 1707.06347, 2203.02155). TRL has none any more, so the loop is ours.

transformers' Trainer counts steps, checkpoints and logs; a step of it is a minibatch of answers. The first minibatch of
a rollout answers all of the rollout's prompts, scores the answers, and keeps what was said for the passes over them.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from trl.trainer.utils import disable_dropout_in_model

from data_catalog.errors import TrainingError
from training import ppo_math
from training.actor_critic import ActorCritic, Answered, answer, look
from training.ledger import LedgerBook
from training.models import ModelSource, device, load_weights
from training.packing import NO_LOSS, EpochOrder
from training.reward_model import RewardModel
from training.rows import Encoder, RawRow
from training.specs import PpoSpec
from training.stages.base import Collator, GuardedTrainer, Material, Setting, Stage, probe_of, trainer_arguments

EXPERIENCE = "experience.pt"
Score = Callable[[Sequence[Sequence[int]]], torch.Tensor]
"""From conversations (tokens) to their rewards, shape (conversations,)."""


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A prompt that is to be answered."""

    id: str
    prompt: list[int]

    def __len__(self) -> int:
        return len(self.prompt)


@dataclass(frozen=True)
class Experience:
    """The answers of one rollout, what was said of them then, and what they were worth; rows in the rollout's order."""

    rollout: int
    kl_weight: float
    ids: torch.Tensor
    attention_mask: torch.Tensor
    mask: torch.Tensor
    ended: torch.Tensor
    logps: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor


class RolloutOrder(EpochOrder):
    """Prompts in rollouts, each rollout `passes` times in another order.

    An index stands for a prompt in a rollout: number of the rollout, counted over all epochs, times prompts + prompt.
    """

    def __init__(self, prompts: int, *, seed: int, rollout: int, passes: int) -> None:
        super().__init__([1] * prompts, seed=seed)
        self._prompts, self._rollout, self._passes = prompts, rollout, passes

    @property
    def rollouts(self) -> int:
        """Rollouts of one epoch; the last may be a smaller one."""
        return -(-self._prompts // self._rollout)

    def __len__(self) -> int:
        return self._prompts * self._passes

    def prompts_of(self, rollout: int) -> list[int]:
        """Return the prompts of a rollout."""
        epoch, number = divmod(rollout, self.rollouts)
        order = np.random.default_rng([self._seed, epoch]).permutation(self._prompts)
        return [int(index) for index in order[number * self._rollout :][: self._rollout]]

    def __iter__(self) -> Iterator[int]:
        for number in range(self.rollouts):
            rollout = self._epoch * self.rollouts + number
            shuffle = np.random.default_rng([self._seed, rollout, 0x99])
            prompts = self.prompts_of(rollout)
            for _ in range(self._passes):
                yield from (rollout * self._prompts + prompts[place] for place in shuffle.permutation(len(prompts)))


class _Turns(Dataset[dict[str, int]]):
    """What an index of `RolloutOrder` stands for."""

    def __init__(self, prompts: int, length: int) -> None:
        self._prompts, self._length = prompts, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, int]:
        return {"rollout": index // self._prompts, "row": index % self._prompts}


def _collate(examples: Sequence[dict[str, int]]) -> dict[str, torch.Tensor]:
    """Return the prompts of a minibatch as `rows` (for the guards) and `prompts`, and their rollout."""
    prompts = torch.tensor([example["row"] for example in examples])
    return {"rows": prompts, "prompts": prompts, "rollout": torch.tensor([examples[0]["rollout"]])}


class _Loop(Trainer):
    """PPO inside transformers' Trainer."""

    spec: PpoSpec
    source: ModelSource
    reference: Any
    score: Score
    prompts: Sequence[PromptRow]
    order: RolloutOrder
    experience: Experience | None = None
    _seen: dict[str, list[float]]

    def compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the loss of a minibatch, after its rollout where that was not made yet."""
        rollout = int(inputs["rollout"])
        if self.experience is None or self.experience.rollout != rollout:
            self.experience = self.roll_out(rollout)
        told = self.experience
        order = {prompt: place for place, prompt in enumerate(self.order.prompts_of(rollout))}
        at = torch.tensor([order[prompt] for prompt in inputs["prompts"].tolist()], device=told.ids.device)
        mask = told.mask[at]
        said = model(Answered(told.ids[at], told.attention_mask[at], mask, told.ended[at]))
        clip = self.spec.clip
        of_policy = ppo_math.policy_loss(said.logps, told.logps[at], told.advantages[at], mask, clip)
        of_value = ppo_math.value_loss(said.values, told.values[at], told.returns[at], mask, clip)
        ratios = ((said.logps - told.logps[at]) * mask).detach().exp()
        self._see(
            policy_loss=float(of_policy.detach()),
            value_loss=float(of_value.detach()),
            clip_fraction=float(ppo_math.masked_mean(((ratios - 1).abs() > clip).float(), mask)),
        )
        return of_policy + self.spec.value_weight * of_value

    @torch.no_grad()
    def roll_out(self, rollout: int) -> Experience:
        """Answer the prompts of a rollout, score the answers, and work out what each token was worth."""
        actor: ActorCritic = self.accelerator.unwrap_model(self.model)
        rows = [self.prompts[index] for index in self.order.prompts_of(rollout)]
        answered = answer(
            actor.policy,
            [row.prompt for row in rows],
            names=[row.id for row in rows],
            tokens=self.spec.max_new_tokens,
            end_tokens=self.source.end_tokens,
            pad_token=int(self.source.tokenizer.pad_token_id),
        )
        said, reference = actor(answered), look(self.reference, answered)
        scores = self.score(answered.conversations()).to(said.logps.device)
        earned = scores - self.spec.unfinished_penalty * (~answered.ended).float()
        log_ratios = said.logps - reference.logps
        weight = self.experience.kl_weight if self.experience is not None else self.spec.kl_weight
        worth = ppo_math.generalised_advantages(
            ppo_math.token_rewards(earned, log_ratios, answered.mask, weight),
            said.values,
            answered.mask,
            discount=self.spec.discount,
            gae_lambda=self.spec.gae_lambda,
        )
        divergence = float(log_ratios.sum(dim=1).mean())
        self._see(
            reward=float(scores.mean()),
            kl=divergence,
            kl_weight=weight,
            answer_tokens=float(answered.mask.sum(dim=1).float().mean()),
            ended=float(answered.ended.float().mean()),
        )
        target = self.spec.kl_target
        return Experience(
            rollout=rollout,
            kl_weight=weight if target is None else ppo_math.adapted_kl_weight(weight, divergence, target),
            ids=answered.ids,
            attention_mask=answered.attention_mask,
            mask=answered.mask,
            ended=answered.ended,
            logps=said.logps,
            values=said.values,
            advantages=ppo_math.whitened(worth.advantages, answered.mask),
            returns=worth.returns,
        )

    def _see(self, **values: float) -> None:
        for name, value in values.items():
            self._seen[name].append(value)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the means of what was seen since the last log."""
        logs.update({name: statistics.fmean(values) for name, values in self._seen.items()})
        self._seen.clear()
        super().log(logs, *args, **kwargs)


class PpoTrainer(GuardedTrainer, _Loop):
    """The loop, guarded; a checkpoint also holds the rollout that is being learned from."""

    fused_head = False
    order: Any

    def settle(self, spec: Any) -> None:
        """As all trainers; actor and critic are saved by their trained parameters, whatever the method."""
        super().settle(spec)
        self.saves_whole = False

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        if self.experience is not None:
            state = {field.name: getattr(self.experience, field.name) for field in fields(Experience)}
            torch.save(state, Path(output_dir or self.args.output_dir) / EXPERIENCE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        state = torch.load(Path(resume_from_checkpoint) / EXPERIENCE, map_location=device(), weights_only=True)
        self.experience = Experience(**state)


class Ppo(Stage):
    """Prompts in, a model whose answers a reward model likes better out."""

    name = "ppo"
    needs_chat_template = True

    def trained(self, trainer: Any) -> Any:
        """Return the actor alone."""
        return super().trained(trainer).policy

    def encode(
        self,
        spec: PpoSpec,
        source: ModelSource,
        rows: Sequence[RawRow],
        replay: Sequence[RawRow],
        replay_share: float,
    ) -> Material:
        """Encode `{"messages"}` rows up to their last answer, which is left to the model."""
        if replay_share:
            raise TrainingError(
                "a ppo stage can't mix in replay rows: it learns from its own answers",
                valid="replay_share: 0",
                next_step="raise kl_weight to keep the model near to what it was",
            )
        book = LedgerBook()
        encoded = Encoder(source, spec.max_length).conversations(rows, book, last_only=True)
        prompts = [
            PromptRow(row.id, row.input_ids[: int((row.labels != NO_LOSS).argmax())].tolist()) for row in encoded
        ]
        ledger = book.close(
            max_lost_share=spec.max_lost_share,
            replay_rows=0,
            tokens=sum(map(len, prompts)),
            target_tokens=len(prompts) * spec.max_new_tokens,
        )
        probe = probe_of([row.input_ids.tolist() for row in encoded])
        return Material(prompts, ledger, probe, {"single_start": "in all prompts"})

    def collator(self, spec: PpoSpec, material: Material, source: ModelSource) -> Collator:
        """Return what names the prompts of a minibatch and their rollout; the loop itself has their tokens."""
        return _collate

    def order(self, spec: PpoSpec, material: Material) -> RolloutOrder:
        """Return the prompts in rollouts."""
        return RolloutOrder(len(material.rows), seed=spec.seed, rollout=spec.rollout, passes=spec.passes)

    def trainer(
        self, spec: PpoSpec, model: Any, material: Material, setting: Setting, callbacks: list[TrainerCallback]
    ) -> PpoTrainer:
        """Return the loop, with the reward model of the stage before it."""
        if setting.reward_model is None:
            raise TrainingError(
                "a ppo stage needs a reward model",
                valid="a stage of kind reward before it",
                next_step="add a stage with `train: {stage: reward}`",
            )
        judge = RewardModel(setting.reward_model, setting.source, setting.precision)
        return ppo_trainer(spec, model, material, setting, callbacks, judge.score)


def ppo_trainer(
    spec: PpoSpec, model: Any, material: Material, setting: Setting, callbacks: list[TrainerCallback], score: Score
) -> PpoTrainer:
    """Return the loop on rewards by `score`."""
    positions = int(model.config.get_text_config().max_position_embeddings)
    longest = max(map(len, material.rows))
    if longest + spec.max_new_tokens > positions:
        raise TrainingError(
            f"the longest prompt ({longest} tokens) and max_new_tokens ({spec.max_new_tokens}) are beyond the model's "
            f"{positions} positions",
            next_step=f"set max_new_tokens to {max(1, positions - longest)} or less, or max_length lower",
        )
    disable_dropout_in_model(model)  # a token must have the probability that it was sampled with
    order = Ppo().order(spec, material)
    arguments = trainer_arguments(spec, setting)
    del arguments["max_length"]  # of TRL's trainers
    trainer = PpoTrainer(
        model=ActorCritic(model),
        args=TrainingArguments(**arguments),
        train_dataset=_Turns(len(material.rows), len(order)),
        data_collator=_collate,
        processing_class=setting.source.tokenizer,
        callbacks=callbacks,
    )
    trainer.spec, trainer.source, trainer.score = spec, setting.source, score
    trainer.prompts, trainer.order = material.rows, order
    trainer.row_ids = [row.id for row in material.rows]
    trainer._seen = defaultdict(list)
    reference = load_weights(setting.source, setting.precision).to(device())
    trainer.reference = reference.eval().requires_grad_(False)
    trainer.settle(spec)
    return trainer
