"""Each stage with each method trains for real: the loss falls, the model is saved and gives the same answers again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from data_catalog.errors import Interrupted, TrainingError
from tests.training.tiny import REQUIRED, STAGE_SPECS, Lines, build_model, identical, payloads, train_job, weights
from training.checkpoints import newest_verified
from training.compatibility import PREFERENCE
from training.ledger import LedgerBook
from training.methods import METHODS
from training.models import open_source
from training.packing import NO_LOSS
from training.process import StopRequest
from training.rows import Encoder, RawRow
from training.specs import (
    TrainJob,
    TrainResult,
)
from training.stages.pairs import PairCollator
from training.train import STAGES, train

OTHER_HEADS = {"reward", "ppo"}
"""Trained in test_ppo: one leaves no language model, the other needs what the first one leaves."""
OWN_ANSWERS = {"grpo", "rloo"}
"""Trained in test_groups: they have no loss that falls, but a reward that rises."""
RATES = {"full": 2e-3, "lora": 1e-2, "qlora": 1e-2}
"""Those that end as an ordinary model and learn most; test_every_method trains all."""


def spec_of(stage: str, method: str = "full", **settings: Any) -> Any:
    return STAGE_SPECS[stage].model_validate(
        {
            "method": method,
            "learning_rate": RATES.get(method, 3e-2),
            "epochs": 4,
            "batch_size": 8,
            "max_length": 128,
            "log_steps": 2,
            **REQUIRED.get(stage, {}),
            **settings,
        }
    )


def run(job: TrainJob, **options: Any) -> TrainResult:
    return train(job, progress=options.get("progress", Lines()), stop=options.get("stop", StopRequest()))


def test_every_stage_of_the_specs_exists() -> None:
    assert set(STAGES) == set(STAGE_SPECS)


def badness(stage: str, path: Path) -> float:
    """Return what a stage should lower: mean negative log-likelihood per target token, or a loss of preference."""
    source = open_source(path, needs_chat_template=True)
    model = AutoModelForCausalLM.from_pretrained(path)
    encoder, rows = Encoder(source, 128), [RawRow(str(n), row) for n, row in enumerate(payloads(stage))]

    def likelihood(ids: list[int], start: int) -> float:
        with torch.no_grad():
            logps = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        return sum(float(logps[n - 1, ids[n]]) for n in range(start, len(ids)))

    if stage in PREFERENCE:
        by_token, beta = stage in ("orpo", "simpo"), 2.0 if stage in ("orpo", "simpo") else 0.1
        margins = []
        for pair in encoder.pairs(rows, LedgerBook()):
            chosen, rejected = (
                likelihood(pair.prompt + answer, len(pair.prompt)) / (len(answer) if by_token else 1)
                for answer in (pair.chosen, pair.rejected)
            )
            margins.append(chosen - rejected)
        return -float(torch.nn.functional.logsigmoid(torch.tensor(margins) * beta).mean())
    encoded = encoder.texts(rows) if stage == "pretrain" else encoder.conversations(rows, LedgerBook())
    starts = [int((row.labels != NO_LOSS).nonzero()[0][0]) for row in encoded]
    total = sum(likelihood(row.input_ids.tolist(), max(1, start)) for row, start in zip(encoded, starts, strict=True))
    return -total / sum(row.targets for row in encoded)


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(RATES))
@pytest.mark.parametrize("stage", sorted(STAGE_SPECS.keys() - OTHER_HEADS - OWN_ANSWERS - {"classify"}))
def test_trains_saves_and_reloads(base: Path, tmp_path: Path, stage: str, method: str) -> None:
    job = train_job(tmp_path, base, spec_of(stage, method), payloads(stage))
    lines = Lines()
    result = run(job, progress=lines)
    assert result.steps == (24 if stage == "kto" else 12)  # whose batches are of answers, two to a pair
    assert result.metrics[-1].loss < 0.9 * result.metrics[0].loss
    assert result.ledger.kept == result.ledger.rows == 24
    assert result.ledger.target_tokens > 0
    assert (result.trainable_parameters == result.total_parameters) == (method == "full")
    assert result.versions.keys() >= {"torch", "trl", "peft", "transformers"}
    # What was saved is what was trained: loaded afresh, it is better than the base at what the stage teaches.
    assert badness(stage, job.output) < 0.9 * badness(stage, base)
    assert AutoTokenizer.from_pretrained(job.output).chat_template
    assert all(torch.isfinite(tensor).all() for tensor in weights(job.output).values())
    assert not identical(base, job.output)
    assert not job.output.with_name("model.partial").exists()
    steps = [event for event in lines.events if event["event"] == "step"]
    assert [event["step"] for event in steps] == [point.step for point in result.metrics]
    logged = [json.loads(line) for line in (job.work / "metrics.jsonl").read_text().splitlines()]
    assert [point["loss"] for point in logged] == [point.loss for point in result.metrics]


@pytest.mark.slow
def test_a_chain_of_stages_learns_facts_by_heart(tmp_path: Path) -> None:
    """pretrain, then sft with LoRA, then dpo with LoRA: each starts from the directory that the last one wrote."""
    base = build_model(tmp_path / "base", hidden=96)
    rows = payloads("sft", 8)
    pretrain = train_job(tmp_path / "1", base, spec_of("pretrain", epochs=4), payloads("pretrain", 8))
    run(pretrain)
    by_heart = spec_of("sft", "lora", epochs=60, batch_size=4, learning_rate=3e-3)
    sft = train_job(tmp_path / "2", pretrain.output, by_heart, rows)
    run(sft)
    dpo_job = train_job(
        tmp_path / "3",
        sft.output,
        spec_of("dpo", "lora", learning_rate=1e-3, loss={"sigmoid": 1, "sft": 1}),
        payloads("dpo", 8),
    )
    result = run(dpo_job)
    assert result.guards["dpo_step0_loss"].startswith("0.6931")
    assert result.metrics[-1].values["rewards/accuracies"] == 1.0
    tokenizer = AutoTokenizer.from_pretrained(dpo_job.output)
    model = AutoModelForCausalLM.from_pretrained(dpo_job.output)
    right = 0
    for row in rows:
        prompt = tokenizer.apply_chat_template(row["messages"][:1], add_generation_prompt=True, return_tensors="pt")
        answer = model.generate(**prompt, max_new_tokens=24, do_sample=False)[0, prompt["input_ids"].shape[1] :]
        right += tokenizer.decode(answer, skip_special_tokens=True) == row["messages"][1]["content"]
    assert right >= 7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "method"),
    [
        ("sft", "lora"),
        ("sft", "full"),
        ("dpo", "qlora"),
        ("pretrain", "full"),
        ("kto", "lora"),
        ("orpo", "full"),
        ("simpo", "lora"),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(base: Path, tmp_path: Path, stage: str, method: str) -> None:
    """Bit for bit on a CPU, with dropout, in the middle of the second epoch, past a truncated checkpoint."""
    settings = {"epochs": 3, "checkpoint_steps": 2, **({"packing": False} if stage == "sft" else {})}
    whole = train_job(tmp_path / "whole", base, spec_of(stage, method, **settings), payloads(stage))
    broken = train_job(tmp_path / "broken", base, spec_of(stage, method, **settings), payloads(stage))
    expected = run(whole)
    stop = StopAt(4)
    with pytest.raises(Interrupted):
        run(broken, stop=stop, progress=stop)
    assert not broken.output.exists()
    newest = broken.work / "checkpoints" / "checkpoint-5"  # written because of the stop
    weights_file = next(newest.glob("*.safetensors"))
    weights_file.write_bytes(weights_file.read_bytes()[:-8])
    lines = Lines()
    result = run(broken, progress=lines)
    assert result.resumed_from_step == 4
    assert "checkpoint-5" in result.guards["skipped_checkpoints"]
    assert {"event": "resumed", "step": 4} in lines.events
    assert identical(whole.output, broken.output)
    assert [(point.step, point.loss) for point in result.metrics] == [
        (point.step, point.loss) for point in expected.metrics
    ]


class StopAt(StopRequest, Lines):
    """Asks for a stop when a step is logged, as SIGTERM would."""

    def __init__(self, step: int) -> None:
        StopRequest.__init__(self)
        Lines.__init__(self)
        self._step = step

    def write(self, event: str, **values: Any) -> None:
        super().write(event, **values)
        if event == "step" and values["step"] >= self._step:
            self.requested = True


@pytest.mark.slow
def test_other_settings_do_not_resume_from_this_checkpoint(base: Path, tmp_path: Path) -> None:
    spec = spec_of("sft", epochs=2, checkpoint_steps=2)
    stop = StopAt(2)
    with pytest.raises(Interrupted):
        run(train_job(tmp_path, base, spec, payloads("sft")), stop=stop, progress=stop)
    other = train_job(tmp_path, base, spec.model_copy(update={"learning_rate": 1e-4}), payloads("sft"))
    result = run(other)
    assert result.resumed_from_step == 0
    assert "belongs to another job" in result.guards["skipped_checkpoints"]


@pytest.mark.slow
def test_packed_and_padded_training_are_the_same_training(base: Path, tmp_path: Path) -> None:
    """One step over all rows, so that their order does not matter: only the layout differs."""
    results = []
    for packing in (True, False):
        spec = spec_of("sft", batch_size=24, epochs=3, packing=packing, log_steps=1)
        results.append(run(train_job(tmp_path / str(packing), base, spec, payloads("sft"))))
    packed, padded = ([point.loss for point in result.metrics] for result in results)
    assert packed == pytest.approx(padded, rel=1e-3)


@pytest.mark.slow
def test_the_optimised_loss_is_the_mean_over_answer_tokens(base: Path, tmp_path: Path) -> None:
    """The first logged loss, recomputed by hand from the base with the mask that the issue asks for."""
    spec = spec_of("sft", batch_size=24, epochs=1, warmup_share=0)
    result = run(train_job(tmp_path, base, spec, payloads("sft")))
    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base)
    total = count = 0.0
    for row in payloads("sft"):
        prompt = tokenizer.apply_chat_template(row["messages"][:1], add_generation_prompt=True)["input_ids"]
        ids = [*prompt, *tokenizer(row["messages"][1]["content"])["input_ids"], tokenizer.eos_token_id]
        logps = model(torch.tensor([ids])).logits[0].log_softmax(-1).detach()
        total -= sum(float(logps[n - 1, ids[n]]) for n in range(len(prompt), len(ids)))
        count += len(ids) - len(prompt)
    assert result.metrics[0].loss == pytest.approx(total / count, rel=1e-4)
    assert result.ledger.target_tokens == count


@pytest.mark.slow
def test_replay_is_part_of_the_training(base: Path, tmp_path: Path) -> None:
    replay = tmp_path / "replay.jsonl"
    replay.write_text("".join(json.dumps({"text": f"General knowledge, line {n}."}) + "\n" for n in range(9)))
    spec = spec_of("pretrain", epochs=1)
    job = train_job(tmp_path / "a", base, spec, payloads("pretrain"), replay=replay, replay_share=0.3)
    result = run(job)
    assert result.ledger.replay_rows > 0
    assert result.guards["replay_share"].startswith(("0.30", "0.31"))
    assert result.ledger.rows == 24
    alone = run(train_job(tmp_path / "b", base, spec, payloads("pretrain")))
    assert result.ledger.tokens * 0.7 == pytest.approx(alone.ledger.tokens, rel=0.02)


@pytest.mark.parametrize("stage", sorted(PREFERENCE))
def test_pairs_take_no_replay(base: Path, tmp_path: Path, stage: str) -> None:
    replay = tmp_path / "replay.jsonl"
    replay.write_text('{"text": "x"}\n')
    job = train_job(tmp_path, base, spec_of(stage), payloads(stage), replay=replay, replay_share=0.3)
    with pytest.raises(TrainingError, match="can't mix in replay"):
        run(job)


def test_a_share_without_rows_is_refused(base: Path, tmp_path: Path) -> None:
    job = train_job(tmp_path, base, spec_of("sft"), payloads("sft"), replay_share=0.3)
    with pytest.raises(TrainingError, match="no replay rows"):
        run(job)


def test_rows_of_another_stage_are_refused_before_training(base: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="has no 'messages'"):
        run(train_job(tmp_path, base, spec_of("sft"), payloads("pretrain")))


def test_too_short_a_max_length_is_refused_with_the_reason(base: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="longer than max_length"):
        run(train_job(tmp_path, base, spec_of("sft", max_length=16), payloads("sft")))


@pytest.mark.slow
def test_a_wrong_reference_stops_dpo_before_it_starts(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the reference is another model: its log-probabilities are off by a little."""
    original = PairCollator.__call__

    def shifted(self: PairCollator, examples: Any) -> Any:
        batch = original(self, examples)
        if "ref_chosen_logps" in batch:
            batch["ref_chosen_logps"] = batch["ref_chosen_logps"] - 0.5
        return batch

    monkeypatch.setattr(PairCollator, "__call__", shifted)
    with pytest.raises(TrainingError, match="the reference is not the model that is trained"):
        run(train_job(tmp_path, base, spec_of("dpo", "lora"), payloads("dpo")))


@pytest.mark.slow
def test_a_mix_adds_the_likelihood_of_the_chosen_answers(base: Path, tmp_path: Path) -> None:
    """At the first step the loss is ln 2 + weight x mean negative log-likelihood per chosen token."""
    settings: dict[str, Any] = {"batch_size": 24, "epochs": 1, "log_steps": 1, "warmup_share": 0}
    plain = run(train_job(tmp_path / "a", base, spec_of("dpo", **settings), payloads("dpo")))
    mixed = run(
        train_job(tmp_path / "b", base, spec_of("dpo", loss={"sigmoid": 1, "sft": 0.5}, **settings), payloads("dpo"))
    )
    assert plain.metrics[0].loss == pytest.approx(math.log(2), abs=1e-4)
    likelihood = (mixed.metrics[0].loss - math.log(2)) / 0.5
    # A random model spreads its probability over the vocabulary.
    assert likelihood == pytest.approx(math.log(400), rel=0.05)
    assert mixed.guards["dpo_step0_loss"].startswith("0.6931")


@pytest.mark.slow
def test_beta_scales_the_preference(base: Path, tmp_path: Path) -> None:
    """After the same first step, a margin counts beta times as much."""
    settings: dict[str, Any] = {
        "batch_size": 24,
        "epochs": 2,
        "log_steps": 1,
        "warmup_share": 0,
        "learning_rate": 1e-4,
    }
    margins = []
    for beta in (0.1, 0.4):
        rows = payloads("dpo")
        result = run(train_job(tmp_path / str(beta), base, spec_of("dpo", beta=beta, **settings), rows))
        margins.append(result.metrics[1].values["rewards/margins"])
    # Adam's first step has one size whatever the gradient's scale, so both models are the same after it.
    assert margins[1] == pytest.approx(4 * margins[0], rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_gradient_checkpointing_changes_memory_only(base: Path, tmp_path: Path, method: str) -> None:
    losses = []
    for checkpointing in (False, True):
        spec = spec_of("sft", method, epochs=2, gradient_checkpointing=checkpointing)
        result = run(train_job(tmp_path / str(checkpointing), base, spec, payloads("sft")))
        losses.append([point.loss for point in result.metrics])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "dpo", "kto", "orpo", "simpo"])
def test_bfloat16_can_be_asked_for(base: Path, tmp_path: Path, stage: str) -> None:
    result = run(train_job(tmp_path, base, spec_of(stage, "lora", precision="bfloat16"), payloads(stage)))
    assert result.metrics[-1].loss < result.metrics[0].loss
    assert all(tensor.dtype == torch.float32 for tensor in weights(tmp_path / "model").values())


@pytest.mark.slow
def test_nan_stops_with_the_rows_of_the_batch(tmp_path: Path) -> None:
    base = build_model(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.model.norm.weight.fill_(math.inf)
    model.save_pretrained(base)
    with pytest.raises(TrainingError, match=r"loss is nan at step 1, on the rows item-\d+"):
        run(train_job(tmp_path, base, spec_of("sft"), payloads("sft")))


@pytest.mark.slow
def test_a_finished_job_can_be_done_again(base: Path, tmp_path: Path) -> None:
    """Killed between the model and the result file: the same job goes on from its last checkpoint and ends the same."""
    job = train_job(tmp_path, base, spec_of("sft", "lora", epochs=1), payloads("sft"))
    run(job)
    first = weights(job.output)
    result = run(job)
    assert result.resumed_from_step == result.steps == 3
    assert all(torch.equal(first[name], tensor) for name, tensor in weights(job.output).items())
    assert newest_verified(job.work / "checkpoints", "another").path is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", sorted(METHODS))
def test_trains_on_a_gpu_in_bfloat16(base: Path, tmp_path: Path, method: str) -> None:
    result = run(train_job(tmp_path, base, spec_of("sft", method), payloads("sft")))
    assert result.metrics[-1].loss < result.metrics[0].loss
