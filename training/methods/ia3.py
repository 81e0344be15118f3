"""`ia3`: keys, values and inner feed-forward activations rescaled by trained vectors."""

from __future__ import annotations

from peft import IA3Config, PeftModel, get_peft_model
from transformers import PreTrainedModel

from data_catalog.errors import TrainingError
from training.methods.mergeable import Mergeable
from training.models import ModelSource
from training.specs import StageSpec

_KEYS_VALUES, _FEED_FORWARD = ("k_proj", "v_proj"), "down_proj"


class Ia3(Mergeable):
    """One factor per channel (arXiv 2205.05638, section 3.3); all start at 1, where they change nothing."""

    name = "ia3"

    def prepare(self, model: PreTrainedModel, spec: StageSpec, source: ModelSource) -> PeftModel:
        """Put fresh factors on keys, values and the input of the last feed-forward projection.

        PEFT's table puts them on queries instead of keys for some families; the paper's places are used wherever the
        model has them under their usual names, PEFT's table elsewhere.
        """
        names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
        usual = names.issuperset([*_KEYS_VALUES, _FEED_FORWARD])
        config = IA3Config(
            target_modules=[*_KEYS_VALUES, _FEED_FORWARD] if usual else None,
            feedforward_modules=[_FEED_FORWARD] if usual else None,
            task_type="CAUSAL_LM",
        )
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            raise TrainingError(
                f"IA3 does not know where to stand in a {model.config.model_type} model: {error}",
                valid="a model with k_proj, v_proj and down_proj, or of a family in PEFT's table",
                next_step="use method lora, which fits any linear layer",
            ) from error
