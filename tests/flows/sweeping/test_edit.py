"""The configuration with the best values: nothing else in the file changes, and it says what was chosen."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_catalog.errors import ConfigError
from flows.config_file import load_config
from flows.sweeping.edit import check_place, write_changed
from flows.sweeping.space import Values, with_values
from tests.flows.projects import write_project

LAST = "    train: {stage: sft, method: lora, learning_rate: 4.0e-3, epochs: 2, max_length: 128}\n"
BLOCK = """\
    train:
      stage: sft
      # The rank was a guess.
      method:
        name: lora
        rank: 16  # 8 was too small

      learning_rate: 4.0e-3  # and this one too
      epochs: 2
      max_length: 128
"""


def project(folder: Path, train: str = LAST) -> Path:
    config = write_project(folder, "http://127.0.0.1:9/v1")
    text = config.read_text()
    assert LAST in text
    config.write_text(text.replace(LAST, train))
    return config


def changed(config: Path, values: Values) -> str:
    loaded = load_config(config)
    target = config.parent / "best.yaml"
    train = with_values(loaded.stages[1].train, values)
    write_changed(config, loaded, 1, train, values, target, overwrite=False)
    assert load_config(target).stages[1].train == train
    return target.read_text()


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"learning_rate": 1.5e-4}, "stage: sft, method: lora, learning_rate: 0.00015, epochs: 2"),
        ({"method.rank": 8}, "method: {name: lora, rank: 8}, learning_rate"),
        ({"method": "ia3"}, "method: ia3, learning_rate"),
        ({"method": "qlora", "method.rank": 4}, "method: {name: qlora, rank: 4}, learning_rate"),
        ({"packing": False, "batch_size": 4}, "max_length: 128, packing: false, batch_size: 4}"),
        ({"neftune_alpha": None}, "max_length: 128, neftune_alpha: null}"),
    ],
)
def test_values_in_braces(tmp_path: Path, values: Values, line: str) -> None:
    config = project(tmp_path)
    text = changed(config, values)
    assert line in text
    before, after = config.read_text().splitlines(), text.splitlines()
    assert len([1 for old, new in zip(before, after, strict=True) if old != new]) == 1


def test_values_in_a_block_leave_its_comments(tmp_path: Path) -> None:
    config = project(tmp_path, BLOCK)
    text = changed(config, {"learning_rate": 2e-4, "method.rank": 64, "method.dropout": 0.1, "batch_size": 4})
    assert "      # The rank was a guess.\n" in text
    assert "        dropout: 0.1\n        name: lora\n        rank: 64  # 8 was too small\n" in text
    assert "      learning_rate: 0.0002  # and this one too\n" in text
    assert "    train:\n      batch_size: 4\n      stage: sft\n" in text


def test_a_block_is_replaced_by_another_method(tmp_path: Path) -> None:
    text = changed(project(tmp_path, BLOCK), {"method": "ia3"})
    assert "      method:\n        ia3  # 8 was too small\n\n      learning_rate" in text


def test_a_method_that_is_not_written_gets_its_name(tmp_path: Path) -> None:
    text = changed(project(tmp_path, LAST.replace(" method: lora,", "")), {"method.rank": 8})
    assert "max_length: 128, method: {name: lora, rank: 8}}" in text


def test_an_alias_is_refused_rather_than_changed_elsewhere(tmp_path: Path) -> None:
    config = project(tmp_path)
    text = config.read_text().replace(LAST, "    train: *shared\n")
    text = text.replace("train: {stage: pretrain, method: full,", "train: &shared {stage: pretrain, method: full,")
    config.write_text(text)
    with pytest.raises(ConfigError, match="alias"):
        changed(config, {"learning_rate": 1e-4})
    assert not (tmp_path / "best.yaml").exists()
    assert sorted(path.name for path in tmp_path.glob("*.yaml")) == ["tutelage.yaml"]


def test_another_folder_and_a_file_that_is_there_are_refused_before_the_sweep(tmp_path: Path) -> None:
    config = project(tmp_path / "project")
    with pytest.raises(ConfigError, match="another folder"):
        check_place(config, tmp_path / "best.yaml", overwrite=False)
    with pytest.raises(ConfigError, match="is there already"):
        check_place(config, config, overwrite=False)
    check_place(config, config, overwrite=True)
