"""`p_tuning_v2`: keys and values before those of every layer, trained as they are."""

from __future__ import annotations

from peft import PeftConfig, PrefixTuningConfig

from training.method_specs import PTuningV2Spec
from training.methods.base import settings
from training.methods.soft_prompt import Prefix
from training.models import ModelSource
from training.specs import StageSpec


class PTuningV2(Prefix):
    """Deep prompts without reparameterisation (arXiv 2110.07602)."""

    name = "p_tuning_v2"

    def config(self, spec: StageSpec, source: ModelSource, hidden: int) -> PeftConfig:
        """Return the configuration of a fresh prefix."""
        method = settings(spec, PTuningV2Spec)
        return PrefixTuningConfig(num_virtual_tokens=method.tokens, prefix_projection=False, task_type="CAUSAL_LM")
