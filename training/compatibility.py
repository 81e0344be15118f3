"""Which method goes with which stage, packing and gradient checkpointing; and which stage may follow which.

Light, so that a configuration is refused before anything starts. Every combination either runs (the tests train them)
or is refused here with the reason and the nearest one that works.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from training.method_specs import AnyMethod, FullSpec, LoraSpec, MethodSettings, MethodSpec

ADAPTED_TYPE = "tutelage_adapted"
"""`model_type` of a directory that keeps a base and an adapter that can't be merged. transformers and vLLM don't know
it, so they refuse the directory instead of serving the base alone."""
STAGES = ("pretrain", "sft", "dpo", "kto", "orpo", "simpo", "reward", "ppo", "grpo", "rloo", "classify")
PREFERENCE = frozenset({"dpo", "kto", "orpo", "simpo", "reward"})
"""Stages that train on preference pairs."""
PACKABLE = frozenset({"pretrain", "sft"})
"""Stages whose rows are single sequences; a preference pair is two that must stay apart, an answer is yet to come."""
SAMPLING = frozenset({"ppo", "grpo", "rloo"})
"""Stages that learn from the model's own answers."""
UNPACKABLE = {
    **dict.fromkeys(SAMPLING, "answers are sampled"),
    "classify": "rows are as many lines as the labels have words",
}
"""Why the rows of a stage can't be packed, where they are no pairs."""
REWARDING = frozenset({"reward", "ppo"})
"""Stages with another head on the model, which only some methods have room for."""


@dataclass(frozen=True)
class Refusal:
    """Why a combination does not work, and the nearest one that does."""

    reason: str
    nearest: str

    @property
    def sentence(self) -> str:
        """Both in one line."""
        return f"{self.reason}; nearest that works: {self.nearest}"


def refusal(method: MethodSettings, stage: str, *, packing: bool, recompute: bool) -> Refusal | None:
    """Return why a combination is refused, or None if it works. `recompute`: gradient checkpointing."""
    name = _name(method)
    if packing and stage not in PACKABLE:
        what = UNPACKABLE.get(stage, "rows are pairs")
        return Refusal(f"{stage} {what} and can't be packed", f"{stage} without packing")
    if stage in REWARDING and not _carries_a_head(method):
        return Refusal(
            f"{name} with these settings has no room for the head that {stage} trains", f"{stage} with method: lora"
        )
    if stage in SAMPLING and method.virtual_tokens:
        return Refusal(
            f"{stage} answers with a cache of keys and values, before which {name} would put its prompt at every token",
            f"{stage} with method: lora",
        )
    if stage in SAMPLING and recompute:
        return Refusal(
            f"{stage} answers with a cache of keys and values, which gradient checkpointing drops",
            f"{stage} with gradient_checkpointing: false",
        )
    if packing and not method.packs:
        return Refusal(
            f"with {name} one prompt would cover a whole pack, and the position ids that keep rows apart are ignored",
            f"{name} with packing: false, or lora with packing",
        )
    if recompute and not method.recomputes:
        return Refusal(
            f"{name} hands each layer a cache of keys and values, which gradient checkpointing drops",
            f"{name} with gradient_checkpointing: false, or prompt_tuning with it",
        )
    return None


@dataclass(frozen=True)
class Combination:
    """One cell of the table."""

    method: type[MethodSettings]
    stage: str
    packing: bool
    recompute: bool
    refusal: Refusal | None


def table() -> Iterator[Combination]:
    """Yield every combination of method, stage, packing and gradient checkpointing, with what is said of it."""
    for method, stage, packing, recompute in product(get_args(AnyMethod), STAGES, (False, True), (False, True)):
        refused = refusal(method(), stage, packing=packing, recompute=recompute)
        yield Combination(method, stage, packing, recompute, refused)


def follows(earlier: MethodSettings | None, later: MethodSettings) -> Refusal | None:
    """Return why a stage can't start from a model that `earlier` trained, or None if it can.

    `earlier` is None for an ordinary model: a base, or one that a method was merged into.
    """
    if earlier is None or earlier.merges or earlier == later:
        return None
    old, new = _name(earlier), _name(later)
    what = f"other settings of {new}" if old == new else new
    return Refusal(
        f"the model carries an adapter of method {old}, which can't be merged, and {what} can't be trained on top",
        f"the same {old} settings in both stages, or a method that merges (lora, ia3, full) in the earlier one",
    )


def adapter_of(directory: Path) -> AnyMethod | None:
    """Return the method of the adapter that a model directory carries unmerged; None for an ordinary model.

    A directory that can't be read is not judged here: whoever loads it says what is wrong.
    """
    try:
        config: Any = json.loads((directory / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict) or config.get("model_type") != ADAPTED_TYPE:
        return None
    try:
        method: AnyMethod = TypeAdapter(MethodSpec).validate_python(config.get("method"))
    except ValidationError:
        return None
    return method


def is_reward_model(directory: Path) -> bool:
    """Say whether a model directory holds a sequence classifier, as a `reward` stage leaves it."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return any(name.endswith("ForSequenceClassification") for name in config.get("architectures") or ())


def _carries_a_head(method: MethodSettings) -> bool:
    """Only `full` and plain LoRA: the others keep no further module beside what they train."""
    return isinstance(method, FullSpec) or (
        isinstance(method, LoraSpec) and method.init == "zero" and method.rate_ratio == 1
    )


def _name(method: MethodSettings) -> str:
    return str(type(method).model_fields["name"].default)
