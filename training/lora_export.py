"""The LoRA of one or several training stages as one adapter beside a named base, for vLLM or PEFT.

Merging adds s·B·A to a weight, and so does a second stage on top: W = W0 + s1·B1·A1 + s2·B2·A2. Side by side they are
one LoRA, A = [A1; A2], B = [s1·B1, s2·B2], exactly. Each stage's adapter lies in its run's folder and not in the
registry, so the sum is compared with the registered weights before it is called theirs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from data_catalog.errors import TrainingError

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
_ROUNDINGS = 4.0
"""How many roundings of the stored format a merged weight may be away: one per stage, and the base's own."""

Factors = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""By module: A (rank, in) and B (out, rank), the scale in B."""


def export_lora(adapters: Sequence[Path], base: Path, base_name: str, merged: Path, output: Path) -> int:
    """Write the sum of `adapters` as one adapter; return its rank.

    Args:
        adapters: the stages' adapter folders as PEFT wrote them, in the order of training.
        base: the model directory that the first stage started from.
        base_name: what the adapter's configuration calls it.
        merged: the registered model, which the sum is checked against.
        output: an empty directory.

    Raises:
        TrainingError: an adapter is no plain LoRA, or base and adapters do not make the registered weights.
    """
    first = _read_config(adapters[0])
    total = factors(adapters[0])
    for adapter in adapters[1:]:
        total = _side_by_side(total, factors(adapter), adapter)
    check_sum(total, base, merged)
    (rank,) = {a.shape[0] for a, _ in total.values()}
    tensors = {}
    for module, (a, b) in total.items():
        tensors[f"{_PREFIX}{module}{_A}"], tensors[f"{_PREFIX}{module}{_B}"] = a.contiguous(), b.contiguous()
    save_file(tensors, output / WEIGHTS, metadata={"format": "pt"})
    config = first | {
        "base_model_name_or_path": base_name,
        "r": rank,
        "lora_alpha": rank,  # the scale stands in B: alpha / r is 1
        "use_rslora": False,
        "lora_dropout": 0.0,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    (output / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return rank


def factors(adapter: Path) -> Factors:
    """Return what an adapter adds to each module, as float32.

    Raises:
        TrainingError: it is no plain LoRA.
    """
    config = _read_config(adapter)
    plain = config.get("peft_type") == "LORA" and not config.get("use_dora") and config.get("bias", "none") == "none"
    if not plain or config.get("rank_pattern") or config.get("alpha_pattern"):
        what = "DoRA" if config.get("use_dora") else str(config.get("peft_type"))
        raise TrainingError(
            f"{adapter} holds {what}, which is not a sum of two factors",
            valid="a plain LoRA (also rsLoRA, PiSSA, OLoRA, qlora)",
            next_step="export the merged model instead: --format hf",
        )
    scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
    tensors = load_file(adapter / WEIGHTS)
    modules = [name.removeprefix(_PREFIX).removesuffix(_A) for name in tensors if name.endswith(_A)]
    if len(tensors) != 2 * len(modules):
        raise TrainingError(
            f"{adapter / WEIGHTS} holds more than the factors A and B: {', '.join(sorted(tensors)[:4])} ...",
            valid="one A and one B for each module",
            next_step="export the merged model instead: --format hf",
        )
    return {
        module: (tensors[f"{_PREFIX}{module}{_A}"].float(), tensors[f"{_PREFIX}{module}{_B}"].float() * scale)
        for module in modules
    }


def check_sum(total: Factors, base: Path, merged: Path) -> None:
    """Compare base + B·A with the merged weights, tensor by tensor; whatever is not adapted must be equal.

    Raises:
        TrainingError: names the first tensor that is not what it should be.
    """
    ours, theirs = _names(base), _names(merged)
    # A head that is tied to the embeddings is stored by some writers and left out by others.
    for name in sorted(ours.keys() & theirs.keys()):
        started, ended = _tensor(ours[name], name), _tensor(theirs[name], name)
        adapted = total.get(name.removesuffix(".weight"))
        expected = started.float() if adapted is None else started.float() + adapted[1] @ adapted[0]
        gap = float((expected - ended.float()).abs().max()) if expected.shape == ended.shape else math.inf
        rounding = torch.finfo(ended.dtype).eps * float(expected.abs().max())
        if gap > (0.0 if adapted is None else _ROUNDINGS * rounding + 1e-6):
            raise TrainingError(
                f"{name} of the registered model is not base and adapter: {gap:.2g} apart",
                valid="the adapter of the run that made the model, and the base that it started from",
                next_step="export the merged model instead: --format hf",
            )
    missing = total.keys() - {name.removesuffix(".weight") for name in ours.keys() & theirs.keys()}
    if missing:
        raise TrainingError(f"the adapter changes {sorted(missing)[0]}, which the model does not have")


def _side_by_side(left: Factors, right: Factors, adapter: Path) -> Factors:
    if left.keys() != right.keys():
        differing = sorted(left.keys() ^ right.keys())
        raise TrainingError(
            f"{adapter} adapts other modules than the stage before it: {differing[0]} is in one alone",
            valid="stages with the same LoRA modules",
            next_step="export the merged model instead: --format hf",
        )
    return {
        module: (torch.cat([a, right[module][0]], dim=0), torch.cat([b, right[module][1]], dim=1))
        for module, (a, b) in left.items()
    }


def _read_config(adapter: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    return content


def _names(model: Path) -> dict[str, Path]:
    return dict(_stored(model))


def _stored(model: Path) -> Iterator[tuple[str, Path]]:
    for file in sorted(model.glob("*.safetensors")):
        with ExitStack() as stack:
            opened = stack.enter_context(safe_open(file, framework="pt"))
            yield from ((name, file) for name in opened.keys())  # noqa: SIM118 - no mapping


def _tensor(file: Path, name: str) -> torch.Tensor:
    with safe_open(file, framework="pt") as opened:
        return torch.as_tensor(opened.get_tensor(name))
