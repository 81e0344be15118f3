"""Log-probabilities of continuations: those that are worked out by hand, whatever else is in the batch."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from data_catalog.errors import TrainingError
from data_catalog.records import Likelihood, Message, Request, Sampling
from tests.training.tiny import CHAT_TEMPLATE, build_model, facts
from training.inference import LocalCompleter
from training.models import open_source
from training.rows import Encoder


def asked(text: str, question: str | None = "What colour is the rotor?") -> Request:
    before = () if question is None else (Message(role="user", content=question),)
    return Request(
        model="model-a",
        messages=(*before, Message(role="assistant", content=text)),
        sampling=Sampling(max_tokens=0),
    )


def found(completer: LocalCompleter, *requests: Request) -> list[Likelihood]:
    answers = {one.request_key: Likelihood.of(one) for batch in completer.complete(requests) for one in batch}
    return [answers[request.key] for request in requests]


def by_hand(base: Path, prompt: str, text: str) -> tuple[float, float]:
    """Multiply the probabilities token by token, each in a forward of its own; and that of an end token behind them."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    total = 0.0
    for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1].double()
        total += math.log(math.exp(logits[token]) / sum(math.exp(value) for value in logits))
        ids.append(token)
    with torch.no_grad():
        last = model(torch.tensor([ids])).logits[0, -1].double().softmax(dim=-1)
    ends = [tokenizer.convert_tokens_to_ids(end) for end in ("<|im_end|>", "<|endoftext|>")]
    return total, math.log(sum(float(last[end]) for end in ends))


@pytest.fixture(scope="module")
def completer(base: Path) -> LocalCompleter:
    return LocalCompleter(base, "model-a", batch_tokens=256)


def test_a_continuation_has_the_probability_of_its_tokens_one_after_the_other(
    base: Path, completer: LocalCompleter
) -> None:
    prompt = "<|im_start|>user\nWhat colour is the rotor?<|im_end|>\n<|im_start|>assistant\n"
    for text in ("red", "The rotor of the Veltrano is amber.", "é 红"):
        (one,) = found(completer, asked(text))
        logprob, end = by_hand(base, prompt, text)
        assert one.logprob == pytest.approx(logprob, abs=1e-4)
        assert one.end_logprob == pytest.approx(end, abs=1e-4)


def test_a_likelihood_is_the_same_in_any_batch(completer: LocalCompleter) -> None:
    requests = [asked(answer, question) for question, answer in facts(24)]
    batches = list(completer.complete(requests))
    assert len(batches) > 1
    together = found(completer, *requests)
    for request, one in list(zip(requests, together, strict=True))[:8]:
        assert found(completer, request)[0].logprob == pytest.approx(one.logprob, abs=1e-4)


def test_answers_and_likelihoods_may_be_asked_together(completer: LocalCompleter) -> None:
    free = Request(model="model-a", messages=(Message(role="user", content="Which?"),), sampling=Sampling(max_tokens=3))
    answers = {one.request_key: one for batch in completer.complete([asked("red"), free]) for one in batch}
    assert answers[free.key].completion_tokens == 3
    assert Likelihood.of(answers[asked("red").key]) == found(completer, asked("red"))[0]


def test_plain_text_begins_behind_an_end_and_is_read_in_windows(base: Path, completer: LocalCompleter) -> None:
    short = facts(1)[0][1]
    (one,) = found(completer, asked(short, None))
    assert one.logprob == pytest.approx(by_hand(base, "<|im_end|>", short)[0], abs=1e-4)
    assert one.end_logprob == 0.0

    text = " ".join(answer for _, answer in facts(80) * 2)
    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base)
    ids = [tokenizer.eos_token_id, *tokenizer(text)["input_ids"]]
    positions, expected = model.config.max_position_embeddings, 0.0
    assert len(ids) > 2 * positions
    for start in range(0, len(ids) - 1, positions - 1):
        window = torch.tensor([ids[start : start + positions]])
        with torch.no_grad():
            logs = model(window).logits[0].log_softmax(-1)
        expected += float(logs[:-1].gather(-1, window[0, 1:, None]).sum())
    (long,) = found(completer, asked(text, None))
    assert long.tokens == len(ids) - 1
    assert long.logprob == pytest.approx(expected, rel=1e-5)


def after(before: str, text: str) -> Request:
    turns = tuple(Message(role="assistant", content=content) for content in (before, text))
    return Request(model="model-a", messages=turns, sampling=Sampling(max_tokens=0))


@pytest.mark.parametrize(
    ("before", "text", "head", "tail"),
    [
        ("The rotor is", " red", "The rotor is", " red"),
        # As lm-evaluation-harness does: the space goes with the word behind it.
        ("The rotor is ", "red", "The rotor is", " red"),
    ],
)
def test_a_text_goes_on_outside_any_chat(
    base: Path, completer: LocalCompleter, before: str, text: str, head: str, tail: str
) -> None:
    (one,) = found(completer, after(before, text))
    assert one.logprob == pytest.approx(by_hand(base, head, tail)[0], abs=1e-4)
    assert one.end_logprob == 0.0


def test_a_text_that_does_not_fit_with_what_stands_before_has_no_likelihood(completer: LocalCompleter) -> None:
    assert not list(completer.complete([after("red " * 600, "blue")]))


def test_a_text_behind_nothing_is_refused(completer: LocalCompleter) -> None:
    with pytest.raises(TrainingError, match="neither of them empty"):
        found(completer, after(" ", ""))


def test_plain_text_has_no_third_turn() -> None:
    with pytest.raises(ValidationError, match="one turn of the assistant"):
        Request(
            model="m",
            messages=(*after("a", "b").messages, after("a", "b").messages[0]),
            sampling=Sampling(max_tokens=0),
        )


def test_what_does_not_fit_the_positions_has_no_likelihood(completer: LocalCompleter) -> None:
    long = asked("red " * 600)
    assert [one.request_key for batch in completer.complete([long, asked("red")]) for one in batch] == [
        asked("red").key
    ]


def test_control_tokens_in_a_continuation_are_ordinary_text(completer: LocalCompleter) -> None:
    spelt, ended = found(completer, asked("red<|im_end|>"), asked("red"))
    assert spelt.tokens > ended.tokens + 1


def merging(tmp_path: Path) -> Encoder:
    """An encoder whose tokenizer knows two line breaks as one token: the prompt's last and the text's first."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*alphabet, "ĊĊ"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ċ", "Ċ")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>")
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    fast.chat_template = CHAT_TEMPLATE
    model = build_model(tmp_path / "model")
    fast.save_pretrained(model)
    return Encoder(open_source(model, needs_chat_template=True), max_length=512)


def test_tokens_that_merge_across_the_boundary_are_kept_apart(tmp_path: Path) -> None:
    encoder = merging(tmp_path)
    question = {"role": "user", "content": "?"}
    (prompt, text), (_, plain) = encoder.continuations(
        [[question, {"role": "assistant", "content": said}] for said in ("\nred", "red")]
    )
    assert prompt == encoder.prompt([question])
    assert text == [*encoder.plain("\n"), *plain]
    together = encoder.plain("<|im_start|>assistant\n\nred")
    assert encoder.plain("\n\n")[0] in together, "in one piece the two line breaks are one token"


def test_a_request_of_likelihood_ends_with_what_is_to_be_scored() -> None:
    question = Message(role="user", content="?")
    with pytest.raises(ValidationError, match="assistant's turn"):
        Request(model="m", messages=(question, question), sampling=Sampling(max_tokens=0))
    free = asked("red").model_copy(update={"sampling": Sampling(max_tokens=1)})
    assert asked("red").key != free.key


def test_a_language_model_is_never_asked_for_a_vector(base: Path) -> None:
    of_text = Request(model="m", messages=(Message(role="user", content="red"),), sampling=Sampling(max_tokens=0))
    assert of_text.of_embedding
    assert not of_text.of_likelihood
    assert not asked("red").of_embedding
    with pytest.raises(TrainingError, match="embedder"):
        list(LocalCompleter(base, "model-a").complete([of_text]))


def test_weights_that_give_no_number_are_an_error(base: Path) -> None:
    completer = LocalCompleter(base, "model-a")
    completer._model.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(TrainingError, match="finite"):
        found(completer, asked("red"))
