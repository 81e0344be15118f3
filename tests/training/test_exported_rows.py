"""What `tutelage data export` writes is what `datasets` and TRL read, with nothing done in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data_catalog.catalogue import Catalogue
from data_catalog.dataset_export import export_dataset
from data_catalog.datasets import write_dataset
from data_catalog.records import Item, Kind, Split
from data_catalog.row_files import ENDINGS
from data_catalog.row_formats import RowFormat, to_payload
from tests.training.tiny import payloads

STAGE_OF = {Kind.TEXT: "pretrain", Kind.MESSAGES: "sft", Kind.PREFERENCE: "dpo", Kind.LABEL: "classify"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with every format in every kind of file: `<format><ending>`."""
    folder = tmp_path_factory.mktemp("exported")
    catalogue = Catalogue(folder / "home")
    for kind, stage in STAGE_OF.items():
        rows = payloads(stage, 16)
        items = [Item.of(kind=kind, payload=row, recipe="made", split=Split.TRAIN) for row in rows]
        version = write_dataset(catalogue, kind.value, kind, items)
        for shape in RowFormat.of_kind(kind):
            for ending in (*ENDINGS, ""):
                export_dataset(catalogue, version, folder / f"{shape}{ending}", shape)
    return folder


def load(path: Path, cache: Path) -> Any:
    from datasets import load_dataset

    if path.is_dir():
        return load_dataset(str(path), split="train", cache_dir=str(cache))
    builder = "parquet" if path.suffix == ".parquet" else "json"
    return load_dataset(builder, data_files=str(path), split="train", cache_dir=str(cache))


@pytest.mark.slow
@pytest.mark.parametrize("ending", [*ENDINGS, ""])
@pytest.mark.parametrize("shape", RowFormat)
def test_datasets_reads_every_format_from_every_file(
    shape: RowFormat, ending: str, exported: Path, tmp_path: Path
) -> None:
    found = load(exported / f"{shape}{ending}", tmp_path)
    expected = payloads(STAGE_OF[shape.kind], 16)
    assert sorted(map(str, (to_payload(row, shape) for row in found))) == sorted(map(str, expected))


@pytest.mark.slow
def test_trl_trains_a_step_on_what_was_exported(exported: Path, base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(base)
    common: dict[str, Any] = {
        "max_steps": 1,
        "per_device_train_batch_size": 4,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
    }
    for trainer, config, shape in (
        (SFTTrainer, SFTConfig, RowFormat.MESSAGES),
        (SFTTrainer, SFTConfig, RowFormat.PROMPT_COMPLETION),
        (DPOTrainer, DPOConfig, RowFormat.PREFERENCE),
    ):
        training = trainer(
            model=AutoModelForCausalLM.from_pretrained(base),
            args=config(output_dir=str(tmp_path / shape), max_length=96, **common),
            train_dataset=load(exported / shape, tmp_path / "cache"),
            processing_class=tokenizer,
        )
        assert training.train().training_loss > 0
