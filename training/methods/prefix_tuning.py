"""`prefix_tuning`: keys and values before those of every layer, made by an MLP."""

from __future__ import annotations

from peft import PeftConfig, PrefixTuningConfig

from training.method_specs import PrefixTuningSpec
from training.methods.base import settings
from training.methods.soft_prompt import Prefix
from training.models import ModelSource
from training.specs import StageSpec


class PrefixTuning(Prefix):
    """A prefix with reparameterisation (arXiv 2101.00190, section 4.3)."""

    name = "prefix_tuning"

    def config(self, spec: StageSpec, source: ModelSource, hidden: int) -> PeftConfig:
        """Return the configuration of a fresh prefix."""
        method = settings(spec, PrefixTuningSpec)
        return PrefixTuningConfig(
            num_virtual_tokens=method.tokens,
            prefix_projection=True,
            encoder_hidden_size=method.hidden or hidden,
            task_type="CAUSAL_LM",
        )
