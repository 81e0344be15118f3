"""Suites: evaluation samples read from JSONL (or lm-eval's tasks), and the requests that put them to a model.

A row is `{"id"?, "question" | "messages", "answers"?: [...], "document"?, "kind"?, ...}`; for the perplexity of a plain
text `{"text"}`. Nothing here generates text.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from data_catalog.errors import ConfigError, DataError
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
    development: tuple[Sample, ...] = ()
    """What settings are chosen on, and no gate asks."""
    digest: str

    @property
    def all_samples(self) -> tuple[Sample, ...]:
        """The samples and the reserve: all that a gate may ever ask."""
        return (*self.samples, *self.reserve)

    @property
    def kept_apart(self) -> tuple[Sample, ...]:
        """What must never be trained on: all that a gate may ask, and what settings are chosen on."""
        return (*self.all_samples, *self.development)

    def for_development(self) -> Suite:
        """Return the suite of the samples that settings are chosen on, under a name of its own.

        Raises:
            ConfigError: none are set aside.
        """
        if not self.development:
            raise ConfigError(
                f"suite `{self.name}` has no samples to choose on: the gate asks all of them, and what is chosen on "
                "the gate's own samples flatters the gate",
                valid=f"`suites.{self.name}.development_share` above 0, such as 0.3",
                next_step=f"add `development_share: 0.3` to suites.{self.name}; the gate then asks the other rows",
            )
        whole = self.model_copy(update={"name": f"{self.name}:development", "samples": self.development})
        return whole.only({sample.id for sample in self.development})

    def grown(self, size: int) -> Suite:
        """Return the suite with its first `size` samples, reserve included."""
        every = self.all_samples
        return Suite(
            name=self.name,
            spec=self.spec,
            samples=every[:size],
            shots=self.shots,
            reserve=every[size:],
            development=self.development,
            digest=_suite_digest(self.spec, every[:size], self.shots),
        )

    def only(self, ids: Collection[str]) -> Suite:
        """Return the suite of these samples alone, without a reserve."""
        samples = tuple(sample for sample in self.samples if sample.id in ids)
        digest_ = _suite_digest(self.spec, samples, self.shots)
        return Suite(name=self.name, spec=self.spec, samples=samples, shots=self.shots, digest=digest_)

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
    drawn, reserve = _drawn(_read(name, spec), spec)
    samples, development = _set_aside(name, drawn, spec.development_share)
    if spec.prompted and any(sample.plain for sample in (*drawn, *reserve)):
        raise DataError(
            f"suite `{name}` has rows of plain `text`, which no prompt stands before",
            valid="such a suite without `system`, `templates` and `shots`",
            next_step=f"take them out of `suites.{name}`, or make the rows `question` and `answers`",
        )
    shots = _draw_shots(name, spec, (*drawn, *reserve))
    return Suite(
        name=name,
        spec=spec,
        samples=samples,
        shots=shots,
        reserve=reserve,
        development=development,
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


def _set_aside(name: str, samples: tuple[Sample, ...], share: float) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Return the samples that a gate asks, and those that settings are chosen on, each in the order of the file.

    By lot of their ids, with a salt of its own: the draw of a `budget` must not decide which ones they are.
    """
    if share == 0:
        return samples, ()
    count = round(share * len(samples))
    if not 0 < count < len(samples):
        raise DataError(
            f"suite `{name}`: `development_share: {share:g}` of {len(samples)} rows is {count}",
            valid="a share that leaves rows on both sides",
            next_step=f"change suites.{name}.development_share, or give the suite more rows",
        )
    lots = sorted(samples, key=lambda sample: digest(["development", sample.id]))
    chosen = {sample.id for sample in lots[:count]}
    return (
        tuple(sample for sample in samples if sample.id not in chosen),
        tuple(sample for sample in samples if sample.id in chosen),
    )


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
    return [sample.question for sample in suite.kept_apart]


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
        "development_share": True,
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
