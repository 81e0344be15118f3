"""What a stage will take of memory and time, told from the model's files and its settings before a weight is read.

Light: no torch. What is counted per position and layer are the tensors that autograd keeps of a decoder with RMSNorm,
rotary positions and a gated feed-forward block (Llama, Qwen, Mistral); widths are h hidden, q of queries, k of keys, f
inner:

    norms 2h; queries, keys, values and attention output 2q + 2k; gate, activation and up-projection 3f;
    full: and what each trained weight is multiplied with, 4h + f more; lora: the inputs of its A's, twice with dropout

Seen on a CPU: what autograd kept was within 4 % of it for full, lora and prompt_tuning (torch 2.13, transformers 5.19).
"""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_catalog.errors import TrainingError
from training.classify_specs import ClassifySpec
from training.method_specs import (
    AdapterSpec,
    FullSpec,
    Ia3Spec,
    LowRankSettings,
    MethodSettings,
    PrefixTuningSpec,
    PTuningSpec,
    PTuningV2Spec,
    QloraSpec,
)
from training.sampled_specs import SampledSpec
from training.stage_specs import StageSpec

MARGIN = 1.15
"""How far a prediction may be off, seen on a CPU. A stage is refused when not even the prediction less that fits, and
advised when the prediction with that does."""
FLOAT = 4
"""Bytes of a float32."""
ADAM = 2 * FLOAT
"""Bytes per trained weight of AdamW's two moments."""
LOGITS_AT_ONCE = 4
"""How many tensors of the size of the logits live at once: logits, log-probabilities, and two for the entropy."""
HEAP_WASTE = 0.42
"""Share of what a forward pass allocates and frees again that the C library's heap does not find again: torch asks for
blocks at 64 bytes, and glibc takes no freed block of just the size for that. Seen 0.37 to 0.48 (full, lora,
prompt_tuning; hidden 512, 8 layers)."""
WORKSPACE = 40 * 2**20
"""Buffers of the matrix library, in bytes; seen with one and two threads."""
NF4 = 0.5 + 1 / 64 + FLOAT / (64 * 256)
"""Bytes per weight in NF4 with double quantisation: 4 bits, and one byte per block of 64 (arXiv 2305.14314)."""
_NO_ADAPTER = re.compile(r"embed|lm_head|wte|wpe|norm")


@dataclass(frozen=True)
class Shape:
    """A model's dimensions, counted in elements."""

    layers: int
    hidden: int
    query: int
    key: int
    inner: int
    vocabulary: int
    parameters: int
    linears: tuple[tuple[int, int], ...]
    """(in, out) of every linear layer but the output head."""
    stored_bytes: int
    stored_float: bool
    """Whether the weights are stored in float32, so that they are mapped and not copied."""

    @property
    def inputs(self) -> float:
        """Inputs of a layer's linear layers together."""
        return sum(into for into, _ in self.linears) / self.layers

    @property
    def outputs(self) -> float:
        """Outputs of a layer's linear layers together."""
        return sum(out for _, out in self.linears) / self.layers


@dataclass(frozen=True)
class Batch:
    """The largest rectangle that a step computes at once."""

    lines: int
    width: int
    targets: int
    """Tokens that carry loss."""
    packed: bool = False

    @property
    def positions(self) -> int:
        """Tokens and padding."""
        return self.lines * self.width


@dataclass(frozen=True)
class Footprint:
    """Bytes that a training takes at its peak, by what takes them."""

    libraries: int
    weights: int
    beside: int
    """Other models: the reference and the reward model of stages that learn from sampled answers."""
    gradients: int
    optimiser: int
    activations: int
    logits: int
    base: int
    """The full-precision base that the result is compared with and merged onto, when training has ended."""

    @property
    def total(self) -> int:
        """The peak: activations and logits give way to gradients in the backward pass."""
        step = max(self.activations + self.logits, self.gradients)
        return self.libraries + self.weights + self.beside + self.optimiser + step + self.base

    def sentence(self) -> str:
        """Return the parts in one line, the largest first."""
        parts = {name: value for name, value in vars(self).items() if value >= 2**20}
        return ", ".join(f"{name} {size(value)}" for name, value in sorted(parts.items(), key=lambda part: -part[1]))


def size(count: float) -> str:
    """Return bytes in words: `1.4 GB`, `312 MB`."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"


def read_shape(directory: Path) -> Shape:
    """Read config.json and the heads of the safetensors files; raise TrainingError where they say too little."""
    try:
        config = json.loads((directory / "config.json").read_text("utf-8"))
        config = config.get("text_config") or config
        tensors = {
            name: entry
            for file in sorted(directory.glob("*.safetensors"))
            for name, entry in _head(file).items()
            if name != "__metadata__"
        }
        if not tensors:
            raise ValueError("it has no *.safetensors")
        hidden = _dimension(config, "hidden_size", "n_embd", "d_model")
        heads = _dimension(config, "num_attention_heads", "n_head", "num_heads", default=1)
        head = int(config.get("head_dim") or hidden // heads)
        linears = tuple(
            (int(entry["shape"][1]), int(entry["shape"][0]))
            for name, entry in tensors.items()
            if len(entry["shape"]) == 2 and not _NO_ADAPTER.search(name)
        )
        return Shape(
            layers=_dimension(config, "num_hidden_layers", "n_layer", "num_layers"),
            hidden=hidden,
            query=heads * head,
            key=int(config.get("num_key_value_heads") or heads) * head,
            inner=_dimension(config, "intermediate_size", "n_inner", "ffn_dim", default=4 * hidden),
            vocabulary=int(config["vocab_size"]),
            parameters=sum(math.prod(entry["shape"]) for entry in tensors.values()),
            linears=linears,
            stored_bytes=sum(file.stat().st_size for file in directory.glob("*.safetensors")),
            stored_float=all(entry["dtype"] == "F32" for entry in tensors.values()),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise TrainingError(
            f"the size of {directory} can't be told: {type(error).__name__}: {error}",
            valid="config.json with the model's dimensions, beside its safetensors",
            next_step="check the directory",
        ) from error


def _dimension(config: dict[str, Any], *names: str, default: int | None = None) -> int:
    """Return what an architecture calls by one of these names, as they do: Llama's, GPT-2's, OPT's, ..."""
    found = next((config[name] for name in names if config.get(name)), default)
    if found is None:
        raise KeyError(names[0])
    return int(found)


def _head(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > file.stat().st_size:
            raise ValueError(f"{file.name} is no safetensors file")
        head: dict[str, Any] = json.loads(stream.read(length))
    return head


def largest_batch(spec: StageSpec) -> Batch:
    """Return the rectangle of a step whose rows are all as long as `max_length` lets them be."""
    sampled = isinstance(spec, SampledSpec)
    single = spec.packs or sampled or spec.stage_name in ("pretrain", "sft", "kto")
    each = len(spec.words) if isinstance(spec, ClassifySpec) else 1 if single else 2
    lines = spec.batch_size * each
    width = spec.max_length + (spec.max_new_tokens if isinstance(spec, SampledSpec) else 0)
    return Batch(lines, width, lines * width, packed=spec.packs)


def trained_weights(shape: Shape, method: MethodSettings) -> int:
    """Return how many weights a method trains."""
    keys = shape.layers * 2 * shape.hidden
    if isinstance(method, FullSpec):
        return shape.parameters
    if isinstance(method, LowRankSettings):
        each = sum(method.rank * (into + out) + (out if method.dora else 0) for into, out in shape.linears)
        return each
    if isinstance(method, AdapterSpec):
        places = 2 if method.placement == "houlsby" else 1
        return shape.layers * places * (2 * shape.hidden * method.size + method.size + shape.hidden)
    if isinstance(method, PrefixTuningSpec):
        hidden = method.hidden or shape.hidden
        return method.tokens * shape.hidden + (shape.hidden + 1) * hidden + (hidden + 1) * keys
    if isinstance(method, PTuningV2Spec):
        return method.tokens * keys
    if isinstance(method, PTuningSpec):
        return method.tokens * shape.hidden + _encoder(shape.hidden, method.hidden or shape.hidden, method.encoder)
    if isinstance(method, Ia3Spec):
        return shape.layers * (2 * shape.key + shape.inner)
    return method.virtual_tokens * shape.hidden


def _encoder(width: int, hidden: int, kind: str) -> int:
    """Return the weights and biases of P-tuning's encoder: three linear layers, or an LSTM with two behind it."""
    if kind == "mlp":
        return (width + 1) * hidden + (hidden + 1) * hidden + (hidden + 1) * width
    first, second = (2 * 4 * hidden * (into + hidden + 2) for into in (width, 2 * hidden))
    return first + second + (2 * hidden + 1) * 2 * hidden + (2 * hidden + 1) * width


@dataclass(frozen=True)
class _PerPosition:
    """Elements of one layer at one position: kept for the backward pass, and allocated in all."""

    kept: float
    allocated: float


def _per_position(shape: Shape, method: MethodSettings, *, packed: bool) -> _PerPosition:
    h, q, f = shape.hidden, shape.query, shape.inner
    k = q if packed else shape.key  # a mask has keys and values repeated for every head
    kept: float = 2 * h + 2 * q + 2 * k + 3 * f
    allocated = 10 * h + 6.5 * q + 6.5 * k + 4 * f
    if isinstance(method, FullSpec):
        kept += 4 * h + f
    elif isinstance(method, LowRankSettings):
        kept += 2 * shape.inputs if method.dropout else 2 * h + f
        kept += method.rank * len(shape.linears) / shape.layers + (2 * shape.outputs if method.dora else 0)
        allocated += 3 * shape.outputs + (2 * shape.inputs if method.dropout else 0)
    elif isinstance(method, Ia3Spec):
        kept += 2 * shape.key + f
        allocated += 2 * shape.key + f
    elif isinstance(method, AdapterSpec):
        kept += 2 * h + method.size
        allocated += 3 * h + 2 * method.size
    return _PerPosition(kept, max(kept, allocated))


def predict(
    shape: Shape,
    spec: StageSpec,
    batch: Batch,
    *,
    libraries: int = 0,
    trained: int | None = None,
    gpu: bool = False,
    half: bool = False,
) -> Footprint:
    """Return what a training of these settings on this batch takes.

    Args:
        shape: the model's.
        spec: the stage's settings.
        batch: the largest one of the training.
        libraries: bytes that the process takes before a model is loaded.
        trained: weights that are trained, where they have been counted.
        gpu: of a GPU's memory, which holds neither libraries nor the base that is merged onto.
        half: arithmetic in bfloat16; weights that are trained stay in float32.
    """
    method = spec.method
    trained = trained_weights(shape, method) if trained is None else trained
    element = 2 if half else FLOAT
    of_layer = _per_position(shape, method, packed=batch.packed)
    positions = batch.lines * (batch.width + method.virtual_tokens)
    kept, freed = of_layer.kept * shape.layers, (of_layer.allocated - of_layer.kept) * shape.layers
    if spec.gradient_checkpointing:
        kept, freed = shape.hidden * shape.layers + of_layer.kept, freed / shape.layers
    elements = positions * (kept + 2 * shape.hidden + (0 if gpu else HEAP_WASTE * freed))
    # A block-diagonal mask becomes one float mask per layer.
    masks = batch.lines * batch.width**2 * (1 if spec.gradient_checkpointing else shape.layers) if batch.packed else 0
    gradients = trained * FLOAT
    kept_over = gradients if spec.gradient_accumulation > 1 else 0
    weights = _weights(shape, method, half=half)
    return Footprint(
        libraries=0 if gpu else libraries + WORKSPACE,
        weights=weights + kept_over,
        beside=_others(spec) * shape.parameters * element,
        gradients=gradients,
        optimiser=trained * ADAM,
        activations=round((elements + masks) * element),
        logits=_logits(shape, spec, batch),
        base=0 if gpu else shape.parameters * FLOAT,
    )


def _weights(shape: Shape, method: MethodSettings, *, half: bool) -> int:
    """Return the bytes of the model as it is trained; adapters are counted with their gradients."""
    if isinstance(method, FullSpec):
        return shape.parameters * (FLOAT + 2 if half else FLOAT)  # autocast keeps a copy of the weights in bfloat16
    if isinstance(method, QloraSpec):
        quantised = sum(into * out for into, out in shape.linears)
        # PEFT holds what is not quantised in float32.
        return round(quantised * NF4 + (shape.parameters - quantised) * FLOAT)
    return shape.parameters * (2 if half else FLOAT)


def _others(spec: StageSpec) -> int:
    """Return how many whole models are held beside the trained one; a 4-bit reference is counted as a whole one."""
    return spec.judged + spec.held if isinstance(spec, SampledSpec) else 0


def _logits(shape: Shape, spec: StageSpec, batch: Batch) -> int:
    if spec.stage_name == "reward":
        return 0
    # The trainers of orpo and simpo compute logits at every position; the loops on sampled answers at those of answers.
    count = batch.positions if spec.stage_name in ("orpo", "simpo") else batch.targets
    return LOGITS_AT_ONCE * count * shape.vocabulary * FLOAT


def step_operations(shape: Shape, spec: StageSpec, batch: Batch) -> float:
    """Return the floating-point operations of forward and backward on one batch.

    A product with a weight costs 2 forward, 2 for the gradient of its input and, where it is trained, 2 for its own;
    attention over w tokens 4·w·q a layer forward, and twice that backward (arXiv 2001.08361, section 2.1).
    """
    positions = batch.lines * (batch.width + spec.method.virtual_tokens)
    products = sum(into * out for into, out in shape.linears)
    passes = (3 if isinstance(spec.method, FullSpec) else 2) + (1 if spec.gradient_checkpointing else 0)
    head = 2 * batch.targets * shape.hidden * shape.vocabulary * (3 if isinstance(spec.method, FullSpec) else 2)
    attention = 4 * batch.width * shape.query * shape.layers * (passes if passes > 2 else 3)
    return positions * (2 * products * passes + attention) + head


@dataclass(frozen=True)
class Remedy:
    """A change of the settings, and what they would take then."""

    change: str
    footprint: Footprint


def remedies(shape: Shape, spec: StageSpec, batch: Batch, room: int, **how: Any) -> list[Remedy]:
    """Return the single changes after which a stage would fit in `room` bytes; the least costly first.

    Halving the batch and doubling the accumulation leaves the result as it is; the others don't quite.
    """
    found = []
    pieces = 1
    while (more := next_pieces(spec.batch_size, pieces)) is not None:
        pieces = more
        small = replace(batch, lines=-(-batch.lines // pieces), targets=-(-batch.targets // pieces))
        accumulated = spec.gradient_accumulation * pieces
        changed = spec.model_copy(update={"gradient_accumulation": accumulated})
        told = predict(shape, changed, small, **how)
        if told.total <= room:
            change = f"batch_size: {spec.batch_size // pieces} with gradient_accumulation: {accumulated}"
            found.append(Remedy(change, told))
            break
    others: list[tuple[str, dict[str, Any], Batch]] = []
    if spec.method.recomputes and not spec.gradient_checkpointing and not isinstance(spec, SampledSpec):
        others.append(("gradient_checkpointing: true", {"gradient_checkpointing": True}, batch))
    if spec.stage_name not in ("reward", "ppo") and not isinstance(spec.method, QloraSpec):
        others.append(("method: qlora", {"method": QloraSpec()}, batch))
    half = spec.max_length // 2
    if half >= 16:
        shorter = replace(batch, width=min(batch.width, half), targets=min(batch.targets, batch.lines * half))
        others.append((f"max_length: {half}", {"max_length": half}, shorter))
    for change, update, smaller in others:
        told = predict(shape, spec.model_copy(update=update), smaller, **{**how, "trained": None})
        if told.total <= room:
            found.append(Remedy(change, told))
    return found


def next_pieces(batch_size: int, pieces: int, least: int = 1) -> int | None:
    """Return in how many equal pieces a batch is taken next, at least twice as many as now; None if it can't be."""
    fitting = (more for more in range(2 * pieces, batch_size // least + 1) if batch_size % more == 0)
    return next(fitting, None)
