"""What every recipe is: how its prompts are asked, and how an answer becomes an item or a reason why not.

Adding a recipe is one file with a subclass of `Recipe` and one line in `generators.recipes.RECIPES`.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from data_catalog.identity import digest
from data_catalog.records import Chunk, Completion, Document, Item, Request, Sampling, Split
from data_catalog.text import fold_space, is_cjk, words
from generators.chunks import prose_sentences
from generators.prompts import Template
from generators.specs import RecipeSpec

MIN_WORDS = 4
"""Shorter sentences carry no fact worth asking for."""
MIN_CJK_WORDS = 6
"""The same where Chinese characters count as words."""

_FENCED = re.compile(r"```[a-zA-Z]*\s*\n(.*?)\n?\s*```", re.DOTALL)
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)
_QUOTES = {'"': '"', "\u201c": "\u201d", "\u300c": "\u300d"}


@dataclass(frozen=True)
class ParseFailure:
    """Why an answer made no item. The completion is kept; a later parser may do better."""

    reason: str
    declined: bool = False
    """The teacher says that there is nothing to ask about; asking again would be a waste."""


@dataclass(frozen=True)
class Source:
    """What prompts are made from."""

    documents: Sequence[Document]
    chunks: Sequence[Chunk]
    count_tokens: Callable[[str], int]
    context_tokens: int
    """Longest text of a whole document in a prompt."""

    def sentences(self) -> Iterator[tuple[Chunk, str]]:
        """Yield each chunk's sentences that carry a fact, as one line each; headings, code and tables have none."""
        chunks_of: dict[str, list[Chunk]] = {}
        for chunk in self.chunks:
            chunks_of.setdefault(chunk.document_id, []).append(chunk)
        for document in self.documents:
            spans = prose_sentences(document)
            for chunk in chunks_of.get(document.id, []):
                first = bisect_left(spans, chunk.start, key=lambda span: span.start)
                last = bisect_right(spans, chunk.end, key=lambda span: span.end)
                for span in spans[first:last]:
                    sentence = fold_space(span.of(document.text))
                    if carries_a_fact(sentence):
                        yield chunk, sentence


@dataclass(frozen=True)
class Ask:
    """One thing to ask about: what the template is given, and where it comes from."""

    variables: Mapping[str, str]
    origin: Mapping[str, Any]

    @property
    def subject(self) -> str:
        """What is asked about, the same for all templates and samples."""
        return digest(self.origin)


class Recipe(ABC):
    """A named, versioned way to make items: prompts, the shape of the answer, and its parser."""

    name: ClassVar[str]
    version: ClassVar[int]
    response_schema: ClassVar[Mapping[str, Any] | None] = None

    @property
    def label(self) -> str:
        """Name and version, such as `grounded_qa@1`."""
        return f"{self.name}@{self.version}"

    @abstractmethod
    def asks(self, source: Source) -> Iterator[Ask]:
        """Yield what to ask about, in a fixed order."""

    @abstractmethod
    def read(self, request: Request, answer: str) -> Item | ParseFailure:
        """Make an item from a whole answer (thoughts removed, white space stripped, not empty)."""

    def requests(
        self,
        spec: RecipeSpec,
        templates: Sequence[Template],
        source: Source,
        *,
        model: str,
        unknown_answer: str,
        samples_of: Callable[[str], range],
    ) -> Iterator[Request]:
        """Yield one request per subject, template and sample that `samples_of` the subject names.

        Samples differ by their index alone: a seed in the request stops some servers.
        """
        sampling = Sampling(temperature=spec.temperature, top_p=spec.top_p, max_tokens=spec.max_tokens)
        for ask in self.asks(source):
            subject = ask.subject
            samples = samples_of(subject)
            for template in templates if samples else ():
                prompt = template.render(**ask.variables)
                origin = {
                    **ask.origin,
                    "recipe": self.name,
                    "subject": subject,
                    "unknown_answer": unknown_answer,
                    "neutralised": prompt.neutralised,
                }
                for index in samples:
                    yield Request(
                        model=model,
                        messages=prompt.messages,
                        sampling=sampling,
                        response_schema=self.response_schema,
                        sample_index=index,
                        purpose=self.label,
                        template=template.identity,
                        origin=origin,
                    )

    def parse(self, request: Request, completion: Completion) -> Item | ParseFailure:
        """Make an item from a completion, or say why there is none."""
        answer = whole_answer(completion)
        return answer if isinstance(answer, ParseFailure) else self.read(request, answer)

    def meta(self, request: Request, **values: Any) -> dict[str, Any]:
        """Return what every item says about its making, with `values`."""
        return {
            "template": request.template,
            "version": self.label,
            "neutralised": request.origin["neutralised"],
            **values,
        }


def carries_a_fact(sentence: str) -> bool:
    """Say whether a sentence is long enough to be asked about, and has letters."""
    found = words(sentence)
    enough = MIN_CJK_WORDS if any(is_cjk(character) for character in sentence) else MIN_WORDS
    return len(found) >= enough and any(character.isalpha() for character in sentence)


def whole_answer(completion: Completion) -> str | ParseFailure:
    """Return a completion's text without thoughts and outer white space, or why it can't be used."""
    if completion.finish_reason == "length":
        return ParseFailure("cut off at max_tokens")
    if completion.finish_reason != "stop":
        return ParseFailure(f"ended by {completion.finish_reason}")
    text = _THOUGHT.sub("", completion.text)
    if "<think>" in text:
        return ParseFailure("a <think> that is never closed")
    # Chat templates that open the thought inside the prompt leave only its end in the answer.
    text = text.rpartition("</think>")[2].strip()
    return text or ParseFailure("empty answer")


def json_object(answer: str, schema: Mapping[str, Any]) -> dict[str, str] | ParseFailure:
    """Return the answer's JSON object of strings, which may stand in a Markdown fence but beside nothing else.

    Args:
        answer: the whole answer.
        schema: a JSON schema of an object whose properties are all required strings; `maxLength` is not checked here
            (the length filter is), `enum` is.
    """
    fenced = _FENCED.fullmatch(answer)
    try:
        value = json.loads(fenced[1] if fenced else answer, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return ParseFailure("not one JSON object")
    properties: Mapping[str, Mapping[str, Any]] = schema["properties"]
    if not isinstance(value, dict):
        return ParseFailure("JSON, but no object")
    if value.keys() != properties.keys():
        return ParseFailure(f"keys {', '.join(sorted(value)) or 'none'} instead of {', '.join(properties)}")
    for name, rule in properties.items():
        if not isinstance(value[name], str) or not value[name].strip():
            return ParseFailure(f"{name} is no text")
        if "enum" in rule and value[name] not in rule["enum"]:
            return ParseFailure(f"{name} is none of {', '.join(rule['enum'])}")
    return {name: value[name].strip() for name in properties}


def one_line(answer: str) -> str | ParseFailure:
    """Return an answer that must be one sentence or question: one line, without a pair of outer quotes."""
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    if len(lines) != 1:
        return ParseFailure("more than one line")
    line = lines[0]
    if len(line) > 2 and _QUOTES.get(line[0]) == line[-1] and line.count(line[0]) <= 2:
        line = line[1:-1].strip()
    return line or ParseFailure("empty answer")


def split_of_origin(request: Request) -> Split:
    """Return the side of the split that the request's source belongs to."""
    return Split(request.origin["split"])


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice")
    return value
