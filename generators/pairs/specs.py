"""What a user may ask of preference pairs: one closed type per recipe, and the union that lists them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from data_catalog.records import Spec

STUDENT = "student"
"""Who answers, beside `teacher` and the names in `judges`: the model that the stage starts from."""


class TeacherVsStudentSpec(Spec):
    """Chosen is the accepted answer, rejected one of the student's own that a check or the judge found wrong."""

    name: Literal["teacher_vs_student"] = "teacher_vs_student"


class OnPolicySpec(Spec):
    """Both answers are the student's own: one that agrees with the accepted answer, one that was found wrong."""

    name: Literal["on_policy"] = "on_policy"


class AnsweredSpec(Spec):
    """What recipes share that let models answer anew."""

    open_book: bool = True
    """Who answers is shown the chunks that a question was made from, where there are any; else all are asked the
    question alone. (In `aspect_ratings` the student is always asked alone, as it will be.)"""
    answer_template: str = ""
    """Template file (`*.jinja`) of that prompt, relative to the configuration; empty means the product's own
    `answer`."""


class DeltaSpec(AnsweredSpec):
    """Chosen is a stronger model's answer, rejected a weaker one's to the same prompt; no judge (arXiv 2507.06187)."""

    name: Literal["delta"] = "delta"
    chosen: str = "teacher"
    """The stronger model: `teacher`, a name in `judges`, or `student`."""
    rejected: str
    """The weaker one: a name in `judges`, `student`, or `teacher`."""

    @model_validator(mode="after")
    def _are_two(self) -> Self:
        if self.chosen == self.rejected:
            raise ValueError(f"`chosen` and `rejected` are both {self.chosen!r}; a delta is between two models")
        return self


class AspectRatingsSpec(AnsweredSpec):
    """The judge rates each answer by aspect; chosen is the best, rejected the worst of them (arXiv 2310.01377)."""

    name: Literal["aspect_ratings"] = "aspect_ratings"
    answers: tuple[str, ...] = Field(default=("student", "teacher"), min_length=1)
    """Who answers, `samples` times each: `student`, `teacher`, names in `judges`."""
    judge: str = "teacher"
    """Who rates: `teacher`, or a name in `judges`. Better not one that answers: a judge favours its own words."""
    margin: float = Field(default=1.0, gt=0, le=4)
    """Least difference between the mean ratings (1 to 5) of the two answers of a pair."""
    template: str = ""
    """Template file (`*.jinja`) of the ratings, relative to the configuration; empty means the product's own."""
    max_tokens: int = Field(default=512, ge=16)
    """Longest reply of the judge in tokens; it gives four points with a reason each."""

    @model_validator(mode="after")
    def _answer_once(self) -> Self:
        if len(set(self.answers)) < len(self.answers):
            raise ValueError(f"`answers` names somebody twice: {', '.join(self.answers)}; `samples` asks more often")
        return self


def _pairs_by_name(value: Any) -> Any:
    """Let `pairs: [on_policy]` stand for `pairs: [{name: on_policy}]`."""
    return {"name": value} if isinstance(value, str) else value


PairSpec = Annotated[
    Annotated[
        TeacherVsStudentSpec | OnPolicySpec | DeltaSpec | AspectRatingsSpec,
        Field(discriminator="name"),
    ],
    BeforeValidator(_pairs_by_name),
]


def asked_of(spec: PairSpec) -> tuple[str, ...]:
    """Return who has to be there for a recipe, beside the student: `teacher` and names in `judges`."""
    named: tuple[str, ...] = ()
    match spec:
        case DeltaSpec():
            named = (spec.chosen, spec.rejected)
        case AspectRatingsSpec():
            named = (*spec.answers, spec.judge)
    return tuple(name for name in dict.fromkeys(named) if name != STUDENT)
