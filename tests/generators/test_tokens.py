from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from data_catalog.errors import ConfigError
from generators.tokens import load_counter


def test_tokens_are_counted_without_special_ones_and_past_the_length_limit(tmp_path: Path) -> None:
    tokenizer = Tokenizer(WordLevel({"<s>": 0, "pump": 1, "[UNK]": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.enable_truncation(4)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    count = load_counter(tmp_path)
    assert count("pump pump other") == 3
    assert count("pump " * 50) == 50


def test_a_directory_without_a_readable_tokenizer_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no tokenizer\.json"):
        load_counter(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="can't be read as a tokenizer"):
        load_counter(tmp_path)


def test_importing_the_light_modules_loads_nothing_heavy() -> None:
    script = (
        "import sys; import generators.documents, generators.chunks, generators.tokens, generators.recipes, "
        "generators.engine, generators.filters; "
        "print([m for m in ('torch', 'transformers', 'tokenizers', 'aiohttp', 'openai', 'duckdb') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
