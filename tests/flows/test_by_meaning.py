"""The filters by meaning in a project: a teacher that asks everything twice, an endpoint that gives vectors."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_catalog.catalogue import Catalogue
from data_catalog.identity import digest
from data_catalog.records import Outcome, Verdict
from flows.config_file import load_config
from flows.pipeline import RefreshSummary, refresh
from flows.progress import SilentReporter
from tests.flows.projects import handbook, write_project
from tests.scripted_server import ScriptedServer, ScriptedTeacher

STEM = re.compile("“(.*?)”")


def twice(given: Mapping[str, str]) -> str:
    """Ask for the last word of a sentence, in words that differ from template to template."""
    stem, _, last = given["focus"].rstrip(".").rpartition(" ")
    asks = "what follows" if "direct" in given["template"] else "can a colleague tell how this goes on:"
    question = f"{given['heading']}: {asks} “{stem}”?"
    return json.dumps({"evidence": given["focus"], "question": question, "answer": last})


def meaning(text: str) -> list[float]:
    """Return a vector that only depends on what is asked about, in any wording."""
    found = STEM.search(text)
    seed = int(digest(found[1] if found else text)[:8], 16)
    return list(map(float, np.random.default_rng(seed).normal(size=64)))


def no_chat(body: Mapping[str, Any]) -> str:
    raise AssertionError("a server of vectors was asked for words")


@pytest.fixture
def teacher() -> Iterator[ScriptedServer]:
    with ScriptedServer(ScriptedTeacher(answers={"grounded_qa": twice}).answer) as running:
        yield running


def project(folder: Path, teacher: ScriptedServer, *, count: int) -> Path:
    """Write a project that only asks questions."""
    path = write_project(folder, teacher.base_url, count=count)
    lines = [line for line in path.read_text().splitlines() if "paraphrase" not in line and "unanswer" not in line]
    path.write_text("\n".join(lines) + "\n")
    return path


def refreshed(path: Path) -> RefreshSummary:
    return refresh(load_config(path), SilentReporter())


def rejected(home: Path, check: str) -> dict[str, Verdict]:
    verdicts = Catalogue(home).verdicts()
    return {said.item_id: said for said in verdicts if said.check == check and said.outcome is Outcome.FAILED}


@pytest.mark.slow
def test_the_second_wording_goes_once_there_are_vectors_and_no_text_is_sent_twice(
    tmp_path: Path, teacher: ScriptedServer
) -> None:
    path = project(tmp_path, teacher, count=2)
    home = tmp_path / ".tutelage"
    curate = "curate: {judge: {planted: 0}}\n"
    path.write_text(curate + path.read_text())
    plain = refreshed(path)
    with ScriptedServer(no_chat, embed=meaning) as vectors:
        path.write_text(
            f'embedder: {{model: scripted, base_url: "{vectors.base_url}"}}\n'
            + path.read_text().replace(curate, "curate: {judge: {planted: 0}, semantic_duplicate: 0.9}\n")
        )
        first = refreshed(path)
        texts = [body["input"] for body in vectors.received]
        assert len(texts) == len(set(texts))
        assert first.asked == len(texts), "of the teacher nothing is asked again"
        gone = rejected(home, "semantic_duplicate@1")
        questions = {item.id: item.meta.get("question", "") for item in Catalogue(home).items()}
        assert gone
        assert first.accepted == plain.accepted - len(gone)
        for id_, verdict in gone.items():
            kept = next(word for word in verdict.reason.split() if word.startswith("item-"))
            assert kept not in gone
            assert questions[kept] != questions[id_]
            assert STEM.findall(questions[kept]) == STEM.findall(questions[id_])

        again = refreshed(path)
        assert (again.asked, again.accepted, again.datasets) == (0, first.accepted, first.datasets)
        (tmp_path / "docs" / "new.md").write_text(handbook("Zorvan", 777), encoding="utf-8")
        refreshed(path)
        fresh = [body["input"] for body in vectors.received[len(texts) :]]
        assert fresh
        assert all("Zorvan" in text for text in fresh), "what is old has its vector"
        assert set(gone) < set(rejected(home, "semantic_duplicate@1"))


@pytest.mark.slow
def test_a_suite_in_other_words_takes_out_what_rehearses_it(tmp_path: Path, teacher: ScriptedServer) -> None:
    path = project(tmp_path, teacher, count=1)
    asked = "Veltrano 40 > Ratings: please complete “The Veltrano 40 weighs 210”?"
    with (tmp_path / "gold.jsonl").open("a", encoding="utf-8") as gold:
        gold.write(json.dumps({"question": asked, "answers": ["kg"]}) + "\n")
    with ScriptedServer(no_chat, embed=meaning) as vectors:
        path.write_text(
            f'embedder: {{model: scripted, base_url: "{vectors.base_url}"}}\n'
            "curate: {semantic_contamination: 0.9, decontaminate_ngram: 0}\n" + path.read_text()
        )
        refreshed(path)
    found = rejected(tmp_path / ".tutelage", "semantic_contamination@1")
    questions = {item.id: item.meta.get("question", "") for item in Catalogue(tmp_path / ".tutelage").items()}
    assert len(found) == 2
    assert all(asked in verdict.reason for verdict in found.values())
    assert {STEM.search(questions[id_])[1] for id_ in found} == {"The Veltrano 40 weighs 210"}  # type: ignore[index]
