"""What every recipe is: how its prompts are asked, and how an answer becomes an item or a reason why not.

Adding a recipe to the product is one file with a subclass of `Recipe`, its variables in `generators.prompts.VARIABLES`,
templates, and one line in `generators.recipes.RECIPES`. One of the user's own is a file that the configuration names
(`generators.recipes.own`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from data_catalog.identity import digest
from data_catalog.records import Chunk, Completion, Document, Item, Kind, Request, Sampling, Split
from data_catalog.text import fold_space, is_cjk, words
from generators.chunks import prose_sentences
from generators.examples import Example, with_examples
from generators.prompts import Template
from generators.recipes.answers import Answer, ParseFailure, whole_answer
from generators.seeds import Seed
from generators.specs import RecipeSpec

MIN_WORDS = 4
"""Shorter sentences carry no fact worth asking for."""
MIN_CJK_WORDS = 6
"""The same where Chinese characters count as words."""


class Check(StrEnum):
    """The checks that a recipe asks for beside those that every item meets (`generators.filters.pipeline`)."""

    EVIDENCE = "evidence"
    """Each quote in `meta["evidence"]` stands in its chunk."""
    ANCHORED = "anchored"
    """No number and no name that the chunk does not have."""
    FAITHFUL = "faithful"
    """A rewording of `meta["sentence"]` keeps its numbers and names."""
    JUDGE = "judge"
    """The teacher, shown the chunk, says whether the answer is right."""
    ROUND_TRIP = "round_trip"
    """Asked again with the chunk alone, the teacher gives the same short answer; of contradicting answers to one
    question the prevailing one is kept."""
    NEEDS_ALL = "needs_all"
    """No one of its chunks (`meta["chunk_ids"]`) answers the question alone."""
    NOVEL = "novel"
    """The task is none of the seeds in `meta["seeds"]`."""
    OPEN = "open"
    """The question has no answer in the documents."""


GROUNDED = frozenset({Check.EVIDENCE, Check.ANCHORED, Check.JUDGE, Check.ROUND_TRIP})
"""What a question with a short answer and its evidence has to pass."""


@dataclass(frozen=True)
class Source:
    """What prompts are made from."""

    documents: Sequence[Document]
    chunks: Sequence[Chunk]
    count_tokens: Callable[[str], int]
    context_tokens: int
    """Longest text of a whole document in a prompt."""
    seeds: Sequence[Seed] = ()
    """Tasks that more are made from, for recipes that need no document."""
    openings: Sequence[str] = ()
    """Beginnings of a user's turn in the teacher's chat template, for a recipe that needs neither."""

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

    def telling_chunks(self) -> Iterator[Chunk]:
        """Yield the chunks that have a sentence with a fact, each once."""
        yield from {chunk.id: chunk for chunk, _ in self.sentences()}.values()

    def training_chunks(self) -> Iterator[Chunk]:
        """Yield those of them that are on the training side."""
        yield from (chunk for chunk in self.telling_chunks() if chunk.split is Split.TRAIN)


@dataclass(frozen=True)
class Ask:
    """One thing to ask about: what the template is given, and where it comes from."""

    variables: Mapping[str, str]
    origin: Mapping[str, Any]

    @property
    def subject(self) -> str:
        """What is asked about, the same for all templates and samples."""
        return digest(self.origin)


def asks_per_sentence(source: Source) -> Iterator[Ask]:
    """Yield every sentence that carries a fact, with its chunk."""
    for chunk, sentence in source.sentences():
        yield Ask(
            {"heading": chunk.heading, "chunk": chunk.text, "focus": sentence},
            {
                "chunk_id": chunk.id,
                "document_id": chunk.document_id,
                "split": chunk.split.value,
                "focus": sentence,
            },
        )


ExamplesFor = Callable[[Ask], Sequence[Example]]
"""From what is asked about to the in-context examples that go with it."""


def no_examples(ask: Ask) -> Sequence[Example]:
    """Return nothing: zero-shot."""
    return ()


@dataclass(frozen=True)
class FollowUp:
    """An answer that is no item yet: what is asked next because of it."""

    asks: tuple[Ask, ...]


class Recipe(ABC):
    """A named, versioned way to make items: prompts, the shape of the answer, and its parser."""

    name: ClassVar[str]
    version: ClassVar[int]
    kind: ClassVar[Kind] = Kind.MESSAGES
    """Of its items; it decides which training stages take them when they name no recipes."""
    variables: ClassVar[frozenset[str]] = frozenset()
    """What its templates are given; empty for the product's own recipes: see `generators.prompts.VARIABLES`."""
    needs_seeds: ClassVar[bool] = False
    """Whether it makes more of seed tasks (`seeds` in the configuration) instead of asking about documents."""
    needs_openings: ClassVar[bool] = False
    """Whether it lets the teacher go on with `openings` of the configuration instead."""
    checks: ClassVar[frozenset[Check]] = frozenset()
    response_schema: ClassVar[Mapping[str, Any] | None] = None
    source_digest: str = ""
    """SHA-256 of the file of a recipe of the user's own."""

    @property
    def label(self) -> str:
        """Name and version, such as `grounded_qa@1`; a recipe of the user's own has its file's digest with it."""
        return f"{self.name}@{self.version}" + (f"#{self.source_digest[:12]}" if self.source_digest else "")

    @property
    def first_template(self) -> str:
        """The kind of template that the first requests are made with: a key of `generators.prompts.VARIABLES`."""
        return self.name

    @abstractmethod
    def asks(self, source: Source) -> Iterator[Ask]:
        """Yield what to ask about, in a fixed order."""

    @abstractmethod
    def read(self, request: Request, answer: Answer) -> Item | ParseFailure | FollowUp:
        """Make an item from a whole answer, or say what is asked next."""

    def schema_of(self, origin: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return what the answer to a request of this origin is held to."""
        return self.response_schema

    def requests(
        self,
        spec: RecipeSpec,
        templates: Sequence[Template],
        source: Source,
        *,
        model: str,
        unknown_answer: str,
        samples_of: Callable[[str], range],
        examples_for: ExamplesFor = no_examples,
    ) -> Iterator[Request]:
        """Yield one request per subject, template and sample that `samples_of` the subject names.

        Samples differ by their index alone: a seed in the request stops some servers.
        """
        for ask in self.asks(source):
            if samples := samples_of(ask.subject):
                yield from self.requests_on(
                    ask,
                    spec,
                    templates,
                    model=model,
                    unknown_answer=unknown_answer,
                    samples=samples,
                    examples=examples_for(ask),
                )

    def requests_on(
        self,
        ask: Ask,
        spec: RecipeSpec,
        templates: Sequence[Template],
        *,
        model: str,
        unknown_answer: str,
        samples: range,
        examples: Sequence[Example] = (),
    ) -> Iterator[Request]:
        """Yield one request per template and sample about one thing."""
        sampling = Sampling(temperature=spec.temperature, top_p=spec.top_p, max_tokens=spec.max_tokens)
        subject, schema = ask.subject, self.schema_of(ask.origin)
        for template in templates:
            prompt = with_examples(template, ask.variables, examples)
            origin = {
                **ask.origin,
                "recipe": self.name,
                "subject": subject,
                "unknown_answer": unknown_answer,
                "neutralised": prompt.neutralised,
                **({"examples": [example.id for example in examples]} if examples else {}),
            }
            for index in samples:
                yield Request(
                    model=model,
                    messages=prompt.messages,
                    sampling=sampling,
                    response_schema=schema,
                    sample_index=index,
                    purpose=self.label,
                    template=template.identity,
                    origin=origin,
                )

    def parse(self, request: Request, completion: Completion) -> Item | ParseFailure | FollowUp:
        """Make an item from a completion, or say why there is none, or what is asked next."""
        answer = whole_answer(completion)
        return answer if isinstance(answer, ParseFailure) else self.read(request, answer)

    def conversation(self, request: Request, turns: Sequence[tuple[str, str]], **meta: Any) -> Item:
        """Return an item of questions and answers on the chunk that the request is about.

        Args:
            request: its origin has `split`, `document_id` and, where it is about one, `chunk_id`.
            turns: at least one; what they say is neutralised.
            meta: what checks need; `question` and `answer` are those of the last turn unless they are given.
        """
        question, answer = turns[-1]
        return self._item(
            request,
            Kind.MESSAGES,
            {
                "messages": [
                    {"role": role, "content": content}
                    for turn in turns
                    for role, content in zip(("user", "assistant"), turn, strict=True)
                ]
            },
            {"question": question, "answer": answer, **meta},
        )

    def text(self, request: Request, text: str, **meta: Any) -> Item:
        """Return an item of text, which is neutralised, on the chunk that the request is about."""
        return self._item(request, Kind.TEXT, {"text": text}, meta)

    def _item(self, request: Request, kind: Kind, payload: Mapping[str, Any], meta: Mapping[str, Any]) -> Item:
        origin = request.origin
        return Item.of(
            kind=kind,
            payload=payload,
            recipe=self.name,
            split=Split(origin["split"]),
            chunk_id=origin.get("chunk_id"),
            document_id=origin.get("document_id"),
            # Of a recipe in two steps, first the request that led to this one.
            request_keys=(*((origin["from"],) if "from" in origin else ()), request.key),
            meta=self.meta(request, **meta),
        )

    def meta(self, request: Request, **values: Any) -> dict[str, Any]:
        """Return what every item says about its making, with `values`."""
        examples = request.origin.get("examples")
        return {
            "template": request.template,
            "version": self.label,
            "neutralised": request.origin["neutralised"],
            **({"examples": examples} if examples else {}),
            **values,
        }


def carries_a_fact(sentence: str) -> bool:
    """Say whether a sentence is long enough to be asked about, and has letters."""
    found = words(sentence)
    enough = MIN_CJK_WORDS if any(is_cjk(character) for character in sentence) else MIN_WORDS
    return len(found) >= enough and any(character.isalpha() for character in sentence)
