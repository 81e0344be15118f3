"""How well a model classifies held-out texts by prompt: per template, all templates together, and calibrated.

A word's score is its mean log-probability per token, the answer's end among them (arXiv 2205.05638, section 3.2); a
label's that of its words (`label_values`). Contextual calibration divides a label's probability by the one that it has
for texts that say nothing (Zhao et al., Calibrate Before Use, arXiv 2102.09690, section 5). The templates together: the
mean of their log-probabilities, each weighing the same (Schick and Schütze, EACL 2021, section 3.3).

Like all evaluation it asks nobody: it says what is to be asked, and reads what was answered.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean
from typing import NamedTuple

from pydantic import Field

from data_catalog.labelled import LabelTask, question
from data_catalog.records import Completion, Likelihood, Message, Record, Request, Sampling
from evaluation.scorers.classification import label_values
from evaluation.scorers.parts import share_of_best
from evaluation.statistics import wilson

PURPOSE = "classify"
Distribution = Mapping[str, float]
"""Label to the logarithm of its probability; together they are 1."""


class LabelledText(NamedTuple):
    """A text and the name of its label."""

    text: str
    label: str


class TemplateAccuracy(Record):
    """Shares of texts whose label scores highest in one template, as the model gives the scores and calibrated."""

    template: str
    accuracy: float
    calibrated: float | None = None
    """None where no content-free text was asked."""


class Classified(Record):
    """What a model makes of labelled texts."""

    texts: int
    unscored: int = 0
    """Texts of which a word's likelihood is missing, as where a prompt is longer than the model's positions."""
    majority: float
    """Share of the commonest label: what a model scores that always says the same."""
    templates: tuple[TemplateAccuracy, ...] = ()
    accuracy: float | None = None
    """With the templates' scores averaged; None where nothing was scored."""
    calibrated: float | None = None
    """The same of calibrated scores."""
    interval: tuple[float, float] | None = None
    """Wilson's bounds of `best`, each at 95 %."""
    corrected: int = 0
    """Texts that calibration puts right, with the templates averaged."""
    spoilt: int = 0
    """Texts that it puts wrong."""
    bias: Mapping[str, float] = Field(default_factory=dict)
    """Label to the probability that it has for a text that says nothing, the mean over the templates."""
    recall: Mapping[str, float] = Field(default_factory=dict)
    """Label to the share of its texts that are found, by the scores of `best`."""

    @property
    def best(self) -> float | None:
        """The accuracy that counts: calibrated where there is something to calibrate with."""
        return self.accuracy if self.calibrated is None else self.calibrated

    @property
    def spread(self) -> tuple[float, float] | None:
        """The lowest and the highest accuracy of a template, by the same scores as `best`."""
        found = [one.accuracy if one.calibrated is None else one.calibrated for one in self.templates]
        return (min(found), max(found)) if found else None


def requests(task: LabelTask, texts: Sequence[LabelledText], fingerprint: str) -> list[Request]:
    """Return what a model is asked, each request once: how likely each word is, in each template."""
    every = [*task.content_free, *(text.text for text in texts)]
    asked = (
        request
        for template in task.templates
        for text in every
        for request in _asked(task, template, text, fingerprint)
    )
    return list({request.key: request for request in asked}.values())


def classify(
    task: LabelTask, texts: Sequence[LabelledText], fingerprint: str, answers: Mapping[str, Completion]
) -> Classified:
    """Return what a model's answers, by request key, make of `texts`, of which there must be one or more.

    A text counts only where it was answered in every template, so that all accuracies are of the same texts.
    """

    def found(template: str, text: str) -> Distribution | None:
        return _distribution(task, _asked(task, template, text, fingerprint), answers)

    plain: list[list[Distribution]] = []
    right: list[str] = []
    for text in texts:
        given = [found(template, text.text) for template in task.templates]
        if all(one is not None for one in given):
            plain.append([one for one in given if one is not None])
            right.append(text.label)
    majority = max(Counter(text.label for text in texts).values()) / len(texts)
    if not plain:
        return Classified(texts=len(texts), unscored=len(texts), majority=majority)
    priors = [_prior(task, [found(template, empty) for empty in task.content_free]) for template in task.templates]
    known = [prior for prior in priors if prior is not None]
    calibrates = len(known) == len(priors)
    fair = [[_without(*both) for both in zip(row, known, strict=True)] for row in plain] if calibrates else []
    return _counted(task, texts, majority, right, plain, fair, known)


def _counted(
    task: LabelTask,
    texts: Sequence[LabelledText],
    majority: float,
    right: Sequence[str],
    plain: Sequence[Sequence[Distribution]],
    fair: Sequence[Sequence[Distribution]],
    priors: Sequence[Distribution],
) -> Classified:
    """Count what is right; `plain` and `fair` are (texts, templates), `fair` empty where nothing was calibrated."""
    before = _hits([_together(row) for row in plain], right)
    after = _hits([_together(row) for row in fair], right) if fair else before
    templates = tuple(
        TemplateAccuracy(
            template=template,
            accuracy=mean(_hits([row[place] for row in plain], right)),
            calibrated=mean(_hits([row[place] for row in fair], right)) if fair else None,
        )
        for place, template in enumerate(task.templates)
    )
    bounds = wilson(mean(after), len(after))
    of_label = {label: [hit for hit, one in zip(after, right, strict=True) if one == label] for label in task.labels}
    return Classified(
        texts=len(texts),
        unscored=len(texts) - len(right),
        majority=majority,
        templates=templates,
        accuracy=mean(before),
        calibrated=mean(after) if fair else None,
        interval=(bounds.lower, bounds.upper),
        corrected=sum(now > was for was, now in zip(before, after, strict=True)),
        spoilt=sum(now < was for was, now in zip(before, after, strict=True)),
        bias={label: mean(math.exp(prior[label]) for prior in priors) for label in task.labels} if fair else {},
        recall={label: mean(hits) for label, hits in of_label.items() if hits},
    )


def _asked(task: LabelTask, template: str, text: str, fingerprint: str) -> tuple[Request, ...]:
    """Return one request of likelihood for each word."""
    asked = Message(role="user", content=question(template, text))
    return tuple(
        Request(
            model=fingerprint,
            messages=(asked, Message(role="assistant", content=word)),
            sampling=Sampling(temperature=0.0, max_tokens=0),
            purpose=PURPOSE,
        )
        for word in task.words
    )


def _distribution(task: LabelTask, asked: Sequence[Request], answers: Mapping[str, Completion]) -> Distribution | None:
    """Return the labels' probabilities for one text in one template; None where an answer is missing."""
    found = [Likelihood.of(answers[request.key]) for request in asked if request.key in answers]
    if len(found) < len(asked):
        return None
    # The end of the answer is one more token.
    return _normalised(label_values(task.labels, [(one.logprob + one.end_logprob) / (one.tokens + 1) for one in found]))


def _prior(task: LabelTask, found: Sequence[Distribution | None]) -> Distribution | None:
    """Return the mean distribution over texts that say nothing; None where there is none."""
    known = [one for one in found if one is not None]
    if not known:
        return None
    return {label: math.log(mean(math.exp(one[label]) for one in known)) for label in task.labels}


def _without(distribution: Distribution, prior: Distribution) -> Distribution:
    """Return p(label | text) / p(label | nothing), normalised: W = diag(p_cf)^-1 of arXiv 2102.09690."""
    return _normalised({label: value - prior[label] for label, value in distribution.items()})


def _together(row: Sequence[Distribution]) -> Distribution:
    """Return the mean over the templates; its maximum is what counts."""
    return {label: mean(one[label] for one in row) for label in row[0]}


def _normalised(values: Distribution) -> Distribution:
    highest = max(values.values())
    total = highest + math.log(math.fsum(math.exp(value - highest) for value in values.values()))
    return {label: value - total for label, value in values.items()}


def _hits(found: Sequence[Distribution], right: Sequence[str]) -> list[float]:
    return [share_of_best(values, (label,)) for values, label in zip(found, right, strict=True)]


def lines_of(told: Classified) -> Iterator[str]:
    """Yield what was found for people, a line for each template and one for all together."""
    for one in told.templates:
        fair = f", calibrated {100 * one.calibrated:.1f} %" if one.calibrated is not None else ""
        yield f"{one.template!r}: {100 * one.accuracy:.1f} %{fair}"
    if told.unscored:
        yield f"{told.unscored:,} of {told.texts:,} texts are unscored: with a template they are too long for the model"
    if told.bias:
        shares = ", ".join(f"{label} {100 * share:.0f} %" for label, share in told.bias.items())
        yield f"for a text that says nothing: {shares}; calibration corrects {told.corrected}, spoils {told.spoilt}"
