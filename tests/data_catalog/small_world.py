"""A few records of every kind, for the tests of what keeps them."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_catalog.catalogue import Catalogue
from data_catalog.datasets import write_dataset
from data_catalog.evaluation_records import GateRecord
from data_catalog.records import (
    Chunk,
    Completion,
    DatasetVersion,
    Document,
    Item,
    Kind,
    Message,
    ModelVersion,
    Outcome,
    Request,
    Sampling,
    Split,
    StepRun,
    Verdict,
)
from data_catalog.registry import Registry, candidate_id

RECIPE = "grounded_qa@1"


def document(path: str, text: str = "") -> Document:
    return Document.of(path=path, title=path.removesuffix(".md"), text=text or f"The text of {path}. It has two parts.")


def chunk(of: Document, *, end: int = 10, split: Split = Split.TRAIN) -> Chunk:
    return Chunk.of(
        document_id=of.id, start=0, end=end, heading_path=(of.title, "Part"), text=of.text[:end], split=split
    )


def request(question: str, *, origin: Chunk | None = None, purpose: str = RECIPE, index: int = 0) -> Request:
    return Request(
        model="teacher",
        messages=(Message(role="system", content="Be exact."), Message(role="user", content=question)),
        sampling=Sampling(temperature=0.7),
        response_schema={"type": "object", "properties": {"answer": {"type": "string"}}},
        sample_index=index,
        purpose=purpose,
        template="grounded_qa/direct.v1.en#abc",
        origin={} if origin is None else {"chunk_id": origin.id, "document_id": origin.document_id},
    )


def completion(of: Request, text: str = "an answer", finish_reason: str = "stop") -> Completion:
    return Completion(
        request_key=of.key, text=text, finish_reason=finish_reason, prompt_tokens=7, completion_tokens=3, seconds=0.25
    )


def item(
    text: str, *, of: Chunk | None = None, by: Sequence[Request] = (), recipe: str = RECIPE, split: Split = Split.TRAIN
) -> Item:
    return Item.of(
        kind=Kind.TEXT,
        payload={"text": text},
        recipe=recipe,
        split=split,
        chunk_id=of.id if of else None,
        document_id=of.document_id if of else None,
        request_keys=tuple(one.key for one in by),
        meta={"question": text},
    )


def verdict(of: Item, check: str = "length@1", outcome: Outcome = Outcome.PASSED, reason: str = "") -> Verdict:
    return Verdict(item_id=of.id, check=check, outcome=outcome, reason=reason, score=0.5, request_keys=("req-judge",))


def write_model(directory: Path, weights: bytes = b"12345678") -> Path:
    """Write a directory that has the form of a model."""
    directory.mkdir(parents=True, exist_ok=True)
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(weights)], "data_offsets": [0, len(weights)]}}).encode()
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + weights)
    (directory / "config.json").write_text('{"model_type": "llama"}')
    (directory / "tokenizer").mkdir(exist_ok=True)
    (directory / "tokenizer" / "vocab.txt").write_text("a\nb\n")
    return directory


def register_gated(
    catalogue: Catalogue, directory: Path, *, outcome: str = "PASS", baseline: str = "base"
) -> ModelVersion:
    """Register a model behind one gate that says `outcome`."""
    gate = GateRecord.of(
        candidate=candidate_id(directory),
        baseline=baseline,
        stage_name="sft",
        outcome=outcome,
        comparisons=[{"suite": "gold", "lower": 0.4}],
        created_at=1.0,
    )
    catalogue.put_gate(gate)
    lineage = {
        "base": "base",
        "stages": [{"name": "sft", "run_id": None, "dataset_id": None, "gate_id": gate.id}],
        "config_digest": "0" * 64,
        "project": "test",
    }
    return Registry(catalogue).register(directory, lineage)


@dataclass(frozen=True)
class World:
    """Two documents, from each of which one item was made; both items are in the dataset of one model."""

    documents: tuple[Document, Document]
    chunks: tuple[Chunk, Chunk]
    requests: tuple[Request, Request]
    items: tuple[Item, Item]
    dataset: DatasetVersion
    run: StepRun
    gate: GateRecord
    model: ModelVersion


def fill(catalogue: Catalogue, directory: Path) -> World:
    """Put a whole chain from paths to a model into `catalogue`."""
    first, second = document("first.md"), document("second.md")
    chunks = chunk(first), chunk(second)
    catalogue.sync_documents([first, second], chunks, [])
    requests = request("What is first?", origin=chunks[0]), request("What is second?", origin=chunks[1])
    catalogue.add_completions(requests, [completion(one) for one in requests])
    items = item("one", of=chunks[0], by=requests[:1]), item("two", of=chunks[1], by=requests[1:])
    catalogue.add_items(items)
    catalogue.put_verdicts([verdict(one) for one in items])
    dataset = write_dataset(catalogue, "sft", Kind.TEXT, items)
    run = catalogue.finish_step(catalogue.start_step("train:sft", "fingerprint"), {"steps": 3})
    write_model(directory)
    gate = GateRecord.of(
        candidate=candidate_id(directory),
        baseline="base",
        stage_name="sft",
        outcome="PASS",
        comparisons=[],
        created_at=1.0,
        run_id=run.id,
    )
    catalogue.put_gate(gate)
    stage = {"name": "sft", "run_id": run.id, "dataset_id": dataset.id, "gate_id": gate.id}
    lineage = {"base": "base", "stages": [stage], "config_digest": "0" * 64, "project": "test"}
    model = Registry(catalogue).register(directory, lineage)
    return World((first, second), chunks, requests, items, dataset, run, gate, model)
