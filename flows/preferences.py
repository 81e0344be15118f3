"""The dataset of a preference stage: the current student is asked, its wrong answers are judged, pairs are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from data_catalog.datasets import write_dataset
from data_catalog.records import Chunk, DatasetVersion, Item, Kind, Outcome
from evaluation.scorers.abstention import abstains
from flows.config import StageConfig
from flows.context import RunContext
from flows.data_steps import Ingested, stage_items
from flows.model_steps import StudentModel, ask_student
from generators.engine import answer_all
from generators.filters import anchored, judge
from generators.filters.base import CheckPrompt, source_of
from generators.recipes import on_policy
from generators.recipes.on_policy import Sampled
from generators.specs import JudgeSpec

ANSWER_TOKENS = 64


def preference_dataset(
    ctx: RunContext, stage: StageConfig, ingested: Ingested, accepted: Sequence[Item], model: StudentModel
) -> DatasetVersion | None:
    """Sample the student on training questions, keep what the teacher's judge calls wrong, and write the pairs.

    Returns:
        None where the student made no mistake, so that there is nothing to learn.
    """
    step = f"sample:{stage.name}"
    questions = on_policy.questions_of(stage_items(stage, accepted))
    asked = on_policy.sample_requests(
        questions,
        student_fingerprint=model.fingerprint,
        samples=stage.data.samples,
        temperature=stage.data.sample_temperature,
        max_tokens=ANSWER_TOKENS,
    )
    ctx.reporter.step_started(step, f"{len(asked):,} answers of {model.label}")
    answers = ask_student(ctx, step, model, [request for _, request in asked])
    sampled = [
        Sampled(question, request, answers[request.key]) for question, request in asked if request.key in answers
    ]
    wrong = on_policy.candidates(sampled, abstains=abstains)
    pairs = on_policy.pairs(wrong, refused=_refused(ctx, ingested, wrong))[: stage.data.max_pairs]
    ctx.reporter.step_done(step, f"{len(pairs):,} pairs from {len(questions):,} questions")
    if not pairs:
        ctx.reporter.note(f"stage {stage.name} is left out: the student made no mistake to learn from")
        return None
    ctx.catalogue.add_items(pairs)
    return write_dataset(ctx.catalogue, f"{ctx.config.project}-{stage.name}", Kind.PREFERENCE, pairs)


def _refused(ctx: RunContext, ingested: Ingested, wrong: Sequence[Sampled]) -> dict[str, bool]:
    """Say of each wrong-looking answer to an answerable question whether it is refused: request key to verdict.

    An answer with a number or a name that its chunk doesn't have is refused for that; the judge is asked about the
    others. An abstention needs neither, and an answer that the judge could not decide on is left out as not refused.
    Where the configuration has no judge, every answer that differs from the verified one counts as refused.
    """
    if ctx.config.curate.judge is None:
        return {}
    chunks = {chunk.id: chunk for chunk in ingested.chunks}
    doubted = [sample for sample in wrong if sample.question.answerable and not abstains(sample.completion.text)]
    trials = {sample.request.key: _as_item(sample) for sample in doubted}
    refused = {key: _names_what_is_not_there(item, chunks) for key, item in trials.items()}
    return refused | _judged(
        ctx, ctx.config.curate.judge, {key: item for key, item in trials.items() if not refused[key]}, chunks
    )


def _names_what_is_not_there(item: Item, chunks: Mapping[str, Chunk]) -> bool:
    return anchored.check(item, source_of(item, chunks)).outcome is Outcome.FAILED


def _judged(
    ctx: RunContext, spec: JudgeSpec, trials: Mapping[str, Item], chunks: Mapping[str, Chunk]
) -> dict[str, bool]:
    if not trials:
        return {}
    prompt = CheckPrompt(
        "judge",
        judge.CHECK,
        template=spec.template,
        language=ctx.config.curate.language,
        max_tokens=spec.max_tokens,
        model=ctx.teacher.fingerprint,
        schema=judge.SCHEMA,
    )
    requests = judge.judge_requests(list(trials.values()), chunks, prompt)
    asked = [request for of_item in requests.values() for request in of_item]
    report = answer_all(asked, ctx.teacher, ctx.catalogue, batch_size=ctx.config.generate.batch_size)
    verdicts = judge.judge_verdicts(list(trials.values()), requests, report.completions)
    failed = {verdict.item_id for verdict in verdicts if verdict.outcome is Outcome.FAILED}
    ctx.teacher.rest()
    return {key: item.id in failed for key, item in trials.items()}


def _as_item(sample: Sampled) -> Item:
    """Return the question with the student's answer, in the form that the judge's filter reads."""
    question = sample.question
    answer = sample.completion.text.strip()
    return Item.of(
        kind=Kind.MESSAGES,
        payload={"messages": [{"role": "user", "content": question.text}, {"role": "assistant", "content": answer}]},
        recipe=on_policy.NAME,
        split=question.item.split,
        chunk_id=question.item.chunk_id,
        document_id=question.item.document_id,
        request_keys=(sample.request.key,),
        meta={**question.item.meta, "question": question.text, "answer": answer},
    )
