"""What goes into the catalogue comes out of it, once, in order, and with what became of it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_catalog.catalogue import Catalogue, DocumentDiff
from data_catalog.errors import DataError
from data_catalog.evaluation_records import GateRecord, SampleScore
from data_catalog.records import Kind, Outcome, RunStatus, Split
from tests.data_catalog.small_world import chunk, completion, document, item, request, verdict


def test_a_new_home_has_a_place_for_everything(catalogue: Catalogue) -> None:
    assert {path.name for path in catalogue.home.iterdir() if path.is_dir()} == {"datasets", "models"}
    assert catalogue.path.name == "catalogue.duckdb"


def test_empty_sequences_are_welcome(catalogue: Catalogue) -> None:
    assert catalogue.sync_documents([], [], []) == DocumentDiff()
    catalogue.add_completions([], [])
    catalogue.add_items([])
    catalogue.put_verdicts([])
    catalogue.add_metrics("run", [])
    catalogue.put_scores("model", "suite", [])
    assert catalogue.answered([]) == {}
    assert catalogue.requests([]) == []
    assert catalogue.items(ids=[]) == []
    assert catalogue.verdicts([]) == []
    assert catalogue.scores("model", "suite") == []
    assert catalogue.funnel().rows == ()


# Documents


def test_documents_are_synchronised_with_what_is_there(catalogue: Catalogue) -> None:
    a, b, c = document("a.md"), document("b.md"), document("c.md")
    diff = catalogue.sync_documents([b, a, c], [chunk(a), chunk(b), chunk(c)], [("x.md", "binary")])
    assert set(diff.added) == {a.id, b.id, c.id}
    assert catalogue.documents() == [a, b, c]
    assert catalogue.chunks() == [chunk(a), chunk(b), chunk(c)]
    assert catalogue.refusals() == [("x.md", "binary")]

    newer = document("b.md", "A new text for b, quite different.")
    diff = catalogue.sync_documents([a, newer], [chunk(a), chunk(newer)], [])
    assert diff == DocumentDiff(changed=(newer.id,), removed=(c.id,), unchanged=(a.id,))
    assert catalogue.documents() == [a, newer]
    assert catalogue.chunks() == [chunk(a), chunk(newer)]
    assert catalogue.refusals() == []


def test_withdrawn_documents_stay_as_tombstones_and_can_return(catalogue: Catalogue) -> None:
    a = document("a.md")
    catalogue.sync_documents([a], [chunk(a)], [])
    assert catalogue.sync_documents([], [], []).removed == (a.id,)
    assert catalogue.documents() == []
    assert catalogue.chunks() == []
    assert catalogue.documents(current_only=False) == [a]
    assert catalogue.chunks(current_only=False) == [chunk(a)]
    assert catalogue.sync_documents([a], [chunk(a)], []).added == (a.id,)
    assert catalogue.documents() == [a]
    assert catalogue.chunks() == [chunk(a)]


def test_a_moved_document_is_the_same_document(catalogue: Catalogue) -> None:
    old = document("old.md", "Only the name changes.")
    moved = document("new.md", "Only the name changes.")
    catalogue.sync_documents([old], [chunk(old)], [])
    assert catalogue.sync_documents([moved], [chunk(moved)], []) == DocumentDiff(unchanged=(old.id,))
    assert [one.path for one in catalogue.documents()] == ["new.md"]


def test_two_files_with_one_text_are_one_document_under_the_first_path(catalogue: Catalogue) -> None:
    copies = [document(path, "The same text.") for path in ("b.md", "a.md")]
    assert len(catalogue.sync_documents(copies, [], []).added) == 1
    assert [one.path for one in catalogue.documents()] == ["a.md"]


def test_an_unchanged_sync_writes_nothing(catalogue: Catalogue) -> None:
    a = document("a.md")
    catalogue.sync_documents([a], [chunk(a)], [("x", "empty")])
    before = catalogue.path.stat().st_mtime_ns
    assert catalogue.sync_documents([a], [chunk(a)], [("x", "empty")]) == DocumentDiff(unchanged=(a.id,))
    assert catalogue.path.stat().st_mtime_ns == before


def test_chunks_follow_a_new_way_of_cutting(catalogue: Catalogue) -> None:
    a = document("a.md")
    catalogue.sync_documents([a], [chunk(a, end=10)], [])
    catalogue.sync_documents([a], [chunk(a, end=5, split=Split.EVALUATION)], [])
    assert catalogue.chunks() == [chunk(a, end=5, split=Split.EVALUATION)]
    assert catalogue.chunks(split=Split.TRAIN) == []
    assert catalogue.chunks(split=Split.TRAIN, current_only=False) == [chunk(a, end=10)]


# Requests and completions


def test_a_completion_comes_back_as_it_was_stored(catalogue: Catalogue) -> None:
    asked, failed = request("What?"), request("And what?")
    catalogue.add_completions([asked, failed], [completion(asked)])
    assert catalogue.answered([failed.key, asked.key, "req-unknown"]) == {asked.key: completion(asked)}
    assert sorted(catalogue.requests([asked.key, failed.key]), key=lambda one: one.key) == sorted(
        [asked, failed], key=lambda one: one.key
    )


def test_an_answered_request_keeps_its_first_answer(catalogue: Catalogue) -> None:
    asked = request("What?")
    catalogue.add_completions([asked], [completion(asked, "first"), completion(asked, "same batch")])
    catalogue.add_completions([asked], [completion(asked, "second")])
    assert catalogue.answered([asked.key])[asked.key].text == "first"


def test_a_late_answer_to_a_stored_request_is_taken(catalogue: Catalogue) -> None:
    asked = request("What?")
    catalogue.add_completions([asked], [])
    catalogue.add_completions([], [completion(asked)])
    assert catalogue.answered([asked.key]) == {asked.key: completion(asked)}


def test_an_answer_to_nothing_is_refused_with_its_whole_batch(catalogue: Catalogue) -> None:
    asked = request("What?")
    with pytest.raises(DataError, match=request("never asked").key):
        catalogue.add_completions([asked], [completion(asked), completion(request("never asked"))])
    assert catalogue.answered([asked.key]) == {}
    assert catalogue.requests([asked.key]) == []


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(exclude_categories=())), min_size=1, max_size=80))
def test_whatever_a_teacher_writes_survives(catalogue: Catalogue, texts: list[str]) -> None:
    """Lone surrogates, NUL, line ends: the raw completion is what parsers see after a restart."""
    asked = [request(f"{number} {text}") for number, text in enumerate(["\ud800 \x00 \r\n", *texts])]
    answers = [completion(one, one.messages[-1].content) for one in asked]
    catalogue.add_completions(asked, answers)
    assert catalogue.answered(one.key for one in asked) == {one.request_key: one for one in answers}
    assert {one.key: one for one in catalogue.requests(one.key for one in asked)} == {one.key: one for one in asked}


# Items and verdicts


def test_items_come_back_by_id_and_filtered(catalogue: Catalogue) -> None:
    a = document("a.md")
    catalogue.sync_documents([a], [chunk(a)], [])
    one, two = item("one", of=chunk(a)), item("two \ud800", recipe="paraphrase@1")
    held = item("held", split=Split.EVALUATION)
    catalogue.add_items([one, two, held])
    catalogue.add_items([one])
    assert catalogue.items() == sorted([one, two, held], key=lambda entry: entry.id)
    assert catalogue.items(recipe="paraphrase@1") == [two]
    assert catalogue.items(split=Split.EVALUATION) == [held]
    assert catalogue.items(ids=[one.id, held.id], split=Split.TRAIN) == [one]


def test_items_of_withdrawn_documents_are_not_current(catalogue: Catalogue) -> None:
    a = document("a.md")
    catalogue.sync_documents([a], [chunk(a)], [])
    from_chunk, general = item("one", of=chunk(a)), item("general")
    of_document = item("whole").model_copy(update={"document_id": a.id, "id": "item-whole"})
    catalogue.add_items([from_chunk, general, of_document])
    catalogue.sync_documents([], [], [])
    assert catalogue.items() == [general]
    assert len(catalogue.items(current_only=False)) == 3


def test_an_item_never_stays_on_the_training_side_when_its_chunk_is_held_out(catalogue: Catalogue) -> None:
    a = document("a.md")
    catalogue.sync_documents([a], [chunk(a)], [])
    catalogue.add_items([item("one", of=chunk(a))])
    catalogue.sync_documents([a], [chunk(a, split=Split.EVALUATION)], [])
    assert catalogue.items(split=Split.TRAIN) == []
    assert [one.split for one in catalogue.items(split=Split.EVALUATION)] == [Split.EVALUATION]


def test_a_known_item_takes_the_newer_description(catalogue: Catalogue) -> None:
    old, new = item("one"), item("one", recipe="grounded_qa@2")
    assert old.id == new.id
    catalogue.add_items([old])
    catalogue.add_items([new])
    assert catalogue.items() == [new]


def test_a_verdict_replaces_that_of_the_same_check(catalogue: Catalogue) -> None:
    one, two = item("one"), item("two")
    catalogue.put_verdicts([verdict(one, "length@1"), verdict(one, "judge@1"), verdict(two, "length@1")])
    changed = verdict(one, "length@1", Outcome.FAILED, "too long")
    catalogue.put_verdicts([changed])
    assert catalogue.verdicts([one.id]) == [verdict(one, "judge@1"), changed]
    assert len(catalogue.verdicts()) == 3


def test_the_funnel_counts_everything_once(catalogue: Catalogue) -> None:
    a = document("a.md")
    catalogue.sync_documents([a], [chunk(a)], [])
    asked = [request("q", origin=chunk(a), index=index) for index in range(8)]
    answers = [completion(one) for one in asked[:6]] + [completion(asked[6], finish_reason="length")]
    catalogue.add_completions(asked, answers)
    items = [item(f"{number}", of=chunk(a), by=[asked[number]]) for number in range(6)]
    catalogue.add_items(items)
    catalogue.put_verdicts([verdict(one, "schema@1") for one in items[:5]])
    catalogue.put_verdicts(
        [verdict(one, "judge@1", Outcome.FAILED, "not in the text") for one in items[:2]]
        + [verdict(items[2], "judge@1", Outcome.UNSCORED, "no verdict"), verdict(items[3], "judge@1")]
    )
    (row,) = catalogue.funnel().rows
    assert (row.recipe, row.requests, row.answered, row.truncated, row.items) == ("grounded_qa@1", 8, 7, 1, 6)
    assert (row.accepted, row.rejected, row.quarantined, row.unjudged) == (2, 2, 1, 1)
    assert [(check.check, check.seen, check.passed, check.failed, check.unscored) for check in row.checks] == [
        ("schema@1", 5, 5, 0, 0),
        ("judge@1", 4, 1, 2, 1),
    ]
    reasons = [(reason.outcome, reason.reason, reason.count) for reason in row.checks[1].reasons]
    assert reasons == [(Outcome.FAILED, "not in the text", 2), (Outcome.UNSCORED, "no verdict", 1)]
    assert row.checks[1].reasons[0].examples == tuple(sorted(one.id for one in items[:2]))


def test_the_funnel_can_be_asked_about_some_checks_and_recipes(catalogue: Catalogue) -> None:
    one = item("one")
    catalogue.add_items([one])
    catalogue.put_verdicts(
        [verdict(one, "old@1", Outcome.FAILED), verdict(one, "b@1"), verdict(one, "a@1", Outcome.FAILED, "no")]
    )
    empty, full = catalogue.funnel(recipes=["nothing@1", "grounded_qa@1"], checks=["b@1", "a@1"]).rows
    assert (empty.recipe, empty.requests, empty.items, empty.checks) == ("nothing@1", 0, 0, ())
    assert [check.check for check in full.checks] == ["b@1", "a@1"]
    (only_b,) = catalogue.funnel(checks=["b@1"]).rows
    assert only_b.accepted == 1
    assert catalogue.funnel(checks=["b@1"]).accepted == 1


def test_requests_are_found_whether_or_not_an_item_names_the_version_of_its_recipe(catalogue: Catalogue) -> None:
    asked = [request("q", purpose="grounded_qa@1"), request("r", purpose="grounded_qa@2"), request("s", purpose="x@1")]
    catalogue.add_completions(asked, [completion(asked[0])])
    catalogue.add_items([item("one", by=asked[:1], recipe="grounded_qa")])
    (row,) = catalogue.funnel().rows
    assert (row.recipe, row.requests, row.answered, row.items) == ("grounded_qa", 2, 1, 1)


def test_reasons_beyond_the_tenth_are_summed_up(catalogue: Catalogue) -> None:
    items = [item(str(number)) for number in range(12)]
    catalogue.add_items(items)
    catalogue.put_verdicts([verdict(one, "c@1", Outcome.FAILED, f"reason {one.id}") for one in items])
    (row,) = catalogue.funnel().rows
    assert len(row.checks[0].reasons) == 10
    assert row.checks[0].other_reasons == 2


# Steps, metrics, scores, gates


def test_a_done_step_is_found_by_its_fingerprint(catalogue: Catalogue) -> None:
    run = catalogue.start_step("train:sft", "f1")
    assert catalogue.done_step("f1") is None
    done = catalogue.finish_step(run, {"loss": 0.5, "files": ["a"]})
    assert done.status is RunStatus.DONE
    assert catalogue.done_step("f1") == done == catalogue.step_runs(limit=1)[0]
    assert catalogue.done_step("f2") is None


def test_a_failed_step_says_why_and_is_tried_again(catalogue: Catalogue) -> None:
    failed = catalogue.fail_step(catalogue.start_step("generate", "f"), ValueError("no answer"))
    assert (failed.status, failed.error) == (RunStatus.FAILED, "no answer")
    again = catalogue.start_step("generate", "f")
    assert again.id != failed.id
    assert catalogue.done_step("f") is None


def test_the_newest_done_run_counts(tmp_path: Path) -> None:
    times = iter(range(100))
    catalogue = Catalogue(tmp_path, clock=lambda: float(next(times)))
    catalogue.finish_step(catalogue.start_step("ingest", "f"), {"attempt": 1})
    catalogue.finish_step(catalogue.start_step("ingest", "f"), {"attempt": 2})
    done = catalogue.done_step("f")
    assert done is not None
    assert done.result == {"attempt": 2}


def test_steps_that_a_kill_left_running_are_told_as_failed(catalogue: Catalogue) -> None:
    left = catalogue.start_step("generate", "f")
    other = catalogue.start_step("train:sft", "g")
    catalogue.start_step("generate", "f")
    assert {run.id: run.status for run in catalogue.step_runs()}[left.id] is RunStatus.FAILED
    with catalogue.run_lock("tutelage run"):
        found = {run.id: run for run in catalogue.step_runs()}
    assert found[other.id].status is RunStatus.FAILED
    assert "killed" in found[other.id].error


def test_ending_an_unknown_step_is_refused(catalogue: Catalogue) -> None:
    run = catalogue.start_step("generate", "f")
    with pytest.raises(DataError, match="run-nobody"):
        catalogue.finish_step(run.model_copy(update={"id": "run-nobody"}), {})


def test_a_training_curve_comes_back_with_its_nan(catalogue: Catalogue) -> None:
    first = {"step": 10, "epoch": 0.5, "loss": 2.5, "learning_rate": 1e-4, "values": {"grad_norm": 1.5}}
    second = {"step": 20, "epoch": 1.0, "loss": math.nan, "learning_rate": None, "values": {"margin": math.inf}}
    catalogue.add_metrics("run-1", [second, first])
    points = catalogue.metrics("run-1")
    assert points[0] == first
    assert math.isnan(points[1]["loss"])
    assert points[1]["values"] == {"margin": math.inf}
    catalogue.add_metrics("run-1", [{**first, "loss": 2.0}])
    assert catalogue.metrics("run-1")[0]["loss"] == 2.0
    assert catalogue.metrics("run-2") == []


def test_scores_replace_those_of_the_same_model_and_suite(catalogue: Catalogue) -> None:
    def score(number: int, value: float | None) -> SampleScore:
        outcome = Outcome.UNSCORED if value is None else Outcome.PASSED
        return SampleScore(
            sample_id=f"s{number}", question="q", answers=("a", "b"), completion="c", outcome=outcome, score=value
        )

    catalogue.put_scores("m", "gold", [score(2, 1.0), score(1, None)])
    catalogue.put_scores("m", "general", [score(3, 1.0)])
    assert catalogue.scores("m", "gold") == [score(2, 1.0), score(1, None)]
    catalogue.put_scores("m", "gold", [score(1, 0.0)])
    assert catalogue.scores("m", "gold") == [score(1, 0.0)]
    assert catalogue.scores("m", "general") == [score(3, 1.0)]


def test_gates_are_kept_as_they_decided(catalogue: Catalogue) -> None:
    gate = GateRecord.of(
        candidate="candidate-1",
        baseline="base",
        stage_name="sft",
        outcome="INCONCLUSIVE",
        comparisons=[{"suite": "gold", "needed": 400}],
        created_at=5.0,
        run_id="run-1",
    )
    catalogue.put_gate(gate)
    catalogue.put_gate(gate.model_copy(update={"outcome": "PASS"}))
    assert catalogue.gates() == catalogue.gates("candidate-1") == [gate]
    assert catalogue.gates("candidate-2") == []
    assert not gate.passed


def test_items_of_every_kind_keep_their_payload(catalogue: Catalogue) -> None:
    payload = {"messages": [{"role": "user", "content": "¿qué?"}, {"role": "assistant", "content": "\x00 文"}]}
    one = item("x").model_copy(update={"kind": Kind.MESSAGES, "payload": payload})
    catalogue.add_items([one])
    assert catalogue.items() == [one]
