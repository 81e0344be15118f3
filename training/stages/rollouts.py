"""What the stages share that learn from the model's own answers: prompts, rollouts, and the loop around them.

transformers' Trainer counts steps, checkpoints and logs; a step of it is a minibatch of answers. The first minibatch of
a rollout answers all of the rollout's prompts, scores the answers, and keeps what was said for the passes over them.
"""

from __future__ import annotations

import statistics
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from trl.trainer.utils import disable_dropout_in_model

from data_catalog.errors import TrainingError
from training.conversation import answer_turns
from training.ledger import LedgerBook
from training.method_specs import FullSpec
from training.models import ModelSource, device
from training.packing import NO_LOSS, EpochOrder
from training.reward_model import RewardModel
from training.rows import Encoder, RawRow
from training.specs import SampledSpec
from training.stages.base import Collator, GuardedTrainer, Material, Setting, Stage, probe_of, trainer_arguments

EXPERIENCE = "experience.pt"


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A prompt that is to be answered."""

    id: str
    prompt: list[int]
    expected: str
    """The text of the answer that the row has."""

    def __len__(self) -> int:
        return len(self.prompt)


@dataclass(frozen=True)
class Rollout:
    """The answers of one rollout; rows of the tensors in the rollout's order. Subclasses add what was said of them."""

    rollout: int
    ids: torch.Tensor
    attention_mask: torch.Tensor
    mask: torch.Tensor
    ended: torch.Tensor
    logps: torch.Tensor


class RolloutOrder(EpochOrder):
    """Rows in rollouts of so many prompts, each rollout `passes` times in another order.

    A prompt is a row, or with `group` so many rows that stand one behind the other. An index stands for a row in a
    rollout: number of the rollout, counted over all epochs, times rows + row.
    """

    def __init__(self, rows: int, *, seed: int, rollout: int, passes: int, group: int = 1) -> None:
        super().__init__([1] * rows, seed=seed)
        self._count, self._rollout, self._passes, self._group = rows, rollout, passes, group

    @property
    def rollouts(self) -> int:
        """Rollouts of one epoch; the last may be a smaller one."""
        return -(-self._count // self._group // self._rollout)

    def __len__(self) -> int:
        return self._count * self._passes

    def rows_of(self, rollout: int) -> list[int]:
        """Return the rows of a rollout, those of a prompt one behind the other."""
        epoch, number = divmod(rollout, self.rollouts)
        order = np.random.default_rng([self._seed, epoch]).permutation(self._count // self._group)
        chosen = order[number * self._rollout :][: self._rollout]
        return [int(index) * self._group + copy for index in chosen for copy in range(self._group)]

    def __iter__(self) -> Iterator[int]:
        for number in range(self.rollouts):
            rollout = self._epoch * self.rollouts + number
            shuffle = np.random.default_rng([self._seed, rollout, 0x99])
            rows = self.rows_of(rollout)
            for _ in range(self._passes):
                yield from (rollout * self._count + rows[place] for place in shuffle.permutation(len(rows)))


class _Turns(Dataset[dict[str, int]]):
    """What an index of `RolloutOrder` stands for."""

    def __init__(self, rows: int, length: int) -> None:
        self._rows, self._length = rows, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, int]:
        return {"rollout": index // self._rows, "row": index % self._rows}


def collate(examples: Sequence[dict[str, int]]) -> dict[str, torch.Tensor]:
    """Return the rows of a minibatch as `rows` (which the guards take) and `places`, and their rollout."""
    rows = torch.tensor([example["row"] for example in examples])
    return {"rows": rows, "places": rows, "rollout": torch.tensor([examples[0]["rollout"]])}


class _Loop(Trainer):
    """Learning from rollouts inside transformers' Trainer."""

    spec: Any
    source: ModelSource
    reference: Any
    prompts: Sequence[PromptRow]
    order: RolloutOrder
    experience: Any = None
    _seen: dict[str, list[float]]

    @abstractmethod
    def roll_out(self, rollout: int) -> Rollout:
        """Answer the prompts of a rollout, score the answers, and work out what they were worth."""

    @abstractmethod
    def learn(self, model: Any, told: Any, at: torch.Tensor) -> torch.Tensor:
        """Return the loss on the answers of a rollout that stand at the places `at`."""

    def compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the loss of a minibatch, after its rollout where that was not made yet."""
        rollout = int(inputs["rollout"])
        if self.experience is None or self.experience.rollout != rollout:
            self.experience = self.roll_out(rollout)
        order = {row: place for place, row in enumerate(self.order.rows_of(rollout))}
        at = torch.tensor([order[row] for row in inputs["places"].tolist()], device=self.experience.ids.device)
        return self.learn(model, self.experience, at)

    def see(self, **values: float) -> None:
        """Note values, whose means are logged."""
        for name, value in values.items():
            self._seen[name].append(value)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the means of what was seen since the last log."""
        logs.update({name: statistics.fmean(values) for name, values in self._seen.items()})
        self._seen.clear()
        super().log(logs, *args, **kwargs)


class RolloutTrainer(GuardedTrainer, _Loop):
    """The loop, guarded; a checkpoint also holds the rollout that is being learned from."""

    fused_head = False
    order: Any
    kind: ClassVar[type[Rollout]]

    def settle(self, spec: Any) -> None:
        """As all trainers; the policy is saved by its trained parameters, whatever the method."""
        super().settle(spec)
        self.saves_whole = False

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        if self.experience is not None:
            state = {field.name: getattr(self.experience, field.name) for field in fields(self.kind)}
            torch.save(state, Path(output_dir or self.args.output_dir) / EXPERIENCE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        state = torch.load(Path(resume_from_checkpoint) / EXPERIENCE, map_location=device(), weights_only=True)
        self.experience = self.kind(**state)


TrainerT = TypeVar("TrainerT", bound=RolloutTrainer)


class SampledStage(Stage):
    """Prompts in, a model whose answers earn more out."""

    needs_chat_template = True

    def trained(self, trainer: Any) -> Any:
        """Return the policy alone."""
        return super().trained(trainer).policy

    def encode(
        self,
        spec: SampledSpec,
        source: ModelSource,
        rows: Sequence[RawRow],
        replay: Sequence[RawRow],
        replay_share: float,
    ) -> Material:
        """Encode `{"messages"}` rows up to their last answer, which is left to the model; each prompt once an answer.

        The answer that a row has is kept beside its prompt, for rewards that compare with it.
        """
        if replay_share:
            raise TrainingError(
                f"a {self.name} stage can't mix in replay rows: it learns from its own answers",
                valid="replay_share: 0",
                next_step="raise kl_weight to keep the model near to what it was",
            )
        book = LedgerBook()
        encoded = Encoder(source, spec.max_length).conversations(rows, book, last_only=True)
        payloads = {row.id: row.payload["messages"] for row in rows}
        prompts = [
            PromptRow(
                row.id,
                row.input_ids[: int((row.labels != NO_LOSS).argmax())].tolist(),
                payloads[row.id][answer_turns(payloads[row.id])[-1]]["content"],
            )
            for row in encoded
        ]
        ledger = book.close(
            max_lost_share=spec.max_lost_share,
            replay_rows=0,
            tokens=sum(map(len, prompts)) * spec.group,
            target_tokens=len(prompts) * spec.group * spec.max_new_tokens,
        )
        probe = probe_of([row.input_ids.tolist() for row in encoded])
        answers = [prompt for prompt in prompts for _ in range(spec.group)]
        return Material(answers, ledger, probe, {"single_start": "in all prompts"})

    def collator(self, spec: SampledSpec, material: Material, source: ModelSource) -> Collator:
        """Return what names the rows of a minibatch and their rollout; the loop itself has their tokens."""
        return collate

    def order(self, spec: SampledSpec, material: Material) -> RolloutOrder:
        """Return the prompts in rollouts."""
        return RolloutOrder(
            len(material.rows), seed=spec.seed, rollout=spec.rollout, passes=spec.passes, group=spec.group
        )

    def reward_model(self, setting: Setting) -> RewardModel:
        """Return the reward model of the stage before, loaded; raise TrainingError where there is none."""
        if setting.reward_model is None:
            raise TrainingError(
                f"a {self.name} stage needs a reward model",
                valid="a stage of kind reward before it",
                next_step="add a stage with `train: {stage: reward}`",
            )
        return RewardModel(setting.reward_model, setting.source, setting.precision)

    def build(
        self,
        kind: type[TrainerT],
        policy: torch.nn.Module,
        spec: SampledSpec,
        material: Material,
        setting: Setting,
        callbacks: list[TrainerCallback],
    ) -> TrainerT:
        """Return a loop of `kind` on a policy (`training.actor_critic`), before its first step."""
        model: Any = policy.policy
        _check_room(spec, material, int(model.config.get_text_config().max_position_embeddings))
        disable_dropout_in_model(model)  # a token must have the probability that it was sampled with
        order = self.order(spec, material)
        arguments = trainer_arguments(spec, setting)
        del arguments["max_length"]  # of TRL's trainers
        reference = _frozen_copy(model, spec, setting) if spec.held else None
        trainer = kind(
            model=policy,
            args=TrainingArguments(**arguments),
            train_dataset=_Turns(len(material.rows), len(order)),
            data_collator=collate,
            processing_class=setting.source.tokenizer,
            callbacks=callbacks,
        )
        trainer.spec, trainer.source, trainer.reference = spec, setting.source, reference
        trainer.prompts, trainer.order = material.rows, order
        trainer.row_ids = [row.id for row in material.rows]
        trainer._seen = defaultdict(list)
        trainer.settle(spec)
        return trainer


def _check_room(spec: SampledSpec, material: Material, positions: int) -> None:
    longest = max(map(len, material.rows))
    if longest + spec.max_new_tokens > positions:
        raise TrainingError(
            f"the longest prompt ({longest} tokens) and max_new_tokens ({spec.max_new_tokens}) are beyond the model's "
            f"{positions} positions",
            next_step=f"set max_new_tokens to {max(1, positions - longest)} or less, or max_length lower",
        )


def _frozen_copy(model: Any, spec: SampledSpec, setting: Setting) -> Any:
    """Return the model that the stage starts from, as it is held to it.

    A copy of what is trained, so that it has the adapter that was trained before, or the 4-bit weights, too.
    """
    copy = deepcopy(model)
    if isinstance(spec.method, FullSpec):
        copy = copy.to(setting.precision)  # trained weights are in float32; these are only read
    return copy.eval().requires_grad_(False)
