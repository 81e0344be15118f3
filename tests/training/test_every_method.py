"""Every method trains for real, in each stage: the loss falls, what is written answers as it did, resuming is exact."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from data_catalog.errors import TrainingError
from data_catalog.model_files import first_difference, model_manifest, take_in
from data_catalog.records import Message, Request, Sampling
from tests.training.test_classify import METHODS as IN_TEST_CLASSIFY
from tests.training.test_groups import METHODS as IN_TEST_GROUPS
from tests.training.test_ppo import METHODS as IN_TEST_PPO
from tests.training.test_train import OTHER_HEADS, OWN_ANSWERS, run
from tests.training.test_train import RATES as IN_TEST_TRAIN
from tests.training.tiny import STAGE_SPECS, UNUSED, Lines, facts, payloads, train_job
from training.compatibility import adapter_of, table
from training.inference import LocalCompleter
from training.methods import METHODS, load_student, method_for
from training.models import open_source
from training.rows import RawRow
from training.specs import TrainJob, TrainResult
from training.stages.base import Setting
from training.student import PromptedStudent
from training.train import STAGES

VARIANTS: dict[str, dict[str, Any]] = {
    "rslora": {"name": "lora", "rank": 4, "rank_stabilised": True},
    "dora": {"name": "lora", "rank": 4, "dora": True},
    "pissa": {"name": "lora", "rank": 4, "init": "pissa"},
    "pissa-rslora": {"name": "lora", "rank": 4, "init": "pissa", "rank_stabilised": True},
    "olora": {"name": "lora", "rank": 4, "init": "olora"},
    "lora-plus": {"name": "lora", "rank": 4, "b_rate_ratio": 8},
    "qlora-dora": {"name": "qlora", "rank": 4, "dora": True},
    "ia3": {"name": "ia3"},
    "pfeiffer": {"name": "adapter", "size": 16},
    "houlsby": {"name": "adapter", "size": 16, "placement": "houlsby", "activation": "gelu", "dropout": 0.1},
    "prompt-random": {"name": "prompt_tuning", "tokens": 8, "init": "random"},
    "prompt-text": {"name": "prompt_tuning", "tokens": 8, "init": "text", "text": "Name the colour."},
    "prompt-vocab": {"name": "prompt_tuning", "tokens": 8},
    "prefix": {"name": "prefix_tuning", "tokens": 8, "hidden": 32},
    "p-tuning-mlp": {"name": "p_tuning", "tokens": 8, "encoder": "mlp", "hidden": 32},
    "p-tuning-lstm": {"name": "p_tuning", "tokens": 8, "encoder": "lstm", "hidden": 32},
    "p-tuning-v2": {"name": "p_tuning_v2", "tokens": 8},
}
RATES = {"lora": 2e-3, "qlora": 2e-3}
OTHER_STAGES = [
    *(("pretrain", name) for name in ("ia3", "houlsby", "prompt-vocab", "prefix", "p-tuning-mlp", "p-tuning-v2")),
    *(("dpo", name) for name in ("dora", "pissa", "olora", "ia3", "houlsby", "prompt-text", "prefix", "p-tuning-lstm")),
    ("dpo", "p-tuning-v2"),
    *(
        (stage, name)
        for stage in ("kto", "orpo", "simpo")
        for name in ("ia3", "houlsby", "prompt-vocab", "prefix", "p-tuning-mlp", "p-tuning-v2")
    ),
]
"""SFT is what `trained` does; lora, qlora and full stand in test_train."""
PROBE = torch.arange(5, 45).reshape(2, 20)

pytestmark = pytest.mark.slow


def spec_of(stage: str, variant: str, **settings: Any) -> Any:
    method = VARIANTS[variant]
    given = {
        "method": method,
        "learning_rate": RATES.get(method["name"], 3e-2),
        "epochs": 2,
        "batch_size": 6,
        "max_length": 128,
        "log_steps": 1,
        "warmup_share": 0,
        "checkpoint_steps": 5,
    }
    return STAGE_SPECS[stage].model_validate({**given, **settings})


def job_of(folder: Path, model: Path, variant: str, stage: str = "sft", **settings: Any) -> TrainJob:
    return train_job(folder, model, spec_of(stage, variant, **settings), payloads(stage))


@dataclass(frozen=True)
class Trained:
    """One finished job."""

    job: TrainJob
    result: TrainResult

    @property
    def model(self) -> Path:
        return self.job.output


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    """Return what trains a variant by SFT, once for all tests of this file."""
    done: dict[str, Trained] = {}

    def train_once(variant: str) -> Trained:
        if variant not in done:
            job = job_of(tmp_path_factory.mktemp(variant), base, variant)
            done[variant] = Trained(job, run(job))
        return done[variant]

    return train_once


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def logits_of(path: Path) -> torch.Tensor:
    return load_student(open_source(path, needs_chat_template=True), torch.float32).logits(PROBE)


def test_there_is_a_variant_of_every_method() -> None:
    assert {method["name"] for method in VARIANTS.values()} | {"full"} == set(METHODS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_learns_and_is_active(base: Path, trained: Callable[[str], Trained], variant: str) -> None:
    done = trained(variant)
    losses = [point.loss for point in done.result.metrics]
    assert sum(losses[-2:]) < sum(losses[:2]) - 0.005
    guards = done.result.guards
    assert guards["adapter_active"].startswith("moves logits")
    assert done.job.spec.method.merges == ("merge_parity" in guards)
    assert "save_parity" in guards or "quantisation_gap" in guards
    assert done.result.trainable_parameters < done.result.total_parameters
    # What was written, opened afresh, is another model than the base.
    assert (logits_of(done.model) - logits_of(base)).abs().max() > 1e-3
    assert (adapter_of(done.model) is None) == done.job.spec.method.merges


@pytest.mark.parametrize("variant", VARIANTS)
def test_resuming_is_exact(trained: Callable[[str], Trained], variant: str) -> None:
    """Go on from the middle of the same job: the same bytes come out, with dropout, encoders and all."""
    done = trained(variant)
    expected, checkpoints = content(done.model), done.job.work / "checkpoints"
    shutil.rmtree(checkpoints / "checkpoint-8")
    shutil.rmtree(done.model)
    lines = Lines()
    result = run(done.job, progress=lines)
    assert {"event": "resumed", "step": 5} in lines.events
    assert [point.loss for point in result.metrics] == [point.loss for point in done.result.metrics]
    assert content(done.model) == expected


@pytest.mark.parametrize(("stage", "variant"), OTHER_STAGES)
def test_learns_in_the_other_stages(base: Path, tmp_path: Path, variant: str, stage: str) -> None:
    job = job_of(tmp_path, base, variant, stage)
    result = run(job)
    losses = [point.loss for point in result.metrics]
    assert sum(losses[-2:]) < sum(losses[:2]) - 0.001
    if stage in ("dpo", "kto"):
        prompt = job.spec.method.virtual_tokens > 0
        assert ("with a fresh prompt" in result.guards[f"{stage}_step0_loss"]) == prompt


@pytest.mark.parametrize("variant", ["pfeiffer", "prompt-vocab", "p-tuning-lstm", "ia3", "pissa"])
def test_works_with_gradient_checkpointing(
    base: Path, trained: Callable[[str], Trained], tmp_path: Path, variant: str
) -> None:
    recomputed = run(job_of(tmp_path, base, variant, gradient_checkpointing=True))
    losses = [point.loss for point in trained(variant).result.metrics]
    assert [point.loss for point in recomputed.metrics] == pytest.approx(losses, rel=1e-3)


@pytest.mark.parametrize("variant", ["houlsby", "prompt-vocab", "prefix", "ia3", "olora"])
def test_bfloat16_can_be_asked_for(base: Path, tmp_path: Path, variant: str) -> None:
    job = job_of(tmp_path, base, variant, precision="bfloat16")
    result = run(job)
    assert "save_parity" in result.guards
    assert LocalCompleter(job.output, "m", precision="bfloat16").fingerprint == "m"


def test_every_stage_that_is_not_refused_is_trained() -> None:
    """Of each method and stage that the table lets through, one variant is trained here or in test_train."""
    trained_here = {("sft", method["name"]) for method in VARIANTS.values()}
    trained_here |= {(stage, VARIANTS[variant]["name"]) for stage, variant in OTHER_STAGES}
    trained_there = {
        (stage, method)
        for stage in STAGE_SPECS.keys() - OTHER_HEADS - OWN_ANSWERS - {"classify"}
        for method in IN_TEST_TRAIN
    }
    trained_there |= {(stage, method) for stage in OTHER_HEADS for method in IN_TEST_PPO}
    trained_there |= {(stage, method) for stage in OWN_ANSWERS for method in IN_TEST_GROUPS}
    trained_there |= {("classify", method) for method in IN_TEST_CLASSIFY}
    let_through = {(cell.stage, cell.method.model_fields["name"].default) for cell in table() if cell.refusal is None}
    assert let_through == trained_here | trained_there


# --- An adapter that stays beside its base ----------------------------------------------------------------------------

UNMERGED = ["houlsby", "prompt-vocab", "prefix", "p-tuning-lstm", "p-tuning-v2"]


def requests(count: int = 4, **sampling: Any) -> list[Request]:
    return [
        Request(
            model="m",
            messages=(Message(role="user", content=question * (1 + number % 2)),),
            sampling=Sampling.model_validate({"max_tokens": 8, **sampling}),
        )
        for number, (question, _) in enumerate(facts(count))
    ]


def answers(path: Path) -> dict[str, str]:
    batches = LocalCompleter(path, "m").complete(requests())
    return {completion.request_key: completion.text for batch in batches for completion in batch}


@pytest.mark.parametrize("variant", UNMERGED)
def test_answers_are_those_of_the_adapted_model(trained: Callable[[str], Trained], variant: str) -> None:
    """Padded batches with a cache against one row at a time without one."""
    done = trained(variant)
    got = answers(done.model)
    source = open_source(done.model, needs_chat_template=True)
    student = load_student(source, torch.float32)
    for request in requests():
        turns = [turn.model_dump() for turn in request.messages]
        ids = list(source.tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"])
        new: list[int] = []
        while len(new) < 8 and not (new and new[-1] in source.end_tokens):
            new.append(int(student.logits(torch.tensor([ids + new]))[0, -1].argmax()))
        ended = new[-1] in source.end_tokens
        assert got[request.key] == source.tokenizer.decode(new[:-1] if ended else new, skip_special_tokens=True)


@pytest.mark.parametrize("variant", ["prompt-vocab", "prefix", "p-tuning-lstm", "p-tuning-v2"])
def test_the_cache_says_what_peft_says(trained: Callable[[str], Trained], variant: str) -> None:
    source = open_source(trained(variant).model, needs_chat_template=True)
    base = AutoModelForCausalLM.from_pretrained(source.path)
    peft = PeftModel.from_pretrained(base, str(source.adapter)).eval()
    with torch.no_grad():
        expected = peft(input_ids=PROBE).logits[:, -PROBE.shape[1] :]
    torch.testing.assert_close(load_student(source, torch.float32).logits(PROBE), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", UNMERGED)
def test_switched_off_it_is_the_base(base: Path, trained: Callable[[str], Trained], variant: str) -> None:
    student = load_student(open_source(trained(variant).model, needs_chat_template=True), torch.float32)
    on = student.logits(PROBE)
    with student.without_adapter():
        off = student.logits(PROBE)
    assert torch.equal(off, logits_of(base))
    assert not torch.allclose(on, off)
    assert torch.equal(student.logits(PROBE), on)


@pytest.mark.parametrize("variant", ["houlsby", "prefix"])
def test_other_programs_refuse_it_instead_of_serving_the_base(trained: Callable[[str], Trained], variant: str) -> None:
    with pytest.raises(ValueError, match="tutelage_adapted"):
        AutoModelForCausalLM.from_pretrained(trained(variant).model)


def test_the_registry_takes_it_as_one_immutable_version(trained: Callable[[str], Trained], tmp_path: Path) -> None:
    """Base and adapter are in the manifest; the registered copy answers as the trained one."""
    model = trained("prompt-vocab").model
    manifest = model_manifest(model)
    names = {name for name, _, _ in manifest}
    assert {"config.json", "base/model.safetensors", "adapter/adapter_model.safetensors"} <= names
    take_in(model, manifest, tmp_path / "version")
    assert first_difference(tmp_path / "version", manifest) is None
    assert answers(tmp_path / "version") == answers(model)
    assert not any(str(tmp_path.parent).encode() in data for data in content(model).values())


def damaged(trained: Trained, tmp_path: Path) -> Path:
    shutil.copytree(trained.model, tmp_path / "copy")
    return tmp_path / "copy"


def test_an_adapter_that_changes_nothing_does_not_answer(trained: Callable[[str], Trained], tmp_path: Path) -> None:
    copy = damaged(trained("houlsby"), tmp_path)
    file = copy / "adapter" / "adapter_model.safetensors"
    save_file({name: torch.zeros_like(tensor) for name, tensor in load_file(file).items()}, file)
    with pytest.raises(TrainingError, match="does not change the model's outputs"):
        LocalCompleter(copy, "m")


@pytest.mark.parametrize("part", ["adapter/adapter_model.safetensors", "base/config.json"])
def test_a_part_that_is_missing_is_told(trained: Callable[[str], Trained], tmp_path: Path, part: str) -> None:
    copy = damaged(trained("prefix"), tmp_path)
    (copy / part).unlink()
    with pytest.raises(TrainingError, match=r"parts are not all there|config.json is missing"):
        open_source(copy, needs_chat_template=True)


@pytest.mark.parametrize("variant", ["houlsby", "prompt-vocab", "prefix", "p-tuning-lstm"])
def test_dpo_goes_on_from_sft(trained: Callable[[str], Trained], tmp_path: Path, variant: str) -> None:
    """The second stage starts from the trained adapter: its reference is that model, so the first loss is ln 2."""
    first = trained(variant)
    second = job_of(tmp_path, first.model, variant, "dpo", learning_rate=1e-2)
    result = run(second)
    assert result.guards["dpo_step0_loss"].startswith("0.6931")
    assert result.metrics[-1].loss < result.metrics[0].loss
    kept, went_on = load_file(first.model / "base" / "model.safetensors"), second.output / "base" / "model.safetensors"
    assert all(torch.equal(kept[name], tensor) for name, tensor in load_file(went_on).items())


def test_another_method_on_top_is_refused(trained: Callable[[str], Trained], tmp_path: Path) -> None:
    start = trained("prompt-vocab").model
    for variant in ("rslora", "prefix", "prompt-random"):
        with pytest.raises(TrainingError, match="which can't be merged") as caught:
            run(job_of(tmp_path / variant, start, variant, "dpo"))
        assert "prompt_tuning" in caught.value.valid


def test_a_prompt_that_leaves_no_room_is_refused(base: Path, tmp_path: Path) -> None:
    spec = spec_of("sft", "prompt-vocab", method={"name": "prompt_tuning", "tokens": 500})
    with pytest.raises(TrainingError, match="500 virtual tokens need"):
        run(train_job(tmp_path, base, spec, payloads("sft")))


def test_the_prompt_takes_room_from_the_answer(trained: Callable[[str], Trained]) -> None:
    model = trained("prompt-vocab").model
    completer = LocalCompleter(model, "m")
    source = open_source(model, needs_chat_template=True)
    student = load_student(source, torch.float32)
    assert isinstance(student, PromptedStudent)
    assert student.virtual_tokens == 8
    (long,) = requests(1, max_tokens=2000)
    prompt = len(
        source.tokenizer.apply_chat_template([long.messages[0].model_dump()], add_generation_prompt=True)["input_ids"]
    )
    (completion,) = next(iter(completer.complete([long])))
    assert prompt + completion.completion_tokens <= 512 - 8


# --- What is saved of a LoRA ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["pissa", "pissa-rslora", "olora"])
def test_the_saved_adapter_is_a_plain_lora_for_the_untouched_base(
    base: Path, trained: Callable[[str], Trained], variant: str
) -> None:
    """What vLLM and others can load: B·A - B0·A0 as one adapter of twice the rank."""
    done = trained(variant)
    adapter = done.job.work / "adapter"
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert (config["init_lora_weights"], config["r"]) == (True, 8)
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)).eval()
    with torch.no_grad():
        torch.testing.assert_close(plain(input_ids=PROBE).logits, logits_of(done.model), rtol=1e-3, atol=1e-4)


def test_lora_plus_trains_b_faster(base: Path) -> None:
    source = open_source(base, needs_chat_template=True)
    spec = spec_of("sft", "lora-plus", weight_decay=0.1)
    rows = [RawRow(str(number), row) for number, row in enumerate(payloads("sft", 4))]
    material = STAGES["sft"].encode(spec, source, rows, [], 0.0)
    model = method_for(spec).prepare(method_for(spec).load(source, torch.float32), spec, source)
    trainer = STAGES["sft"].trainer(spec, model, material, Setting(source, torch.float32, UNUSED), [])
    rates = {}
    for group in trainer.create_optimizer().param_groups:
        for parameter in group["params"]:
            name = next(name for name, one in model.named_parameters() if one is parameter)
            rates[name.split(".")[-3]] = group["lr"]
    assert rates == {"lora_A": spec.learning_rate, "lora_B": 8 * spec.learning_rate}
