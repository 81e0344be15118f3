"""`multi_turn`: a question and a follow-up that leans on it, both answered by one chunk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from data_catalog.records import Chunk, Item, Request
from data_catalog.text import normalise_answer
from generators.recipes.answers import Answer, ParseFailure, json_object, neutral, object_of_texts
from generators.recipes.base import GROUNDED, Ask, Check, Recipe, Source

SCHEMA = object_of_texts(
    evidence=600,
    question=400,
    answer=400,
    follow_up_evidence=600,
    follow_up=400,
    follow_up_alone=400,
    follow_up_answer=400,
)


class MultiTurn(Recipe):
    """One conversation of two turns per two neighbouring sentences.

    The follow-up comes twice: as it is said ("And how often?") and in words that can stand alone. The student is
    trained on the former; the checks, which see no conversation, are put the latter.
    """

    name: ClassVar[str] = "multi_turn"
    version: ClassVar[int] = 1
    checks: ClassVar[frozenset[Check]] = GROUNDED
    response_schema: ClassVar[Mapping[str, Any] | None] = SCHEMA

    def asks(self, source: Source) -> Iterator[Ask]:
        """Yield each chunk's sentences two by two; one that is left over has no partner."""
        of_chunk: dict[str, tuple[Chunk, list[str]]] = {}
        for chunk, sentence in source.sentences():
            of_chunk.setdefault(chunk.id, (chunk, []))[1].append(sentence)
        for chunk, sentences in of_chunk.values():
            for focus, other in zip(sentences[::2], sentences[1::2], strict=False):
                yield Ask(
                    {"heading": chunk.heading, "chunk": chunk.text, "focus": focus, "other_focus": other},
                    {
                        "chunk_id": chunk.id,
                        "document_id": chunk.document_id,
                        "split": chunk.split.value,
                        "focus": focus,
                        "other_focus": other,
                    },
                )

    def read(self, request: Request, answer: Answer) -> Item | ParseFailure:
        """Make a conversation of two turns; `meta["exchanges"]` has both questions in words that can stand alone."""
        parsed = json_object(answer, SCHEMA)
        if isinstance(parsed, ParseFailure):
            return parsed
        said = neutral(parsed)
        if normalise_answer(said["follow_up"]) == normalise_answer(said["question"]):
            return ParseFailure("the follow-up asks the same again")
        if normalise_answer(said["follow_up"]) == normalise_answer(said["follow_up_alone"]):
            return ParseFailure("the follow-up does not need the first question")
        first = (said["question"], said["answer"])
        return self.conversation(
            request,
            [first, (said["follow_up"], said["follow_up_answer"])],
            question=said["follow_up_alone"],
            exchanges=[list(first), [said["follow_up_alone"], said["follow_up_answer"]]],
            evidence=[said["evidence"], said["follow_up_evidence"]],
        )
