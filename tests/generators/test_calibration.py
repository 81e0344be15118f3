"""Wrong answers are planted before the judge, and what it lets through decides whether it may judge."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from data_catalog.errors import DataError
from data_catalog.records import Chunk, Completion, Document, Item, Kind, Outcome, Request, Split
from data_catalog.text import contains_words, words
from generators.filters import Curator
from generators.filters.calibration import PURPOSE, Calibration, demand_recall, plant
from generators.specs import CurateSpec
from tests.generators.helpers import cut, handbook

TEXTS = {
    "a.md": "# Veltrano 40\n\nThe Veltrano 40 weighs 312 kg. It was built by Mira Kessel. It takes Zonlube.\n",
    "b.md": "# Solmer 7\n\nThe Solmer 7 weighs 95 kg. It was built by Jonas Arp. It takes Fuspril.\n",
    "c.md": "# 海力 5\n\n海力 5 重 120 公斤。它由王明制造。\n",
}
DOCUMENTS = [handbook(text, path=path) for path, text in TEXTS.items()]
CHUNKS = [chunk for document in DOCUMENTS for chunk in cut(document)]
FACTS = [
    ("a.md", "How heavy is the Veltrano 40?", "312 kg", "weighs 312 kg"),
    ("a.md", "Who built the Veltrano 40?", "Mira Kessel", "built by Mira Kessel"),
    ("a.md", "What does the Veltrano 40 take?", "Zonlube", "takes Zonlube"),
    ("b.md", "How heavy is the Solmer 7?", "95 kg", "weighs 95 kg"),
    ("b.md", "Who built the Solmer 7?", "Jonas Arp", "built by Jonas Arp"),
    ("b.md", "What does the Solmer 7 take?", "Fuspril", "takes Fuspril"),
    ("c.md", "海力 5 有多重？", "120 公斤", "重 120 公斤"),
    ("c.md", "谁制造了海力 5？", "王明", "它由王明制造"),
]


def item(path: str, question: str, answer: str, quote: str) -> Item:
    document = next(one for one in DOCUMENTS if one.path == path)
    chunk = next(one for one in CHUNKS if one.document_id == document.id)
    return Item.of(
        kind=Kind.MESSAGES,
        payload={"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]},
        recipe="grounded_qa",
        split=Split.TRAIN,
        chunk_id=chunk.id,
        document_id=document.id,
        request_keys=(question,),
        meta={"question": question, "answer": answer, "evidence": quote},
    )


ITEMS = [item(*fact) for fact in FACTS]


class Judge:
    """Refuses an answer that the chunk does not hold, unless it is blind to that kind of mistake."""

    def __init__(self, *, blind: bool = False, silent: bool = False) -> None:
        self.blind, self.silent = blind, silent
        self.purposes: Counter[str] = Counter()

    def __call__(self, requests: Sequence[Request]) -> Mapping[str, Completion]:
        said = {}
        for request in requests:
            self.purposes[request.purpose] += 1
            text = self._say(request)
            said[request.key] = Completion(request_key=request.key, text=text, finish_reason="stop")
        return said

    def _say(self, request: Request) -> str:
        if not request.purpose.startswith("judge"):
            return next((fact[2] for fact in FACTS if fact[1] in request.messages[-1].content), "?")
        if self.silent and request.purpose == PURPOSE:
            return "well"
        prompt = request.messages[-1].content
        chunk = next(one for one in CHUNKS if one.text in prompt)
        right = next(fact[2] for fact in FACTS if fact[1] in prompt)
        held = contains_words(words(chunk.text), words(right)) and f"<answer>{right}</answer>" in prompt
        return json.dumps({"reason": "so", "verdict": "yes" if held or self.blind else "no"})


def run(teacher: Judge, **spec: Any) -> Any:
    return Curator(
        CHUNKS,
        DOCUMENTS,
        CurateSpec.model_validate(spec),
        teacher,
        [],
        teacher_fingerprint="t",
    ).curate(ITEMS)


def test_what_is_planted_is_wrong_and_of_every_kind_and_the_same_each_time() -> None:
    planted = plant(ITEMS, CHUNKS, 100)
    assert plant(list(reversed(ITEMS)), list(reversed(CHUNKS)), 100) == planted
    assert len(planted) == len(ITEMS), "one an item"
    assert set(Counter(one.kind for one in planted)) == {"number", "entity", "claim", "source"}
    for one in planted:
        stated = words(one.chunk.text)
        assert not contains_words(stated, words(one.answer)), one
        if one.kind == "source":
            assert one.chunk.document_id != one.item.document_id
        else:
            assert one.chunk.id == one.item.chunk_id
    assert len(plant(ITEMS, CHUNKS, 3)) == 3
    assert plant([], CHUNKS, 3) == []


def test_a_lone_item_has_no_other_answer_to_be_given() -> None:
    assert plant([ITEMS[1]], [chunk for chunk in CHUNKS if chunk.id == ITEMS[1].chunk_id], 5) == []


def test_a_good_judge_keeps_the_right_items_and_none_that_was_planted() -> None:
    judge = Judge()
    report = run(judge)
    assert report.calibration is not None
    assert report.calibration.recall == 1
    assert report.accepted_ids == {one.id for one in ITEMS}
    assert judge.purposes[PURPOSE] == len(ITEMS)
    assert {verdict.item_id for verdict in report.verdicts} == {one.id for one in ITEMS}
    assert all(verdict.outcome is Outcome.PASSED for verdict in report.verdicts)
    demand_recall(report.calibration, 1.0)


@pytest.mark.parametrize("judge", [Judge(blind=True), Judge(silent=True)], ids=["says yes to all", "can't be read"])
def test_a_judge_that_lets_errors_through_is_not_trusted(judge: Judge) -> None:
    calibration = run(judge).calibration
    assert calibration.recall == 0
    with pytest.raises(DataError, match="refused 0% of 8 planted wrong answers") as caught:
        demand_recall(calibration, 0.6)
    assert "at least 60% (curate.judge.min_recall)" in str(caught.value)
    demand_recall(calibration, 0.0)


def test_nothing_is_planted_where_nothing_is_judged() -> None:
    for spec in ({"judge": None}, {"judge": {"planted": 0}}):
        judge = Judge()
        assert run(judge, **spec).calibration is None
        assert judge.purposes[PURPOSE] == 0
    demand_recall(None, 1.0)


def test_the_account_names_every_kind() -> None:
    said = str(Calibration({"number": 2, "source": 1}, {"number": 1, "source": 1}))
    assert said == "the judge refused 67% of 3 planted wrong answers (number 1 of 2, source 1 of 1)"


def test_a_number_is_changed_into_one_that_the_chunk_does_not_state() -> None:
    text = "# P\n\nNumbers: 1 0 2 3 4 5 6 7 9. It has 8 legs.\n"
    document = Document.of(path="d.md", title="P", text=text)
    chunks: list[Chunk] = cut(document)
    one = Item.of(
        kind=Kind.MESSAGES,
        payload={"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "8 legs"}]},
        recipe="grounded_qa",
        split=Split.TRAIN,
        chunk_id=chunks[0].id,
        document_id=document.id,
        meta={"question": "q", "answer": "8 legs"},
    )
    assert [planted.kind for planted in plant([one], chunks, 1)] == []
