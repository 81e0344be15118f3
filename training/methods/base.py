"""What all methods share: the interface, comparing logits, and an adapter that stays beside its base."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel

from data_catalog.errors import TrainingError
from training.guards import MERGE_TOLERANCE, check_adapter_active, check_parity
from training.method_specs import MethodSettings
from training.models import ModelSource, device, load_weights
from training.specs import StageSpec
from training.student import Student
from training.trainable import load_trainable

BF16_TOLERANCE = 5e-2
"""A base held in bfloat16 rounds each layer's output to 8 bits; parity with float32 is no closer than this."""
SettingsT = TypeVar("SettingsT", bound=MethodSettings)


@dataclass(frozen=True)
class Finished:
    """What training leaves: an ordinary full-precision model, and what the guards saw on the way.

    With `adapter`, `model` is the untouched base, and the folder `adapter` has to stay beside it.
    """

    model: PreTrainedModel
    guards: dict[str, str] = field(default_factory=dict)
    adapter: Path | None = None


class Method(ABC):
    """How a model is loaded for training, what of it is trained, and what becomes of the trained part."""

    name: str
    saves_whole = False
    """Whether a checkpoint is a whole model; otherwise it is the trainable parameters alone."""

    def base(self, source: ModelSource, dtype: torch.dtype) -> PreTrainedModel:
        """Load the model that the method stands on, on the CPU."""
        return load_weights(source, dtype)

    def load(self, source: ModelSource, precision: torch.dtype) -> PreTrainedModel:
        """Load the frozen base in the precision of the arithmetic."""
        return self.base(source, precision).to(device())

    @abstractmethod
    def prepare(self, model: PreTrainedModel, spec: StageSpec, source: ModelSource) -> Any:
        """Return the model with exactly what this method trains set trainable.

        Where `source` carries an adapter of this method already, training goes on from that.
        """

    @abstractmethod
    def finish(self, trained: Any, spec: StageSpec, source: ModelSource, probe: torch.Tensor, work: Path) -> Finished:
        """Make the trained model whole: merged in float32 on the CPU, or a base with an adapter beside it.

        `probe` (int64, (rows, tokens)) is what the guards compare logits on; adapters are kept in `work/adapter`.
        """

    @abstractmethod
    def save_adapter(self, trained: Any, spec: StageSpec, folder: Path) -> None:
        """Write what training leaves beside the base; for `full`, the model."""

    def reference(self, model: Any, source: ModelSource) -> AbstractContextManager[None]:
        """While open, `model` (before its first step) answers as the model that the stage starts from.

        Every method whose fresh parameters change nothing has nothing to do.
        """
        return nullcontext()

    def starts_as_reference(self, source: ModelSource) -> bool:
        """Whether the model before its first step is the one that the stage starts from."""
        return True

    def attach(self, source: ModelSource, model: PreTrainedModel) -> Student:
        """Put the stored adapter of `source` on its loaded base."""
        raise TrainingError(f"{self.name} merges; it leaves no adapter beside a base", next_step="report this")


def settings(spec: StageSpec, kind: type[SettingsT]) -> SettingsT:
    """Return a stage's method settings, which are of the kind that the method knows."""
    if not isinstance(spec.method, kind):
        raise TypeError(f"{type(spec.method).__name__} is not {kind.__name__}")
    return spec.method


def go_on(model: torch.nn.Module, source: ModelSource) -> None:
    """Put the trained state that `source` carries into a freshly prepared model, if it carries one."""
    if source.adapter is not None:
        load_trainable(model, source.adapter)


@dataclass(frozen=True)
class Seen:
    """The logits of a trained model on the probe, and the precision of the base that it was trained on."""

    logits: torch.Tensor
    precision: torch.dtype


def keep(student: Student, adapter: Path, source: ModelSource, probe: torch.Tensor, seen: Seen) -> Finished:
    """Check that the saved and reloaded adapter gives the logits that it had when training ended, and is active.

    `student` is the base in float32 with the adapter as it was read back.
    """
    reloaded = student.logits(probe)
    with student.without_adapter():
        base = student.logits(probe)
    saved = difference(reloaded, seen.logits)
    tolerance = MERGE_TOLERANCE if seen.precision == torch.float32 else BF16_TOLERANCE
    guards = {
        "adapter_active": check_adapter_active(difference(reloaded, base).largest),
        "save_parity": check_parity("saving", saved.largest, saved.scale, tolerance),
        "merged": "not: base and adapter are kept together, and answer together",
    }
    return Finished(load_weights(source, source.stored_dtype), guards, adapter)


@torch.no_grad()
def logits(model: Any, probe: torch.Tensor) -> torch.Tensor:
    """Return the logits of `probe` as float32 on the CPU, in evaluation mode, without autocast.

    Virtual tokens before those of `probe` have logits too, which are left out.
    """
    with _evaluation(model):
        where = next(model.parameters()).device
        found = model(input_ids=probe.to(where)).logits[:, -probe.shape[1] :]
        return torch.as_tensor(found.float().cpu())


@contextmanager
def _evaluation(model: Any) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@dataclass(frozen=True)
class Difference:
    """How far two sets of logits are apart: the largest absolute difference, and the largest logit."""

    largest: float
    scale: float


def difference(one: torch.Tensor, other: torch.Tensor) -> Difference:
    """Compare two sets of logits of one shape."""
    return Difference(float((one - other).abs().max()), float(other.abs().max()))
