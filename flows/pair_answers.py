"""Who answers for the pairs of a preference stage, and what is said of the answers: student, teacher and judges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from data_catalog.records import Chunk, Completion, Item, Outcome, Request, Verdict
from evaluation.scorers.abstention import abstains
from flows.config import StageConfig
from flows.context import RunContext
from flows.data_steps import Ingested
from flows.model_steps import StudentModel, ask_student
from generators.engine import answer_all
from generators.filters import anchored, judge
from generators.filters.base import CheckPrompt, source_of
from generators.pairs.base import AskedAs, Question, Sampled, answer_requests, as_item
from generators.pairs.specs import STUDENT, AnsweredSpec
from generators.pairs.teacher_vs_student import NAME as SAMPLED
from generators.pairs.teacher_vs_student import wrong_looking
from generators.prompts import Template, load_template
from generators.specs import JudgeSpec


@dataclass
class Answers:
    """The questions of one stage, and the answers to them, each asked for once."""

    ctx: RunContext
    stage: StageConfig
    ingested: Ingested
    questions: Sequence[Question]
    student: StudentModel
    asked: dict[str, Completion | None] = field(default_factory=dict)
    """What was asked for since this was last emptied, by request key; None where there is no answer."""

    @cached_property
    def chunks(self) -> Mapping[str, Chunk]:
        """The chunks as they stand, by id."""
        return {chunk.id: chunk for chunk in self.ingested.chunks}

    @property
    def answerable(self) -> list[Question]:
        """The questions that the documents answer."""
        return [question for question in self.questions if question.answerable]

    def sampled(self) -> list[Sampled]:
        """Return the student's answers to all questions, asked alone as they will be."""
        return self._collect(*self._sampled, STUDENT)

    @cached_property
    def _sampled(self) -> tuple[Sequence[tuple[Question, Request]], Mapping[str, Completion]]:
        how = self._how(SAMPLED, self.student.fingerprint, self.stage.data.samples, None)
        asked = answer_requests(self.questions, how, self.chunks)
        return asked, self._ask_student(asked)

    def of(self, who: str, spec: AnsweredSpec, purpose: str, *, samples: int, open_book: bool) -> list[Sampled]:
        """Return the answers of `student`, `teacher` or a judge to the questions that have one."""
        language = self.ctx.config.curate.language
        template = load_template(spec.answer_template, "answer", language) if open_book else None
        fingerprint = self.student.fingerprint if who == STUDENT else self.ctx.judge(who).fingerprint
        asked = answer_requests(self.answerable, self._how(purpose, fingerprint, samples, template), self.chunks)
        if who == STUDENT:
            return self._collect(asked, self._ask_student(asked), who)
        return self._collect(asked, self.ask(who, [request for _, request in asked]), who)

    def ask(self, who: str, requests: Sequence[Request]) -> Mapping[str, Completion]:
        """Return what the teacher or a judge says, asking only what it never was."""
        completer, step = self.ctx.judge(who), f"ask:{self.stage.name}"
        self.ctx.reporter.step_started(step, f"{len(requests):,} requests to {who}")
        report = answer_all(
            requests,
            completer,
            self.ctx.catalogue,
            batch_size=self.ctx.config.generate.batch_size,
            on_progress=lambda done, total: self.ctx.reporter.step_progress(step, done, total, who),
        )
        if completer is not self.ctx.teacher:  # which rests when all is asked
            completer.rest()
        line = f"{len(report.completions):,} answers of {who}"
        self.ctx.reporter.step_done(step, line, cached=report.asked == 0)
        if report.failed or report.quarantined:
            self.ctx.reporter.note(f"{report.failed + report.quarantined:,} requests to {who} have no answer")
        return report.completions

    def wrong(self) -> tuple[list[Sampled], Mapping[str, Verdict]]:
        """Return the student's wrong-looking answers, and by request key what is said of those in doubt.

        An answer with a number or a name that its chunk doesn't have is refused for that; the judge is asked about the
        others. An abstention, and an answer to a question that the documents leave open, need neither. Where the
        configuration has no judge, every answer that differs from the accepted one counts as wrong.
        """
        return wrong_looking(self.sampled(), abstains=abstains), self._said

    @cached_property
    def _said(self) -> Mapping[str, Verdict]:
        spec = self.ctx.config.curate.judge
        if spec is None:
            return {}
        wrong = wrong_looking(self.sampled(), abstains=abstains)
        doubted = {
            sample.request.key: as_item(sample.question, sample.text, SAMPLED, [sample.request.key])
            for sample in wrong
            if sample.question.answerable and not abstains(sample.text)
        }
        said = {key: anchored.check(item, source_of(item, self.chunks)) for key, item in doubted.items()}
        left = {key: item for key, item in doubted.items() if said[key].outcome is not Outcome.FAILED}
        return {**said, **self._judged(spec, left)}

    def _judged(self, spec: JudgeSpec, items: Mapping[str, Item]) -> Mapping[str, Verdict]:
        if not items:
            return {}
        requests = judge.judge_requests(list(items.values()), self.chunks, self._judge_prompt(spec))
        completions = self.ask("teacher", [request for group in requests.values() for request in group])
        return dict(zip(items, judge.judge_verdicts(list(items.values()), requests, completions), strict=True))

    def _judge_prompt(self, spec: JudgeSpec) -> CheckPrompt:
        return CheckPrompt(
            "judge",
            judge.CHECK,
            template=spec.template,
            language=self.ctx.config.curate.language,
            max_tokens=spec.max_tokens,
            model=self.ctx.teacher.fingerprint,
            schema=judge.SCHEMA,
        )

    def _how(self, purpose: str, fingerprint: str, samples: int, open_book: Template | None) -> AskedAs:
        data = self.stage.data
        return AskedAs(purpose, fingerprint, samples, data.sample_temperature, data.answer_tokens, open_book)

    def _ask_student(self, asked: Sequence[tuple[Question, Request]]) -> Mapping[str, Completion]:
        step = f"sample:{self.stage.name}"
        self.ctx.reporter.step_started(step, f"{len(asked):,} answers of {self.student.label}")
        self.ctx.teacher.rest()  # student and teacher together may not fit into the memory of one device
        completions = ask_student(self.ctx, step, self.student, [request for _, request in asked])
        self.ctx.reporter.step_done(step, f"{len(completions):,} answers of {self.student.label}")
        return completions

    def _collect(
        self, asked: Iterable[tuple[Question, Request]], completions: Mapping[str, Completion], who: str
    ) -> list[Sampled]:
        found = []
        for question, request in asked:
            completion = self.asked[request.key] = completions.get(request.key)
            if completion is not None:
                found.append(Sampled(question, request, completion, who))
        return found
