"""The fine-tuning methods: what of a model is trained, and what becomes of the trained part.

A method is one file with one class, one row of `METHODS`, and its settings in `training.method_specs`.
"""

from __future__ import annotations

import torch

from data_catalog.errors import TrainingError
from training.compatibility import follows
from training.methods.adapter import Adapter
from training.methods.base import Finished, Method, logits
from training.methods.full import Full
from training.methods.ia3 import Ia3
from training.methods.lora import Lora
from training.methods.p_tuning import PTuning
from training.methods.p_tuning_v2 import PTuningV2
from training.methods.prefix_tuning import PrefixTuning
from training.methods.prompt_tuning import PromptTuning
from training.methods.qlora import Qlora, guard_4bit_layers
from training.models import ModelSource, device, load_weights
from training.specs import StageSpec
from training.student import Student

__all__ = [
    "METHODS",
    "Finished",
    "Full",
    "Lora",
    "Method",
    "Qlora",
    "check_start",
    "guard_4bit_layers",
    "load_student",
    "logits",
    "method_for",
]

_IMPLEMENTED: tuple[Method, ...] = (
    Full(),
    Lora(),
    Qlora(),
    Adapter(),
    PromptTuning(),
    PrefixTuning(),
    PTuning(),
    PTuningV2(),
    Ia3(),
)
METHODS: dict[str, Method] = {method.name: method for method in _IMPLEMENTED}
"""`method.name` of a stage to what does it."""


def method_for(spec: StageSpec) -> Method:
    """Return the method that a stage asks for."""
    return METHODS[spec.method.name]


def check_start(spec: StageSpec, source: ModelSource) -> None:
    """Raise TrainingError if the stage can't start from a model that carries an unmerged adapter."""
    refused = follows(source.adapter_method, spec.method)
    if refused is not None:
        raise TrainingError(refused.reason, valid=refused.nearest, next_step="change `method` of one of the stages")


def load_student(source: ModelSource, dtype: torch.dtype) -> Student:
    """Load a model to be asked, with the adapter that it carries."""
    model = load_weights(source, dtype).to(device())
    if source.adapter is None or source.adapter_method is None:
        return Student(model)
    return METHODS[source.adapter_method.name].attach(source, model)
