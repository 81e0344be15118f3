"""Answers judged by another model: the questions are rendered, asked, kept like all completions, and read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from data_catalog.records import Completion, Request, Sampling
from evaluation.judging import agreement, length_correlation, load_human, pairwise_bias
from evaluation.samples import Sample
from evaluation.scorers import Answer
from evaluation.scorers.judged import JudgeQuestion, JudgeScorer
from evaluation.scorers.pairwise import Pairwise
from evaluation.scorers.parts import Judged
from evaluation.suites import Suite, requests_by_sample
from flows.context import RunContext
from generators.engine import answer_all
from generators.filters.base import answer_text
from generators.prompts import load_template
from generators.recipes.answers import ParseFailure, json_object


class _Case(NamedTuple):
    """One answer that is to be judged. `key` is what the verdict is found by: the answer's request key."""

    key: str
    sample: Sample
    answer: str
    opponent: str


def judge_answers(
    ctx: RunContext, suite: Suite, fingerprint: str, base: str, answers: Mapping[str, Completion]
) -> dict[str, Judged]:
    """Return what the suite's judge says of each answer of a model, by the answer's request key.

    An answer whose opponent is missing is not judged. What the judge's replies show of its biases is told.

    Args:
        ctx: the run.
        suite: one with a judge for a scorer.
        fingerprint: of the model that answered.
        base: of the base model, whose answers are kept already.
        answers: the model's, by request key.
    """
    scorer = _scorer(suite)
    cases = list(_cases(ctx, suite, scorer, fingerprint, base, answers))
    judged = _ask(ctx, suite.name, scorer, cases)
    if fingerprint != base:
        ctx.reporter.note(f"{suite.name}: {_bias(scorer, cases, judged)}")
    return judged


def introduce_judges(ctx: RunContext, suites: Sequence[Suite]) -> None:
    """Say of each suite with a judge what there is to know of it: whether it is the teacher, whether people agree."""
    for suite in suites:
        if not isinstance(suite.spec.scorer, JudgeScorer):
            continue
        scorer = suite.spec.scorer
        if ctx.judge(scorer.judge).fingerprint == ctx.teacher.fingerprint:
            ctx.reporter.note(
                f"{suite.name}: the judge is the teacher, which wrote the training data: judges favour their own words "
                "(arXiv 2404.13076). Name another endpoint under `judges`"
            )
        if scorer.human is not None:
            labels = load_human(suite.name, scorer)
            cases = [_Case(str(n), label.sample, label.answer, label.opponent) for n, label in enumerate(labels)]
            judged = _ask(ctx, suite.name, scorer, cases)
            found = [scorer.score(case.sample, Answer(case.answer, judged=judged[case.key])) for case in cases]
            said = agreement([label.said for label in labels], found, scorer)
            ctx.reporter.note(f"{suite.name}: the judge {said.line()}")


def _scorer(suite: Suite) -> JudgeScorer:
    assert isinstance(suite.spec.scorer, JudgeScorer), "the caller looks"
    return suite.spec.scorer


def _cases(
    ctx: RunContext,
    suite: Suite,
    scorer: JudgeScorer,
    fingerprint: str,
    base: str,
    answers: Mapping[str, Completion],
) -> Iterator[_Case]:
    ours, theirs = requests_by_sample(suite, fingerprint), requests_by_sample(suite, base)
    against_base = isinstance(scorer, Pairwise) and scorer.against == "base"
    known = ctx.catalogue.answered([request.key for group in theirs for request in group]) if against_base else {}
    for sample, group, rivals in zip(suite.samples, ours, theirs, strict=True):
        for request, rival in zip(group, rivals, strict=True):
            opponent = sample.answers[0] if sample.answers else ""
            if against_base:
                if rival.key not in known:
                    continue
                opponent = known[rival.key].text
            if request.key in answers:
                yield _Case(request.key, sample, answers[request.key].text, opponent)


def _ask(ctx: RunContext, suite: str, scorer: JudgeScorer, cases: Sequence[_Case]) -> dict[str, Judged]:
    """Ask the judge about all cases and read its replies; one that can't be read is None."""
    judge, template = ctx.judge(scorer.judge), load_template(scorer.template, scorer.name, scorer.language)
    asked: list[tuple[_Case, list[tuple[JudgeQuestion, Request]]]] = []
    for case in cases:
        questions = scorer.questions(case.sample, case.answer, case.opponent)
        asked.append(
            (
                case,
                [
                    (
                        question,
                        Request(
                            model=judge.fingerprint,
                            messages=template.render(**question.variables).messages,
                            sampling=Sampling(temperature=0.0, max_tokens=scorer.max_tokens),
                            response_schema=question.schema,
                            purpose=f"{scorer.name}@1",
                            template=template.identity,
                            origin={"suite": suite, "sample_id": case.sample.id, "answer": case.key},
                        ),
                    )
                    for question in questions
                ],
            )
        )
    step = f"judge:{suite}"
    requests = [request for _, group in asked for _, request in group]
    ctx.reporter.step_started(step, f"{len(requests):,} questions")
    report = answer_all(
        requests,
        judge,
        ctx.catalogue,
        batch_size=ctx.config.generate.batch_size,
        on_progress=lambda done, total: ctx.reporter.step_progress(step, done, total),
    )
    if judge is not ctx.teacher:  # which rests when the training begins
        judge.rest()
    ctx.reporter.step_done(step, f"{len(cases):,} answers judged", cached=report.asked == 0)
    return {
        case.key: Judged(
            tuple(_reply(question, request, report.completions) for question, request in group), case.opponent
        )
        for case, group in asked
    }


def _reply(
    question: JudgeQuestion, request: Request, completions: Mapping[str, Completion]
) -> Mapping[str, str] | None:
    text = answer_text(completions, request.key)
    parsed = text if isinstance(text, ParseFailure) else json_object(text, question.schema)
    return None if isinstance(parsed, ParseFailure) else parsed


def _bias(scorer: JudgeScorer, cases: Sequence[_Case], judged: Mapping[str, Judged]) -> str:
    if isinstance(scorer, Pairwise):
        return pairwise_bias([(case.answer, judged[case.key]) for case in cases]).line()
    scores = [scorer.score(case.sample, Answer(case.answer, judged=judged[case.key])) for case in cases]
    known = [(case.answer, score) for case, score in zip(cases, scores, strict=True) if score is not None]
    text = f"judged {len(cases):,} answers, {len(cases) - len(known):,} unscored"
    found = length_correlation([answer for answer, _ in known], [score for _, score in known]) if known else None
    return text if found is None else f"{text}; length: points and words correlate by {found:+.2f} (Spearman)"
