"""All checks in order of their cost: what an item fails early, nobody is asked about later."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_catalog.errors import DataError
from data_catalog.records import Chunk, Completion, Document, Item, Outcome, Request, Split, Verdict
from generators.filters import (
    anchored,
    contamination,
    duplicate,
    evidence,
    faithful,
    judge,
    length,
    near_duplicate,
    repetition,
    round_trip,
    schema,
    script,
    sensitive,
)
from generators.filters import unanswerable as openness
from generators.filters.base import CheckPrompt, question_of, unscored
from generators.filters.calibration import Calibration, calibrate, calibration_requests, plant
from generators.recipes.document import NAME as DOCUMENT
from generators.recipes.grounded_qa import GroundedQA
from generators.recipes.paraphrase import Paraphrase
from generators.recipes.unanswerable import Unanswerable
from generators.specs import CheckPromptSpec, CurateSpec

Ask = Callable[[Sequence[Request]], Mapping[str, Completion]]
"""Answers requests, each once and for ever; returns completions by request key."""

SOURCE = "source@1"
"""The check that an item's document is still there."""


@dataclass(frozen=True)
class FunnelRow:
    """What one check did."""

    check: str
    seen: int
    passed: int
    failed: int
    unscored: int


@dataclass(frozen=True)
class CurateReport:
    """What the checks said: an item is accepted when every check that it met says PASSED."""

    verdicts: tuple[Verdict, ...] = ()
    accepted_ids: frozenset[str] = frozenset()
    rejected_ids: frozenset[str] = frozenset()
    """Items that a check failed."""
    unscored_ids: frozenset[str] = frozenset()
    """Items that no check failed, but at least one could not be made: neither accepted nor rejected."""
    calibration: Calibration | None = None
    """How the judge did on planted answers; None where it was not tested."""

    def funnel(self) -> tuple[FunnelRow, ...]:
        """Return the checks in the order in which they ran, each with how many items it saw and what it said."""
        counts: dict[str, Counter[Outcome]] = {}
        for verdict in self.verdicts:
            counts.setdefault(verdict.check, Counter())[verdict.outcome] += 1
        return tuple(
            FunnelRow(check, said.total(), said[Outcome.PASSED], said[Outcome.FAILED], said[Outcome.UNSCORED])
            for check, said in counts.items()
        )


@dataclass(frozen=True)
class _Prompts:
    """The checks' prompts; None where the configuration leaves the check out."""

    judge: CheckPrompt | None
    round_trip: CheckPrompt | None
    openness: CheckPrompt


def curate(
    items: Sequence[Item],
    chunks: Sequence[Chunk],
    documents: Sequence[Document],
    spec: CurateSpec,
    ask: Ask,
    evaluation_questions: Sequence[str],
    *,
    teacher_fingerprint: str,
    base_dir: Path | None = None,
) -> CurateReport:
    """Run every check on the items that are left by the checks before it.

    The order: source, schema, length, repetition, script, personal data and secrets, evidence, numbers and names,
    faithfulness; duplicates and near-duplicates; contamination; the judge, and whether open questions are open; the
    round trip; contradictions among what is left.

    Args:
        items: in the order of their requests; the first of two equal ones is kept.
        chunks: of all documents, also those that no item came from.
        documents: as they stand now; an item of another one is UNSCORED.
        spec: limits and prompts.
        ask: how the teacher is asked.
        evaluation_questions: of all suites.
        teacher_fingerprint: which model judges; part of each request's key.
        base_dir: the folder that template files are relative to.

    Raises:
        ConfigError: a check's template can't be used. Raised before anything is asked.
    """
    prompts = _load_prompts(spec, teacher_fingerprint, base_dir)
    funnel = _Funnel(items)
    _check_alone(funnel, {chunk.id: chunk for chunk in chunks}, {document.id for document in documents}, spec)
    voters = funnel.left(GroundedQA.name)
    funnel.take(duplicate.check_duplicates(funnel.left()))
    if spec.near_duplicate is not None:
        funnel.take(near_duplicate.check(funnel.left_without(DOCUMENT), spec.near_duplicate))
    _check_contamination(funnel, spec, evaluation_questions)
    calibration = _ask_teacher(funnel, chunks, spec, prompts, ask)
    funnel.take(duplicate.check_conflicts(funnel.left(GroundedQA.name), voters))
    return replace(funnel.report(), calibration=calibration)


def demand_minimum(report: CurateReport, minimum: int) -> None:
    """Raise DataError, with the funnel and the likeliest cause, where fewer than `minimum` items were accepted."""
    if len(report.accepted_ids) >= minimum:
        return
    lines = [
        f"{row.check}: {row.failed:,} of {row.seen:,} failed, {row.unscored:,} unscored" for row in report.funnel()
    ]
    reasons = Counter(f"{said.check} {said.reason}" for said in report.verdicts if said.outcome is not Outcome.PASSED)
    lines += [f"most often ({count:,}): {reason}" for reason, count in reasons.most_common(1)]
    raise DataError(
        "\n  ".join([f"{len(report.accepted_ids):,} items passed the checks", *lines]),
        valid=f"at least {minimum:,} (curate.minimum_items)",
        next_step="look at the rejected samples in the report; a better teacher, other templates or more samples help",
    )


class _Funnel:
    """Which items are still in, and what was said so far."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = {item.id: item for item in items}
        self._verdicts: list[Verdict] = []
        self._said: dict[str, set[Outcome]] = {id_: set() for id_ in self._items}

    def left(self, *recipes: str) -> list[Item]:
        """Return the items (of these recipes, or all) that passed everything so far, in their order."""
        return [
            item
            for item in self._items.values()
            if self._said[item.id] <= {Outcome.PASSED} and (not recipes or item.recipe in recipes)
        ]

    def left_without(self, recipe: str) -> list[Item]:
        """Return the items of all other recipes that passed everything so far, in their order."""
        return [item for item in self.left() if item.recipe != recipe]

    def take(self, verdicts: Iterable[Verdict]) -> None:
        """Take in what a check says."""
        for verdict in verdicts:
            self._verdicts.append(verdict)
            self._said[verdict.item_id].add(verdict.outcome)

    def report(self) -> CurateReport:
        """Return the end of it."""
        rejected = frozenset(id_ for id_, said in self._said.items() if Outcome.FAILED in said)
        unscored_ids = frozenset(id_ for id_, said in self._said.items() if Outcome.UNSCORED in said) - rejected
        accepted = frozenset(self._said) - rejected - unscored_ids
        return CurateReport(tuple(self._verdicts), accepted, rejected, unscored_ids)


def _load_prompts(spec: CurateSpec, model: str, base_dir: Path | None) -> _Prompts:
    def load(kind: str, check: str, settings: CheckPromptSpec) -> CheckPrompt:
        return CheckPrompt(
            kind,
            check,
            template=settings.template,
            language=spec.language,
            max_tokens=settings.max_tokens,
            model=model,
            schema=judge.SCHEMA if kind == "judge" else None,
            base_dir=base_dir,
        )

    return _Prompts(
        judge=load("judge", judge.CHECK, spec.judge) if spec.judge else None,
        round_trip=load("answer", round_trip.CHECK, spec.round_trip) if spec.round_trip else None,
        # Open questions are put with the round trip's prompt, also where the round trip itself is left out.
        openness=load("answer", openness.CHECK, spec.round_trip or CheckPromptSpec()),
    )


def _check_alone(funnel: _Funnel, chunks: Mapping[str, Chunk], known: set[str], spec: CurateSpec) -> None:
    """The checks that look at one item and ask nobody."""
    funnel.take(
        unscored(item, SOURCE, "its document is not there any more")
        for item in funnel.left()
        if item.document_id not in known
    )
    funnel.take([schema.check(item) for item in funnel.left()])
    funnel.take(
        [
            length.check(item, max_question_chars=spec.max_question_chars, max_answer_chars=spec.max_answer_chars)
            for item in funnel.left_without(DOCUMENT)
        ]
    )
    funnel.take([repetition.check(item) for item in funnel.left_without(DOCUMENT)])
    of_a_chunk = [item for item in funnel.left_without(DOCUMENT) if item.chunk_id is not None]
    funnel.take([script.check(item, chunks.get(item.chunk_id or "")) for item in of_a_chunk])
    if spec.reject_sensitive:
        funnel.take([sensitive.check(item, spec.reject_sensitive) for item in funnel.left_without(DOCUMENT)])
    if spec.evidence:
        funnel.take([evidence.check(item, chunks.get(item.chunk_id or "")) for item in funnel.left(GroundedQA.name)])
    if spec.anchored:
        funnel.take([anchored.check(item, chunks.get(item.chunk_id or "")) for item in funnel.left(GroundedQA.name)])
    funnel.take([faithful.check(item) for item in funnel.left(Paraphrase.name)])


def _check_contamination(funnel: _Funnel, spec: CurateSpec, evaluation_questions: Sequence[str]) -> None:
    held_out = [question_of(item) for item in funnel.left() if item.split is Split.EVALUATION]
    questions = contamination.EvaluationQuestions(evaluation_questions, held_out, ngram=spec.decontaminate_ngram)
    funnel.take([contamination.check(item, questions) for item in funnel.left_without(DOCUMENT)])


def _ask_teacher(
    funnel: _Funnel, chunks: Sequence[Chunk], spec: CurateSpec, prompts: _Prompts, ask: Ask
) -> Calibration | None:
    """The checks that ask the teacher, in two stages: the round trip only for what the judge let through."""
    by_id = {chunk.id: chunk for chunk in chunks}
    open_items = funnel.left(Unanswerable.name)
    open_requests = openness.unanswerable_requests(open_items, chunks, prompts.openness)
    first = [request for requests in open_requests.values() for request in requests]
    judged = funnel.left(GroundedQA.name) if prompts.judge else []
    judge_requests = judge.judge_requests(judged, by_id, prompts.judge) if prompts.judge else {}
    planted = plant(judged, chunks, spec.judge.planted) if spec.judge else []
    test = calibration_requests(planted, prompts.judge) if prompts.judge else []
    # One call for all: the teacher is kept busy, and prompts with a chunk in common stand together.
    answers = ask([*judge_requests.values(), *test, *first]) if judge_requests or first else {}
    funnel.take(judge.judge_verdicts(judged, judge_requests, answers))
    funnel.take(openness.unanswerable_verdicts(open_items, open_requests, answers, spec.abstention_phrases))
    if prompts.round_trip:
        again = funnel.left(GroundedQA.name)
        requests = round_trip.round_trip_requests(again, by_id, prompts.round_trip)
        answers = {**answers, **ask(list(requests.values()))} if requests else answers
        funnel.take(round_trip.round_trip_verdicts(again, requests, answers, spec.abstention_phrases))
    return calibrate(planted, test, answers) if planted else None
