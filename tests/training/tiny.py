"""A tiny Llama with a tokenizer of its own, and rows for it: no model is fetched, none of the sandbox's is needed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from training.process import Progress
from training.specs import (
    ClassifySpec,
    DpoSpec,
    GrpoSpec,
    KtoSpec,
    OrpoSpec,
    PpoSpec,
    PretrainSpec,
    RewardSpec,
    RlooSpec,
    SftSpec,
    SimpoSpec,
    StageSpec,
    TrainJob,
)

STAGE_SPECS: dict[str, type[StageSpec]] = {
    "pretrain": PretrainSpec,
    "sft": SftSpec,
    "dpo": DpoSpec,
    "kto": KtoSpec,
    "orpo": OrpoSpec,
    "simpo": SimpoSpec,
    "reward": RewardSpec,
    "ppo": PpoSpec,
    "grpo": GrpoSpec,
    "rloo": RlooSpec,
    "classify": ClassifySpec,
}
UNUSED = Path(os.environ["HF_HOME"]).with_name("unused")
"""Where a trainer would write that is only built; transformers makes the directory. It goes with the tests' home."""
LABELS = {"moving": ["moves", "it turns"], "still": ["still"], "管路": ["管道", "pipe"]}
REQUIRED: dict[str, dict[str, Any]] = {"classify": {"labels": LABELS}}
"""What a stage can't be without."""

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NAMES = ("Veltrano", "Brixal", "Ormund", "Tessaly", "Quindra", "Halvern", "Mirosk", "Dunfell", "Arkady", "Poltava")
PARTS = ("rotor", "valve", "boiler", "gasket", "piston", "filter", "nozzle", "flange")
COLOURS = ("red", "green", "blue", "amber", "violet", "white", "black", "grey")


def facts(count: int) -> list[tuple[str, str]]:
    """Return `count` different questions with their answers."""
    made = []
    for number in range(count):
        name, part = NAMES[number % len(NAMES)], PARTS[number // len(NAMES) % len(PARTS)]
        colour = COLOURS[(number * 5 + number // 7) % len(COLOURS)]
        made.append((f"What colour is the {part} of the {name}?", f"The {part} of the {name} is {colour}."))
    return made


def build_tokenizer(vocabulary: int = 400) -> PreTrainedTokenizerFast:
    """Train a small byte-level BPE with ChatML control tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|pad|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = [text for pair in facts(80) for text in pair] + ["system user assistant\n"] * 4
    tokenizer.train_from_iterator(corpus, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|im_end|>", model_max_length=512
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_model(
    path: Path,
    *,
    hidden: int = 64,
    layers: int = 2,
    vocabulary: int = 400,
    embeddings: int = 0,
    seed: int = 1,
    dtype: Any = torch.float32,
) -> Path:
    """Write a random Llama with tokenizer, chat template and generation settings; `embeddings`: rows, if more."""
    tokenizer = build_tokenizer(vocabulary)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=max(embeddings, len(tokenizer)),
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3 // 32 * 32,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 32),
        num_key_value_heads=max(1, hidden // 32),
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).to(dtype)
    model.generation_config = GenerationConfig(
        eos_token_id=[tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|endoftext|>")],
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def messages(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def preference(question: str, chosen: str, rejected: str) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": question}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def labelled(count: int, *, start: int = 0) -> list[dict[str, Any]]:
    """Return texts whose label depends on the part that they name, one of eight, whoever made it."""
    names = list(LABELS)
    return [
        {
            "text": f"The {PARTS[number % 8]} of the {NAMES[number // 8 % 10]} is there.",
            "label": names[(0, 1, 2, 1, 0, 2, 2, 1)[number % 8]],
        }
        for number in range(start, start + count)
    ]


def payloads(stage: str, count: int = 24) -> list[dict[str, Any]]:
    """Return rows of the kind that a stage trains on."""
    pairs = facts(count)
    if stage == "pretrain":
        return [{"text": f"{answer} {answer}"} for _, answer in pairs]
    if stage == "classify":
        return labelled(count)
    if stage in ("sft", "ppo", "grpo", "rloo"):
        return [messages(question, answer) for question, answer in pairs]
    return [preference(question, answer, pairs[-1 - n][1] + " Or not.") for n, (question, answer) in enumerate(pairs)]


def write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows as a dataset version stores them: Parquet with the columns `id` and `payload` (JSON text)."""
    table = {"id": [f"item-{n}" for n in range(len(rows))], "payload": [json.dumps(row) for row in rows]}
    pq.write_table(pa.table(table), path, write_page_checksum=True)
    return path


def train_job(folder: Path, model: Path, spec: StageSpec, rows: Sequence[dict[str, Any]], **options: Any) -> TrainJob:
    """Return a job whose files all lie below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    return TrainJob.model_validate(
        {
            "spec": spec.model_dump(),
            "model": model,
            "dataset": write_parquet(folder / "rows.parquet", rows),
            "output": folder / "model",
            "work": folder / "work",
            **options,
        }
    )


def weights(model: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a model directory."""
    return {name: tensor for file in sorted(model.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def identical(one: Path, other: Path) -> bool:
    """Whether two model directories hold the same tensors, bit for bit."""
    left, right = weights(one), weights(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


class Lines(Progress):
    """Collects progress lines instead of writing them."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def write(self, event: str, **values: Any) -> None:
        self.events.append({"event": event, **values})
