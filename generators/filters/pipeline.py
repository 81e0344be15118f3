"""All checks in order of their cost: what an item fails early, nobody is asked about later."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    needs_all,
    novel,
    repetition,
    round_trip,
    schema,
    script,
    sensitive,
)
from generators.filters import unanswerable as openness
from generators.filters.base import CheckPrompt, question_of, source_of, sources_of, unscored
from generators.filters.calibration import Calibration, Planted, calibrate, calibration_requests, plant
from generators.recipes import RECIPES
from generators.recipes.base import Check, Recipe
from generators.recipes.document import NAME as DOCUMENT
from generators.specs import CheckPromptSpec, CurateSpec

Ask = Callable[[Sequence[Request]], Mapping[str, Completion]]
"""Answers requests, each once and for ever; returns completions by request key."""

SOURCE = "source@1"
"""The check that an item's document is still there."""

_ALONE = (
    SOURCE,
    *(check.CHECK for check in (schema, length, repetition, script, sensitive, evidence, anchored, faithful, novel)),
)
"""The checks that look at one item and ask nobody, in their order."""


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


class Curator:
    """Runs every check on the items that are left by the checks before it.

    The order: source, schema, length, repetition, script, personal data and secrets, evidence, numbers and names,
    faithfulness, novelty; duplicates and near-duplicates; contamination; the judge, whether open questions are open and
    those of several chunks need them all; the round trip; contradictions among what is left.

    It may be called again with more items: what it said of an item on its own, and what was asked about it, it knows.

    Args:
        chunks: of all documents, also those that no item came from.
        documents: as they stand now; an item of another one is UNSCORED.
        spec: limits and prompts.
        ask: how the teacher is asked.
        evaluation_questions: of all suites.
        teacher_fingerprint: which model judges; part of each request's key.
        base_dir: the folder that template files are relative to.
        recipes: those that items come from, by name: each says which checks its items have to pass.

    Raises:
        ConfigError: a check's template can't be used. Raised before anything is asked.
    """

    def __init__(
        self,
        chunks: Sequence[Chunk],
        documents: Sequence[Document],
        spec: CurateSpec,
        ask: Ask,
        evaluation_questions: Sequence[str],
        *,
        teacher_fingerprint: str,
        base_dir: Path | None = None,
        recipes: Mapping[str, Recipe] = RECIPES,
    ) -> None:
        self._recipes = recipes
        self._chunks = chunks
        self._chunk_of = {chunk.id: chunk for chunk in chunks}
        self._documents = {document.id for document in documents}
        self._spec = spec
        self._ask = ask
        self._questions = evaluation_questions
        self._prompts = _load_prompts(spec, teacher_fingerprint, base_dir)
        self._alone: dict[str, tuple[Verdict, ...]] = {}
        """What was said of an item on its own."""
        self._judging: dict[str, tuple[Request, ...]] = {}
        self._again: dict[str, tuple[Request, ...]] = {}
        self._open: dict[str, tuple[Request, ...]] = {}
        self._in_part: dict[str, tuple[Request, ...]] = {}
        """What was asked about an item: by the judge, by the round trip, of open questions, of each chunk alone."""
        self._answers: dict[str, Completion] = {}
        self._planted: list[Planted] = []

    def curate(self, items: Sequence[Item]) -> CurateReport:
        """Return every verdict on the items, which stand in a fixed order: the first of two equal ones is kept."""
        spec, funnel = self._spec, _Funnel(items, self._checks_of)
        for item in items:
            if item.id not in self._alone:
                self._alone[item.id] = tuple(self._said_alone(item))
        alone = [verdict for item in items for verdict in self._alone[item.id]]
        funnel.take(sorted(alone, key=lambda verdict: _ALONE.index(verdict.check)))
        voters = funnel.left(Check.ROUND_TRIP)
        funnel.take(duplicate.check_duplicates(funnel.left()))
        if spec.near_duplicate is not None:
            funnel.take(near_duplicate.check(funnel.left_without(DOCUMENT), spec.near_duplicate))
        held_out = [question_of(item) for item in funnel.left() if item.split is Split.EVALUATION]
        questions = contamination.EvaluationQuestions(self._questions, held_out, ngram=spec.decontaminate_ngram)
        funnel.take([contamination.check(item, questions) for item in funnel.left_without(DOCUMENT)])
        calibration = self._ask_teacher(funnel)
        funnel.take(duplicate.check_conflicts(funnel.left(Check.ROUND_TRIP), voters))
        return replace(funnel.report(), calibration=calibration)

    def _said_alone(self, item: Item) -> Iterator[Verdict]:
        """Yield what the checks say that look at one item and ask nobody, up to the first that it does not pass."""
        return until_objection(self._checks_alone(item))

    def _checks_alone(self, item: Item) -> Iterator[Verdict]:
        if item.document_id is not None and item.document_id not in self._documents:
            yield unscored(item, SOURCE, "its document is not there any more")
        yield from checks_alone(item, self._spec, self._chunk_of, self._checks_of(item))

    def _checks_of(self, item: Item) -> frozenset[Check]:
        recipe = self._recipes.get(item.recipe)
        return recipe.checks if recipe is not None else frozenset()

    def _ask_teacher(self, funnel: _Funnel) -> Calibration | None:
        """The checks that ask the teacher, in two stages: the round trip only for what the judge let through."""
        spec, prompts = self._spec, self._prompts
        open_items = funnel.left(Check.OPEN)
        if unknown := _without(open_items, self._open):
            self._open |= openness.unanswerable_requests(unknown, self._chunks, prompts.openness)
        first = [request for item in open_items for request in self._open[item.id]]
        of_several = funnel.left(Check.NEEDS_ALL)
        unknown = _without(of_several, self._in_part)
        self._in_part |= needs_all.needs_all_requests(unknown, self._chunk_of, prompts.openness)
        first += [request for item in of_several for request in self._in_part[item.id]]
        judged = funnel.left(Check.JUDGE) if prompts.judge else []
        test: list[Request] = []
        if prompts.judge and spec.judge:
            self._judging |= judge.judge_requests(_without(judged, self._judging), self._chunk_of, prompts.judge)
            # Among the first items that are judged; more of them later are no reason to test again.
            self._planted = self._planted or plant(judged, self._chunks, spec.judge.planted)
            test = calibration_requests(self._planted, prompts.judge)
        judging = [request for item in judged for request in self._judging.get(item.id, ())]
        # One call for all: the teacher is kept busy, and prompts with a chunk in common stand together.
        self._find_out([*judging, *test, *first])
        funnel.take(judge.judge_verdicts(judged, self._judging, self._answers))
        funnel.take(openness.unanswerable_verdicts(open_items, self._open, self._answers, spec.abstention_phrases))
        funnel.take(needs_all.needs_all_verdicts(funnel.left(Check.NEEDS_ALL), self._in_part, self._answers))
        if prompts.round_trip:
            left = funnel.left(Check.ROUND_TRIP)
            unknown = _without(left, self._again)
            self._again |= round_trip.round_trip_requests(unknown, self._chunk_of, prompts.round_trip)
            self._find_out([request for item in left for request in self._again.get(item.id, ())])
            funnel.take(round_trip.round_trip_verdicts(left, self._again, self._answers, spec.abstention_phrases))
        return calibrate(self._planted, test, self._answers) if self._planted else None

    def _find_out(self, requests: Sequence[Request]) -> None:
        """Ask the teacher what it has not said yet."""
        if unanswered := [request for request in requests if request.key not in self._answers]:
            self._answers.update(self._ask(unanswered))


def until_objection(verdicts: Iterable[Verdict]) -> Iterator[Verdict]:
    """Yield verdicts up to the first that is no pass; those behind it are not asked for."""
    for verdict in verdicts:
        yield verdict
        if verdict.outcome is not Outcome.PASSED:
            return


def checks_alone(
    item: Item, spec: CurateSpec, chunks: Mapping[str, Chunk], checks: frozenset[Check]
) -> Iterator[Verdict]:
    """Yield what the checks say that look at one item and ask nobody, each when it is asked for.

    Args:
        item: of any recipe.
        spec: the limits, and which checks are left out.
        chunks: by id.
        checks: those that the item has to pass beside what every item has to.
    """
    chunk = source_of(item, chunks)
    yield schema.check(item)
    if item.recipe == DOCUMENT:
        return
    yield length.check(
        item,
        max_question_chars=spec.max_question_chars,
        max_answer_chars=spec.max_answer_chars,
        max_text_chars=spec.max_text_chars,
    )
    yield repetition.check(item)
    if item.chunk_id is not None:
        yield script.check(item, chunk)
    if spec.reject_sensitive:
        yield sensitive.check(item, spec.reject_sensitive)
    if Check.EVIDENCE in checks and spec.evidence:
        yield evidence.check(item, *sources_of(item, chunks))
    if Check.ANCHORED in checks and spec.anchored:
        yield anchored.check(item, chunk)
    if Check.FAITHFUL in checks:
        yield faithful.check(item)
    if Check.NOVEL in checks:
        yield novel.check(item)


def _without(items: Sequence[Item], known: Mapping[str, object]) -> list[Item]:
    return [item for item in items if item.id not in known]


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

    def __init__(self, items: Sequence[Item], checks_of: Callable[[Item], frozenset[Check]]) -> None:
        self._checks_of = checks_of
        self._items = {item.id: item for item in items}
        self._verdicts: list[Verdict] = []
        self._said: dict[str, set[Outcome]] = {id_: set() for id_ in self._items}

    def left(self, check: Check | None = None) -> list[Item]:
        """Return the items (those whose recipe asks for `check`, or all) that passed everything so far, in order."""
        return [
            item
            for item in self._items.values()
            if self._said[item.id] <= {Outcome.PASSED} and (check is None or check in self._checks_of(item))
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
