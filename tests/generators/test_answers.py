"""From a completion to an answer: thoughts are taken off and kept apart, and what is not whole is a failure."""

from __future__ import annotations

import json
from typing import Any

import pytest

from data_catalog.records import Completion
from generators.chat_api import TryAgain, completion_of
from generators.recipes.answers import Answer, ParseFailure, json_texts, long_text, whole_answer
from generators.recipes.two_steps import object_of_list


def completion(text: str, finish_reason: str = "stop") -> Completion:
    return Completion(request_key="req-1", text=text, finish_reason=finish_reason)


@pytest.mark.parametrize(
    ("text", "answer", "thought"),
    [
        ("312 kg", "312 kg", ""),
        ("<think>\nIt says 312.\n</think>\n\n312 kg\n", "312 kg", "It says 312."),
        ("<think></think>312 kg", "312 kg", ""),
        ("It says 312.</think>312 kg", "312 kg", "It says 312."),  # the chat template opened the thought
        ("<think>one</think>no, <think>two</think>312 kg", "no, 312 kg", "one\n\ntwo"),
        ("<think>a <think>b</think> c</think>312 kg", "312 kg", "a <think>b\n\nc"),
        ("<thinking>It says 312.</thinking>312 kg", "312 kg", "It says 312."),
        (" <reasoning>It says 312.</reasoning>\n312 kg", "312 kg", "It says 312."),
        ("[THINK]It says 312.[/THINK]312 kg", "312 kg", "It says 312."),
        ("The tag <thought> opens a thought.", "The tag <thought> opens a thought.", ""),
    ],
)
def test_a_thought_is_taken_off_and_kept(text: str, answer: str, thought: str) -> None:
    found = whole_answer(completion(text))
    assert isinstance(found, Answer)
    assert (str(found), found.thought) == (answer, thought)


@pytest.mark.parametrize(
    ("text", "finish_reason", "reason"),
    [
        ("<think>It says 312 kg", "stop", "a <think> that is never closed"),
        ("312 kg <think>or 313", "stop", "a <think> that is never closed"),
        ("[THINK]It says 312 kg", "stop", "a [THINK] that is never closed"),
        ("<thinking>312 kg", "stop", "a <thinking> that is never closed"),
        ("<think>It says 312 kg", "length", "cut off at max_tokens while it was still thinking: raise max_tokens"),
        ("<think>It says 312</think>312", "length", "cut off at max_tokens"),
        ("<think>It says 312 kg</think> ", "stop", "a thought without an answer"),
        ("only a thought</think>", "stop", "a thought without an answer"),
        ("<think>" * 100_000, "stop", "a <think> that is never closed"),
        ("  ", "stop", "empty answer"),
    ],
)
def test_a_thought_that_leads_nowhere_is_a_failure_with_its_reason(text: str, finish_reason: str, reason: str) -> None:
    assert whole_answer(completion(text, finish_reason)) == ParseFailure(reason)


def body(message: dict[str, Any], finish_reason: str = "stop") -> bytes:
    return json.dumps({"choices": [{"message": message, "finish_reason": finish_reason}]}).encode()


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_a_thought_that_the_server_sends_apart_is_part_of_the_raw_answer(field: str) -> None:
    whole = completion_of(body({"content": "312 kg", field: "It says 312."}), "req-1", seconds=1.0)
    assert whole.text == "<think>It says 312.</think>\n312 kg"
    answer = whole_answer(whole)
    assert isinstance(answer, Answer)
    assert (str(answer), answer.thought) == ("312 kg", "It says 312.")

    cut = completion_of(body({"content": None, field: "It says"}, "length"), "req-1", seconds=1.0)
    failure = whole_answer(cut)
    assert failure == ParseFailure("cut off at max_tokens while it was still thinking: raise max_tokens")

    silent = completion_of(body({field: "It says 312."}), "req-1", seconds=1.0)
    assert whole_answer(silent) == ParseFailure("a thought without an answer")
    with pytest.raises(TryAgain, match="no content"):
        completion_of(body({"content": None, field: None}), "req-1", seconds=1.0)


LIST = object_of_list("entities", 3)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"entities": ["a", " b\\n c ", "a", "", "d"]}', ["a", "b c", "d"]),
        ('{"entities": ["a", "b", "c", "d"]}', ["a", "b", "c"]),
        ('{"entities": []}', []),
        ('{"entities": "a"}', ParseFailure("entities is no list of texts")),
        ('{"entities": ["a", 1]}', ParseFailure("entities is no list of texts")),
        ('{"names": ["a"]}', ParseFailure("keys names instead of entities")),
        ("a, b", ParseFailure("not one JSON object")),
    ],
)
def test_a_plan_is_a_list_of_distinct_texts(text: str, found: list[str] | ParseFailure) -> None:
    assert json_texts(text, LIST) == found


def test_a_long_text_leaves_its_fence_and_short_ones_are_failures() -> None:
    text = "| part | interval |\n| --- | --- |\n| the upper bearing of the press | every 250 hours at least |"
    assert long_text(f"```markdown\n{text}\n```") == text
    assert long_text("NONE") == long_text("无") == ParseFailure("the teacher finds nothing to write", declined=True)
    assert long_text("I can't do that.") == ParseFailure("fewer than 12 words")
