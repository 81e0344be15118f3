"""`prompt_tuning`: trained vectors before the embedded input."""

from __future__ import annotations

from peft import PeftConfig, PromptTuningConfig

from training.method_specs import PromptTuningSpec
from training.methods.base import settings
from training.methods.soft_prompt import SoftPrompt
from training.models import ModelSource
from training.specs import StageSpec


class PromptTuning(SoftPrompt):
    """Virtual tokens (arXiv 2104.08691)."""

    name = "prompt_tuning"

    def config(self, spec: StageSpec, source: ModelSource, hidden: int) -> PeftConfig:
        """Return the configuration of a fresh prompt."""
        method = settings(spec, PromptTuningSpec)
        return PromptTuningConfig(
            num_virtual_tokens=method.tokens,
            prompt_tuning_init=method.init.upper(),
            prompt_tuning_init_text=method.text,
            tokenizer_name_or_path=str(source.path) if method.init == "text" else None,
            task_type="CAUSAL_LM",
        )
