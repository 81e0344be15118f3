"""A project with two registered models, their base, the data behind them and what all three were asked.

To look at its pages: `python -m tests.flows.compared FOLDER`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data_catalog.catalogue import Catalogue
from data_catalog.datasets import write_dataset
from data_catalog.evaluation_records import GateRecord, SampleScore
from data_catalog.records import (
    Chunk,
    DatasetVersion,
    Document,
    Item,
    Kind,
    ModelVersion,
    Outcome,
    Split,
    Stage,
    StepRun,
    Verdict,
)
from data_catalog.registry import Registry, candidate_id

EVIL = "</title></style><script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}"
BASE = "weights-base"
DAY = 86_400.0


class Trained(NamedTuple):
    """One model and what it was trained by and on."""

    model: ModelVersion
    run: StepRun
    dataset: DatasetVersion


class Project(NamedTuple):
    """The catalogue, the model of the first run and that of the second."""

    catalogue: Catalogue
    first: Trained
    second: Trained


class Clock:
    """Moves on by a second with every look, and by a day when told."""

    def __init__(self) -> None:
        self.now = 1_795_000_000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def make_project(home: Path) -> Project:
    """Make the project: in the second run one item has fallen out, one has come in, and the answers are better."""
    clock = Clock()
    catalogue = Catalogue(home, clock=clock)
    document = Document.of(path=f"{EVIL}.md", title="Pump", text="The pump weighs 40 kg. It is green.")
    chunk = Chunk.of(
        document_id=document.id, start=0, end=22, heading_path=("Pump",), text=document.text[:22], split=Split.TRAIN
    )
    catalogue.sync_documents([document], [chunk], [])
    items = [qa(chunk, question, answer) for question, answer in ((EVIL, EVIL), ("Kept?", "yes"), ("New?", "yes"))]
    catalogue.add_items(items)
    put_scores(catalogue, BASE, right=3)
    judge(catalogue, items, [Outcome.PASSED, Outcome.PASSED, Outcome.FAILED])
    first = train(catalogue, "one", items[:2], right=20, outcome="PASS")
    Registry(catalogue).promote(first.model.id, Stage.PRODUCTION, actor="ada@desk")
    clock.now += DAY
    judge(catalogue, items, [Outcome.FAILED, Outcome.PASSED, Outcome.PASSED])
    second = train(catalogue, "two", items[1:], right=50, outcome="INCONCLUSIVE")
    return Project(catalogue, first, second)


def qa(chunk: Chunk, question: str, answer: str) -> Item:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Item.of(
        kind=Kind.MESSAGES,
        payload={"messages": turns},
        recipe="grounded_qa",
        split=Split.TRAIN,
        chunk_id=chunk.id,
        document_id=chunk.document_id,
        meta={"question": question, "answer": answer},
    )


def judge(catalogue: Catalogue, items: Sequence[Item], outcomes: Sequence[Outcome]) -> None:
    catalogue.put_verdicts(
        [
            Verdict(item_id=item.id, check="evidence@1", outcome=outcome, reason="" if outcome == "passed" else EVIL)
            for item, outcome in zip(items, outcomes, strict=True)
        ]
    )


def train(catalogue: Catalogue, name: str, items: Sequence[Item], *, right: int, outcome: str) -> Trained:
    """Register a model that answers `right` of the sixty gold questions."""
    dataset = write_dataset(catalogue, "test-learn", Kind.MESSAGES, items)
    weights = f"weights-{name}"
    put_scores(catalogue, weights, right=right)
    told = {"method": "lora", "steps": 12, "seconds": 61.0}
    run = catalogue.start_step("train:learn", name)
    run = catalogue.finish_step(run, {"train": told, "model": weights, "dataset": dataset.id})
    directory = catalogue.home / "made" / name
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({"model_type": "llama", "name": name}))
    (directory / "model.safetensors").write_bytes(b"\x02\x00\x00\x00\x00\x00\x00\x00{}")
    gate = GateRecord.of(
        candidate=candidate_id(directory),
        baseline=BASE,
        stage_name="learn",
        outcome=outcome,
        comparisons=[{"suite": "gold", "reason": f"gold: {EVIL}", "outcome": outcome.lower()}],
        created_at=catalogue.clock(),
        run_id=run.id,
    )
    catalogue.put_gate(gate)
    stage = {"name": "learn", "run_id": run.id, "dataset_id": dataset.id, "gate_id": gate.id, "model": weights}
    lineage = {
        "project": "test",
        "base": BASE,
        "teacher": "models/teacher",
        "config_digest": f"{right:064d}",
        "stages": [stage],
    }
    return Trained(Registry(catalogue).register(directory, lineage), run, dataset)


def put_scores(catalogue: Catalogue, weights: str, *, right: int) -> None:
    catalogue.put_scores(weights, "gold", gold(right))
    catalogue.put_scores(weights, "general", gold(30))


def gold(right: int) -> list[SampleScore]:
    """Sixty questions, of which the first `right` are answered."""
    return [
        SampleScore(
            sample_id=f"gold-{number:03d}",
            question=EVIL if number == 30 else f"What weighs number {number}?",
            answers=(f"{number} kg",),
            completion=f"{number} kg" if number < right else EVIL,
            outcome=Outcome.PASSED if number < right else Outcome.FAILED,
            score=float(number < right),
        )
        for number in range(60)
    ]


if __name__ == "__main__":
    from flows.comparison import compare
    from flows.overview import write_home_page
    from flows.report import write_comparison

    folder = Path(sys.argv[1])
    made = make_project(folder / "home")
    print(write_comparison(folder / "comparison.html", compare(made.catalogue, "production", "candidate")))
    print(write_home_page(made.catalogue, folder / "overview.html"))
