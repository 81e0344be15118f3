"""`p_tuning`: vectors before the embedded input, made by a small network."""

from __future__ import annotations

from peft import PeftConfig, PromptEncoderConfig

from training.method_specs import PTuningSpec
from training.methods.base import settings
from training.methods.soft_prompt import SoftPrompt
from training.models import ModelSource
from training.specs import StageSpec


class PTuning(SoftPrompt):
    """Virtual tokens from an MLP or LSTM (arXiv 2103.10385, section 3.2)."""

    name = "p_tuning"

    def config(self, spec: StageSpec, source: ModelSource, hidden: int) -> PeftConfig:
        """Return the configuration of a fresh prompt and its network."""
        method = settings(spec, PTuningSpec)
        return PromptEncoderConfig(
            num_virtual_tokens=method.tokens,
            encoder_reparameterization_type=method.encoder.upper(),
            encoder_hidden_size=method.hidden or hidden,
            task_type="CAUSAL_LM",
        )
