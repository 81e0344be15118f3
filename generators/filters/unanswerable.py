"""`unanswerable@1`: a question that shall have no answer has none: the teacher abstains wherever one might stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from data_catalog.records import Chunk, Completion, Item, Request, Verdict
from generators.filters.base import CheckPrompt, abstains, question_of, verdict_by_answers
from generators.filters.nearest import NearestChunks

CHECK = "unanswerable@1"
ELSEWHERE = 2
"""Chunks of other documents that are asked too: those lexically nearest to the question."""


def unanswerable_requests(
    items: Sequence[Item], chunks: Sequence[Chunk], prompt: CheckPrompt
) -> dict[str, tuple[Request, ...]]:
    """Return the requests of each item, by item id: one per chunk of its document, and per nearest chunk elsewhere."""
    of_document: dict[str, list[Chunk]] = {}
    for chunk in chunks:
        of_document.setdefault(chunk.document_id, []).append(chunk)
    nearest = NearestChunks(chunks)
    requests = {}
    for item in items:
        own = of_document.get(item.document_id or "", [])
        others = nearest.of(question_of(item), ELSEWHERE, outside=item.document_id)
        requests[item.id] = tuple(prompt.request(item, chunk, question=question_of(item)) for chunk in [*own, *others])
    return requests


def unanswerable_verdicts(
    items: Sequence[Item],
    requests: Mapping[str, Sequence[Request]],
    completions: Mapping[str, Completion],
    abstention_phrases: Sequence[str],
) -> list[Verdict]:
    """Return a verdict for each item: PASSED only if every answer abstains; one answer found is enough to fail."""

    def objection(found: str) -> str:
        return "" if abstains(found, abstention_phrases) else f"the documents answer it: {found[:200]}"

    gone = "its document is not there any more"
    return [
        verdict_by_answers(item, CHECK, requests.get(item.id, ()), completions, objection, gone=gone) for item in items
    ]
