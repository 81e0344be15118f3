"""The canary set: from the gate's own answers or a file, and what counts as right."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_catalog.catalogue import Catalogue
from data_catalog.errors import DataError
from data_catalog.evaluation_records import GateRecord, SampleScore
from data_catalog.records import Completion, Message, ModelVersion, Outcome, Request, Sampling
from data_catalog.registry import Registry, candidate_id
from flows.serving.canary import CanarySet, Probe, ask, canary_from_file, canary_from_gate
from tests.flows.registered import register_model
from tests.flows.serving.fakes import FakeBackend

WEIGHTS = "weights-1"


def user(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


def gated_model(home: Path, *, right: int = 5, wrong: int = 3) -> ModelVersion:
    """Register a model whose gate judged suite `gold` first, with answers on record."""
    directory = home / "stages" / "m"
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"\x02\x00\x00\x00\x00\x00\x00\x00{}")
    catalogue = Catalogue(home)
    requests, completions, scores = [], [], []
    for number in range(right + wrong):
        outcome = Outcome.PASSED if number < right else Outcome.FAILED
        request = Request(
            model=WEIGHTS,
            messages=(Message(role="system", content="Be brief."), *user(f"question {number}?")),
            sampling=Sampling(max_tokens=12),
            purpose="evaluate",
            origin={"suite": "gold", "sample_id": f"s{number}"},
        )
        requests.append(request)
        completions.append(Completion(request_key=request.key, text=f"it is {number}", finish_reason="stop"))
        scores.append(
            SampleScore(
                sample_id=f"s{number}",
                question=f"question {number}?",
                answers=(str(number),),
                completion=f"it is {number}",
                outcome=outcome,
                score=float(outcome is Outcome.PASSED),
            )
        )
    catalogue.add_completions(requests, completions)
    catalogue.put_scores(WEIGHTS, "gold", scores)
    catalogue.put_scores(WEIGHTS, "another", scores[:1])
    gate = GateRecord.of(
        candidate=candidate_id(directory),
        baseline="base",
        stage_name="sft",
        outcome="PASS",
        comparisons=[{"suite": "gold"}, {"suite": "another"}],
        created_at=1.0,
    )
    catalogue.put_gate(gate)
    stage = {"name": "sft", "run_id": "run-1", "dataset_id": "dataset-1", "gate_id": gate.id, "model": WEIGHTS}
    return Registry(catalogue).register(directory, {"base": "base", "stages": [stage]})


def test_by_default_it_is_what_the_gate_saw_answered_right_asked_in_the_same_way(tmp_path: Path) -> None:
    version = gated_model(tmp_path)
    canary = canary_from_gate(Catalogue(tmp_path), version)
    assert sorted(probe.messages[-1].content for probe in canary.probes) == [f"question {n}?" for n in range(5)]
    probe = canary.probes[0]
    assert probe.messages[0] == Message(role="system", content="Be brief.")
    assert probe.max_tokens == 12
    assert "suite gold" in canary.source


def test_few_samples_are_spread_over_the_suite(tmp_path: Path) -> None:
    version = gated_model(tmp_path, right=20)
    asked = [probe.messages[-1].content for probe in canary_from_gate(Catalogue(tmp_path), version, 4).probes]
    assert asked == ["question 0?", "question 5?", "question 10?", "question 15?"]


def test_without_gated_answers_it_only_shows_that_the_model_answers(tmp_path: Path) -> None:
    canary = canary_from_gate(Catalogue(tmp_path), register_model(tmp_path, "one"))
    assert len(canary.probes) == 1
    assert "only that it answers" in canary.source
    backend = FakeBackend("v", answer="anything")
    backend.start()
    assert ask(backend, canary).passed
    backend.answer = " "
    assert not ask(backend, canary).passed


@pytest.mark.parametrize(
    ("probe", "text", "right"),
    [
        (Probe(user("?"), ("42 kg",)), "It weighs 42 kg.", True),
        (Probe(user("?"), ("42 kg",)), "It weighs 142 kg.", False),
        (Probe(user("?"), ("red", "crimson")), "Crimson", True),
        (Probe(user("?"), (), "The handbook does not say."), "the handbook does not say", True),
        (Probe(user("?"), (), "The handbook does not say."), "It is red.", False),
        (Probe(user("?"), ("red",), "the colour of rust"), "The colour of rust.", True),
        (Probe(user("?")), "something", True),
        (Probe(user("?")), "  \n", False),
    ],
)
def test_what_counts_as_right(probe: Probe, text: str, right: bool) -> None:
    assert probe.accepts(text) is right


def test_the_share_decides_and_an_error_is_a_wrong_answer() -> None:
    backend = FakeBackend("v", answer="it is 3")
    backend.start()
    canary = CanarySet(tuple(Probe(user(f"{n}?"), ("3" if n < 9 else "4",)) for n in range(10)), "test")
    result = ask(backend, canary, 0.9)
    assert (result.asked, result.right, result.passed) == (10, 9, True)
    assert result.wrong == ("'9?' -> 'it is 3' instead of '4'",)
    assert not ask(backend, canary, 0.91).passed
    backend.broken = True
    broken = ask(backend, canary)
    assert broken.right == 0
    assert "error: gone" in broken.wrong[0]


def test_a_file_of_questions_with_or_without_answers(tmp_path: Path) -> None:
    path = tmp_path / "canary.jsonl"
    path.write_text('{"question": "Which colour?", "answers": ["red"]}\n{"question": "Hello?"}\n{"question": "c?"}\n')
    canary = canary_from_file(path, 2)
    assert [(probe.messages[0].content, probe.answers) for probe in canary.probes] == [
        ("Which colour?", ("red",)),
        ("Hello?", ()),
    ]
    path.write_text('{"quest": 1}\n')
    with pytest.raises(DataError, match=r"canary\.jsonl:1"):
        canary_from_file(path)
