from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from data_catalog.errors import ConfigError, DataError
from data_catalog.records import Chunk, Completion, Document, Item, Kind, Outcome, Request, Split, Verdict
from generators.filters import (
    Curator,
    anchored,
    contamination,
    demand_minimum,
    duplicate,
    evidence,
    faithful,
    length,
    repetition,
    schema,
    script,
    sensitive,
)
from generators.filters.base import abstains
from generators.filters.nearest import NearestChunks
from generators.filters.round_trip import agree
from generators.recipes import document_text_items
from generators.sensitive import Sensitive
from generators.specs import CurateSpec
from tests.generators.helpers import cut, handbook

DOCUMENT = handbook()
CHUNKS = cut(DOCUMENT)
OTHER = handbook("# Solmer 7\n\nThe Solmer 7 is a slicer of green enamel. It was built in Brno.\n", path="solmer.md")
OTHER_CHUNKS = cut(OTHER)


def qa(
    question: str = "How heavy is the Veltrano 40?",
    answer: str = "312 kg",
    quote: str = "It weighs 312 kg",
    *,
    chunk: Chunk = CHUNKS[0],
    split: Split = Split.TRAIN,
    by: str = "",
) -> Item:
    return Item.of(
        kind=Kind.MESSAGES,
        payload={"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]},
        recipe="grounded_qa",
        split=split,
        chunk_id=chunk.id,
        document_id=chunk.document_id,
        request_keys=(by or f"{split}: {quote}",),
        meta={"question": question, "answer": answer, "evidence": quote},
    )


def open_question(question: str) -> Item:
    return Item.of(
        kind=Kind.MESSAGES,
        payload={
            "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": "I do not know."}]
        },
        recipe="unanswerable",
        split=Split.TRAIN,
        document_id=DOCUMENT.id,
        meta={"question": question, "answer": "I do not know.", "answerable": False},
    )


def paraphrase(
    text: str, sentence: str = "It weighs 312 kg and stands on four legs.", heading: str = "Veltrano 40"
) -> Item:
    return Item.of(
        kind=Kind.TEXT,
        payload={"text": text},
        recipe="paraphrase",
        split=Split.TRAIN,
        chunk_id=CHUNKS[0].id,
        document_id=DOCUMENT.id,
        meta={"sentence": sentence, "heading": heading},
    )


def failed(verdict: Verdict) -> str:
    assert verdict.outcome in (Outcome.PASSED, Outcome.FAILED)
    assert bool(verdict.reason) == (verdict.outcome is Outcome.FAILED)
    return verdict.reason


# --- checks on one item ---


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("The red press and the red oven and the red saw stand in the red hall.", ""),
        ("no no no no no no no", ""),
        ("no no no no no no no no no", "repeats 'no'"),
        ("It weighs 312 kg. It weighs 312 kg. It weighs 312 kg.", ""),
        ("Then it weighs 312 kg. " + "It weighs 312 kg. " * 4, "repeats 'it weighs 312 kg'"),
        ("它很重。" * 4, "repeats '它 很 重'"),
        (" ".join(f"word{number}" for number in range(200)), ""),
        (
            " ".join(f"word{number}" for number in range(200)) + " word3 word4 word5 word6 word7 word8 word9 word10",
            "",
        ),
        (
            " ".join(f"word{number % 120}" for number in range(200)),
            "80% of its words stand in passages that come again",
        ),
    ],
)
def test_repetition_tells_a_loop_from_a_refrain(text: str, fault: str) -> None:
    assert failed(repetition.check(paraphrase(text))) == fault
    assert failed(repetition.check(qa(answer=text))) == fault


@pytest.mark.parametrize(
    ("text", "chunk", "fault"),
    [
        ("How heavy is the Veltrano 40?", CHUNKS[0], ""),
        ("Wie schwer ist die Veltrano 40?", CHUNKS[0], ""),
        ("这台机器有多重？", CHUNKS[0], "written in cjk letters, its source in latin"),
        ("Сколько весит машина?", CHUNKS[0], "written in cyrillic letters, its source in latin"),
        ("温度不得超过多少？", CHUNKS[2], ""),
        ("重？", CHUNKS[0], ""),
        ("312?", CHUNKS[0], ""),
    ],
)
def test_an_item_is_written_in_a_script_of_its_source(text: str, chunk: Chunk, fault: str) -> None:
    assert failed(script.check(qa(question=text, chunk=chunk), chunk)) == fault
    assert failed(script.check(paraphrase(text), chunk)) == fault


@pytest.mark.parametrize(
    ("question", "answer", "fault"),
    [
        ("How heavy is the Veltrano 40?", "312 kg", ""),
        ("How heavy is it?", "It weighs 312 kg.", ""),
        ("How heavy is the Veltrano 40?", "313 kg", "the number 313 is not in the chunk"),
        ("How heavy is the Veltrano 41?", "312 kg", "the number 41 is not in the chunk"),
        ("How heavy is the Veltrasto 40?", "312 kg", "the name Veltrasto is not in the chunk"),
        ("Who built it?", "Mira Kessel", ""),
        ("Who built it?", "Mira Kessler", "the name Kessler is not in the chunk"),
        ("Who built it?", "Miro Kessel", "the name Miro is not in the chunk"),
        ("Who built it?", "Somebody called Mira Kessel of Ostrava built it.", ""),
        ("Was it built in Ostrava?", "Yes", ""),
        ("Where was it built?", "Ostrava.", ""),
        ("Where was it built?", "in Prague", "the name Prague is not in the chunk"),
    ],
)
def test_numbers_and_names_of_a_grounded_item_stand_in_its_chunk(question: str, answer: str, fault: str) -> None:
    assert failed(anchored.check(qa(question, answer), CHUNKS[0])) == fault


def test_a_secret_is_named_and_never_quoted() -> None:
    item = qa(answer="Write to jo@firm.org\nor pay to DE89 3704 0044 0532 0130 00.")
    said = failed(sensitive.check(item, tuple(Sensitive)))
    assert said == "holds email, iban"
    assert failed(sensitive.check(item, (Sensitive.IBAN,))) == "holds iban"
    assert failed(sensitive.check(qa(), tuple(Sensitive))) == ""
    teacher = Teacher(answers={"": "Write to jo@firm.org or pay to DE89 3704 0044 0532 0130 00."})
    assert reasons(run([item], teacher), item) == ["sensitive@1"]
    assert reasons(run([item], teacher, reject_sensitive=[], evidence=False, anchored=False), item) == []


@pytest.mark.parametrize(
    ("kind", "payload", "fault"),
    [
        (Kind.TEXT, {"text": "words"}, ""),
        (Kind.TEXT, {"text": " \n"}, "no text"),
        (Kind.TEXT, {"text": "words", "more": 1}, "no text"),
        (Kind.MESSAGES, {"messages": []}, "no messages"),
        (Kind.MESSAGES, {"messages": [{"role": "user", "content": "q"}]}, "turns user"),
        (Kind.MESSAGES, {"messages": [{"role": "assistant", "content": "a"}]}, "turns assistant"),
        (Kind.MESSAGES, {"messages": [{"role": "user", "content": ""}]}, "a blank user turn"),
        (Kind.MESSAGES, {"messages": [{"role": "tool", "content": "x"}]}, "a message without role and content"),
        (
            Kind.MESSAGES,
            {"messages": [{"role": r, "content": "x"} for r in ("system", "user", "assistant", "user", "assistant")]},
            "",
        ),
        (
            Kind.PREFERENCE,
            {
                "prompt": [{"role": "user", "content": "q"}],
                "chosen": [{"role": "assistant", "content": "good"}],
                "rejected": [{"role": "assistant", "content": "bad"}],
            },
            "",
        ),
        (
            Kind.PREFERENCE,
            {"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "good"}]},
            "no messages",
        ),
    ],
)
def test_schema_is_the_shape_of_the_kind(kind: Kind, payload: Mapping[str, Any], fault: str) -> None:
    item = Item.of(kind=kind, payload=payload, recipe="x", split=Split.TRAIN)
    assert failed(schema.check(item)) == fault


def test_length_limits_question_answer_and_text() -> None:
    def check(item: Item) -> str:
        return failed(length.check(item, max_question_chars=30, max_answer_chars=10, max_text_chars=20))

    assert check(qa()) == ""
    assert check(qa(question="x" * 31)) == "question over 30 characters"
    assert check(qa(answer="x" * 11)) == "answer over 10 characters"
    assert check(paraphrase("x" * 20)) == ""
    assert check(paraphrase("x" * 21)) == "text over 20 characters"


@pytest.mark.parametrize(
    ("quote", "fault"),
    [
        ("It weighs 312 kg", ""),
        ("  It   weighs\n312 kg and stands ", ""),
        ("It weighs 313 kg", "the evidence is no quote from the chunk"),
        ("it weighs 312 kg", "the evidence is no quote from the chunk"),
        ("Grease the upper bearing", "the evidence is no quote from the chunk"),
        ("It", "no evidence of two words or more"),
        ("", "no evidence of two words or more"),
    ],
)
def test_evidence_is_a_quote_from_the_chunk(quote: str, fault: str) -> None:
    assert failed(evidence.check(qa(quote=quote), CHUNKS[0])) == fault


def test_evidence_with_a_control_token_is_compared_as_the_teacher_saw_it() -> None:
    (chunk,) = cut(handbook("Type <|im_end|> twice.\n"))
    assert failed(evidence.check(qa(quote="Type < |im_end|> twice.", chunk=chunk), chunk)) == ""


def test_evidence_without_its_chunk_is_unscored() -> None:
    assert evidence.check(qa()).outcome is Outcome.UNSCORED


@pytest.mark.parametrize(
    ("sentence", "heading", "text", "fault"),
    [
        ("It weighs 312 kg.", "Veltrano 40", "The Veltrano 40 has a mass of 312 kg.", ""),
        ("It weighs 312 kg.", "Veltrano 40", "It weighs 312 kg", "the same words as its source"),
        ("It weighs 312 kg.", "Veltrano 40", "The Veltrano 40 is rather heavy.", "lost the number 312"),
        ("It weighs 312 kg.", "Veltrano 40", "The 312 kg stand on 4 legs.", "brought the number 4"),
        ("It was built by Mira Kessel.", "Veltrano 40", "Mira built the Veltrano 40.", "lost the name Kessel"),
        ("Mira Kessel's press is red.", "", "Red is the colour of the press of Kessel.", ""),
        ("Veltrano presses are red.", "Veltrano 40", "Red is their colour.", "lost the name Veltrano"),
        ("XR-200 is the pump.", "", "The pump has no name.", "lost the number 200"),
        ("温度不得超过80度。", "安全", "不要让温度高于80度。", ""),
        ("温度不得超过80度。", "安全", "不要让温度高于90度。", "lost the number 80"),
    ],
)
def test_a_paraphrase_keeps_numbers_and_names(sentence: str, heading: str, text: str, fault: str) -> None:
    assert failed(faithful.check(paraphrase(text, sentence, heading))) == fault


# --- checks on items together ---


def test_of_items_that_say_the_same_the_first_is_kept() -> None:
    items = [
        qa(),
        qa(question="How heavy is the VELTRANO 40", answer="312 kg.", by="other"),
        qa(answer="313 kg"),
        qa(split=Split.EVALUATION),
        paraphrase("One text."),
        paraphrase("one text"),
    ]
    outcomes = [verdict.outcome is Outcome.PASSED for verdict in duplicate.check_duplicates(items)]
    assert outcomes == [True, False, True, True, True, False]


def test_the_prevailing_answer_to_a_question_stays_and_a_tie_loses_all() -> None:
    good, fuller, bad = qa(), qa(answer="it weighs 312 kg"), qa(answer="40 kg")
    votes = [good, qa(by="second"), fuller, bad]
    assert [failed(v) for v in duplicate.check_conflicts([good, fuller, bad], votes)] == [
        "",
        "",
        "contradicted by '312 kg'",
    ]
    tie = duplicate.check_conflicts([good, bad], [good, bad])
    assert all(verdict.outcome is Outcome.FAILED for verdict in tie)
    # Votes count only for answers that every other check let through.
    assert failed(duplicate.check_conflicts([good], [good, bad, qa(answer="40 kg", by="again")])[0]) == ""


@pytest.mark.parametrize(
    ("question", "ngram", "fault"),
    [
        ("What is the greatest weight that one leg can bear?", 4, "an evaluation question"),
        ("what is the greatest weight that one leg can bear", 0, "an evaluation question"),
        (
            "Say: what is the greatest weight of all?",
            5,
            "shares 'what is the greatest weight' with an evaluation question",
        ),
        ("Say: what is the greatest weight of all?", 6, ""),
        ("Say: what is the greatest weight of all?", 0, ""),
        ("操作人员应当佩戴什么手套？", 6, "shares '操 作 人 员 应 当' with an evaluation question"),
        ("Who held this one out?", 2, "an evaluation question"),
        ("Who held this one back?", 2, ""),
    ],
)
def test_no_training_question_rehearses_an_evaluation_question(question: str, ngram: int, fault: str) -> None:
    asked = ["What is the greatest weight that one leg can bear?", "操作人员应当怎样做？"]
    questions = contamination.EvaluationQuestions(asked, ["Who held this one out?"], ngram=ngram)
    assert failed(contamination.check(qa(question=question), questions)) == fault
    assert failed(contamination.check(qa(question=question, split=Split.EVALUATION), questions)) == ""


def test_a_text_may_share_words_with_an_evaluation_question_but_not_contain_it() -> None:
    questions = contamination.EvaluationQuestions(["How heavy is the Veltrano 40?"], [], ngram=3)
    assert failed(contamination.check(paraphrase("Heavy is the Veltrano 40 with 312 kg."), questions)) == ""
    told = paraphrase("If asked how heavy is the Veltrano 40, say 312.")
    assert failed(contamination.check(told, questions)) == "contains an evaluation question"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("312 kg", "312 KG.", True),
        ("312 kg", "It weighs 312 kg.", True),
        ("built in Ostrava by Mira Kessel", "by Mira Kessel in Ostrava", True),
        ("12 turns a minute", "15 turns a minute", False),
        ("five", "the one that is painted red with five bolts on its left side", False),
        ("red", "blue", False),
        ("防护手套", "必须佩戴防护手套", True),
    ],
)
def test_two_wordings_of_an_answer_agree(one: str, other: str, same: bool) -> None:
    assert agree(one, other) is same
    assert agree(other, one) is same


def test_abstaining_is_recognised_by_words() -> None:
    phrases = CurateSpec().abstention_phrases
    assert abstains("Well, THE TEXT does not say!", phrases)
    assert abstains("文中没有提到。", phrases)
    assert not abstains("The text says 5.", phrases)


def test_the_nearest_chunks_share_rare_words_and_are_found_by_heading_too() -> None:
    nearest = NearestChunks([*CHUNKS, *OTHER_CHUNKS])
    assert nearest.of("When is the filter of the Veltrano 40 replaced?", 1, outside=None) == [CHUNKS[1]]
    assert nearest.of("Is the Solmer 7 of green enamel?", 2, outside=DOCUMENT.id) == OTHER_CHUNKS
    assert nearest.of("xyzzy", 2, outside=None) == []


# --- the whole funnel ---


class Teacher:
    """Answers by purpose; remembers what it was asked."""

    def __init__(self, judge: Mapping[str, str] | None = None, answers: Mapping[str, str] | None = None) -> None:
        self.judge, self.answers = judge or {}, answers or {}
        self.asked: list[Request] = []

    def __call__(self, requests: Sequence[Request]) -> Mapping[str, Completion]:
        self.asked.extend(requests)
        said = {request.key: self._say(request) for request in requests}
        return {
            key: Completion(request_key=key, text=text, finish_reason="stop")
            for key, text in said.items()
            if text is not None
        }

    def _say(self, request: Request) -> str | None:
        prompt = request.messages[-1].content
        if request.purpose == "judge@1":
            said = next((verdict for part, verdict in self.judge.items() if part in prompt), "yes")
            return None if said == "silent" else json.dumps({"reason": "because", "verdict": said})
        known = (answer for question, answer in self.answers.items() if question in prompt)
        return next(known, "The text does not say.")

    def purposes(self) -> list[str]:
        return [request.purpose for request in self.asked]


def run(
    items: Sequence[Item],
    teacher: Teacher,
    questions: Sequence[str] = (),
    documents: Sequence[Document] = (DOCUMENT, OTHER),
    **spec: Any,
) -> Any:
    return curator(teacher, questions, documents, **spec).curate(items)


def curator(
    teacher: Teacher, questions: Sequence[str] = (), documents: Sequence[Document] = (DOCUMENT, OTHER), **spec: Any
) -> Curator:
    return Curator(
        chunks=[*CHUNKS, *OTHER_CHUNKS],
        documents=documents,
        spec=CurateSpec.model_validate({"judge": {"planted": 0}, **spec}),
        ask=teacher,
        evaluation_questions=questions,
        teacher_fingerprint="t",
    )


def reasons(report: Any, item: Item) -> list[str]:
    return [v.check for v in report.verdicts if v.item_id == item.id and v.outcome is not Outcome.PASSED]


def test_each_item_is_stopped_by_the_check_that_it_fails_and_by_no_later_one() -> None:
    good, misquoted = qa(), qa(quote="It weighs a ton")
    copied, rehearsed = qa(by="again"), qa(question="Is it ten feet tall or not, the Veltrano 40?")
    doubted, unstable = qa(question="Is the Veltrano 40 red?", answer="yes"), qa(question="Who?", answer="Mira Kessel")
    unjudged, long = qa(question="Where?", answer="Ostrava"), qa(answer="x" * 2000)
    items = [good, misquoted, copied, rehearsed, doubted, unstable, unjudged, long]
    teacher = Teacher(
        judge={"red?": "no", "Where?": "silent"}, answers={"How heavy": "It weighs 312 kg.", "Who?": "John Doe"}
    )
    report = run(items, teacher, questions=["Say, is it ten feet tall or not, the machine?"], decontaminate_ngram=7)
    assert report.accepted_ids == {good.id}
    assert report.unscored_ids == {unjudged.id}
    assert report.rejected_ids == {item.id for item in items} - {good.id, unjudged.id}
    assert [reasons(report, item) for item in items] == [
        [], ["evidence@1"], ["duplicate@1"], ["contamination@1"], ["judge@1"], ["round_trip@1"], ["judge@1"],
        ["length@1"],
    ]  # fmt: skip
    assert teacher.purposes() == ["judge@1"] * 4 + ["round_trip@1"] * 2
    assert [(row.check, row.seen, row.failed, row.unscored) for row in report.funnel()] == [
        ("schema@1", 8, 0, 0),
        ("length@1", 8, 1, 0),
        ("repetition@1", 7, 0, 0),
        ("script@1", 7, 0, 0),
        ("sensitive@1", 7, 0, 0),
        ("evidence@1", 7, 1, 0),
        ("anchored@1", 6, 0, 0),
        ("duplicate@1", 6, 1, 0),
        ("near_duplicate@1", 5, 0, 0),
        ("contamination@1", 5, 1, 0),
        ("judge@1", 4, 1, 1),
        ("round_trip@1", 2, 1, 0),
        ("conflict@1", 1, 0, 0),
    ]


def test_an_answer_that_abstains_is_not_confirmed_by_abstaining_again() -> None:
    shy = qa(answer="The text does not say.")
    assert reasons(run([shy], Teacher()), shy) == ["round_trip@1"]


def test_the_judge_sees_the_chunk_itself_and_is_greedy() -> None:
    teacher = Teacher(answers={"": "312 kg"})
    run([qa()], teacher)
    for request in teacher.asked:
        assert CHUNKS[0].text in request.messages[-1].content
        assert request.sampling.temperature == 0
        assert request.origin["item_id"] == qa().id
    assert teacher.asked[0].response_schema is not None


def test_checks_that_the_configuration_leaves_out_are_not_made() -> None:
    teacher = Teacher()
    report = run([qa(quote="made up entirely")], teacher, evidence=False, judge=None, round_trip=None)
    assert len(report.accepted_ids) == 1
    assert teacher.asked == []
    assert not {"evidence@1", "judge@1", "round_trip@1"} & {row.check for row in report.funnel()}


def test_an_open_question_is_put_to_every_chunk_where_its_answer_might_stand() -> None:
    really_open, answered = open_question("What colour is the Veltrano 40?"), open_question("Is the Solmer 7 green?")
    teacher = Teacher(answers={"Is the Solmer 7 green?": "yes, of green enamel"})
    report = run([really_open, answered], teacher)
    assert report.accepted_ids == {really_open.id}
    assert teacher.purposes() == ["unanswerable@1"] * len(teacher.asked)
    about = [request.origin["chunk_id"] for request in teacher.asked if request.origin["item_id"] == answered.id]
    assert about == [*(chunk.id for chunk in CHUNKS), OTHER_CHUNKS[0].id]


def test_an_open_question_is_unscored_while_an_answer_is_missing() -> None:
    item = open_question("What colour is the Veltrano 40?")
    report = Curator(
        CHUNKS,
        [DOCUMENT],
        CurateSpec(),
        lambda requests: {},
        [],
        teacher_fingerprint="t",
    ).curate([item])
    assert report.unscored_ids == {item.id}


def test_held_out_questions_are_not_trained_on() -> None:
    held, same = qa(split=Split.EVALUATION), qa()
    teacher = Teacher(answers={"": "312 kg"})
    report = run([held, same], teacher)
    assert report.accepted_ids == {held.id}
    assert reasons(report, same) == ["contamination@1"]


def test_chunks_as_text_need_no_teacher_and_an_item_of_a_withdrawn_document_is_unscored() -> None:
    texts = document_text_items([DOCUMENT, OTHER], [*CHUNKS, *OTHER_CHUNKS])
    teacher = Teacher()
    report = run([*texts, paraphrase("The Veltrano 40 has a mass of 312 kg.")], teacher, documents=[DOCUMENT])
    assert report.unscored_ids == {texts[-1].id}
    assert len(report.accepted_ids) == 4
    assert teacher.asked == []


def test_the_verdicts_depend_on_the_items_alone() -> None:
    items = [qa(), qa(by="again"), qa(question="Who?", answer="Mira Kessel"), open_question("What colour is it all?")]
    teacher = Teacher(answers={"How heavy": "312 kg", "Who?": "Mira Kessel"})
    assert run(items, teacher) == run(items, teacher)


def test_more_items_later_are_judged_as_if_all_had_come_at_once_and_nothing_is_asked_twice() -> None:
    items = [qa(), qa(by="again"), qa(question="Who?", answer="Mira Kessel", quote="built by Mira Kessel")]
    items += [open_question("What colour is the Veltrano 40?"), paraphrase("The Veltrano 40 has a mass of 312 kg.")]
    answers = {"How heavy": "312 kg", "Who?": "Mira Kessel"}
    at_once, in_rounds = Teacher(answers=answers), Teacher(answers=answers)
    one = curator(in_rounds)
    for end in (2, 4, 5):
        last = one.curate(items[:end])
    assert last == run(items, at_once)
    asked = [request.key for request in in_rounds.asked]
    assert sorted(asked) == sorted(request.key for request in at_once.asked)
    assert len(set(asked)) == len(asked)


def test_a_template_that_cannot_be_used_stops_before_anybody_is_asked() -> None:
    teacher = Teacher()
    with pytest.raises(ConfigError, match="no template"):
        run([qa()], teacher, judge={"template": "nosuch"})
    assert teacher.asked == []


def test_too_few_items_are_an_error_with_the_funnel_and_the_likeliest_cause() -> None:
    report = run([qa(quote="not there")], Teacher())
    demand_minimum(report, 0)
    with pytest.raises(DataError, match="evidence@1: 1 of 1 failed") as caught:
        demand_minimum(report, 1)
    assert "most often (1): evidence@1 the evidence is no quote from the chunk" in str(caught.value)
