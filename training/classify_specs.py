"""The stage `classify` as a user may ask for it. Light: imports neither torch nor TRL."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from data_catalog.labelled import LabelTask
from training.stage_specs import StageSpec


class ClassifySpec(StageSpec, LabelTask):
    """Classification by prompt: a text in a template, and the label's word as the answer.

    The loss is the cross-entropy over the labels, whose scores are the mean log-probabilities per token of their words
    (the length-normalised loss of T-Few, arXiv 2205.05638, section 3.2), and beside it the likelihood of the right
    label's words. Each text in each template is a row; a row is computed once with every word.
    """

    stage: Literal["classify"] = "classify"
    likelihood_weight: float = Field(default=1.0, ge=0)
    """Weight of the likelihood of the right label's words, beside the cross-entropy over the labels. At 0 the model
    learns to prefer the right label, and not to say it when it is free to answer otherwise. Default from arXiv
    2205.05638, section 3.2, which adds both up."""
