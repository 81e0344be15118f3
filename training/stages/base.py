"""What all stages share: rows kept in memory, an order that can be resumed, guards around TRL's trainers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft.optimizers import create_loraplus_optimizer
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback

from training.cpu_head import add_cpu_head
from training.guards import check_finite_loss
from training.methods import Method, method_for
from training.models import ModelSource
from training.packing import NO_LOSS
from training.rows import RawRow
from training.specs import Ledger, StageSpec
from training.trainable import load_trainable, save_trainable

Collator = Callable[[Sequence[dict[str, int]]], dict[str, Any]]
"""From rows by their places, such as `[{"row": 3}, {"row": 0}]`, to the tensors that a model is given."""


@dataclass(frozen=True)
class Material:
    """What a stage trains on: encoded rows, what became of the others, and what the guards saw."""

    rows: Sequence[Any]
    ledger: Ledger
    probe: torch.Tensor
    """A few tokens of real rows, int64 (rows, tokens), on which logits are compared."""
    guards: Mapping[str, str] = field(default_factory=dict)
    own: int | None = None
    """How many of the first rows are the stage's own; those behind them are the replay of one epoch after another."""


@dataclass(frozen=True)
class Setting:
    """Where a stage runs, resolved by `training.train`."""

    source: ModelSource
    precision: torch.dtype
    checkpoints: Path
    reward_model: Path | None = None
    """Directory of the reward model, for stages that are `judged`."""
    pieces: int = 1
    """In how many equal parts a batch is computed; their gradients are added up, and the order of rows stays."""


class Stage(ABC):
    """One kind of training."""

    name: str
    needs_chat_template: bool
    least_batch = 1
    """Rows that a batch must have at least, where it is taken in pieces."""

    def method(self, spec: StageSpec) -> Method:
        """Return how the stage's model is loaded, trained and finished."""
        return method_for(spec)

    def trained(self, trainer: Any) -> Any:
        """Return what the method finishes of a trainer that has ended."""
        return trainer.accelerator.unwrap_model(trainer.model)

    @abstractmethod
    def encode(
        self, spec: Any, source: ModelSource, rows: Sequence[RawRow], replay: Sequence[RawRow], replay_share: float
    ) -> Material:
        """Turn rows into tokens; raise TrainingError where a guard fires or too much would be lost."""

    @abstractmethod
    def collator(self, spec: Any, material: Material, source: ModelSource) -> Collator:
        """Return what makes batches of the material's rows."""

    @abstractmethod
    def order(self, spec: Any, material: Material) -> Sampler[int]:
        """Return the order in which the rows of each epoch come."""

    @abstractmethod
    def trainer(
        self, spec: Any, model: Any, material: Material, setting: Setting, callbacks: list[TrainerCallback]
    ) -> Trainer:
        """Return the TRL trainer of this stage, ready to train."""

    def parts(self, spec: Any, material: Material, setting: Setting) -> dict[str, Any]:
        """Return the dataset, collator and tokenizer of the stage's trainer."""
        return {
            "train_dataset": index_dataset(material.rows),
            "data_collator": self.collator(spec, material, setting.source),
            "processing_class": setting.source.tokenizer,
        }

    def order_rows(self, trainer: GuardedTrainer, spec: Any, material: Material) -> None:
        """Tell a trainer the rows' names and their order."""
        trainer.row_ids = [row.id for row in material.rows]
        trainer.order = self.order(spec, material)


def trainer_arguments(spec: StageSpec, setting: Setting) -> dict[str, Any]:
    """Return what every stage tells its trainer. Each departs from a default of TRL or transformers for a reason."""
    on_cpu = not torch.cuda.is_available()
    return {
        "output_dir": str(setting.checkpoints),
        "per_device_train_batch_size": spec.batch_size // setting.pieces,
        "gradient_accumulation_steps": spec.gradient_accumulation * setting.pieces,
        "num_train_epochs": spec.epochs,
        "learning_rate": spec.learning_rate,
        "lr_scheduler_type": spec.schedule,
        "warmup_steps": spec.warmup_share,  # below 1 it is a share of the steps
        "weight_decay": spec.weight_decay,
        "max_grad_norm": spec.max_grad_norm,
        "optim": "adamw_torch_fused",
        # TRL turns both of these on by default, wherever it runs.
        "bf16": setting.precision == torch.bfloat16,
        "gradient_checkpointing": spec.gradient_checkpointing,
        "use_cpu": on_cpu,
        "logging_steps": spec.log_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # it would hide NaN; a guard stops on it
        "save_strategy": "steps",
        "save_steps": spec.checkpoint_steps,
        "save_total_limit": None,  # checkpoints are pruned when the next one is verified, not before
        "report_to": [],
        "disable_tqdm": True,
        "seed": spec.seed,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": not on_cpu,
        "remove_unused_columns": False,  # the only column is the row's index
        "max_length": None,  # rows were cut before, and each cut is in the ledger
    }


def index_dataset(rows: Sequence[Any]) -> Dataset:
    """Return the dataset that TRL wants: one column, the index of the row; the collator looks the row up."""
    return Dataset.from_dict({"row": list(range(len(rows)))})


def probe_of(sequences: Sequence[Sequence[int]], *, rows: int = 4, tokens: int = 64) -> torch.Tensor:
    """Return the beginnings of the first sequences, cut to one length, as (rows, tokens)."""
    chosen = [list(sequence[:tokens]) for sequence in sequences[:rows]]
    width = min(len(sequence) for sequence in chosen)
    return torch.tensor([sequence[:width] for sequence in chosen])


def answer_logps(
    model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, completion_mask: torch.Tensor
) -> torch.Tensor:
    """Return the log-probability of each line's whole answer, shape (lines,); `model` has TRL's head."""
    labels = input_ids.masked_fill(completion_mask == 0, NO_LOSS)
    output = model(
        input_ids=input_ids, attention_mask=attention_mask, labels=labels, use_cache=False, fused_lm_head=True
    )
    # Virtual tokens stand before the others and carry no loss.
    return torch.as_tensor(output.log_probs[:, 1 - labels.shape[1] :].sum(dim=1))


class GuardedTrainer(Trainer):
    """What ours adds to a TRL trainer; to be inherited before it."""

    row_ids: Sequence[str] = ()
    order: Sampler[int] | None = None
    optimizer: Any
    rate_ratio: float = 1.0
    saves_whole: bool = True
    fused_head: bool = True
    """Whether TRL's trainer asks the model for log-probabilities at targets, instead of for logits."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Compute the loss, and stop on NaN with the ids of the batch's rows."""
        rows = inputs.pop("rows")
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        if not bool(torch.isfinite(loss.detach())):
            ids = [self.row_ids[index] for index in rows.tolist()]
            check_finite_loss(loss.detach(), self.state.global_step + 1, ids)
        return loss

    def forget(self) -> None:
        """Forget what was counted of batches that are no part of the training."""
        for metrics in getattr(self, "_metrics", {}).values():
            metrics.clear()
        self._total_train_tokens = 0

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self.order

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """A checkpoint needs no model card; the model version gets its own."""

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: it walks all parameters at each step, and nobody reads it."""
        return 0

    def create_optimizer(self, model: Any = None) -> Any:
        """Create the optimizer; with LoRA+, B's learning rate is `rate_ratio` times A's (arXiv 2402.12354)."""
        if self.optimizer is None and self.rate_ratio > 1:
            kind, arguments = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = create_loraplus_optimizer(
                self.model,
                kind,
                loraplus_lr_ratio=self.rate_ratio,
                loraplus_weight_decay=self.args.weight_decay,
                **arguments,
            )
        return super().create_optimizer(model)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.saves_whole:
            super()._save(output_dir, state_dict)
        else:
            save_trainable(self.model, Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.saves_whole:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_trainable(self.model, Path(resume_from_checkpoint))

    def settle(self, spec: StageSpec) -> None:
        """Tell the trainer of its method, undo what trainers set up that is not wanted here, make the head quick.

        TRL casts the adapters on a quantised base to bfloat16, where small AdamW steps vanish; without a progress bar
        transformers prints each log entry to stdout.
        """
        self.rate_ratio = spec.method.rate_ratio
        self.saves_whole = method_for(spec).saves_whole
        self.remove_callback(PrinterCallback)
        if self.fused_head:
            add_cpu_head(self.model)
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
