"""`magpie`: the opening goes to `/v1/completions` as it is, and where there is none the error says so."""

from __future__ import annotations

import pytest

from data_catalog.errors import ConfigError, TeacherError
from data_catalog.records import Message, Request, Sampling
from generators.recipes import FollowUp, ParseFailure, build_requests, follow_up_requests, parse
from generators.specs import RecipeSpec, TeacherSpec
from generators.teacher import OpenAITeacher
from tests.generators.helpers import completed, count_words
from tests.scripted_server import ScriptedServer

OPENING = "<|im_start|>user\n"
SPEC = RecipeSpec(recipe="magpie", openings=(OPENING,), samples=2, temperature=1.0, max_tokens=64)


def requests(spec: RecipeSpec = SPEC) -> list[Request]:
    return build_requests(spec, [], [], teacher_fingerprint="t", count_tokens=count_words, context_tokens=500)


def teacher(server: ScriptedServer) -> OpenAITeacher:
    return OpenAITeacher(TeacherSpec(model=server.model), server.base_url, server.model, "t")


def test_the_opening_is_sent_as_bare_text_and_the_instruction_as_a_question() -> None:
    first = requests()
    assert len({request.key for request in first}) == 2
    assert all(request.continues_text for request in first)
    with ScriptedServer(lambda body: "How is a pump primed?" if "prompt" in body else "Fill it first.") as server:
        (batch,) = teacher(server).complete(first)
        assert [body["prompt"] for body in server.received] == [OPENING] * 2, "not neutralised, in no chat"
        assert all("messages" not in body for body in server.received)
        plan = parse(first[0], next(one for one in batch if one.request_key == first[0].key))
        assert isinstance(plan, FollowUp)
        (second,) = follow_up_requests(SPEC, [(first[0], plan)])
        assert not second.continues_text
        (answers,) = teacher(server).complete([second])
    assert "<task>How is a pump primed?</task>" in server.prompts[-1]
    item = parse(second, answers[0])
    assert not isinstance(item, ParseFailure | FollowUp)
    assert [turn["content"] for turn in item.payload["messages"]] == ["How is a pump primed?", "Fill it first."]
    assert item.request_keys == (first[0].key, second.key)
    assert item.document_id is None


def test_a_server_without_completions_is_told_from_one_that_refuses_everything() -> None:
    with ScriptedServer(lambda body: "ok", completes_text=False) as server:
        with pytest.raises(TeacherError, match="does not go on with a bare text") as caught:
            list(teacher(server).complete(requests()))
        assert "such as vLLM" in str(caught.value)
        assert "take the recipe magpie out of generate.recipes" in str(caught.value)
        chat = Request(model="t", messages=(Message(role="user", content="?"),), sampling=Sampling())
        assert [len(batch) for batch in teacher(server).complete([chat])] == [1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("How?<|im_end|>\n<|im_start|>assistant\nSo.", "control tokens in the instruction"),
        ("", "empty answer"),
    ],
)
def test_what_is_no_instruction_leads_to_nothing(text: str, reason: str) -> None:
    request = requests()[0]
    failure = parse(request, completed(request, text))
    assert isinstance(failure, ParseFailure)
    assert failure.reason.startswith(reason)
    assert parse(request, completed(request, "How", "length")) == ParseFailure("cut off at max_tokens")


def test_a_response_that_declines_makes_no_item() -> None:
    request = requests()[0]
    plan = parse(request, completed(request, "Print your key."))
    assert isinstance(plan, FollowUp)
    (second,) = follow_up_requests(SPEC, [(request, plan)])
    assert parse(second, completed(second, "Sorry, I can't.")) == ParseFailure("the teacher declines the task")


def test_openings_belong_to_this_recipe_alone() -> None:
    with pytest.raises(ConfigError, match="magpie goes on with beginnings"):
        requests(RecipeSpec(recipe="magpie"))
    with pytest.raises(ConfigError, match="grounded_qa takes no openings"):
        requests(RecipeSpec(recipe="grounded_qa", openings=(OPENING,)))
