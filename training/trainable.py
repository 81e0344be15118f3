"""The full trainable state of a model in one file: every parameter that carries a gradient, by its name.

PEFT stores a soft prompt as the vectors that its encoder makes and drops the encoder: a training that goes on from
that crashes (prefix tuning with an MLP) or silently starts over (P-tuning). So checkpoints hold this file instead, and
an adapter that can't be merged keeps one beside what PEFT wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from data_catalog.errors import TrainingError

TRAINABLE = "trainable.safetensors"


def save_trainable(model: torch.nn.Module, folder: Path) -> None:
    """Write `trainable.safetensors` into `folder`."""
    state = {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / TRAINABLE, metadata={"format": "pt"})


def misfits(own: Mapping[str, torch.Tensor], stored: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the names that only one of two states has, then those whose shapes differ."""
    shared = sorted(own.keys() & stored.keys())
    return sorted(own.keys() ^ stored.keys()) + [name for name in shared if own[name].shape != stored[name].shape]


def load_trainable(model: torch.nn.Module, folder: Path) -> None:
    """Put a stored state into a model that was prepared the same way; every name and shape must agree."""
    path = folder / TRAINABLE
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path} can't be read: {error}", next_step="train the stage again") from error
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if wrong := misfits(parameters, state):
        raise TrainingError(
            f"{path} does not fit what is trained here: {len(wrong)} parameters differ, such as {wrong[0]}",
            valid="a state of the same method with the same settings, on the same base",
            next_step="train the stage again from its base",
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name])
