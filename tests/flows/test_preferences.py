"""The pairs of a preference stage: which of the student's answers are refused, and what the judge is asked about."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from data_catalog.catalogue import Catalogue
from data_catalog.datasets import dataset_item_ids
from data_catalog.records import Chunk, Completion, Document, Item, Kind, Request, Split
from flows.config import StageConfig
from flows.config_file import load_config
from flows.context import RunContext
from flows.data_steps import Ingested
from flows.model_steps import StudentModel
from flows.preferences import preference_dataset
from flows.progress import SilentReporter
from flows.teacher import LazyTeacher
from generators.pairs.base import AskedAs, answer_requests, questions_of
from tests.flows.compared import qa
from tests.flows.projects import write_project

TEXT = "The Brixal 40 weighs 223 kg. Its pump holds 31 bar. Ilsa Marnbr designed it."
STAGE = StageConfig.model_validate({"name": "prefer", "train": {"stage": "dpo"}, "data": {"samples": 1}})


class Judge:
    """Refuses every answer it is asked about, and keeps what that was."""

    fingerprint = "judge"

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def complete(self, requests: Sequence[Request]) -> Iterator[Sequence[Completion]]:
        self.asked += requests
        text = json.dumps({"reason": "it is another number", "verdict": "no"})
        yield [Completion(request_key=request.key, text=text, finish_reason="stop") for request in requests]

    def rest(self) -> None:
        pass


def pairs_of(folder: Path, said: dict[str, str], items: Sequence[Item], chunk: Chunk, judge: Judge) -> list[str]:
    """Return the rejected answers of the pairs that are made when the student said `said`, by question."""
    base = load_config(write_project(folder, "http://127.0.0.1:1/v1"))
    catalogue = Catalogue(folder / "home")
    catalogue.add_items(items)
    data = STAGE.data
    how = AskedAs("teacher_vs_student@1", "student", 1, data.sample_temperature, data.answer_tokens)
    requests = answer_requests(questions_of(items), how, {})
    answers = [
        Completion(request_key=request.key, text=said[question.text], finish_reason="stop")
        for question, request in requests
    ]
    catalogue.add_completions([request for _, request in requests], answers)
    document = Document.of(path="brixal.md", title="Brixal 40", text=TEXT)
    ingested = Ingested((document,), (chunk,), (), catalogue.sync_documents([document], [chunk], []))
    ctx = RunContext(base, catalogue, cast(LazyTeacher, judge), SilentReporter())
    version = preference_dataset(ctx, STAGE, ingested, items, StudentModel("learn", folder, "student")).dataset
    if version is None:
        return []
    assert version.kind is Kind.PREFERENCE
    rows = catalogue.items(ids=dataset_item_ids(catalogue, version.id))
    return sorted(str(row.payload["rejected"][0]["content"]) for row in rows)


def test_what_the_chunk_does_not_name_is_refused_without_a_judge(tmp_path: Path) -> None:
    chunk = Chunk.of(
        document_id=Document.of(path="brixal.md", title="Brixal 40", text=TEXT).id,
        start=0,
        end=len(TEXT),
        heading_path=("Brixal 40",),
        text=TEXT,
        split=Split.TRAIN,
    )
    verified = {"How heavy is it?": "223 kg", "What does its pump hold?": "31 bar", "Who designed it?": "Ilsa Marnbr"}
    items = [qa(chunk, question, answer) for question, answer in verified.items()]
    judge = Judge()
    said = {"How heavy is it?": "512 kg", "What does its pump hold?": "223 bar", "Who designed it?": "Ilsa Marnbr"}
    assert pairs_of(tmp_path / "doubted", said, items, chunk, judge) == ["223 bar", "512 kg"]
    (asked,) = judge.asked
    assert "223 bar" in asked.messages[-1].content
    assert pairs_of(tmp_path / "right", verified, items, chunk, Judge()) == []
