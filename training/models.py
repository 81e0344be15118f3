"""Model directories: what is accepted, how it is loaded, how a trained one is written.

Only safetensors are read and no code of a model repository is run. A written directory is complete (weights,
tokenizer, chat template, generation settings) or absent.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from data_catalog.errors import TrainingError
from data_catalog.files import sync
from training.compatibility import ADAPTED_TYPE, adapter_of
from training.method_specs import AnyMethod

Precision = Literal["auto", "float32", "bfloat16"]
BASE, ADAPTER = "base", "adapter"
"""The two folders of a directory with an adapter that can't be merged."""

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")


@dataclass(frozen=True)
class ModelSource:
    """A checked model directory with its tokenizer and the tokens that end a turn."""

    path: Path
    tokenizer: PreTrainedTokenizerBase
    end_tokens: frozenset[int]
    """Ids that end generation: those of generation_config.json and the tokenizer's end-of-sequence token."""
    stored_dtype: torch.dtype
    """The dtype of the weights on disk; a trained model is written in it."""
    adapter: Path | None = None
    """Folder of an adapter that could not be merged; `path` is then the base inside the same directory."""
    adapter_method: AnyMethod | None = None
    """What made that adapter."""

    @property
    def end_token(self) -> int:
        """The tokenizer's end-of-sequence token."""
        return int(self.tokenizer.eos_token_id)


def open_source(path: Path, *, needs_chat_template: bool) -> ModelSource:
    """Check a model directory and load its tokenizer.

    Raises TrainingError where the directory is missing something, would need its own code or a pickle to load, or has
    a tokenizer that doesn't fit its weights. A directory with an unmerged adapter is opened at its base.
    """
    if _read_json(path / "config.json", required=True).get("model_type") == ADAPTED_TYPE:
        return _open_adapted(path, needs_chat_template=needs_chat_template)
    config = _read_json(path / "config.json", required=True)
    _refuse_remote_code(path)
    _require_safetensors(path)
    tokenizer = _load_tokenizer(path, config)
    if needs_chat_template and not tokenizer.chat_template:
        raise TrainingError(
            f"{path} has no chat template, so conversations can't be rendered",
            valid="chat_template.jinja, or `chat_template` in tokenizer_config.json",
            next_step="add the chat template of the model family, or start with a `pretrain` stage on text",
        )
    generation = _read_json(path / "generation_config.json", required=False)
    ends = generation.get("eos_token_id", config.get("eos_token_id"))
    listed = ends if isinstance(ends, list) else [] if ends is None else [ends]
    return ModelSource(
        path=path,
        tokenizer=tokenizer,
        end_tokens=frozenset([*map(int, listed), int(tokenizer.eos_token_id)]),
        stored_dtype=_stored_dtype(config),
    )


def _open_adapted(path: Path, *, needs_chat_template: bool) -> ModelSource:
    method = adapter_of(path)
    if method is None or not (path / ADAPTER / "adapter_model.safetensors").is_file():
        raise TrainingError(
            f"{path} says that it keeps an adapter beside a base, but its parts are not all there",
            valid=f"config.json with the method, and the folders {BASE} and {ADAPTER} as they were written",
            next_step="train the stage again, or restore the directory from the registry",
        )
    base = open_source(path / BASE, needs_chat_template=needs_chat_template)
    return replace(base, adapter=path / ADAPTER, adapter_method=method)


def _read_json(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        if not required:
            return {}
        raise TrainingError(
            f"{path.parent} is not a model directory: {path.name} is missing",
            valid="a folder with config.json, *.safetensors and tokenizer files",
            next_step="check the path of the model",
        ) from None
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path} can't be read: {error}", next_step="fetch the model again") from error
    if not isinstance(content, dict):
        raise TrainingError(f"{path} holds {type(content).__name__}", valid="a JSON object")
    return content


def _refuse_remote_code(path: Path) -> None:
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        if "auto_map" in _read_json(path / name, required=False):
            raise TrainingError(
                f"{path / name} asks to run the model repository's own code (`auto_map`)",
                valid="an architecture that transformers itself implements",
                next_step="use such a model; Tutelage never runs code from a model repository",
            )


def _require_safetensors(path: Path) -> None:
    if any(path.glob("*.safetensors")):
        return
    pickles = sorted(file.name for pattern in _PICKLES for file in path.glob(pattern))
    got = f"only pickled weights ({', '.join(pickles)})" if pickles else "no weights"
    raise TrainingError(
        f"{path} has {got}",
        valid="*.safetensors",
        next_step="convert the weights to safetensors; a pickle can run any code, so it is never loaded",
    )


def _load_tokenizer(path: Path, config: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise TrainingError(f"the tokenizer of {path} can't be loaded: {error}", valid="tokenizer.json") from error
    if not tokenizer.is_fast:
        raise TrainingError(f"{path} has no fast tokenizer", valid="tokenizer.json")
    if tokenizer.eos_token_id is None:
        raise TrainingError(
            f"the tokenizer of {path} has no end-of-sequence token, so a model could never learn to stop",
            next_step="set `eos_token` in tokenizer_config.json to the token that ends an answer",
        )
    rows = int(_text_config(config).get("vocab_size", 0))
    largest = max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise TrainingError(
            f"the tokenizer of {path} knows token {largest}, the model only {rows} tokens",
            valid=f"token ids below {rows}",
            next_step="use the tokenizer that the model was trained with",
        )
    _give_pad_token(tokenizer)
    return tokenizer


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def _give_pad_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a tokenizer without a padding token of its own another special token that is never a target.

    Padding with the end-of-sequence token is how a model never learns to stop.
    """
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return
    taken = {tokenizer.eos_token, tokenizer.bos_token}
    spare = [token for token in [tokenizer.unk_token, *tokenizer.all_special_tokens] if token and token not in taken]
    if spare:
        tokenizer.pad_token = spare[0]


def _stored_dtype(config: Mapping[str, Any]) -> torch.dtype:
    name = str(config.get("dtype") or config.get("torch_dtype") or _text_config(config).get("dtype") or "float32")
    dtype = getattr(torch, name.removeprefix("torch."), None)
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def device() -> torch.device:
    """Where models are trained and run: the first GPU, or the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def resolve_precision(precision: Precision) -> torch.dtype:
    """Return the dtype of the arithmetic. `auto` is bfloat16 on a GPU that has it, float32 otherwise.

    A CPU gets bfloat16 only when asked for: there float32 was twice as fast (a 2048-square product at 275 against 117
    GFLOP/s on an AVX512-BF16 CPU).
    """
    if precision == "auto":
        fits = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if fits else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def load_weights(
    source: ModelSource, dtype: torch.dtype, kind: Any = AutoModelForCausalLM, **options: Any
) -> PreTrainedModel:
    """Load the weights of a checked directory in `dtype`, on the CPU unless `options` say otherwise.

    `kind` is the auto class of the model: a language model, or a sequence classifier for a reward model.
    """
    try:
        model = kind.from_pretrained(
            source.path,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            attn_implementation="sdpa",
            **options,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise TrainingError(
            f"the model in {source.path} can't be loaded: {error}",
            valid="a causal language model that transformers implements, with undamaged safetensors",
            next_step="check the directory; fetch or train the model again if a file is damaged",
        ) from error
    return model


def load_config(path: Path) -> Any:
    """Load the configuration of a model directory, without running any of its code."""
    return AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters; 4-bit weights count as what they stand for."""

    trainable: int
    total: int


def count_parameters(model: torch.nn.Module) -> ParameterCount:
    """Count trainable and all parameters of a model."""
    trainable = total = 0
    for parameter in model.parameters():
        # bitsandbytes keeps two 4-bit weights in one byte.
        size = parameter.numel() * (2 if parameter.__class__.__name__ == "Params4bit" else 1)
        total += size
        trainable += size if parameter.requires_grad else 0
    return ParameterCount(trainable=trainable, total=total)


def write_model(model: PreTrainedModel, source: ModelSource, output: Path) -> None:
    """Write a complete model directory: to `<output>.partial`, then renamed. `output` is whole or absent."""
    partial = _empty_partial(output)
    if getattr(model, "generation_config", None) is not None:  # a reward model generates nothing
        model.generation_config.eos_token_id = sorted(source.end_tokens)
        model.generation_config.pad_token_id = source.tokenizer.pad_token_id
    model.config.pad_token_id = source.tokenizer.pad_token_id
    model.save_pretrained(partial)
    source.tokenizer.save_pretrained(partial)
    _put_in_place(partial, output)


def write_adapted(base: PreTrainedModel, adapter: Path, method: AnyMethod, source: ModelSource, output: Path) -> None:
    """Write a directory that keeps a base and the adapter that can't be merged into it, whole or not at all.

    Both are in it because both make the answers: a version that only named its base would change when the base does.
    The base stands one folder down, and config.json has a type of its own: other programs must refuse the directory,
    where with the base at the top they would serve the base without a word.
    """
    partial = _empty_partial(output)
    write_model(base, source, partial / BASE)
    shutil.copytree(adapter, partial / ADAPTER)
    source.tokenizer.save_pretrained(partial)  # tokens are counted without loading a model
    config = {"model_type": ADAPTED_TYPE, "method": method.model_dump(mode="json")}
    (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    _put_in_place(partial, output)


def _empty_partial(output: Path) -> Path:
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def _put_in_place(partial: Path, output: Path) -> None:
    for file in partial.rglob("*"):
        if file.is_file():
            sync(file)
    sync(partial)
    if output.exists():
        # Left by a job that was killed between this rename and its result file; the content is made again.
        shutil.rmtree(output)
    partial.rename(output)
    sync(output.parent)
