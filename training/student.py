"""A model that can be asked: an ordinary one, or a base with an adapter that could not be merged.

A soft prompt of any kind is the first entries of the key/value cache: virtual tokens are run through the base once,
a prefix is written as it is. Behind that the base answers as always, so generation needs no code of PEFT's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache

from training import bottleneck
from training.guards import check_adapter_active


class Student:
    """A model in evaluation mode, as it answers. `model` is what is run behind the entries that `prime` makes."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model.eval()

    @property
    def virtual_tokens(self) -> int:
        """How many entries of the cache stand before the first token."""
        return 0

    def prime(self, cache: Any, rows: int) -> None:
        """Fill an empty cache of `rows` rows with what stands before their tokens."""

    def without_adapter(self) -> AbstractContextManager[None]:
        """While open, the student answers as its base."""
        return nullcontext()

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the logits of `tokens` (int64, (rows, tokens)) as float32 on the CPU."""
        return self.forward(tokens).float().cpu()

    @torch.no_grad()
    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the logits of `tokens` (int64, (rows, tokens)) as the model makes them, computed as in generation."""
        where = self.model.get_input_embeddings().weight.device
        rows, length = tokens.shape
        cache, behind = DynamicCache(config=self.model.config), self.virtual_tokens
        self.prime(cache, rows)
        output = self.model(
            input_ids=tokens.to(where),
            attention_mask=torch.ones((rows, behind + length), dtype=torch.long, device=where),
            position_ids=torch.arange(behind, behind + length, device=where).expand(rows, -1),
            past_key_values=cache,
            use_cache=True,
        )
        return torch.as_tensor(output.logits)

    def check_active(self, tokens: torch.Tensor) -> str:
        """Raise TrainingError if the adapter changes no logit of `tokens`; return what was seen."""
        adapted = self.logits(tokens)
        with self.without_adapter():
            base = self.logits(tokens)
        return check_adapter_active(float((adapted - base).abs().max()))


class BottleneckStudent(Student):
    """A base with bottleneck layers in it."""

    def without_adapter(self) -> AbstractContextManager[None]:
        """While open, the layers hand on what they are given."""
        return bottleneck.disabled(self.model)


class PromptedStudent(Student):
    """A base with a soft prompt before it."""

    def __init__(self, prompted: PeftModel) -> None:
        super().__init__(prompted.get_base_model())
        self._prompted = prompted.eval()
        self._on = True

    @property
    def virtual_tokens(self) -> int:
        """How many entries the prompt takes; none while it is off."""
        return int(self._prompted.active_peft_config.num_virtual_tokens) if self._on else 0

    def prime(self, cache: Any, rows: int) -> None:
        """Write a prefix into the cache, or run virtual tokens through the base."""
        if not self._on:
            return
        prompt = self._prompted.get_prompt(batch_size=rows)
        if isinstance(prompt, Cache):
            for number, layer in enumerate(prompt.layers):
                cache.update(layer.keys, layer.values, number)
        else:
            self.model(inputs_embeds=prompt.to(self.model.dtype), past_key_values=cache, use_cache=True)

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """While open, there is no prompt."""
        self._on = False
        try:
            yield
        finally:
            self._on = True
