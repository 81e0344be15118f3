"""Local completion: the same answers as transformers' own generation, reproducible, stopping where they should."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from data_catalog.completer import Completer
from data_catalog.errors import DataError, TrainingError
from data_catalog.records import Completion, Message, Request, Sampling
from tests.training.tiny import Lines, build_model, facts
from training.completing import answered_keys, complete, read_requests
from training.inference import LocalCompleter, RowSampler, nucleus, row_uniforms
from training.specs import CompleteJob


def request(question: str, index: int = 0, **sampling: float) -> Request:
    settings = {"max_tokens": 12, **sampling}
    return Request(
        model="model-a",
        messages=(Message(role="user", content=question),),
        sampling=Sampling.model_validate(settings),
        sample_index=index,
    )


QUESTIONS = [question * (1 + number % 3) for number, (question, _) in enumerate(facts(20))]


@pytest.fixture(scope="module")
def completer(base: Path) -> LocalCompleter:
    return LocalCompleter(base, "model-a", batch_tokens=1024)


def answers(completer: Completer, requests: Sequence[Request]) -> dict[str, Completion]:
    return {completion.request_key: completion for batch in completer.complete(requests) for completion in batch}


def test_greedy_answers_are_those_of_transformers(base: Path, completer: LocalCompleter) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    requests = [request(question) for question in QUESTIONS]
    got = answers(completer, requests)
    for one in requests[:6]:
        prompt = tokenizer.apply_chat_template(
            [turn.model_dump() for turn in one.messages], add_generation_prompt=True, return_tensors="pt"
        )["input_ids"]
        whole = model.generate(prompt, max_new_tokens=12, do_sample=False, attention_mask=torch.ones_like(prompt))
        assert got[one.key].text == tokenizer.decode(whole[0, prompt.shape[1] :], skip_special_tokens=True)
        assert got[one.key].prompt_tokens == prompt.shape[1]


def test_a_text_is_gone_on_with_outside_the_chat_template(base: Path, completer: LocalCompleter) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    text = "The rotor of the Veltrano is"
    wanted = Request(
        model="model-a", messages=(Message(role="assistant", content=text),), sampling=Sampling(max_tokens=12)
    )
    got = answers(completer, [wanted, request(QUESTIONS[0])])
    ids = tokenizer(text, return_tensors="pt")
    whole = model.generate(**ids, max_new_tokens=12, do_sample=False)[0]
    expected = tokenizer.decode(whole[ids["input_ids"].shape[1] :], skip_special_tokens=True)
    assert got[wanted.key].text == expected
    assert got[wanted.key].prompt_tokens == ids["input_ids"].shape[1]


def test_every_request_is_answered_once_in_batches_of_the_given_size(completer: LocalCompleter) -> None:
    requests = [request(question) for question in QUESTIONS]
    batches = list(completer.complete(requests))
    assert len(batches) > 1
    keys = [completion.request_key for batch in batches for completion in batch]
    assert sorted(keys) == sorted(one.key for one in requests)
    assert completer.fingerprint == "model-a"


def test_sampling_depends_on_the_request_alone(completer: LocalCompleter) -> None:
    requests = [request(question, temperature=1.0, top_p=0.9) for question in QUESTIONS]
    together = answers(completer, requests)
    alone = [next(iter(completer.complete([one])))[0] for one in requests[:8]]
    backwards = answers(completer, requests[::-1])
    for completion in alone:
        assert completion.text == together[completion.request_key].text == backwards[completion.request_key].text


def test_samples_of_one_question_differ(completer: LocalCompleter) -> None:
    samples = answers(completer, [request("What colour?", index, temperature=1.0) for index in range(6)])
    assert len({completion.text for completion in samples.values()}) > 3


def test_a_batch_may_mix_greedy_and_sampled_rows(completer: LocalCompleter) -> None:
    greedy, sampled = request("What colour?"), request("What colour?", temperature=1.5)
    mixed = answers(completer, [greedy, sampled])
    assert mixed[greedy.key].text == answers(completer, [greedy])[greedy.key].text
    assert mixed[sampled.key].text != mixed[greedy.key].text


def test_meeting_the_token_limit_is_told(completer: LocalCompleter) -> None:
    limits = [request(question, max_tokens=limit) for limit, question in zip((1, 3, 7), QUESTIONS, strict=False)]
    for one, completion in ((one, answers(completer, limits)[one.key]) for one in limits):
        assert completion.finish_reason == "length"
        assert completion.completion_tokens == one.sampling.max_tokens


class _Stopping(torch.nn.Module):
    """A head that makes token 10 likeliest for the first steps, then an end token of choice."""

    def __init__(self, vocabulary: int, steps: int, end: int) -> None:
        super().__init__()
        self._vocabulary, self._left, self._end = vocabulary, steps, end

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        scores = torch.zeros(*hidden.shape[:2], self._vocabulary)
        scores[..., 10 if self._left else self._end] = 9.0
        self._left = max(0, self._left - 1)
        return scores


@pytest.mark.parametrize("end", ["<|im_end|>", "<|endoftext|>"])
def test_any_end_token_of_the_generation_settings_stops(base: Path, end: str) -> None:
    completer = LocalCompleter(base, "model-a")
    tokenizer = AutoTokenizer.from_pretrained(base)
    completer._model.lm_head = _Stopping(len(tokenizer), 3, tokenizer.convert_tokens_to_ids(end))
    (completion,) = next(iter(completer.complete([request("What?")])))
    assert completion.finish_reason == "stop"
    assert completion.completion_tokens == 4
    assert completion.text == tokenizer.decode([10] * 3)


def test_a_prompt_that_leaves_no_room_is_missing(completer: LocalCompleter) -> None:
    long, good = request("What colour is the boiler? " * 200), request("What?")
    assert set(answers(completer, [long, good])) == {good.key}


def test_a_schema_is_refused(completer: LocalCompleter) -> None:
    with pytest.raises(TrainingError, match="JSON schema"):
        list(completer.complete([request("What?").model_copy(update={"response_schema": {"type": "object"}})]))


@settings(max_examples=50)
@given(st.lists(st.floats(0.001, 1), min_size=2, max_size=12), st.floats(0.05, 1))
def test_nucleus_keeps_the_smallest_set_that_reaches_top_p(scores: list[float], top_p: float) -> None:
    probabilities = torch.tensor([scores], dtype=torch.float64)
    probabilities /= probabilities.sum()
    kept = nucleus(probabilities, torch.tensor([[top_p]], dtype=torch.float64))
    mass = float(kept.sum())
    inside = kept[kept > 0]
    assert mass >= top_p - 1e-9
    assert mass - float(inside.min()) < top_p
    outside = probabilities[kept == 0]
    assert outside.numel() == 0 or float(outside.max()) <= float(inside.min())


def test_uniforms_are_uniform_and_belong_to_the_key() -> None:
    numbers = row_uniforms("req-1", 20_000)
    assert abs(numbers.mean() - 0.5) < 0.01
    assert (numbers == row_uniforms("req-1", 20_000)).all()
    assert (numbers[:50] != row_uniforms("req-2", 50)).all()


def test_drawn_tokens_follow_the_probabilities() -> None:
    requests = [request("What?", index, temperature=1.0) for index in range(4000)]
    sampler = RowSampler.of(requests, 1, torch.device("cpu"))
    logits = torch.log(torch.tensor([0.1, 0.6, 0.3])).expand(4000, 3)
    counts = torch.bincount(sampler.draw(logits, 0), minlength=3) / 4000
    torch.testing.assert_close(counts, torch.tensor([0.1, 0.6, 0.3]), rtol=0, atol=0.03)


def write_job(tmp_path: Path, base: Path, requests: Sequence[Request]) -> CompleteJob:
    path = tmp_path / "requests.jsonl"
    path.write_text("".join(one.model_dump_json() + "\n" for one in requests), "utf-8")
    return CompleteJob(model=base, requests=path, output=tmp_path / "completions.jsonl", batch_tokens=512)


def test_an_interrupted_job_goes_on_where_it_stopped(base: Path, tmp_path: Path) -> None:
    requests = [request(question) for question in QUESTIONS]
    job = write_job(tmp_path, base, [*requests, requests[0]])
    lines = Lines()
    assert complete(job, progress=lines).answered == len(requests)
    whole = job.output.read_bytes().splitlines(keepends=True)
    # As a killed process leaves it: seven whole lines and a piece of the eighth.
    job.output.write_bytes(b"".join(whole[:7]) + whole[7][:25])
    assert complete(job, progress=lines).answered == len(requests) - 7
    texts = [json.loads(line) for line in job.output.read_bytes().splitlines()]
    assert len(texts) == len({one["request_key"] for one in texts}) == len(requests)
    assert {one["request_key"]: one["text"] for one in texts} == {
        json.loads(line)["request_key"]: json.loads(line)["text"] for line in whole
    }
    assert complete(job, progress=lines).answered == 0


def test_damaged_files_are_told(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"nonsense": 1}\n')
    with pytest.raises(DataError, match="line 1 is not a request"):
        read_requests(path)
    with pytest.raises(DataError, match="line 1 is not a completion"):
        answered_keys(path)
    assert answered_keys(tmp_path / "missing.jsonl") == set()


@pytest.mark.slow
def test_short_answers_come_at_hundreds_per_second(tmp_path: Path) -> None:
    """A limit far above what is needed, so that only a lost batch or cache makes it fail."""
    completer = LocalCompleter(build_model(tmp_path / "m", hidden=192, layers=4, vocabulary=400), "m")
    requests = [request(f"{question} {n}", max_tokens=24) for n, (question, _) in enumerate(facts(250))]
    began = time.process_time()
    assert len(answers(completer, requests)) == 250
    assert time.process_time() - began < 40
