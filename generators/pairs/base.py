"""What all recipes of preference pairs share: questions, answers to them, and the pair of two answers.

A pair is an item like any other, stored with its verdicts: what a check takes is counted and can be looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from data_catalog.records import Chunk, Completion, Item, Kind, Message, Request, Sampling, Split, Verdict
from data_catalog.text import normalise_answer
from generators.filters.base import source_of
from generators.prompts import Template
from generators.recipes.answers import ParseFailure, whole_answer


@dataclass(frozen=True)
class Question:
    """A question with the answer that was verified against its chunk, or the abstention that is right for it."""

    item: Item
    text: str
    answer: str
    answerable: bool


@dataclass(frozen=True)
class Sampled:
    """One answer that somebody gave."""

    question: Question
    request: Request
    completion: Completion
    who: str = "student"

    @property
    def text(self) -> str:
        """The whole answer without its thought; empty where it was cut off or there is none."""
        answer = whole_answer(self.completion)
        return "" if isinstance(answer, ParseFailure) else answer


def questions_of(items: Iterable[Item]) -> list[Question]:
    """Return one question per distinct wording among accepted training items, in the order of item ids.

    A question within a conversation is left out: without the turns before it, nobody knows what it means.
    """
    found: dict[str, Question] = {}
    for item in sorted(items, key=lambda item: item.id):
        if item.kind is not Kind.MESSAGES or item.split is not Split.TRAIN:
            continue
        turns = item.payload["messages"]
        if sum(turn["role"] == "user" for turn in turns) > 1:
            continue
        text, answer = str(turns[-2]["content"]), str(turns[-1]["content"])
        answerable = bool(item.meta.get("answerable", True))
        found.setdefault(text, Question(item, text, answer, answerable))
    return list(found.values())


@dataclass(frozen=True)
class AskedAs:
    """How questions are put: by whom, how often, how warm, and with which template where documents are shown."""

    purpose: str
    model: str
    """The fingerprint of who is asked."""
    samples: int
    temperature: float
    max_tokens: int
    open_book: Template | None = None
    """Shows the chunks of a question with it; None asks the question alone."""


def answer_requests(
    questions: Sequence[Question], how: AskedAs, chunks: Mapping[str, Chunk]
) -> list[tuple[Question, Request]]:
    """Return the requests of each question; one whose chunks are gone is left out where they would be shown."""
    sampling = Sampling(temperature=how.temperature, max_tokens=how.max_tokens)
    found = []
    for question in questions:
        messages = _messages(question, how.open_book, chunks)
        item = question.item
        origin = {"item_id": item.id, "chunk_id": item.chunk_id, "document_id": item.document_id}
        found += [
            (
                question,
                Request(
                    model=how.model,
                    messages=messages,
                    sampling=sampling,
                    sample_index=index,
                    purpose=how.purpose,
                    template=how.open_book.identity if how.open_book is not None else "",
                    origin=origin,
                ),
            )
            for index in range(how.samples if messages else 0)
        ]
    return found


def _messages(question: Question, open_book: Template | None, chunks: Mapping[str, Chunk]) -> tuple[Message, ...]:
    if open_book is None or question.item.chunk_id is None:
        return (Message(role="user", content=question.text),)
    chunk = source_of(question.item, chunks)
    if chunk is None:
        return ()
    return open_book.render(heading=chunk.heading, chunk=chunk.text, question=question.text).messages


def differ(one: str, other: str) -> bool:
    """Say whether two answers are different ones, by their words."""
    return normalise_answer(one) != normalise_answer(other)


def as_item(question: Question, answer: str, recipe: str, keys: Sequence[str]) -> Item:
    """Return a question with an answer to it in the form that the checks on single items read."""
    return Item.of(
        kind=Kind.MESSAGES,
        payload={"messages": [{"role": "user", "content": question.text}, {"role": "assistant", "content": answer}]},
        recipe=recipe,
        split=question.item.split,
        chunk_id=question.item.chunk_id,
        document_id=question.item.document_id,
        request_keys=tuple(keys),
        meta={**question.item.meta, "question": question.text, "answer": answer},
    )


def pair(
    recipe: str,
    question: Question,
    *,
    chosen: str,
    rejected: str,
    keys: Sequence[str],
    meta: Mapping[str, object] | None = None,
) -> Item:
    """Return the preference item of two answers.

    Args:
        recipe: name and version.
        question: what they answer.
        chosen: the answer to prefer.
        rejected: the other one.
        keys: of the requests that the answers come from; those of the question's own item are added.
        meta: what else is to be known of them.
    """
    origin = question.item
    more = {"chunk_ids": origin.meta["chunk_ids"]} if "chunk_ids" in origin.meta else {}
    return Item.of(
        kind=Kind.PREFERENCE,
        payload={
            "prompt": [{"role": "user", "content": question.text}],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
        },
        recipe=recipe,
        split=Split.TRAIN,
        chunk_id=origin.chunk_id,
        document_id=origin.document_id,
        request_keys=(*keys, *origin.request_keys),
        meta={"from_item": origin.id, "answerable": question.answerable, **more, **(meta or {})},
    )


@dataclass(frozen=True)
class Candidate:
    """A pair, the answer of it that is to be preferred as an item of its own, and what its recipe says of it."""

    item: Item
    chosen: Item | None
    """For the checks on single items; None where the chosen answer was accepted before."""
    verdicts: tuple[Verdict, ...] = ()
