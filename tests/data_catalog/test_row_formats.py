"""Rows in other programs' shapes: told apart, read, written, and what doesn't fit is refused with its place."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.records import Kind
from data_catalog.row_formats import KEYS, LOOKS, READ, RowFormat, detect_format, to_payload, to_row

QUESTION = {"role": "user", "content": "What weighs it?"}
ANSWER = {"role": "assistant", "content": "40 kg"}
OTHER = {"role": "assistant", "content": "I do not know."}
SYSTEM = {"role": "system", "content": "Be exact."}

_text = st.text(max_size=8)
_conversation = st.tuples(
    st.lists(st.builds(lambda text: {"role": "system", "content": text}, st.text(min_size=1, max_size=8)), max_size=1),
    st.lists(st.tuples(_text, _text), min_size=1, max_size=3),
).map(
    lambda parts: [
        *parts[0],
        *(
            turn
            for asked, said in parts[1]
            for turn in ({"role": "user", "content": asked}, {"role": "assistant", "content": said})
        ),
    ]
)


@pytest.mark.parametrize("shape", RowFormat.of_kind(Kind.MESSAGES))
@given(messages=_conversation)
def test_a_conversation_comes_back_from_every_shape(shape: RowFormat, messages: list[dict[str, str]]) -> None:
    row = to_row({"messages": messages}, shape)
    assert detect_format(row) is shape
    assert to_payload(row, shape) == {"messages": messages}


def test_texts_and_pairs_come_back_too() -> None:
    pair = {"prompt": [SYSTEM, QUESTION], "chosen": [ANSWER], "rejected": [OTHER]}
    labelled = {"text": "A pump.", "label": "machine"}
    for payload, shape in (
        (pair, RowFormat.PREFERENCE),
        ({"text": "A pump."}, RowFormat.TEXT),
        (labelled, RowFormat.LABEL),
    ):
        assert detect_format(to_row(payload, shape)) is shape
        assert to_payload(to_row(payload, shape), shape) == payload


def test_a_label_may_be_the_number_of_a_class() -> None:
    assert to_payload({"text": "A pump.", "label": 0}, RowFormat.LABEL) == {"text": "A pump.", "label": "0"}
    for label in (None, True, 0.5, ["0"]):
        with pytest.raises(ValueError, match="`label` is "):
            to_payload({"text": "A pump.", "label": label}, RowFormat.LABEL)


def test_every_shape_has_a_kind_keys_and_an_example() -> None:
    assert set(KEYS) == set(LOOKS) == set(READ) == set(RowFormat)
    assert all(set(keys) <= READ[shape] for shape, keys in KEYS.items())
    assert {shape.kind for shape in RowFormat} == set(Kind)
    assert all(f'"{key}"' in LOOKS[shape] for shape, keys in KEYS.items() for key in keys)
    assert all(RowFormat.of_kind(kind)[0].value == kind.value for kind in Kind)


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        ({"prompt": "q", "prompt_id": "1", "messages": [QUESTION, ANSWER]}, RowFormat.MESSAGES),
        ({"prompt": "q", "messages": [], "chosen": [], "rejected": []}, RowFormat.PREFERENCE),
        ({"instruction": "q", "input": "", "output": "a", "text": "q a"}, RowFormat.ALPACA),
        ({"id": "1", "conversations": []}, RowFormat.SHAREGPT),
        ({"prompt": "q", "completion": "a"}, RowFormat.PROMPT_COMPLETION),
    ],
)
def test_keys_beside_the_shape_do_not_mislead(row: dict[str, Any], shape: RowFormat) -> None:
    assert detect_format(row) is shape


def test_what_others_write_is_read() -> None:
    asked = [QUESTION, ANSWER]
    for shape, row in (
        (RowFormat.PROMPT_COMPLETION, {"prompt": "What weighs it?", "completion": "40 kg"}),
        (RowFormat.ALPACA, {"instruction": "What weighs it?", "input": "", "output": "40 kg"}),
        (RowFormat.ALPACA, {"instruction": "What weighs", "input": "it?", "output": "40 kg"}),
        (
            RowFormat.SHAREGPT,
            {"conversations": [{"from": "human", "value": "What weighs it?"}, {"from": "gpt", "value": "40 kg"}]},
        ),
    ):
        expected = asked if row.get("input") != "it?" else [{**QUESTION, "content": "What weighs\nit?"}, ANSWER]
        assert to_payload(row, shape) == {"messages": expected}
    with_system = {"system": "Be exact.", "conversations": [{"from": "user", "value": "q"}]}
    assert to_payload(with_system, RowFormat.SHAREGPT)["messages"][0] == SYSTEM


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "What weighs it?", "chosen": "40 kg", "rejected": "I do not know."},
        {"prompt": [QUESTION], "chosen": [ANSWER], "rejected": [OTHER]},
        {"chosen": [QUESTION, ANSWER], "rejected": [QUESTION, OTHER]},
        {"prompt": "What weighs it?", "chosen": [QUESTION, ANSWER], "rejected": [QUESTION, OTHER]},
    ],
    ids=["texts", "messages", "prompt within", "prompt twice"],
)
def test_a_pair_is_read_wherever_its_prompt_stands(row: dict[str, Any]) -> None:
    expected = {"prompt": [QUESTION], "chosen": [ANSWER], "rejected": [OTHER]}
    assert to_payload(row, RowFormat.PREFERENCE) == expected


@pytest.mark.parametrize(
    ("shape", "row", "said"),
    [
        (RowFormat.MESSAGES, {"messages": []}, "`messages` is no list of messages"),
        (RowFormat.MESSAGES, {"messages": "hi"}, "`messages` is no list of messages"),
        (RowFormat.MESSAGES, {"messages": [QUESTION, {"role": "tool", "content": "x"}]}, "message 2.*role 'tool'"),
        (RowFormat.MESSAGES, {"messages": [{"role": "user", "content": None}]}, r"`messages\[1\].content` is missing"),
        (
            RowFormat.MESSAGES,
            {"messages": [QUESTION, {**ANSWER, "name": None, "tool_calls": [{"id": "1"}]}]},
            "message 2 of `messages` has `tool_calls` beside role and content",
        ),
        (RowFormat.SHAREGPT, {"conversations": [{"from": "gpt", "value": "x", "weight": 0}]}, "turn 1.*`weight`"),
        (RowFormat.SHAREGPT, {"conversations": [{"from": "observation", "value": "x"}]}, "turn 1.*'observation'"),
        (RowFormat.ALPACA, {"instruction": "q", "output": 4}, "`output` is int, not a text"),
        (RowFormat.ALPACA, {"instruction": "q", "output": "a", "history": [["q"]]}, "`history`"),
        (RowFormat.PREFERENCE, {"chosen": "a", "rejected": "b"}, "there is no `prompt`"),
        (RowFormat.TEXT, {"text": ["a"]}, "`text` is list"),
    ],
)
def test_what_is_not_its_shape_is_refused_by_key(shape: RowFormat, row: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        to_payload(row, shape)


def test_what_a_shape_cannot_say_is_refused() -> None:
    with pytest.raises(ValueError, match="last turn is the user's"):
        to_row({"messages": [QUESTION]}, RowFormat.PROMPT_COMPLETION)
    with pytest.raises(ValueError, match="don't alternate"):
        to_row({"messages": [QUESTION, QUESTION, ANSWER]}, RowFormat.ALPACA)
    with pytest.raises(ValueError, match="its keys are answer, question"):
        detect_format({"question": "q", "answer": "a"})
