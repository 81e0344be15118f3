"""What checks share: making verdicts, and what a check needs to know of an item.

Adding a check is one file here, one line in `generators.filters.pipeline`, and its test. A check is a pure function
from items (and what the teacher said about them) to verdicts; its name carries a version that grows with its rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_catalog.records import Chunk, Completion, Item, Kind, Outcome, Request, Sampling, Verdict
from data_catalog.text import contains_words, words
from generators.prompts import Template, load_template, neutralise
from generators.recipes.answers import ParseFailure, whole_answer


def passed(item: Item, check: str, *, score: float | None = None, keys: Iterable[str] = ()) -> Verdict:
    """Return the verdict that an item passed."""
    return Verdict(item_id=item.id, check=check, outcome=Outcome.PASSED, score=score, request_keys=tuple(keys))


def failed(item: Item, check: str, reason: str, *, score: float | None = None, keys: Iterable[str] = ()) -> Verdict:
    """Return the verdict that an item failed, and why."""
    return Verdict(
        item_id=item.id, check=check, outcome=Outcome.FAILED, reason=reason, score=score, request_keys=tuple(keys)
    )


def unscored(item: Item, check: str, reason: str, *, keys: Iterable[str] = ()) -> Verdict:
    """Return the verdict that a check could not be made, which is neither pass nor failure."""
    return Verdict(item_id=item.id, check=check, outcome=Outcome.UNSCORED, reason=reason, request_keys=tuple(keys))


def question_of(item: Item) -> str:
    """Return the question of a conversation item, or an empty string."""
    return str(item.meta.get("question", ""))


def answer_of(item: Item) -> str:
    """Return the answer of a conversation item, or an empty string."""
    return str(item.meta.get("answer", ""))


@dataclass(frozen=True)
class Exchange:
    """A question of an item, in words that can stand alone, and its answer."""

    question: str
    answer: str
    said: str
    """The answer as the student shall give it, with the reasoning before it where there is any."""


def exchanges_of(item: Item) -> list[Exchange]:
    """Return the questions and answers of a conversation item: one, or one per turn (`meta["exchanges"]`)."""
    said = [turn["content"] for turn in item.payload.get("messages", ()) if turn["role"] == "assistant"]
    pairs = item.meta.get("exchanges")
    if not pairs:
        return [Exchange(question_of(item), answer_of(item), said[-1])] if said else []
    return [Exchange(question, answer, told) for (question, answer), told in zip(pairs, said, strict=True)]


def origin_of(item: Item) -> dict[str, str]:
    """Return what a request about an item carries as its origin."""
    known = {"item_id": item.id, "chunk_id": item.chunk_id, "document_id": item.document_id}
    return {name: value for name, value in known.items() if value is not None}


def sources_of(item: Item, chunks: Mapping[str, Chunk]) -> list[Chunk]:
    """Return the chunks that an item is made from: one, or several (`meta["chunk_ids"]`); none where one is gone."""
    ids = item.meta.get("chunk_ids") or [item.chunk_id]
    found = [chunks[id_] for id_ in ids if id_ in chunks]
    return found if len(found) == len(ids) else []


def source_of(item: Item, chunks: Mapping[str, Chunk]) -> Chunk | None:
    """Return what an item is checked against: its chunk, or several as one text, each under its heading."""
    found = sources_of(item, chunks)
    if len(found) < 2:
        return found[0] if found else None
    text = "\n\n".join(f"[{chunk.heading}]\n{chunk.text}" if chunk.heading else chunk.text for chunk in found)
    return found[0].model_copy(update={"heading_path": (), "text": text})


def with_chunks(items: Iterable[Item], chunks: Mapping[str, Chunk]) -> list[tuple[Item, Chunk]]:
    """Return the items whose chunks are there, each with what it is checked against."""
    pairs = [(item, source_of(item, chunks)) for item in items]
    return [(item, chunk) for item, chunk in pairs if chunk is not None]


def text_of(item: Item) -> str:
    """Return the text of a text item, or an empty string."""
    return str(item.payload.get("text", "")) if item.kind is Kind.TEXT else ""


def source_text(chunk: Chunk) -> str:
    """Return a chunk's text as the teacher saw it: with control tokens neutralised."""
    return neutralise(chunk.text).text


class CheckPrompt:
    """A question to the teacher about an item: template, sampling (greedy), and how its answer is read.

    Args:
        kind: `judge` or `answer`, a key of `generators.prompts.VARIABLES`.
        purpose: the check's name and version.
        template: a file relative to `base_dir`, or empty for the product's own.
        language: `en` or `zh`, for the product's own.
        max_tokens: tokens of the answer.
        model: the teacher's fingerprint.
        schema: what the answer is held to.
        base_dir: the configuration's folder.
    """

    def __init__(
        self,
        kind: str,
        purpose: str,
        *,
        template: str,
        language: str,
        max_tokens: int,
        model: str,
        schema: Mapping[str, Any] | None = None,
        base_dir: Path | None = None,
    ) -> None:
        self.template: Template = load_template(template, kind, language, base_dir)
        self.purpose = purpose
        self.model = model
        self.sampling = Sampling(temperature=0.0, max_tokens=max_tokens)
        self.schema = schema

    def request(self, item: Item, chunk: Chunk, **variables: str) -> Request:
        """Return the request that asks about an item against a chunk."""
        return Request(
            model=self.model,
            messages=self.template.render(heading=chunk.heading, chunk=chunk.text, **variables).messages,
            sampling=self.sampling,
            response_schema=self.schema,
            purpose=self.purpose,
            template=self.template.identity,
            origin={"item_id": item.id, "chunk_id": chunk.id, "document_id": chunk.document_id},
        )


def answer_text(completions: Mapping[str, Completion], key: str) -> str | ParseFailure:
    """Return the teacher's whole answer to a request, or why there is none."""
    completion = completions.get(key)
    return ParseFailure("the teacher did not answer") if completion is None else whole_answer(completion)


def verdict_by_answers(
    item: Item,
    check: str,
    requests: Sequence[Request],
    completions: Mapping[str, Completion],
    objection: Callable[[str], str],
    *,
    gone: str,
) -> Verdict:
    """Return FAILED at the first answer that `objection` has a reason against, PASSED if it has none against any.

    UNSCORED where an answer is missing, or where there is no request because the item's source is `gone`.
    """
    keys = [request.key for request in requests]
    if not keys:
        return unscored(item, check, gone)
    missing = ""
    for key in keys:
        answer = answer_text(completions, key)
        if isinstance(answer, ParseFailure):
            missing = answer.reason
        elif reason := objection(answer):
            return failed(item, check, reason, keys=keys)
    if missing:
        return unscored(item, check, f"an answer is missing: {missing}", keys=keys)
    return passed(item, check, keys=keys)


def abstains(answer: str, phrases: Sequence[str]) -> bool:
    """Say whether an answer contains one of the phrases, compared by words."""
    said = words(answer)
    return any(contains_words(said, words(phrase)) for phrase in phrases)
