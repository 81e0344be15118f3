"""The dataset of a preference stage: answers are gathered and told apart by each recipe, and the pairs are written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from data_catalog.datasets import write_dataset
from data_catalog.identity import digest
from data_catalog.records import Completion, DatasetVersion, Item, Kind, Outcome, Verdict
from evaluation.scorers.abstention import abstains
from flows.config import StageConfig
from flows.context import RunContext
from flows.data_steps import Ingested, stage_items
from flows.generation import RecipeCounts
from flows.model_steps import StudentModel
from flows.pair_answers import Answers
from generators.filters.base import abstains as abstains_by
from generators.filters.base import failed, passed, sources_of
from generators.filters.pipeline import checks_alone, until_objection
from generators.filters.sensitive import check as check_sensitive
from generators.pairs import aspect_ratings, delta, on_policy, teacher_vs_student
from generators.pairs.aspect_ratings import RatedBy
from generators.pairs.base import Candidate, questions_of
from generators.pairs.specs import (
    STUDENT,
    AspectRatingsSpec,
    DeltaSpec,
    OnPolicySpec,
    PairSpec,
    TeacherVsStudentSpec,
)
from generators.prompts import load_template
from generators.recipes.base import Check

ANSWERS = "answers@1"
"""The check that the chosen answer to a question that has one is no abstention."""


@dataclass(frozen=True)
class PairAccounts:
    """What one recipe of pairs made for a stage: its answers, its pairs, and what the checks said of them."""

    counts: RecipeCounts
    items: tuple[Item, ...]
    verdicts: tuple[Verdict, ...]


class Preferences(NamedTuple):
    """The pairs of a stage. `dataset` is None where there are none, so that there is nothing to learn."""

    dataset: DatasetVersion | None
    accounts: tuple[PairAccounts, ...]


def preference_dataset(
    ctx: RunContext, stage: StageConfig, ingested: Ingested, accepted: Sequence[Item], model: StudentModel
) -> Preferences:
    """Let each recipe of the stage make its pairs, keep them all with their verdicts, and write the accepted ones."""
    questions = questions_of(stage_items(stage, accepted))
    answers = Answers(ctx, stage, ingested, questions, model)
    step = f"pairs:{stage.name}"
    accounts: list[PairAccounts] = []
    pairs: dict[str, Item] = {}
    made: set[str] = set()
    for spec in stage.data.pairs:
        answers.asked.clear()
        found = {one.item.id: one for one in _candidates(answers, spec) if one.item.id not in made}
        made |= found.keys()
        verdicts = {id_: tuple(_verdicts(answers, one)) for id_, one in found.items()}
        counts = _counts(f"{spec.name} ({stage.name})", answers.asked)
        items = tuple(one.item for one in found.values())
        accounts.append(PairAccounts(counts, items, tuple(said for group in verdicts.values() for said in group)))
        good = [item for item in items if {said.outcome for said in verdicts[item.id]} <= {Outcome.PASSED}]
        for item in good[: stage.data.max_pairs]:
            pairs.setdefault(digest(item.payload), item)
    ctx.teacher.rest()
    ctx.reporter.step_started(step)
    ctx.catalogue.add_items([item for account in accounts for item in account.items])
    ctx.catalogue.put_verdicts([verdict for account in accounts for verdict in account.verdicts])
    ctx.reporter.step_done(step, f"{len(pairs):,} pairs from {len(questions):,} questions")
    if not pairs:
        ctx.reporter.note(f"stage {stage.name} is left out: no pair passed its checks, so there is nothing to prefer")
        return Preferences(None, tuple(accounts))
    name = f"{ctx.config.project}-{stage.name}"
    version = write_dataset(ctx.catalogue, name, Kind.PREFERENCE, list(pairs.values()))
    return Preferences(version, tuple(accounts))


def _candidates(answers: Answers, spec: PairSpec) -> list[Candidate]:
    match spec:
        case TeacherVsStudentSpec():
            return teacher_vs_student.candidates(*answers.wrong())
        case OnPolicySpec():
            wrong, said = answers.wrong()
            return on_policy.candidates(answers.sampled(), wrong, said, abstains=abstains)
        case DeltaSpec():
            return _of_delta(answers, spec)
        case AspectRatingsSpec():
            return _of_ratings(answers, spec)


def _of_delta(answers: Answers, spec: DeltaSpec) -> list[Candidate]:
    sides = sorted((spec.chosen, spec.rejected), key=lambda who: who != STUDENT)  # the student before a server starts
    said = {who: answers.of(who, spec, delta.NAME, samples=1, open_book=spec.open_book) for who in sides}
    return delta.candidates(said[spec.chosen], said[spec.rejected])


def _of_ratings(answers: Answers, spec: AspectRatingsSpec) -> list[Candidate]:
    samples = answers.stage.data.samples
    sampled = []
    for who in sorted(spec.answers, key=lambda who: who != STUDENT):
        open_book = spec.open_book and who != STUDENT  # it is asked as it will be
        sampled += answers.of(who, spec, aspect_ratings.NAME, samples=samples, open_book=open_book)
    language = answers.ctx.config.curate.language
    template = load_template(spec.template, "aspect_ratings", language)
    judge = RatedBy(answers.ctx.judge(spec.judge).fingerprint, template, spec.max_tokens)
    asked = aspect_ratings.rating_requests(aspect_ratings.distinct(sampled), judge, answers.chunks)
    completions = answers.ask(spec.judge, [request for _, request in asked])
    return aspect_ratings.candidates(aspect_ratings.read_ratings(asked, completions), spec.margin)


def _verdicts(answers: Answers, candidate: Candidate) -> Iterator[Verdict]:
    """Yield what is said of a pair, up to the first objection: of the answers, then of the chosen one by itself."""
    return until_objection(_all_verdicts(answers, candidate))


def _all_verdicts(answers: Answers, candidate: Candidate) -> Iterator[Verdict]:
    curate, item, chosen = answers.ctx.config.curate, candidate.item, candidate.chosen
    if curate.reject_sensitive:
        yield check_sensitive(item, curate.reject_sensitive)
    yield from candidate.verdicts
    if chosen is None:
        return
    if abstains_by(chosen.meta["answer"], curate.abstention_phrases):
        yield failed(item, ANSWERS, "the chosen answer is that the text does not say")
    else:
        yield passed(item, ANSWERS)
    checks = frozenset({Check.ANCHORED}) if sources_of(chosen, answers.chunks) else frozenset[Check]()
    looked_at = curate.model_copy(update={"reject_sensitive": ()})  # the pair was looked at, both sides of it
    for verdict in checks_alone(chosen, looked_at, answers.chunks, checks):
        yield verdict.model_copy(update={"item_id": item.id})


def _counts(recipe: str, asked: Mapping[str, Completion | None]) -> RecipeCounts:
    answered = [completion for completion in asked.values() if completion is not None]
    truncated = sum(completion.finish_reason == "length" for completion in answered)
    return RecipeCounts(recipe, len(asked), len(answered), truncated)
