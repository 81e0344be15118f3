"""Exact match: the whole answer, normalised, is one of the expected ones."""

from __future__ import annotations

from data_catalog.text import normalise_answer
from evaluation.samples import Sample
from evaluation.specs import SuiteSpec


def score(sample: Sample, text: str, spec: SuiteSpec) -> float:
    """Return 1 when the normalised text equals a normalised expected answer, else 0.

    Source: Rajpurkar et al., SQuAD (arXiv 1606.05250), section 6.1.
    """
    given = normalise_answer(text)
    return float(any(given == normalise_answer(answer) for answer in sample.answers))
