"""Reward models: a language model's body with a head that gives a whole conversation one number.

A directory of one is an ordinary model directory of the architecture's sequence classifier with one label.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from data_catalog.errors import TrainingError
from training.method_specs import FullSpec
from training.methods import Full, Lora, Method
from training.models import ModelSource, device, load_weights, open_source
from training.specs import StageSpec


def load_with_head(source: ModelSource, dtype: torch.dtype) -> PreTrainedModel:
    """Load the body of a language model with a fresh head of zeros, on the CPU.

    Zeros, so that the first loss is ln 2 whatever the data, and every number that the model gives was learned.
    """
    model = load_weights(source, dtype, AutoModelForSequenceClassification, num_labels=1)
    head = getattr(model, "score", None)
    if not isinstance(head, torch.nn.Linear):
        raise TrainingError(
            f"the sequence classifier of {model.config.model_type} has no linear head `score`",
            next_step="train the reward model from another base; llama, qwen, mistral, phi and gemma have one",
        )
    torch.nn.init.zeros_(head.weight)
    model.config.get_text_config().pad_token_id = source.tokenizer.pad_token_id
    return model


class RewardFull(Full):
    """All weights of body and head."""

    def base(self, source: ModelSource, dtype: torch.dtype) -> PreTrainedModel:
        """Load the body with a fresh head."""
        return load_with_head(source, dtype)


class RewardLora(Lora):
    """Low-rank adapters on the body, and the whole head (which PEFT saves beside them)."""

    task = "SEQ_CLS"

    def base(self, source: ModelSource, dtype: torch.dtype) -> PreTrainedModel:
        """Load the body with a fresh head."""
        return load_with_head(source, dtype)


def reward_method(spec: StageSpec) -> Method:
    """Return what trains a reward model by the method that a stage asks for."""
    return RewardFull() if isinstance(spec.method, FullSpec) else RewardLora()


class RewardModel:
    """A trained reward model, as it scores."""

    def __init__(self, path: Path, policy: ModelSource, dtype: torch.dtype) -> None:
        """Load the model in `path`, which must read the tokens of `policy`."""
        source = open_source(path, needs_chat_template=True)
        if source.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
            raise TrainingError(
                f"the reward model in {path} has another vocabulary than the model that is trained",
                valid="a reward model that was trained from the same family of models",
                next_step="train the reward stage from a model of this project",
            )
        self._pad = int(source.tokenizer.pad_token_id)
        model = load_weights(source, dtype, AutoModelForSequenceClassification)
        model.config.get_text_config().pad_token_id = self._pad
        self.model = model.to(device()).eval().requires_grad_(False)

    @torch.no_grad()
    def score(self, conversations: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the reward of each conversation (its tokens up to the answer's end), shape (conversations,)."""
        width = max(map(len, conversations))
        ids = torch.tensor([[*row, *[self._pad] * (width - len(row))] for row in conversations])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in conversations])
        where = self.model.device
        logits = self.model(input_ids=ids.to(where), attention_mask=mask.to(where), use_cache=False).logits
        return torch.as_tensor(logits[:, 0].float())
