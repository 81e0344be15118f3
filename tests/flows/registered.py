"""A catalogue with small registered models, for the tests of the commands that look at them."""

from __future__ import annotations

import json
from pathlib import Path

from data_catalog.catalogue import Catalogue
from data_catalog.evaluation_records import GateRecord
from data_catalog.records import ModelVersion
from data_catalog.registry import Registry, candidate_id


def register_model(home: Path, name: str, *, outcome: str = "PASS", run_id: str = "run-1") -> ModelVersion:
    """Register a model whose bytes depend on `name`, gated with `outcome`, trained in `run_id`."""
    directory = home / "stages" / name
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({"model_type": "llama", "name": name}))
    (directory / "model.safetensors").write_bytes(b"\x02\x00\x00\x00\x00\x00\x00\x00{}")
    catalogue = Catalogue(home)
    gate = GateRecord.of(
        candidate=candidate_id(directory),
        baseline="weights-base",
        stage_name="sft",
        outcome=outcome,
        comparisons=[{"suite": "gold", "reason": "gold: 0.81 against 0.07"}],
        created_at=1.0,
    )
    catalogue.put_gate(gate)
    lineage = {
        "base": "weights-base",
        "project": "test",
        "config_digest": "0" * 64,
        "stages": [{"name": "sft", "run_id": run_id, "dataset_id": "dataset-1", "gate_id": gate.id}],
    }
    return Registry(catalogue).register(directory, lineage)


def damage(home: Path, version: ModelVersion) -> None:
    """Change one byte of a registered model."""
    path = home / version.path / "model.safetensors"
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
