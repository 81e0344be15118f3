"""What is wrong with rows or settings is told by name before it can spoil a model; what is merely odd is trained on."""

from __future__ import annotations

import errno
import math
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

from data_catalog import files
from data_catalog.errors import MachineError, TrainingError
from tests.training.test_train import run, spec_of
from tests.training.tiny import STAGE_SPECS, build_model, messages, payloads, preference, train_job, weights
from training.compatibility import PREFERENCE, SAMPLING
from training.conversation import in_order
from training.specs import SftSpec
from training.worker import _known


def turns(*roles: str) -> list[dict[str, str]]:
    return [{"role": role, "content": f"Turn {number}."} for number, role in enumerate(roles)]


@pytest.mark.parametrize(
    ("roles", "fine"),
    [
        (("user", "assistant"), True),
        (("system", "user", "assistant"), True),
        (("user", "assistant", "user", "assistant"), True),
        (("user", "assistant", "user"), True),
        ((), True),
        (("assistant", "user"), False),
        (("assistant",), False),
        (("user", "user", "assistant"), False),
        (("user", "assistant", "assistant"), False),
        (("user", "system", "assistant"), False),
        (("system", "system", "user", "assistant"), False),
        (("system", "assistant"), False),
        (("user", "tool", "assistant"), False),
        (("human", "gpt"), False),
    ],
)
def test_the_order_of_roles(roles: tuple[str, ...], fine: bool) -> None:
    assert in_order(turns(*roles)) == fine


@pytest.mark.parametrize("stage", sorted(PREFERENCE))
@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (preference("What?", "Red.", "Red."), "1 x chosen equals rejected, such as item-1"),
        (preference("What?", " ", "Red."), "1 x empty answer, such as item-1"),
        (preference("What?", "Red.", ""), "1 x empty answer, such as item-1"),
        ({**preference("What?", "Red.", "Blue."), "chosen": []}, "1 x empty answer, such as item-1"),
        ({**preference("What?", "Red.", "Blue."), "rejected": turns("user", "assistant")}, "1 x roles out of order"),
        ({**preference("What?", "Red.", "Blue."), "prompt": turns("user", "user")}, "1 x roles out of order"),
    ],
)
def test_a_pair_that_teaches_nothing(base: Path, tmp_path: Path, stage: str, bad: dict[str, Any], said: str) -> None:
    """Told with its id; with more of the dataset right than `max_lost_share` asks for it is left out and counted."""
    rows = [preference("What?", "Red.", "Blue."), bad]
    with pytest.raises(TrainingError, match=said) as caught:
        run(train_job(tmp_path, base, spec_of(stage), rows))
    assert "max_lost_share" in caught.value.valid


def test_a_conversation_out_of_order(base: Path, tmp_path: Path) -> None:
    rows = [messages("What?", "Red."), {"messages": turns("assistant", "user", "assistant")}]
    with pytest.raises(TrainingError, match="1 x roles out of order"):
        run(train_job(tmp_path, base, spec_of("sft"), rows))


@pytest.mark.parametrize("stage", sorted(STAGE_SPECS))
def test_a_dataset_without_rows(base: Path, tmp_path: Path, stage: str) -> None:
    with pytest.raises(TrainingError, match="the dataset is empty"):
        run(train_job(tmp_path, base, spec_of(stage), []))


@pytest.mark.parametrize("loss_on", ["assistant", "completion"])
def test_rows_without_any_target(base: Path, tmp_path: Path, loss_on: str) -> None:
    """All labels would be masked: the answer stands behind `max_length`."""
    rows = [messages("What colour is the rotor? " * 20, "Red.")]
    spec = spec_of("sft", max_length=64, max_lost_share=1.0, loss_on=loss_on)
    with pytest.raises(TrainingError, match="of 1 rows none is left"):
        run(train_job(tmp_path, base, spec, rows))


@pytest.mark.parametrize("stage", sorted(STAGE_SPECS))
@pytest.mark.parametrize("rate", [-1e-4, 0, 1, math.nan, math.inf])
def test_a_rate_that_is_none(stage: str, rate: float) -> None:
    with pytest.raises(ValidationError, match=r"greater than 0|less than 1|finite number"):
        spec_of(stage, learning_rate=rate)


@pytest.mark.parametrize("field", ["epochs", "weight_decay", "max_grad_norm"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_other_numbers_that_are_none(field: str, value: float) -> None:
    with pytest.raises(ValidationError, match=r"greater than|finite number"):
        SftSpec.model_validate({field: value})


@pytest.mark.slow
@pytest.mark.parametrize("stage", sorted(set(STAGE_SPECS) - SAMPLING - {"kto", "classify"}))
def test_a_dataset_of_one_row_is_trained_on(base: Path, tmp_path: Path, stage: str) -> None:
    result = run(train_job(tmp_path, base, spec_of(stage, "lora", log_steps=1), payloads(stage, 1)))
    assert (result.steps, result.ledger.rows) == (4, 1)
    assert result.metrics[-1].loss < result.metrics[0].loss


def test_a_dataset_of_one_pair_gives_kto_no_mismatched_answer(base: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="all 1 pairs have the same prompt"):
        run(train_job(tmp_path, base, spec_of("kto"), payloads("kto", 1)))


@pytest.mark.slow
@pytest.mark.parametrize("stage", sorted(set(STAGE_SPECS) - SAMPLING))
def test_one_row_of_nan_is_enough_to_stop(base: Path, tmp_path: Path, stage: str) -> None:
    """One token of one row is broken. TRL's KTO takes the mean over the other rows, and would go on."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    broken = tokenizer("\u03be")["input_ids"][-1]
    with torch.no_grad():
        model.model.embed_tokens.weight[broken] = math.nan
    model.save_pretrained(tmp_path / "nan")
    tokenizer.save_pretrained(tmp_path / "nan")
    rows = payloads(stage, 8)
    spoilt = {
        "pretrain": {"text": "The rotor is \u03be."},
        "sft": messages("What?", "It is \u03be."),
        "classify": {"text": "It is \u03be.", "label": "still"},
        **dict.fromkeys(PREFERENCE, preference("What?", "It is \u03be.", "It is red.")),
    }[stage]
    job = train_job(tmp_path, tmp_path / "nan", spec_of(stage, batch_size=32), [*rows, spoilt])
    with pytest.raises(TrainingError, match=r"loss is nan at step 1, on the rows item-\d"):
        run(job)
    assert not job.output.exists()


@pytest.mark.slow
def test_noise_on_the_embeddings_is_there_in_training_only(base: Path, tmp_path: Path) -> None:
    """NEFTune: other losses than without, the same ones again, and nothing of it in what is saved."""
    settings: dict[str, Any] = {"epochs": 2, "log_steps": 1, "warmup_share": 0}
    losses, saved = [], []
    for name, alpha in (("none", None), ("some", 5.0), ("again", 5.0), ("more", 50.0)):
        spec = spec_of("sft", "lora", neftune_alpha=alpha, **settings)
        job = train_job(tmp_path / name, base, spec, payloads("sft"))
        losses.append([point.loss for point in run(job).metrics])
        saved.append(weights(job.output))
    assert losses[1] == losses[2]
    assert losses[0][0] != losses[1][0] != losses[3][0]
    assert losses[1][-1] < losses[1][0]
    assert saved[0].keys() == saved[1].keys()
    assert all(torch.equal(saved[1][name], tensor) for name, tensor in saved[2].items())


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_pretraining_warms_up_again_and_decays_again(base: Path, tmp_path: Path, schedule: str) -> None:
    """From nothing to the peak, and from there to nothing: arXiv 2403.08763, section 4."""
    spec = spec_of("pretrain", "lora", schedule=schedule, warmup_share=0.25, log_steps=1)
    result = run(train_job(tmp_path, base, spec, payloads("pretrain")))
    rates = [point.learning_rate for point in result.metrics]
    assert len(rates) == 12
    known = [rate for rate in rates if rate is not None]
    assert known[:4] == sorted(known[:4])
    assert known[0] == 0
    assert max(known) == known[3] == spec.learning_rate
    assert known[3:] == sorted(known[3:], reverse=True)
    assert known[-1] < 0.2 * spec.learning_rate


class Trap:
    """Writes a file where it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.sprung, "caught"))


@pytest.mark.slow
def test_a_pickle_among_the_weights_is_never_opened(base: Path, tmp_path: Path) -> None:
    """Beside safetensors it is left where it is: not loaded, and not handed on to the trained model."""
    model, sprung = shutil.copytree(base, tmp_path / "hostile"), tmp_path / "sprung"
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "adapter_model.bin"):
        (model / name).write_bytes(pickle.dumps(Trap(sprung)))
    job = train_job(tmp_path, model, spec_of("sft", "lora", epochs=2, batch_size=4), payloads("sft", 8))
    run(job)
    assert not sprung.exists()
    assert not [file.name for file in job.output.iterdir() if file.suffix in (".bin", ".pt")]
    pickle.loads((model / "optimizer.pt").read_bytes())
    assert sprung.exists()  # it would have been caught


def test_a_pickle_that_is_called_safetensors(base: Path, tmp_path: Path) -> None:
    model, sprung = shutil.copytree(base, tmp_path / "hostile"), tmp_path / "sprung"
    (model / "model.safetensors").write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(TrainingError, match="no safetensors file"):
        run(train_job(tmp_path, model, spec_of("sft", "lora"), payloads("sft", 4)))
    assert not sprung.exists()


@pytest.mark.parametrize("place", ["output", "work"])
def test_an_output_that_can_not_be_written(base: Path, tmp_path: Path, place: str) -> None:
    """Told before anything is encoded: here a file stands where the folder should be."""
    (tmp_path / "file").write_text("")
    job = train_job(tmp_path, base, spec_of("sft", "lora"), payloads("sft", 4))
    job = job.model_copy(update={place: tmp_path / "file" / "model"})
    with pytest.raises(MachineError, match=r"file.* can't be written to") as caught:
        run(job)
    assert "another `home`" in caught.value.next_step


def test_a_read_only_disk(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(files, "write_durably", refused)
    with pytest.raises(MachineError, match="Read-only file system"):
        run(train_job(tmp_path, base, spec_of("sft", "lora"), payloads("sft", 4)))


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.EROFS, "may not be written"), (errno.EACCES, "may not be written"), (errno.ENOSPC, "the disk is full")],
)
def test_a_disk_that_fails_in_the_middle_is_the_machines_fault(number: int, said: str) -> None:
    error = _known(OSError(number, "from the kernel"))
    assert isinstance(error, MachineError)
    assert said in error.message
    assert _known(OSError(errno.EBADF, "ours")) is None


def test_a_reward_model_of_another_vocabulary(base: Path, tmp_path: Path) -> None:
    other = build_model(tmp_path / "other", vocabulary=300)
    job = train_job(tmp_path, base, spec_of("ppo", "lora", rollout=8), payloads("ppo", 8), reward_model=other)
    with pytest.raises(TrainingError, match="another vocabulary than the model that is trained"):
        run(job)


def test_a_tokenizer_of_a_larger_model(base: Path, tmp_path: Path) -> None:
    """Its tokens would be looked up behind the end of the embeddings."""
    model = shutil.copytree(base, tmp_path / "hostile")
    larger = build_model(tmp_path / "larger", vocabulary=450)
    shutil.copy(larger / "tokenizer.json", model)
    with pytest.raises(
        TrainingError, match=r"the tokenizer of .* knows token \d+, the model only \d+ tokens"
    ) as caught:
        run(train_job(tmp_path, model, spec_of("sft", "lora"), payloads("sft", 4)))
    assert "the tokenizer that the model was trained with" in caught.value.next_step
