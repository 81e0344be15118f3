"""Preference pairs from the student's own answers: what it should have said against what it did say.

For a question with a verified answer, a sample that agrees with it is right and one that the judge refused is wrong;
the pair is (verified answer, wrong sample). For a question that the documents don't answer, whatever is not an
abstention is wrong. Sampling from the current student keeps the pairs on-policy (Tülu 3, arXiv 2411.15124, section 5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from data_catalog.records import Completion, Item, Kind, Message, Request, Sampling, Split
from data_catalog.text import normalise_answer

NAME = "on_policy@1"


@dataclass(frozen=True)
class Question:
    """A question with the answer that was verified against its chunk, or the abstention that is right for it."""

    item: Item
    text: str
    answer: str
    answerable: bool


@dataclass(frozen=True)
class Sampled:
    """One answer that the student gave."""

    question: Question
    request: Request
    completion: Completion


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


def sample_requests(
    questions: Sequence[Question], *, student_fingerprint: str, samples: int, temperature: float, max_tokens: int
) -> list[tuple[Question, Request]]:
    """Return `samples` requests per question to the student."""
    sampling = Sampling(temperature=temperature, max_tokens=max_tokens)
    return [
        (
            question,
            Request(
                model=student_fingerprint,
                messages=(Message(role="user", content=question.text),),
                sampling=sampling,
                sample_index=index,
                purpose=NAME,
                origin={"item_id": question.item.id, "chunk_id": question.item.chunk_id},
            ),
        )
        for question in questions
        for index in range(samples)
    ]


def candidates(sampled: Iterable[Sampled], *, abstains: Callable[[str], bool]) -> list[Sampled]:
    """Return the first wrong-looking whole answer of each question: not empty, not the verified one.

    An abstention on an answerable question counts as wrong; on an unanswerable one it is right.
    """
    found: dict[str, Sampled] = {}
    for sample in sampled:
        text = sample.completion.text.strip()
        if sample.completion.finish_reason != "stop" or not text or sample.question.text in found:
            continue
        if sample.question.answerable:
            wrong = normalise_answer(text) != normalise_answer(sample.question.answer)
        else:
            wrong = not abstains(text)
        if wrong:
            found[sample.question.text] = sample
    return list(found.values())


def pairs(rejected: Iterable[Sampled], *, refused: Mapping[str, bool]) -> list[Item]:
    """Return preference items: the verified answer chosen, the student's wrong one rejected.

    Args:
        rejected: wrong-looking samples, one per question.
        refused: sample request key to whether the judge refused the answer; a sample that is not in it needs no judge.
    """
    return [_pair(sample) for sample in rejected if refused.get(sample.request.key, True)]


def _pair(sample: Sampled) -> Item:
    question = sample.question
    return Item.of(
        kind=Kind.PREFERENCE,
        payload={
            "prompt": [{"role": "user", "content": question.text}],
            "chosen": [{"role": "assistant", "content": question.answer}],
            "rejected": [{"role": "assistant", "content": sample.completion.text.strip()}],
        },
        recipe=NAME,
        split=Split.TRAIN,
        chunk_id=question.item.chunk_id,
        document_id=question.item.document_id,
        request_keys=(sample.request.key, *question.item.request_keys),
        meta={"from_item": question.item.id, "answerable": question.answerable},
    )
