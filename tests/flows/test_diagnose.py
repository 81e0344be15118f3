"""`tutelage diagnose`: each failed sample under the document it is about and the place where its fact was lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_catalog.catalogue import Catalogue
from data_catalog.datasets import write_dataset
from data_catalog.errors import ConfigError
from data_catalog.evaluation_records import SampleScore
from data_catalog.records import Chunk, Document, Item, Kind, Outcome, Split, Verdict
from data_catalog.registry import Registry
from flows.diagnosis import Cause, diagnose
from tests.flows.projects import tutelage

TEXT = "The {name} 40 weighs 312 kg. It takes Zonlube. Mira Kessel built it. It has red paint. It hums in C."


def item(chunk: Chunk, answer: str, *, kept: str = "", answerable: bool = True) -> Item:
    question = f"What about {answer}{kept}?"
    return Item.of(
        kind=Kind.MESSAGES,
        payload={"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]},
        recipe="grounded_qa" if answerable else "unanswerable",
        split=Split.TRAIN,
        chunk_id=chunk.id,
        document_id=chunk.document_id,
        request_keys=(question,),
        meta={"question": question, "answer": answer, "answerable": answerable},
    )


def score(question: str, answer: str, said: str, value: float | None = 0.0) -> SampleScore:
    return SampleScore(
        sample_id=question,
        question=question,
        answers=(answer,) if answer else (),
        completion=said,
        outcome=Outcome.UNSCORED if value is None else Outcome.PASSED,
        score=value,
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / ".tutelage"
    catalogue = Catalogue(home)
    documents = [
        Document.of(path=f"{name.lower()}.md", title=name, text=TEXT.format(name=name)) for name in ("Solmer", "Brixal")
    ]
    chunks = [
        Chunk.of(
            document_id=one.id,
            start=0,
            end=len(one.text),
            heading_path=(one.title,),
            text=one.text,
            split=Split.TRAIN,
        )
        for one in documents
    ]
    catalogue.sync_documents(documents, chunks, [])
    trained, judged, twin, unused = (
        item(chunks[0], "312 kg"),
        item(chunks[0], "Zonlube"),
        item(chunks[0], "Zonlube", kept=" again"),
        item(chunks[0], "Mira Kessel"),
    )
    catalogue.add_items([trained, judged, twin, unused])
    catalogue.put_verdicts(
        [
            Verdict(item_id=trained.id, check="judge@1", outcome=Outcome.PASSED),
            Verdict(item_id=judged.id, check="judge@1", outcome=Outcome.FAILED, reason="no"),
            Verdict(item_id=twin.id, check="duplicate@1", outcome=Outcome.FAILED, reason="the same"),
            Verdict(item_id=unused.id, check="judge@1", outcome=Outcome.PASSED),
        ]
    )
    dataset = write_dataset(catalogue, "test-learn", Kind.MESSAGES, [trained])
    catalogue.put_scores(
        "weights-1",
        "gold",
        [
            score("How much does the Solmer 40 weigh?", "312 kg", "95 kg"),
            score("What lubricant does the Solmer 40 take?", "Zonlube", "I do not know."),
            score("By whom was the Solmer 40 built?", "Mira Kessel", "Jonas"),
            score("Which paint has the Solmer 40?", "red", "blue"),
            score("Which paint has the Brixal 40?", "red", "red", 1.0),
            score("Which note does the Brixal 40 hum?", "C", "F", None),
            score("Xyzzy?", "C", "F"),
        ],
    )
    directory = home / "stages" / "learn"
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"\x02\x00\x00\x00\x00\x00\x00\x00{}")
    lineage = {"stages": [{"name": "learn", "dataset_id": dataset.id, "model": "weights-1", "run_id": "run-1"}]}
    Registry(catalogue).register(directory, lineage)
    return home


def test_each_failure_has_its_document_and_its_cause(home: Path) -> None:
    found = diagnose(home, "candidate", "gold")
    assert (found.samples, len(found.failures)) == (7, 5), "neither the right nor the unscored one"
    causes = {failure.score.question: (failure.document, failure.cause, failure.check) for failure in found.failures}
    assert causes == {
        "How much does the Solmer 40 weigh?": ("solmer.md", Cause.NOT_LEARNED, ""),
        "What lubricant does the Solmer 40 take?": ("solmer.md", Cause.REJECTED, "judge@1"),
        "By whom was the Solmer 40 built?": ("solmer.md", Cause.NOT_TRAINED, ""),
        "Which paint has the Solmer 40?": ("solmer.md", Cause.NEVER_GENERATED, ""),
        "Xyzzy?": ("", Cause.NO_DOCUMENT, ""),
    }


def test_the_command_prints_a_summary_and_json(home: Path) -> None:
    shown = tutelage("diagnose", "candidate", "--home", home)
    assert shown.returncode == 0, shown.stderr
    assert "gold: 5 of 7 samples failed" in shown.stdout
    assert "1  rejected by judge@1" in shown.stdout
    assert "4  solmer.md" in shown.stdout
    rows = json.loads(tutelage("diagnose", "candidate", "--home", home, "--json").stdout)
    assert {row["cause"] for row in rows} == {cause.value for cause in Cause}
    assert "4  Solmer" in shown.stdout, "the headings under which the facts stand"
    assert {row["topic"] for row in rows} == {"Solmer", ""}
    target = home / "target.yaml"
    refused = tutelage("diagnose", "candidate", "--home", home, "--write-target", target)
    assert refused.returncode == 2
    assert "needs the project's configuration" in refused.stderr
    assert not target.exists()


def test_a_suite_without_scores_is_refused(home: Path) -> None:
    with pytest.raises(ConfigError, match="no scores on suite 'general'"):
        diagnose(home, "candidate", "general")
