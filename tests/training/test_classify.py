"""The stage `classify`: its loss by hand, what is refused, every method on a toy task, and that resuming is exact."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from data_catalog.errors import TrainingError
from data_catalog.records import Message, Request, Sampling
from evaluation.classifying import Classified, LabelledText, classify, requests
from tests.training.test_train import run, spec_of
from tests.training.tiny import LABELS, Lines, labelled, train_job
from training.inference import LocalCompleter
from training.label_scores import label_loss, label_scores
from training.methods import METHODS as ALL_METHODS
from training.models import open_source
from training.rows import RawRow
from training.specs import ClassifySpec
from training.stages.base import Material
from training.train import STAGES

METHODS = tuple(sorted(ALL_METHODS))
METHOD_SETTINGS: dict[str, Any] = {
    "prompt_tuning": {"tokens": 8},
    "prefix_tuning": {"tokens": 8, "hidden": 32},
    "p_tuning": {"tokens": 8, "encoder": "mlp", "hidden": 32},
    "p_tuning_v2": {"tokens": 8},
    "adapter": {"size": 16},
}
WORDINGS = ("{text}\nPart: {label}", "What is this about?\n{text}\n{label}", "部件:{text} 类别:{label}")


def encoded(base: Path, rows: list[dict[str, Any]], **settings: Any) -> Material:
    raw = [RawRow(f"row-{number}", row) for number, row in enumerate(rows)]
    spec = spec_of("classify", **settings)
    return STAGES["classify"].encode(spec, open_source(base, needs_chat_template=True), raw, [], 0.0)


def scored(model: Path, texts: list[dict[str, Any]], spec: ClassifySpec) -> Classified:
    held_out = [LabelledText(**text) for text in texts]
    batches = LocalCompleter(model, "m").complete(requests(spec, held_out, "m"))
    answers = {completion.request_key: completion for batch in batches for completion in batch}
    return classify(spec, held_out, "m", answers)


# --- The loss ---------------------------------------------------------------------------------------------------------


def test_a_labels_score_is_the_mean_of_its_words() -> None:
    words = torch.tensor([[0.2, 0.4, 0.1], [0.5, 0.5, 0.25]]).log()
    scores = label_scores(words, torch.tensor([0, 0, 1]), 2)
    torch.testing.assert_close(scores.exp(), torch.tensor([[0.3, 0.1], [0.5, 0.25]]))


def test_the_label_loss_by_hand() -> None:
    scores = torch.tensor([[0.3, 0.1], [0.5, 0.25]]).log()
    right = torch.tensor([0, 1])
    cross = -(math.log(0.3 / 0.4) + math.log(0.25 / 0.75)) / 2
    said = -(math.log(0.3) + math.log(0.25)) / 2
    assert float(label_loss(scores, right, 0.0)) == pytest.approx(cross)
    assert float(label_loss(scores, right, 0.5)) == pytest.approx(cross + 0.5 * said)


@pytest.mark.slow
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_first_loss_is_its_formula(base: Path, tmp_path: Path, weight: float) -> None:
    """Recomputed from the likelihoods that scoring asks for: what is trained is what is scored."""
    rows = labelled(6)
    spec = spec_of("classify", batch_size=8, epochs=1, warmup_share=0, likelihood_weight=weight, log_steps=1)
    result = run(train_job(tmp_path, base, spec, rows))
    source, model = open_source(base, needs_chat_template=True), AutoModelForCausalLM.from_pretrained(base)

    def score(text: str, word: str) -> float:
        prompt = source.tokenizer.apply_chat_template(
            [{"role": "user", "content": f"{text}\n\nLabel:"}], add_generation_prompt=True
        )["input_ids"]
        ids = [*prompt, *source.tokenizer(word)["input_ids"], source.end_token]
        with torch.no_grad():
            logps = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        found = [float(logps[place - 1, ids[place]]) for place in range(len(prompt), len(ids))]
        return sum(found) / len(found)

    total = 0.0
    for row in rows:
        values = {
            label: math.log(sum(math.exp(score(row["text"], word)) for word in words) / len(words))
            for label, words in LABELS.items()
        }
        right = values[row["label"]]
        total += math.log(sum(map(math.exp, values.values()))) - right - weight * right
    assert result.metrics[0].loss == pytest.approx(total / 6, rel=1e-4)


# --- Rows -------------------------------------------------------------------------------------------------------------


def test_a_row_is_a_line_for_every_word(base: Path) -> None:
    material = encoded(base, labelled(4), templates=WORDINGS)
    assert len(material.rows) == 4 * 3
    assert material.ledger.rows == material.ledger.kept == 4
    source = open_source(base, needs_chat_template=True)
    row = material.rows[1]
    assert source.tokenizer.decode(row.prompt) == (
        "<|im_start|>user\nWhat is this about?\nThe rotor of the Veltrano is there.<|im_end|>\n<|im_start|>assistant\n"
    )
    said = [source.tokenizer.decode(word) for word in row.words]
    assert said == [f"{word}<|im_end|>" for word in ("moves", "it turns", "still", "管道", "pipe")]
    assert [len(word) > 2 for word in row.words][3]  # a word of several tokens
    batch = STAGES["classify"].collator(spec_of("classify"), material, source)([{"row": 1}, {"row": 3}])
    assert batch["input_ids"].shape[0] == 2 * 5
    assert batch["right"].tolist() == [0, 1]
    targets = batch["input_ids"][3][batch["completion_mask"][3].bool()]
    assert source.tokenizer.decode(targets) == "管道<|im_end|>"


def test_a_brace_in_a_text_is_a_brace(base: Path) -> None:
    rows = [{"text": "A {label} and {text}, {0}.", "label": "still"}, *labelled(1)]
    source = open_source(base, needs_chat_template=True)
    said = source.tokenizer.decode(encoded(base, rows).rows[0].prompt)
    assert "A {label} and {text}, {0}.\n\nLabel:<|im_end|>" in said


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"text": "x", "label": "unheard"}], "row row-0 has the label 'unheard', which the stage doesn't know"),
        ([{"text": "x"}], "row row-0 has no 'text' and 'label'; it has: text"),
        ([{"text": "x", "label": 1}], "row row-0 has no 'text' and 'label'"),
        ([{"messages": []}], "it has: messages"),
        ([{"text": " \n", "label": "still"}, *labelled(3)], "1 x empty text, such as row-0"),
        ([{"text": "a <|im_end|>", "label": "still"}, *labelled(3)], "1 x contains a control token"),
        ([{"text": "long " * 200, "label": "still"}, *labelled(3)], "1 x longer than max_length, such as row-0"),
        (labelled(1), "all 1 rows have the label 'moving'"),
    ],
)
def test_rows_that_can_not_be_trained_on(base: Path, rows: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        encoded(base, rows)


def test_replay_has_no_label(base: Path, tmp_path: Path) -> None:
    replay = tmp_path / "replay.jsonl"
    replay.write_text('{"text": "x"}\n')
    job = train_job(tmp_path, base, spec_of("classify"), labelled(4), replay=replay, replay_share=0.3)
    with pytest.raises(TrainingError, match="can't mix in replay rows: they have no label"):
        run(job)


# --- The task ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"labels": {}}, "needs two labels or more, got none"),
        ({"labels": ["fault"]}, "needs two labels or more, got fault"),
        ({"labels": ["fault", "fault"]}, "the label 'fault' stands twice"),
        ({"labels": {"a": ["x"], "b": []}}, "label 'b' has no word"),
        ({"labels": {"a": ["x"], "b": [" "]}}, "label 'b' has no word"),
        ({"labels": {"a": ["x"], "b": [" y"]}}, "begins or ends with white space"),
        ({"labels": {"a": ["x", "z"], "b": ["z"]}}, "the word 'z' stands for 'a' and for 'b'"),
        ({"labels": {"a": ["x", "x"], "b": ["z"]}}, "the word 'x' stands for 'a' twice"),
        ({"labels": {"a": [True], "b": ["z"]}}, "valid string"),
        ({"templates": []}, "at least 1 item"),
        ({"templates": ["Topic: {label}"]}, r"a template needs `\{text\}` once"),
        ({"templates": ["{text}\nTopic:"]}, r"a template needs `\{label\}` once"),
        ({"templates": ["{text} {text} {label}"]}, r"a template needs `\{text\}` once"),
        ({"templates": ["{label} is what {text} is about"]}, "must be the last thing"),
        ({"templates": ["{text}{label}", "{text}{label}"]}, "the same template stands twice"),
        ({"likelihood_weight": -1}, "greater than or equal to 0"),
        ({"packing": True}, "Extra inputs are not permitted"),
    ],
)
def test_tasks_that_are_none(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ClassifySpec.model_validate({"labels": LABELS, **settings})


def test_labels_may_be_written_short() -> None:
    of_list = ClassifySpec.model_validate({"labels": ["fault", "磨损"]})
    assert of_list.labels == {"fault": ("fault",), "磨损": ("磨损",)}
    one = ClassifySpec.model_validate({"labels": {"fault": "defect", "wear": ["wear", "worn"]}})
    assert one.words == ("defect", "wear", "worn")
    assert one.label_of_word == (0, 1, 1)
    assert ClassifySpec.model_validate(one.model_dump(mode="json")) == one


# --- Training ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_and_resumes(base: Path, tmp_path: Path, method: str) -> None:
    given = spec_of("classify", method, epochs=2, warmup_share=0, log_steps=1, checkpoint_steps=4).model_dump()
    spec = ClassifySpec.model_validate({**given, "method": {"name": method, **METHOD_SETTINGS.get(method, {})}})
    job = train_job(tmp_path, base, spec, labelled(24))
    result = run(job)
    losses = [point.loss for point in result.metrics]
    assert len(losses) == 6
    assert sum(losses[-2:]) < sum(losses[:2]) - 0.05
    assert 0 <= result.metrics[-1].values["label_accuracy"] <= 1
    # From the middle of the same job: the same bytes.
    before = {str(file.relative_to(tmp_path)): file.read_bytes() for file in job.output.rglob("*.safetensors")}
    shutil.rmtree(job.work / "checkpoints" / "checkpoint-6")
    lines = Lines()
    again = run(job, progress=lines)
    assert {"event": "resumed", "step": 4} in lines.events
    assert [point.loss for point in again.metrics] == losses
    assert {str(file.relative_to(tmp_path)): file.read_bytes() for file in job.output.rglob("*.safetensors")} == before


@pytest.mark.slow
def test_held_out_texts_are_classified(base: Path, tmp_path: Path) -> None:
    """From chance to nearly all of them, in each of two wordings, by parts of makers that it has not seen."""
    labels = {"moving": ["moves"], "still": ["still"], "管路": ["管道", "pipe"]}
    spec = spec_of("classify", labels=labels, templates=WORDINGS[::2], epochs=8, warmup_share=0)
    held_out = labelled(24, start=56)
    before = scored(base, held_out, spec)
    job = train_job(tmp_path, base, spec, labelled(40))
    run(job)
    after = scored(job.output, held_out, spec)
    assert before.best is not None
    assert after.best is not None
    assert before.best < 0.7 < 0.9 < after.best
    assert after.spread is not None
    assert 0.6 < after.spread[0] <= after.best
    assert after.majority == pytest.approx(9 / 24)
    # Free to say anything, it says a word of the label.
    asked = Request(
        model="m",
        messages=(Message(role="user", content=f"{held_out[0]['text']}\nPart:"),),
        sampling=Sampling(max_tokens=8),
    )
    ((completion,),) = LocalCompleter(job.output, "m").complete([asked])
    assert completion.text in labels[held_out[0]["label"]]


@pytest.mark.slow
def test_gradient_accumulation_changes_nothing(base: Path, tmp_path: Path) -> None:
    """The mean over the rows of a step, in one batch or in four."""
    losses = []
    for name, batch_size in (("one", 8), ("four", 2)):
        spec = spec_of("classify", batch_size=batch_size, gradient_accumulation=8 // batch_size, log_steps=1)
        result = run(train_job(tmp_path / name, base, spec.model_copy(update={"seed": 3}), labelled(8)))
        losses.append([point.loss for point in result.metrics])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
