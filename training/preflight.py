"""Before the first step: whether a stage fits this machine, told in advance and then seen in a step that counts not.

The prediction is `training.footprint`'s for the largest batch of the first epoch. The calibration step computes loss
and gradients of that batch, throws them away, and puts the random numbers back, so that the training is the one it
would have been without.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size

from data_catalog.errors import MachineError
from training.footprint import MARGIN, Batch, Footprint, Shape, next_pieces, predict, read_shape, remedies, size
from training.gpu import gpu_memory
from training.machine import free_memory, own_memory, peak_memory
from training.models import ModelSource
from training.packing import NO_LOSS
from training.specs import SampledSpec, StageSpec
from training.stages.base import Material, Stage

Room = Callable[[], int]
"""Returns how many bytes may still be taken."""


def room() -> int:
    """Return the bytes that a training may still take: of the GPU's memory, or without one of the machine's."""
    of_gpu = gpu_memory()
    return free_memory() if of_gpu is None else of_gpu


@dataclass(frozen=True)
class Preflight:
    """What was predicted, for which batch."""

    footprint: Footprint
    largest: Sequence[int]
    """Places of the largest batch's rows."""
    batch: Batch
    room: int
    """Bytes that were free, with those that the process held already."""

    def events(self) -> dict[str, Any]:
        """Return what the caller is told."""
        return {
            "memory": self.footprint.total,
            "libraries": self.footprint.libraries,
            "room": self.room,
            "parts": self.footprint.sentence(),
        }


def look_ahead(
    stage: Stage,
    spec: StageSpec,
    source: ModelSource,
    material: Material,
    *,
    pieces: int,
    precision: torch.dtype,
    free: Room = room,
) -> Preflight:
    """Predict the memory of a stage; raise MachineError where it can't fit, with what would."""
    shape, gpu = read_shape(source.path), torch.cuda.is_available()
    largest = _largest(stage, spec, material, pieces)
    batch = _rectangle(stage, spec, source, material, largest)
    held = 0 if gpu else own_memory()
    how = {"libraries": held, "gpu": gpu, "half": precision == torch.bfloat16}
    told = predict(shape, _divided(spec, pieces), batch, **how)
    allowed = free() + held
    if told.total > MARGIN * allowed:
        raise _too_large(shape, _divided(spec, pieces), batch, told, allowed, how)
    return Preflight(told, largest, batch, allowed)


def _divided(spec: StageSpec, pieces: int) -> StageSpec:
    """Return the settings with batches of an equal part, and as many more of them per step."""
    return spec.model_copy(
        update={
            "batch_size": spec.batch_size // pieces,
            "gradient_accumulation": spec.gradient_accumulation * pieces,
        }
    )


def _too_large(
    shape: Shape, spec: StageSpec, batch: Batch, told: Footprint, allowed: int, how: dict[str, Any]
) -> MachineError:
    fitting = remedies(shape, spec, batch, allowed, **how)
    options = [f"{remedy.change} ({size(remedy.footprint.total)})" for remedy in fitting]
    return MachineError(
        f"stage {spec.stage_name} by {spec.method.name} would take {size(told.total)} of memory, and "
        f"{size(allowed)} are there: {told.sentence()}",
        valid=f"at most {size(allowed)}",
        next_step=f"set {'; or '.join(options)}" if options else "take a smaller model, or a machine with more memory",
    )


def _largest(stage: Stage, spec: StageSpec, material: Material, pieces: int) -> list[int]:
    """Return the places of the batch that takes most in the first epoch."""
    order, count, each = iter(stage.order(spec, material)), len(material.rows), spec.batch_size // pieces
    best: tuple[int, list[int]] = (0, [])
    while places := [index % count for index in islice(order, each)]:
        lengths = [len(material.rows[place]) for place in places]
        best = max(best, (sum(lengths) if spec.packs else max(lengths) * len(lengths), places))
    return best[1]


def _rectangle(stage: Stage, spec: StageSpec, source: ModelSource, material: Material, places: Sequence[int]) -> Batch:
    """Return the shape of a batch as the collator lays it out."""
    if isinstance(spec, SampledSpec):
        width = max(len(material.rows[place]) for place in places) + spec.max_new_tokens
        return Batch(len(places), width, len(places) * spec.max_new_tokens)
    made = stage.collator(spec, material, source)([{"row": place} for place in places])
    sides = [value.shape for name, value in made.items() if name.endswith("input_ids") and not name.startswith("KL_")]
    lines, width = sum(shape[0] for shape in sides), max(shape[1] for shape in sides)
    masks = [value != NO_LOSS for name, value in made.items() if name.endswith("labels")]
    masks += [value for name, value in made.items() if name == "completion_mask"]
    return Batch(lines, width, sum(int(mask.sum()) for mask in masks), packed=spec.packs and lines < len(places))


@dataclass(frozen=True)
class Calibration:
    """One step on the largest batch, as it was."""

    seconds: float
    memory: int
    """Peak, in bytes, so far: what comes later (moments of AdamW, the merge) is not in it."""


def calibrate(trainer: Any, preflight: Preflight) -> Calibration | None:
    """Compute loss and gradients of the largest batch, and forget them; None for a loop that samples its rows."""
    if isinstance(getattr(trainer, "spec", None), SampledSpec):
        return None
    with _forgotten(trainer):
        batch = trainer.data_collator([{"row": place} for place in preflight.largest])
        began = time.perf_counter()
        inputs = trainer._prepare_inputs(batch)
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(trainer.model, inputs)
        trainer.accelerator.backward(loss)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    memory = int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else peak_memory()
    return Calibration(seconds, memory)


@contextmanager
def _forgotten(trainer: Any) -> Iterator[None]:
    """Leave no gradient, no metric and no random number drawn behind."""
    python, of_numpy, of_torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    of_cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    trainer.model.train()
    if trainer.args.gradient_checkpointing:  # as the loop does when it begins
        trainer.model.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs
        )
    try:
        yield
    finally:
        trainer.model.zero_grad(set_to_none=True)
        trainer.forget()
        random.setstate(python)
        np.random.set_state(of_numpy)
        torch.set_rng_state(of_torch)
        if of_cuda:
            torch.cuda.set_rng_state_all(of_cuda)


def training_seconds(spec: StageSpec, material: Material, preflight: Preflight, step: Calibration) -> float:
    """Return how long the loop will take at the pace of the calibration step, by tokens."""
    own = material.own if material.own is not None else len(material.rows)
    lengths = [len(row) for row in material.rows]
    epochs = math.ceil(spec.epochs)
    tokens = sum(lengths[:own]) * spec.epochs + sum(lengths[own:]) * spec.epochs / epochs
    return step.seconds * tokens / max(1, sum(lengths[place] for place in preflight.largest))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was lacking, of a GPU or of the machine."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, Exception) and should_reduce_batch_size(error)


@contextmanager
def memory_for(what: str) -> Iterator[None]:
    """Tell a lack of memory by what it was lacking for; a smaller batch would not help there."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise MachineError(
            f"out of memory while {what}: {error}",
            next_step="free memory, or take a smaller model; `method: qlora` holds a quarter of the weights",
        ) from error


def more_pieces(spec: StageSpec, pieces: int, least: int, error: BaseException) -> int:
    """Return in how many pieces to try a batch next after `error`; raise MachineError where it can't be smaller."""
    more = next_pieces(spec.batch_size, pieces, least)
    if more is None:
        raise MachineError(
            f"out of memory with {spec.batch_size // pieces} rows at a time: {error}",
            valid="a batch that can be made smaller",
            next_step="lower max_length, set gradient_checkpointing: true, or use method qlora",
        ) from error
    return more
