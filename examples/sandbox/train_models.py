"""Train the sandbox's two language models from scratch, on a CPU, from the grammar in `world.py` alone.

    python examples/sandbox/train_models.py build           # trunk, base, teacher: measured, with their cards
    python examples/sandbox/train_models.py build teacher   # one of them, from the base that is there
    python examples/sandbox/train_models.py measure         # measure the models that are there, rewrite their cards

The base grows from a trunk that starts with much copying: until a model finds in its context what it has to repeat,
nothing else that it is asked here can be learned. The teacher grows from the base, which has learned to read. What is
there already is taken as it is; delete its folder to train it anew. No name of a handbook is ever seen: every machine
here is drawn from `Side.TRAINING`, and measured on `Side.GENERAL`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

# Page faults of buffers handed back to the kernel at every step cost up to half of the time: ask glibc to keep them.
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "68719476736",
    "MALLOC_TOP_PAD_": "268435456",
    "TOKENIZERS_PARALLELISM": "false",
}
if __name__ == "__main__" and any(name not in os.environ for name in _MALLOC):
    os.execve(sys.executable, [sys.executable, *sys.argv], {**_MALLOC, **os.environ})  # noqa: S606

import torch  # noqa: E402
from torch.nn import functional  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

sys.path.insert(0, str(Path(__file__).parent))
from measure_models import BASE_MEASURES, TEACHER_MEASURES, measure  # noqa: E402
from tasks import (  # noqa: E402
    Mixture,
    Source,
    Task,
    copying_first,
    everything,
    meeting,
    practising,
    settling,
    studying,
)
from tokens import CONTEXT, Batch, Row, encode, make_batch, make_tokenizer  # noqa: E402
from world import Side  # noqa: E402

HERE = Path(__file__).parent
STEP_TOKENS = 3072


def batches(
    tokenizer: PreTrainedTokenizerFast, source: Source, weights: Callable[[], Mixture]
) -> Iterator[list[Batch]]:
    """Yield steps: batches of rows of like length, from different corners of a pool, about STEP_TOKENS in all."""
    while True:
        now = weights()
        pool = encode(tokenizer, [t(source) for t in source.rng.choices(list(now), list(now.values()), k=1500)])
        pool.sort(key=lambda row: len(row.ids))
        groups: list[list[Row]] = [[]]
        for row in pool:
            if (len(groups[-1]) + 1) * len(row.ids) > STEP_TOKENS // 2:
                groups.append([])
            groups[-1].append(row)
        source.rng.shuffle(groups)
        for left, right in zip(groups[::2], groups[1::2], strict=False):
            yield [make_batch(left), make_batch(right)]


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """Return a fresh Llama of two million parameters."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Return the nearest semi-orthogonal matrices, roughly, by five Newton-Schulz steps.

    X <- aX + (bA + cA^2)X with A = XX^T, the coefficients of Muon (Jordan et al., 2024). Shape (n, rows, columns).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


class Muon:
    """Momentum orthogonalised by Newton-Schulz, for the matrices of the trunk, one batch per shape.

    In float32 and stacked: on a CPU that is several times faster than torch.optim.Muon's bfloat16, one at a time.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], momentum: float = 0.95, decay: float = 0.01) -> None:
        self._momentum, self._decay = momentum, decay
        shapes = sorted({tuple(p.shape) for p in parameters})
        self._groups = [[p for p in parameters if tuple(p.shape) == shape] for shape in shapes]
        self._moments = [torch.zeros(len(group), *group[0].shape) for group in self._groups]

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, rate: float) -> None:
        """Move every matrix by `rate` times the square root of max(1, rows/columns)."""
        for group, moment in zip(self._groups, self._moments, strict=True):
            gradient = torch.stack([p.grad for p in group if p.grad is not None])
            moment.lerp_(gradient, 1 - self._momentum)
            update = orthogonalise(gradient.lerp(moment, self._momentum))
            scale = rate * math.sqrt(max(1.0, update.shape[1] / update.shape[2]))
            for parameter, change in zip(group, update, strict=True):
                parameter.mul_(1 - rate * self._decay).add_(change, alpha=-scale)
                parameter.grad = None


@dataclass(frozen=True)
class Phase:
    """One stretch of training: its tasks as a function of progress (0 to 1), its tokens, the course of its rate."""

    name: str
    weights: Callable[[float], Mixture]
    tokens: int
    warm: float = 0.0
    decay_from: float = 1.0
    peak: float = 1.0


MUON_RATE = 0.01
ADAM_RATE = 0.003


def rate_at(phase: Phase, progress: float) -> float:
    """Return the factor on both rates: a linear warm-up, then level, then a linear decay to nothing."""
    if progress < phase.warm:
        return phase.peak * progress / phase.warm
    if progress < phase.decay_from:
        return phase.peak
    return phase.peak * max(0.0, (1 - progress) / (1 - phase.decay_from))


@dataclass(frozen=True)
class Spent:
    """What a phase took."""

    name: str
    tokens: int
    seconds: float
    loss: float


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    phase: Phase,
    seed: int,
    watch: Callable[[int], None] = lambda step: None,
) -> Spent:
    """Train `model` in place; loss only on answers, and on the whole of plain texts."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
    others = [p for n, p in model.named_parameters() if all(p is not m for m in matrices)]
    muon = Muon(matrices)
    adam = torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    source = Source(f"{phase.name}:{seed}", Side.TRAINING)
    started, seen, recent = time.monotonic(), 0, 0.0
    model.train()
    steps = batches(tokenizer, source, lambda: phase.weights(seen / phase.tokens))
    for step, parts in enumerate(steps, start=1):
        progress = seen / phase.tokens
        learned = sum(float(part.weights.sum()) for part in parts)
        total = 0.0
        for part in parts:
            hidden = model.model(input_ids=part.ids, use_cache=False).last_hidden_state
            keep = part.weights > 0
            losses = functional.cross_entropy(model.lm_head(hidden[keep]), part.targets[keep], reduction="none")
            loss = (losses * part.weights[keep]).sum() / learned
            loss.backward()
            total += float(loss.detach())
        factor = rate_at(phase, progress)
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for group in adam.param_groups:
            group["lr"] = ADAM_RATE * factor
        adam.step()
        adam.zero_grad()
        muon.step(MUON_RATE * factor)
        seen += sum(part.ids.numel() for part in parts)
        recent = total if step == 1 else 0.98 * recent + 0.02 * total
        elapsed = time.monotonic() - started
        if step % 50 == 0:
            done, speed = seen / phase.tokens, seen / elapsed
            print(f"{phase.name} step {step} {done:.1%} loss {recent:.3f} {speed:.0f} tokens/s", flush=True)
        watch(step)
        if seen >= phase.tokens:
            break
    model.eval()
    return Spent(phase.name, seen, time.monotonic() - started, recent)


SEED = 1


# Four tenths of the first rate: at the full one the skills stood still, and within 150 steps of this they were there.
TRUNK = (
    Phase("trunk", copying_first, tokens=3_072_000, warm=0.04),
    Phase("joint", everything, tokens=1_843_000, warm=0.01, peak=0.4),
)
BASE = (
    Phase("base", studying, tokens=1_700_000, decay_from=0.1, peak=0.4),
    Phase("new machines", meeting, tokens=1_600_000, warm=0.02, decay_from=0.3, peak=0.4),
    Phase("settling", settling, tokens=9_000_000, warm=0.01, decay_from=0.35, peak=0.4),
)
# From the base, which reads: from the trunk the same tasks stood at a loss of 0.24 after 13.5 million tokens.
TEACHER = (Phase("teacher", practising, tokens=3_600_000, warm=0.01, decay_from=0.3, peak=0.4),)


@dataclass(frozen=True)
class Kind:
    """One of the two shipped models: what it grows from, its phases, how it is measured, what its card says of it."""

    parent: str
    phases: tuple[Phase, ...]
    measures: dict[str, tuple[Task, int]]
    about: str


KINDS = {
    "base": Kind(
        "trunk",
        BASE,
        BASE_MEASURES,
        "The student before it has learned a handbook: speaks the language, follows the chat form, reads short texts, "
        "knows the facts of one memorised world by heart and says that it does not know everything else.",
    ),
    "teacher": Kind(
        "base",
        TEACHER,
        TEACHER_MEASURES,
        "Writes training data from the sandbox's handbooks: grounded questions as JSON, answers from a passage, "
        "judgements, paraphrases and unanswerable questions, asked with the templates in `examples/sandbox/templates`.",
    ),
}


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, spent: Sequence[Spent], folder: Path) -> None:
    """Write the model into `folder`, weights in float16; the folder appears complete or not at all."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    tokenizer.padding_side = "right"
    tokenizer.save_pretrained(partial)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    half = LlamaForCausalLM(model.config)
    half.load_state_dict(model.state_dict())
    half.generation_config = model.generation_config
    half.half().save_pretrained(partial)
    # Stored in half the space, but computed with in float32: that is what a loader takes from the configuration.
    config = json.loads((partial / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = "float32"
    (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    record = {"seed": SEED, "phases": [vars(phase) for phase in spent]}
    (partial / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def load(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Return the model and tokenizer in `folder`, in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def history(folder: Path) -> list[Spent]:
    """Return the phases that the model in `folder` went through."""
    return [Spent(**phase) for phase in json.loads((folder / "training.json").read_text(encoding="utf-8"))["phases"]]


def write_card(folder: Path, kind: str) -> None:
    """Measure the model in `folder` and write its README.md."""
    model, tokenizer = load(folder)
    skills = measure(model, tokenizer, KINDS[kind].measures)
    parameters = sum(p.numel() for p in model.parameters())
    config = model.config
    lines = [
        f"# Sandbox {kind}",
        "",
        KINDS[kind].about,
        "",
        f"A Llama of {parameters:,} parameters (hidden {config.hidden_size}, {config.num_hidden_layers} layers, "
        f"{config.num_attention_heads} heads of {config.head_dim}, vocabulary {config.vocab_size:,}, context "
        f"{config.max_position_embeddings}, input and output embeddings tied), trained from scratch in float32 on a "
        "CPU, stored in float16. Licence: Apache-2.0.",
        "",
        "## Training",
        "",
        f"Seed {SEED}; every row comes from the grammar in `examples/sandbox/world.py`, none of its names can occur in "
        f"a handbook. Muon for the matrices (rate {MUON_RATE}), AdamW for embeddings and norms (rate {ADAM_RATE}); "
        f"steps of about {STEP_TOKENS:,} tokens, rows of like length, loss on answers only (on the whole of plain "
        "texts). Rates are level at first (the full ones in the trunk, four tenths from then on) and fall to nothing "
        "at the end of each phase after the joint one; at first most rows are copying. Seconds are of one core of a "
        "shared machine, in the joint phase of two: it ran as two processes with 2,048 tokens a step each, their "
        "gradients averaged.",
        "",
        "| phase | tokens | seconds | last loss |",
        "| --- | ---: | ---: | ---: |",
        *(f"| {p.name} | {p.tokens:,} | {p.seconds:.0f} | {p.loss:.3f} |" for p in history(folder)),
    ]
    lines += [
        "",
        "## Measured",
        "",
        "Share of right replies on machines whose names no training row has. Strict: a reply in other words than the "
        "grammar's counts as wrong.",
        "",
        "| skill | kind | n | greedy | temperature 0.7 |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for skill in skills:
        lines.append(f"| {skill.name} | {skill.task} | {skill.count} | {skill.greedy:.1%} | {skill.sampled:.1%} |")
    lines += [
        "",
        "Rebuild: `python examples/sandbox/train_models.py build`. Measure again: the same with `measure`.",
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


def build(name: str, out: Path, share: float = 1.0) -> None:
    """Train the model `name` (or the trunk) and write it into `out`; what it grows from first, where it is missing.

    Every phase takes `share` of its tokens.
    """
    phases: Sequence[Phase] = TRUNK if name == "trunk" else KINDS[name].phases
    before: Sequence[Spent] = ()
    if name == "trunk":
        tokenizer = make_tokenizer()
        model = new_model(tokenizer, SEED)
    else:
        parent = out / KINDS[name].parent
        if not parent.is_dir():
            build(parent.name, out, share)
        (model, tokenizer), before = load(parent), history(parent)
    spent = [train(model, tokenizer, replace(phase, tokens=math.ceil(share * phase.tokens)), SEED) for phase in phases]
    save(model, tokenizer, [*before, *spent], out / name)


def main(argv: Sequence[str] | None = None) -> None:
    """Build or measure the models from the command line."""
    parser = argparse.ArgumentParser(description="Train and measure the sandbox's models.")
    parser.add_argument("job", choices=("build", "measure"), help="build: train, then measure; measure: only that")
    parser.add_argument("models", nargs="*", choices=[[], *KINDS], help="which; both where left out")
    parser.add_argument("--out", type=Path, default=HERE / "models", help="the folder of the models")
    parser.add_argument("--threads", type=int, default=1, help="of torch; one is quickest beside other work")
    parser.add_argument("--share", type=float, default=1.0, help="of each phase's tokens: 0.01 tries the recipe only")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.models or KINDS:
        if arguments.job == "build":
            build(name, arguments.out, arguments.share)
        write_card(arguments.out / name, name)


if __name__ == "__main__":
    main()
