"""Suites: evaluation samples read from JSONL (or lm-eval's tasks), and the requests that put them to a model.

A row is `{"id"?, "question" | "messages", "answers"?: [...], "document"?, "kind"?, ...}`; for the perplexity of a plain
text `{"text"}`. Nothing here generates text.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from data_catalog.errors import DataError
from data_catalog.identity import digest
from data_catalog.records import Message, Record, Request, Sampling
from data_catalog.text import fold
from evaluation.samples import Sample
from evaluation.scorers import ExactMatch
from evaluation.scorers.lm_eval import LmEval
from evaluation.specs import QUESTION, SuiteSpec
from evaluation.suite_rows import read_samples

PURPOSE = "evaluate"


class Suite(Record):
    """A named set of samples with its scorer. `digest` changes with whatever could change a score."""

    name: str
    spec: SuiteSpec
    samples: tuple[Sample, ...]
    shots: tuple[Sample, ...] = ()
    """Answered examples that stand before each question."""
    reserve: tuple[Sample, ...] = ()
    """What a gate may ask beside `samples`, within the suite's `budget`."""
    digest: str

    @property
    def all_samples(self) -> tuple[Sample, ...]:
        """The samples and the reserve: all that may ever be asked, and must never be trained on."""
        return (*self.samples, *self.reserve)

    def grown(self, size: int) -> Suite:
        """Return the suite with its first `size` samples, reserve included."""
        every = self.all_samples
        return Suite(
            name=self.name,
            spec=self.spec,
            samples=every[:size],
            shots=self.shots,
            reserve=every[size:],
            digest=_suite_digest(self.spec, every[:size], self.shots),
        )

    @property
    def templates(self) -> tuple[str, ...]:
        """The wordings in which each sample is asked."""
        return self.spec.templates or (QUESTION,)


def load_suite(name: str, spec: SuiteSpec) -> Suite:
    """Read a suite's JSONL file.

    Rows without an `id` get one from their content. A question that is asked twice is an error: it would count double,
    and pairs would no longer be independent.

    Raises:
        DataError: the file can't be read, is empty, or holds bad rows (all of them named, with file and line), or there
            are too few examples to draw the shots from.
        MissingDependency: the scorer needs a package that is not installed.
        ConfigError: a parameter of the scorer is wrong.
    """
    spec.scorer.prepare()
    samples, reserve = _drawn(_read(name, spec), spec)
    if spec.prompted and any(sample.plain for sample in (*samples, *reserve)):
        raise DataError(
            f"suite `{name}` has rows of plain `text`, which no prompt stands before",
            valid="such a suite without `system`, `templates` and `shots`",
            next_step=f"take them out of `suites.{name}`, or make the rows `question` and `answers`",
        )
    shots = _draw_shots(name, spec, (*samples, *reserve))
    return Suite(
        name=name,
        spec=spec,
        samples=samples,
        shots=shots,
        reserve=reserve,
        digest=_suite_digest(spec, samples, shots),
    )


def _read(name: str, spec: SuiteSpec) -> tuple[Sample, ...]:
    limit = None if spec.budget is not None else spec.limit
    if isinstance(spec.scorer, LmEval):
        return spec.scorer.read(name, spec.path)[:limit]
    return read_samples(name, spec.path, spec.scorer, limit=limit)


def _drawn(samples: tuple[Sample, ...], spec: SuiteSpec) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Return the samples that are asked, and those in reserve.

    With a budget they are put in the order of a hash of their ids: files are often sorted, and what a later look adds
    must be of the same kind as what the first one saw.
    """
    if spec.budget is None:
        return samples, ()
    by_lot = sorted(samples, key=lambda sample: digest(["draw", sample.id]))[: spec.budget]
    return tuple(by_lot[: spec.limit]), tuple(by_lot[spec.limit :])


def _draw_shots(name: str, spec: SuiteSpec, samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """Draw the few-shot examples, none of which asks what the suite asks."""
    if spec.shots_from is None:
        return ()
    asked = {fold(sample.question) for sample in samples}
    # Exact match asks for answers, which is all that an example needs.
    pool = [
        sample
        for sample in read_samples(name, spec.shots_from, ExactMatch(), field="shots_from")
        if fold(sample.question) not in asked
    ]
    if len(pool) < spec.shots:
        raise DataError(
            f"suite `{name}` wants {spec.shots} shots, but {spec.shots_from} holds {len(pool)} examples that the suite "
            "does not ask",
            valid=f"`shots` up to {len(pool)}",
            next_step="add examples to that file, or ask for fewer",
        )
    return tuple(random.Random(spec.shots_seed).sample(sorted(pool, key=lambda sample: sample.id), spec.shots))


def requests(suite: Suite, model_fingerprint: str) -> list[Request]:
    """Return the greedy requests of `requests_by_sample`, one after the other."""
    return [request for group in requests_by_sample(suite, model_fingerprint) for request in group]


def requests_by_sample(suite: Suite, model_fingerprint: str) -> list[tuple[Request, ...]]:
    """Return for each sample, in the suite's order, what this model is asked, one prompt template after the other.

    That is one greedy request per template, or one of likelihood for each continuation that the scorer names.
    """
    return [
        tuple(
            Request(
                model=model_fingerprint,
                messages=messages,
                sampling=sampling,
                purpose=PURPOSE,
                origin={"suite": suite.name, "sample_id": sample.id},
            )
            for template in suite.templates
            for messages, sampling in _asked(sample, suite, template)
        )
        for sample in suite.samples
    ]


def per_template(suite: Suite, group: Sequence[Request]) -> list[Sequence[Request]]:
    """Cut what `requests_by_sample` asks about one sample into one part per template."""
    size = len(group) // len(suite.templates)
    return [group[start : start + size] for start in range(0, len(group), size)]


def _asked(sample: Sample, suite: Suite, template: str) -> Iterator[tuple[tuple[Message, ...], Sampling]]:
    own = suite.spec.scorer.prompts(sample)
    if own:
        for worded in own:
            yield worded.messages, Sampling(temperature=0.0, max_tokens=worded.max_tokens)
        return
    prompt = () if sample.plain else _prompt(sample, suite, template)
    continuations = suite.spec.scorer.continuations(sample)
    if not continuations:
        yield prompt, Sampling(temperature=0.0, max_tokens=suite.spec.max_tokens)
    for text in continuations:
        yield (*prompt, Message(role="assistant", content=text)), Sampling(temperature=0.0, max_tokens=0)


def questions(suite: Suite) -> list[str]:
    """Return every question of the suite, for the decontamination of training data."""
    return [sample.question for sample in suite.all_samples]


def _prompt(sample: Sample, suite: Suite, template: str) -> tuple[Message, ...]:
    """Return system message, examples, then the sample's turns, the last of each in the template's wording."""
    messages = [] if suite.spec.system is None else [Message(role="system", content=suite.spec.system)]
    for shot in suite.shots:
        messages += [*_worded(shot, template), Message(role="assistant", content=shot.answers[0])]
    return (*messages, *_worded(sample, template))


def _worded(sample: Sample, template: str) -> list[Message]:
    *before, last = sample.messages
    # Not str.format: a brace in a question is a brace.
    return [*before, Message(role=last.role, content=template.replace(QUESTION, last.content))]


def _suite_digest(spec: SuiteSpec, samples: Sequence[Sample], shots: Sequence[Sample]) -> str:
    # Where the files lie is not what they say: a moved suite keeps its digest.
    elsewhere: Any = {
        "path": True,
        "limit": True,
        "budget": True,
        "label": True,
        "shots_from": True,
        "scorer": {"human"},
    }
    rules = spec.model_dump(mode="json", exclude=elsewhere)
    asked = [
        {
            "id": sample.id,
            "messages": sample.messages,
            "answers": sample.answers,
            "basis": spec.scorer.basis(sample),
        }
        for sample in samples
    ]
    examples = [{"messages": shot.messages, "answer": shot.answers[0]} for shot in shots]
    return digest({"rules": rules, "samples": asked, "shots": examples})
