"""Classification by prompt: what a text is put into, and which words stand for which label.

A template has the text and then the label's place; a verbaliser says which words stand for a label. Both training and
scoring render a text here, so that what is scored is what was trained on.

Source: Schick and Schütze, Exploiting Cloze Questions for Few Shot Text Classification (EACL 2021), section 3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from data_catalog.records import Spec

TEXT, LABEL = "{text}", "{label}"
"""Where a template has the text, and where the label's word follows."""


def _several(value: Any) -> Any:
    """Let `[fault, wear]` stand for `{fault: [fault], wear: [wear]}`, and one word for a list of one."""
    if isinstance(value, list | tuple):
        if repeated := sorted(name for name, count in Counter(map(str, value)).items() if count > 1):
            raise ValueError(f"the label {repeated[0]!r} stands twice under `labels`")
        value = {name: name for name in value}
    if not isinstance(value, Mapping):
        return value
    return {name: (words,) if isinstance(words, str) else words for name, words in value.items()}


class LabelTask(Spec):
    """Which labels a text can have, the words that stand for each, and how the question is worded."""

    labels: Annotated[dict[str, tuple[str, ...]], BeforeValidator(_several)]
    """Label to the words that stand for it in an answer, its verbaliser: `{fault: [fault, defect], wear: [wear]}`; a
    word may have several tokens. `[fault, wear]` is short for labels that stand for themselves."""
    templates: tuple[str, ...] = Field(default=("{text}\n\nLabel: {label}",), min_length=1)
    """Wordings, each with `{text}` and, at its end, `{label}`. What stands before the label is the user's turn, the
    label's word is the answer. Each text is trained on and scored in all of them."""
    content_free: tuple[str, ...] = ("N/A", "[MASK]", "")
    """Texts that say nothing, on which the model's bias towards a label is measured to be taken out of its scores
    (contextual calibration, arXiv 2102.09690, section 5, whose three texts these are). Empty: only as they are."""

    @model_validator(mode="after")
    def _labels_can_be_told_apart(self) -> Self:
        if len(self.labels) < 2:
            raise ValueError(f"`labels` needs two labels or more, got {', '.join(self.labels) or 'none'}")
        for label, words in self.labels.items():
            if not words or not all(word.strip() for word in words):
                raise ValueError(f"label {label!r} has no word that stands for it, such as `{label}: [{label}]`")
            if padded := [word for word in words if word != word.strip()]:
                raise ValueError(f"the word {padded[0]!r} of label {label!r} begins or ends with white space")
        count = Counter(word for words in self.labels.values() for word in words)
        if repeated := [word for word in count if count[word] > 1]:
            owners = [label for label, words in self.labels.items() if repeated[0] in words]
            raise ValueError(
                f"the word {repeated[0]!r} stands for {' and for '.join(map(repr, owners))}"
                f"{' twice' if len(owners) == 1 else ''}; each word may stand for one label, once"
            )
        return self

    @model_validator(mode="after")
    def _templates_are_whole(self) -> Self:
        for template in self.templates:
            for slot in (TEXT, LABEL):
                if template.count(slot) != 1:
                    raise ValueError(
                        f"a template needs `{slot}` once, got {template!r:.80}; valid: '{{text}}\\nTopic: {{label}}'"
                    )
            if template.partition(LABEL)[2].strip():
                raise ValueError(
                    f"`{LABEL}` must be the last thing in a template, as the model answers behind what it has read; "
                    f"got {template!r:.80}"
                )
        if len(set(self.templates)) != len(self.templates):
            raise ValueError("the same template stands twice under `templates`")
        return self

    @property
    def words(self) -> tuple[str, ...]:
        """The words of all labels, label by label."""
        return tuple(word for words in self.labels.values() for word in words)

    @property
    def label_of_word(self) -> tuple[int, ...]:
        """For each of `words` the place of its label."""
        return tuple(place for place, words in enumerate(self.labels.values()) for _ in words)


def question(template: str, text: str) -> str:
    """Return what is asked of a text: the template up to the label's place, with the text in it."""
    # Not str.format: a brace in a text is a brace.
    return template.partition(LABEL)[0].rstrip().replace(TEXT, text)
