"""GRPO and RLOO: advantages by hand, losses against TRL's code, the loop on a toy task, and the two stages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from trl import import_utils

from data_catalog.errors import TrainingError
from data_catalog.records import Message
from evaluation.samples import Sample
from evaluation.scorers.contains import Contains
from evaluation.scorers.exact_match import ExactMatch
from evaluation.scorers.parts import Answer
from evaluation.scorers.token_f1 import TokenF1
from tests.training.test_train import run
from tests.training.test_train import spec_of as taught
from tests.training.tiny import STAGE_SPECS, identical, payloads, train_job
from training import group_math
from training.actor_critic import Answered, Said, joined, look
from training.methods import method_for
from training.models import ModelSource, open_source
from training.rewards import VERIFIABLE, Rewarder
from training.rows import RawRow
from training.specs import GroupSpec, GrpoSpec, RlooSpec, TrainJob
from training.stages.base import Setting
from training.stages.groups import GroupExperience, GroupStage, GroupTrainer
from training.stages.grpo import GrpoTrainer
from training.stages.rloo import RlooTrainer
from training.stages.rollouts import RolloutOrder
from training.train import STAGES

STAGES_HERE = ("grpo", "rloo")
METHODS = ("full", "lora", "qlora", "ia3", "adapter")
RATES = {"full": 1e-3, "lora": 5e-3, "qlora": 5e-3, "ia3": 5e-2, "adapter": 5e-3}


@pytest.fixture(scope="module")
def source(base: Path) -> ModelSource:
    """Return a model of which every fifth token ends an answer, so that a random one ends some."""
    opened = open_source(base, needs_chat_template=True)
    return replace(opened, end_tokens=opened.end_tokens | set(range(5, 400, 5)))


def spec_of(stage: str, method: Any = "lora", **settings: Any) -> Any:
    name = method if isinstance(method, str) else method["name"]
    given = {"method": method, "learning_rate": RATES[name], "max_length": 128, "log_steps": 1, "warmup_share": 0}
    own = {"rollout": 2, "group_size": 4, "batch_size": 8, "max_new_tokens": 6}
    return STAGE_SPECS[stage].model_validate({**given, **own, **settings})


# --- The formulas -----------------------------------------------------------------------------------------------------

REWARDS = torch.tensor([1.0, 3.0, 5.0, 2.0, 2.0, 2.0])


def test_group_advantages_by_hand() -> None:
    """Groups of three: standard deviations 2 and 0, and of all six (4.8 - 2.5²·...) as torch has it."""
    none = torch.tensor([-2.0, 0.0, 2.0, 0.0, 0.0, 0.0])
    torch.testing.assert_close(group_math.group_advantages(REWARDS, 3, "none"), none)
    torch.testing.assert_close(group_math.group_advantages(REWARDS, 3, "group"), none / 2.0001)
    mean = 15 / 6
    deviation = (sum((value - mean) ** 2 for value in REWARDS.tolist()) / 5) ** 0.5
    torch.testing.assert_close(group_math.group_advantages(REWARDS, 3, "batch"), none / (deviation + 1e-4))


def test_leave_one_out_advantages_by_hand() -> None:
    found = group_math.leave_one_out_advantages(REWARDS, 3, normalise=False)
    torch.testing.assert_close(found, torch.tensor([1.0 - 4.0, 3.0 - 3.0, 5.0 - 2.0, 0.0, 0.0, 0.0]))
    deviation = (18 / 5) ** 0.5
    normalised = group_math.leave_one_out_advantages(REWARDS, 3, normalise=True)
    torch.testing.assert_close(normalised, found / (deviation + 1e-4))


def test_an_answer_pays_for_its_divergence() -> None:
    log_ratios = torch.tensor([[0.5, -1.0, 0.25], [2.0, 9.0, 9.0]])
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    paid = group_math.penalised(torch.tensor([1.0, 1.0]), log_ratios, mask, 0.1)
    torch.testing.assert_close(paid, torch.tensor([1.025, 0.8]))


def told_of(answers: int = 8, tokens: int = 5) -> tuple[Said, GroupExperience]:
    """Return a rollout of random figures, and what another policy says of it."""
    torch.manual_seed(3)
    lengths = torch.randint(1, tokens + 1, (answers,))
    mask = (torch.arange(tokens)[None] < lengths[:, None]).long()
    old, reference, new = (-torch.rand(answers, tokens) * 2 * mask for _ in range(3))
    ids = torch.zeros(answers, tokens + 3, dtype=torch.long)
    told = GroupExperience(
        rollout=0,
        ids=ids,
        attention_mask=ids,
        mask=mask,
        ended=mask[:, -1] == 0,
        logps=old,
        reference_logps=reference,
        advantages=torch.randn(answers),
    )
    return Said(new.requires_grad_(), torch.zeros_like(new)), told


@pytest.fixture(scope="module")
def trl_trainers() -> Iterator[dict[str, Any]]:
    """Return TRL's own, which would import vLLM where it is installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_utils, "is_vllm_available", lambda *args, **kwargs: False)
        from trl import GRPOTrainer, RLOOTrainer

        yield {"grpo": GRPOTrainer, "rloo": RLOOTrainer}


def ours(kind: type[GroupTrainer], spec: GroupSpec, at: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Return loss and gradient of a part of the rollout by our code."""
    said, told = told_of()
    loss = bare(kind, spec).loss(Said(said.logps[at], said.values[at]), told, at)
    loss.backward()
    assert said.logps.grad is not None
    return float(loss.detach()), said.logps.grad


def theirs(kind: Any, spec: Any, at: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Return loss and gradient of the same part by TRL's code, as its trainer would call it."""
    said, told = told_of()
    high = spec.clip if spec.clip_high is None else spec.clip_high
    kl = getattr(spec, "kl_weight", 0.0) if spec.stage == "grpo" else 0.0
    cispo = getattr(spec, "loss", "") == "cispo"
    same = SimpleNamespace(reduce=lambda value, reduction: value, gather=lambda value: value, num_processes=1)
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (said.logps[at], torch.zeros_like(said.logps[at]), None),
        accelerator=same,
        args=SimpleNamespace(use_bias_correction_kl=True, delta=None, steps_per_generation=len(told.mask) // len(at)),
        model=SimpleNamespace(training=True),
        _metrics={"train": defaultdict(list)},
        beta=kl,
        epsilon_low=spec.clip,
        epsilon_high=1 + high if cispo else high,
        loss_type=getattr(spec, "loss", ""),
        importance_sampling_level=getattr(spec, "importance", ""),
        max_completion_length=spec.max_new_tokens,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        current_gradient_accumulation_steps=1,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        use_vllm=False,
    )
    mask, width = told.mask[at], told.ids.shape[1] - told.mask.shape[1]
    inputs = {
        "prompt_ids": told.ids[at][:, :width],
        "prompt_mask": told.ids[at][:, :width],
        "completion_ids": told.ids[at][:, width:],
        "completion_mask": mask,
        "advantages": told.advantages[at],
        "old_per_token_logps": told.logps[at],
        "old_logps": (told.logps[at] * mask).sum(1),
        "ref_per_token_logps": told.reference_logps[at],
        "num_items_in_batch": told.mask.sum().float(),
    }
    loss = kind._compute_loss(trainer, None, inputs)
    loss.backward()
    assert said.logps.grad is not None
    return float(loss.detach()), said.logps.grad


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"loss": "grpo"},
        {"loss": "bnpo"},
        {"loss": "dr_grpo"},
        {"loss": "cispo", "clip_high": 0.3},
        {"loss": "grpo", "importance": "sequence"},
        {"clip_high": 0.28, "clip": 0.1},
        {"kl_weight": 0},
    ],
)
@pytest.mark.parametrize("at", [range(8), range(4, 8)])
def test_the_loss_of_grpo_is_that_of_trl(
    trl_trainers: dict[str, Any], settings: dict[str, Any], at: Sequence[int]
) -> None:
    """Loss and gradient, of a whole rollout and of a minibatch of it."""
    spec, places = GrpoSpec(max_new_tokens=5, **{"kl_weight": 0.3, **settings}), torch.tensor(list(at))
    loss, gradient = ours(GrpoTrainer, spec, places)
    expected, expected_gradient = theirs(trl_trainers["grpo"], spec, places)
    assert loss == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(gradient, expected_gradient)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("settings", [{}, {"clip": 0.4, "clip_high": 0.9}])
def test_the_loss_of_rloo_is_that_of_trl(trl_trainers: dict[str, Any], settings: dict[str, Any]) -> None:
    spec, places = RlooSpec(max_new_tokens=5, **settings), torch.arange(8)
    loss, gradient = ours(RlooTrainer, spec, places)
    expected, expected_gradient = theirs(trl_trainers["rloo"], spec, places)
    assert loss == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(gradient, expected_gradient)


# --- What answers earn ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given", ["The rotor is red.", "red", "It is Red, the rotor.", "blue", "", "红色的转子", "3.5 kg", "Red rotor"]
)
def test_rewards_are_those_of_the_scorers(given: str) -> None:
    for name, scorer in {"exact_match": ExactMatch(), "token_f1": TokenF1(), "contains": Contains()}.items():
        for expected in ("red", "The rotor is red.", "红色", "3.5"):
            sample = Sample(id="s", messages=(Message(role="user", content="?"),), answers=(expected,))
            assert VERIFIABLE[name](given, expected) == scorer.score(sample, Answer(given))


def test_several_rewards_are_weighed(source: ModelSource) -> None:
    """The end token is no part of the answer's text; the reward model reads the whole conversation."""
    answers = [source.tokenizer(text)["input_ids"] + [source.end_token] for text in ("It is red.", "red")]
    seen: list[list[int]] = []

    def score(conversations: Sequence[Sequence[int]]) -> torch.Tensor:
        seen.extend(list(row) for row in conversations)
        return torch.tensor([0.5, -1.0])

    spec = spec_of("grpo", reward={"model": 2, "contains": 3, "exact_match": 1})
    rewarder = Rewarder(spec.reward, source.tokenizer, score)
    parts = rewarder.parts([[7, 8], [9]], answers, ["Red", "Red"])
    assert {name: values.tolist() for name, values in parts.items()} == {
        "model": [0.5, -1.0],
        "contains": [1.0, 1.0],
        "exact_match": [0.0, 1.0],
    }
    assert seen == [[7, 8, *answers[0]], [9, *answers[1]]]
    assert rewarder.total(parts).tolist() == [2 * 0.5 + 3, -2.0 + 3 + 1]
    assert spec_of("rloo", reward="token_f1").reward == {"token_f1": 1.0}
    assert not spec_of("rloo", reward="token_f1").judged
    assert spec.judged


# --- What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES_HERE)
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"group_size": 1}, "a group of 1 has no other answer to compare its answer with"),
        ({"group_size": 0}, "greater than or equal to 2"),
        ({"rollout": 3, "group_size": 4, "batch_size": 8}, "nearest that works: batch_size: 4"),
        ({"reward": {}}, "at least 1 item"),
        ({"reward": "rouge"}, "'model', 'exact_match', 'token_f1' or 'contains'"),
        ({"reward": {"model": 0}}, "greater than 0"),
        ({"method": "prompt_tuning"}, "nearest that works: .* with method: lora"),
    ],
)
def test_settings_that_can_not_be(stage: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        STAGE_SPECS[stage].model_validate(settings)


def test_a_ratio_of_answers_goes_with_the_mean_of_answers() -> None:
    with pytest.raises(ValidationError, match="nearest that works: loss: grpo"):
        GrpoSpec(importance="sequence")
    assert GrpoSpec(importance="sequence", loss="grpo").importance == "sequence"


@pytest.mark.parametrize("stage", STAGES_HERE)
def test_a_reward_model_is_needed_where_it_is_asked(base: Path, tmp_path: Path, stage: str) -> None:
    with pytest.raises(TrainingError, match=f"a {stage} stage needs a reward model"):
        run(train_job(tmp_path, base, spec_of(stage), payloads(stage)))


# --- The loop ---------------------------------------------------------------------------------------------------------


def loop(
    stage: str, source: ModelSource, score: Any, folder: Path = Path("unused"), count: int = 4, **settings: Any
) -> Any:
    spec, kind = spec_of(stage, settings.pop("method", "lora"), **settings), STAGES[stage]
    assert isinstance(kind, GroupStage)
    rows = [RawRow(f"r{number}", row) for number, row in enumerate(payloads(stage, count))]
    material = kind.encode(spec, source, rows, [], 0.0)
    model = method_for(spec).prepare(method_for(spec).load(source, torch.float32), spec, source)
    return kind.rewarded(spec, model, material, Setting(source, torch.float32, folder), [], score)


def last_tokens(conversations: Sequence[Sequence[int]]) -> torch.Tensor:
    return torch.tensor([float(row[-1] % 7) for row in conversations])


def test_each_prompt_is_answered_by_a_group(source: ModelSource) -> None:
    """Rows of a prompt stay together in a rollout, each epoch has every prompt once, a group's mean advantage is 0."""
    order = RolloutOrder(12, seed=3, rollout=2, passes=2, group=3)
    assert (order.rollouts, len(order)) == (2, 24)
    for rollout in range(2):
        rows = order.rows_of(rollout)
        assert len({row // 3 for row in rows}) == 2
        assert rows == [row // 3 * 3 + place % 3 for place, row in enumerate(rows)]
    indices = list(order)
    assert [index // 12 for index in indices] == [0] * 12 + [1] * 12
    assert sorted(index % 12 for index in indices) == sorted(list(range(12)) * 2)

    trainer = loop("grpo", source, last_tokens, group_size=4, rollout=2, batch_size=4, unfinished_penalty=9)
    assert [row.id for row in trainer.prompts] == [f"r{number}" for number in range(4) for _ in range(4)]
    assert trainer.prompts[0].expected == payloads("grpo", 1)[0]["messages"][1]["content"]
    torch.manual_seed(1)
    told = trainer.roll_out(0)
    prompts = [trainer.prompts[row].prompt for row in trainer.order.rows_of(0)]
    assert all(prompts[place] == prompts[place // 4 * 4] for place in range(8))
    torch.testing.assert_close(told.advantages.view(2, 4).sum(dim=1), torch.zeros(2), atol=1e-4, rtol=0)
    rows = [ids[mask.bool()].tolist() for ids, mask in zip(told.ids, told.attention_mask, strict=True)]
    assert [row[: len(prompt)] for row, prompt in zip(rows, prompts, strict=True)] == prompts
    earned = last_tokens(rows) - 9 * (~told.ended).float()
    torch.testing.assert_close(told.advantages, group_math.group_advantages(earned, 4, "group"))


def test_parts_of_a_rollout_in_one_rectangle(source: ModelSource) -> None:
    """Answered two at a time, with other paddings, they have the log-probabilities that they were given."""
    trainer = loop("rloo", source, last_tokens, group_size=2, rollout=4, batch_size=2)
    told = trainer.roll_out(0)
    with torch.no_grad():
        together = look(trainer.accelerator.unwrap_model(trainer.model).policy, told)
    torch.testing.assert_close(together.logps, told.logps, atol=1e-4, rtol=1e-4)
    assert len(told.ids) == 8
    alike = Answered(told.ids, told.attention_mask, told.mask, told.ended)
    assert told.mask.sum() == sum(len(row) for row in joined([alike], 0).answers())


@pytest.mark.parametrize("method", ["lora", "qlora", "adapter"])
@pytest.mark.parametrize("stage", STAGES_HERE)
def test_the_loop_starts_at_its_reference(source: ModelSource, stage: str, method: str) -> None:
    trainer = loop(stage, source, last_tokens, method=method)
    trainer.roll_out(0)
    assert trainer._seen["kl"][0] == pytest.approx(0, abs=1e-3)
    assert not any(parameter.requires_grad for parameter in trainer.reference.parameters())
    assert loop(stage, source, last_tokens, method=method, kl_weight=0).reference is None


def test_a_reward_that_is_nan_stops(source: ModelSource) -> None:
    def broken(conversations: Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.tensor([float("nan") if row % 5 == 2 else 1.0 for row in range(len(conversations))])

    with pytest.raises(TrainingError, match=r"reward of an answer is not finite, on the rows r\d"):
        loop("grpo", source, broken).roll_out(0)


def bare(kind: type[GroupTrainer], spec: GroupSpec) -> Any:
    """Return a trainer without a model, for its formulas."""
    trainer = kind.__new__(kind)
    trainer.spec, trainer._seen = spec, defaultdict(list)
    return trainer


def figures(kind: type[GroupTrainer], spec: GroupSpec) -> list[float]:
    """Return the loss on half of a rollout, and the advantages of another one."""
    _, told = told_of()
    earned = torch.arange(8) % 3 + 0.5
    advantages = bare(kind, spec).advantages(earned, told.logps - told.reference_logps, told.mask)
    return [ours(kind, spec, torch.arange(4))[0], *advantages.tolist()]


@pytest.mark.parametrize(
    "changed",
    [
        {"clip": 0.01},
        {"clip_high": 0.01},
        {"loss": "grpo"},
        {"loss": "bnpo"},
        {"loss": "dr_grpo"},
        {"loss": "cispo"},
        {"importance": "sequence", "loss": "grpo"},
        {"scale": "batch"},
        {"scale": "none"},
        {"kl_weight": 0.5},
    ],
)
def test_grpo_reads_its_settings(changed: dict[str, Any]) -> None:
    given: dict[str, Any] = {"group_size": 4, "batch_size": 16, "loss": "grpo" if "importance" in changed else "dapo"}
    assert figures(GrpoTrainer, GrpoSpec(**{**given, **changed})) != figures(GrpoTrainer, GrpoSpec(**given))


@pytest.mark.parametrize("changed", [{"clip": 0.01}, {"clip_high": 0.01}, {"normalise": True}, {"kl_weight": 0.5}])
def test_rloo_reads_its_settings(changed: dict[str, Any]) -> None:
    given: dict[str, Any] = {"group_size": 4, "batch_size": 16}
    assert figures(RlooTrainer, RlooSpec(**{**given, **changed})) != figures(RlooTrainer, RlooSpec(**given))


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES_HERE)
def test_learns_a_toy_task_in_seconds(source: ModelSource, tmp_path: Path, stage: str) -> None:
    """The more of an answer is of one kind of tokens, the better; at first that is one in four."""

    def share(conversations: Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.tensor([sum(token % 4 == 0 for token in row[-2:]) / 2 for row in conversations])

    of_answers = {"rollout": 10, "group_size": 8, "batch_size": 80, "passes": 2, "max_new_tokens": 2}
    rest = {"epochs": 20, "unfinished_penalty": 0, "kl_weight": 0, "schedule": "constant_with_warmup"}
    trainer = loop(stage, source, share, tmp_path, 10, method="full", learning_rate=2e-3, **of_answers, **rest)
    trainer.train()
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    assert len(rewards) == 20
    assert rewards[0] < 0.35
    assert rewards[-1] > 0.8


# --- The stages -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model that answers the rows' questions about half rightly."""
    job = train_job(
        tmp_path_factory.mktemp("sft"), base, taught("sft", epochs=12, learning_rate=5e-3), payloads("sft", 8)
    )
    run(job)
    return job.output


def job_of(folder: Path, model: Path, stage: str, method: str = "lora", **settings: Any) -> TrainJob:
    own = {"rollout": 8, "group_size": 4, "batch_size": 32, "max_new_tokens": 16, "reward": "token_f1", "epochs": 6}
    return train_job(folder, model, spec_of(stage, method, **{**own, **settings}), payloads(stage, 8))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stage", STAGES_HERE)
def test_earns_more_and_is_saved(learned: Path, tmp_path: Path, stage: str, method: str) -> None:
    """By the rows' own answers; what is written is what was trained."""
    job = job_of(tmp_path, learned, stage, method)
    result = run(job)
    rewards = [point.values["reward"] for point in result.metrics]
    print(stage, method, [round(reward, 3) for reward in rewards], result.guards)
    assert len(rewards) == result.steps == 6
    assert sum(rewards[-2:]) > sum(rewards[:2])
    assert result.metrics[0].values["kl"] == pytest.approx(0, abs=1e-2)
    assert result.ledger.kept == result.ledger.rows == 8
    assert not identical(learned, job.output)
