"""`multi_hop`: a question that needs two chunks, linked by a name that both have, with a quote from each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from data_catalog.records import Item, Request
from generators.linking import linked_chunks
from generators.recipes.answers import Answer, ParseFailure, all_alike, json_object, neutral, object_of_texts
from generators.recipes.base import GROUNDED, Ask, Check, Recipe, Source

SCHEMA = object_of_texts(evidence=600, other_evidence=600, question=400, answer=400)


class MultiHop(Recipe):
    """One question per pair of linked chunks (`generators.linking`); pairs never span the split.

    The item belongs to the first chunk's document; `meta["chunk_ids"]` names both, and every check sees both.
    """

    name: ClassVar[str] = "multi_hop"
    version: ClassVar[int] = 1
    checks: ClassVar[frozenset[Check]] = GROUNDED | {Check.NEEDS_ALL}
    response_schema: ClassVar[Mapping[str, Any] | None] = SCHEMA

    def asks(self, source: Source) -> Iterator[Ask]:
        """Yield the linked pairs."""
        for link in linked_chunks(source.chunks):
            yield Ask(
                {
                    "heading": link.first.heading,
                    "chunk": link.first.text,
                    "other_heading": link.second.heading,
                    "other_chunk": link.second.text,
                    "link": ", ".join(link.names),
                },
                {
                    "chunk_id": link.first.id,
                    "chunk_ids": [link.first.id, link.second.id],
                    "document_id": link.first.document_id,
                    "split": link.first.split.value,
                },
            )

    def read(self, request: Request, answer: Answer) -> Item | ParseFailure:
        """Make a one-turn conversation with two quotes as its evidence, one for each chunk."""
        parsed = json_object(answer, SCHEMA)
        if isinstance(parsed, ParseFailure):
            return parsed
        if all_alike(parsed):
            return ParseFailure("the teacher finds nothing to ask", declined=True)  # such as "none" four times
        said = neutral(parsed)
        return self.conversation(
            request,
            [(said["question"], said["answer"])],
            evidence=[said["evidence"], said["other_evidence"]],
            chunk_ids=request.origin["chunk_ids"],
        )
