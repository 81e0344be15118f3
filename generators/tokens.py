"""Counting tokens with a model's own tokenizer, without importing torch or transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from data_catalog.errors import ConfigError


def load_counter(model_dir: Path) -> Callable[[str], int]:
    """Return a function from a text to its number of tokens, special tokens not counted.

    Raises:
        ConfigError: the directory has no readable `tokenizer.json`.
    """
    # Imported here: `tutelage --help` reaches this module and has no need of it.
    from tokenizers import Tokenizer

    path = model_dir / "tokenizer.json"
    if not path.is_file():
        raise ConfigError(
            f"{model_dir} has no tokenizer.json",
            valid="a model directory with a fast tokenizer",
            next_step="convert the tokenizer (transformers: AutoTokenizer.from_pretrained(..., use_fast=True)"
            ".save_pretrained(...)), or correct student.model",
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for whatever is wrong with the file
        raise ConfigError(f"{path} can't be read as a tokenizer: {error}") from error
    # A tokenizer file may carry the length limit it was trained with, and would then count no further.
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    return count
