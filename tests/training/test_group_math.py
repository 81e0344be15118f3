"""The formulas of GRPO and RLOO: by hand, and losses, gradients and advantages beside TRL's on the same numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trl import import_utils

from tests.training.tiny import STAGE_SPECS
from training import group_math
from training.actor_critic import Said
from training.specs import GroupSpec, GrpoSpec, RlooSpec
from training.stages.groups import GroupExperience, GroupTrainer
from training.stages.grpo import GrpoTrainer
from training.stages.rloo import RlooTrainer

REWARDS = torch.tensor([1.0, 3.0, 5.0, 2.0, 2.0, 2.0])
"""Two groups of three, with standard deviations 2 and 0."""


def test_group_advantages_by_hand() -> None:
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


# --- Beside TRL -------------------------------------------------------------------------------------------------------


def told_of(answers: int = 8, tokens: int = 5) -> tuple[Said, GroupExperience]:
    """Return a rollout of random figures, and what another policy says of it."""
    torch.manual_seed(3)
    lengths = torch.randint(1, tokens + 1, (answers,))
    lengths[0] = tokens
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


class Bare(SimpleNamespace):
    """One of TRL's trainers without a model; a setting that it was not given is None."""

    def __getattr__(self, name: str) -> None:
        return None


@pytest.fixture(scope="module")
def trl_trainers() -> Iterator[dict[str, Any]]:
    """Return TRL's own, which would import vLLM where it is installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_utils, "is_vllm_available", lambda *args, **kwargs: False)
        from trl import GRPOTrainer, RLOOTrainer

        yield {"grpo": GRPOTrainer, "rloo": RLOOTrainer}


def bare(kind: type[GroupTrainer], spec: GroupSpec) -> Any:
    """Return one of our trainers without a model, for its formulas."""
    trainer = kind.__new__(kind)
    trainer.spec, trainer._seen = spec, defaultdict(list)
    return trainer


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
    cispo = getattr(spec, "loss", "") == "cispo"
    same = SimpleNamespace(reduce=lambda value, reduction: value, gather=lambda value: value, num_processes=1)
    trainer = Bare(
        _get_per_token_logps_and_entropies=lambda *a, **k: (said.logps[at], torch.zeros_like(said.logps[at]), None),
        accelerator=same,
        args=Bare(use_bias_correction_kl=True, steps_per_generation=len(told.mask) // len(at)),
        model=Bare(training=True),
        _metrics={"train": defaultdict(list)},
        beta=spec.kl_weight if spec.stage == "grpo" else 0.0,
        epsilon_low=spec.clip,
        epsilon_high=1 + high if cispo else high,
        loss_type=getattr(spec, "loss", ""),
        importance_sampling_level=getattr(spec, "importance", ""),
        max_completion_length=spec.max_new_tokens,
        top_entropy_quantile=1.0,
        current_gradient_accumulation_steps=1,
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


EARNED = torch.tensor([0.0, 1.0, 0.25, 1.0, 0.5, 0.5, 0.5, 0.5])
"""What the answers of two groups of four earned, those of the second one all the same."""


def advantages_by_trl(kind: Any, spec: Any) -> torch.Tensor:
    """Return the advantages that TRL's trainer works out for answers that earned EARNED."""
    _, told = told_of()
    policy, reference = Bare(training=True), Bare()
    lengths = told.mask.sum(dim=1).tolist()
    prompts, answers = [[1]] * len(lengths), [[7] * length for length in lengths]
    rest: tuple[Any, ...] = (None, answers, None, {}, None, None) if spec.stage == "grpo" else (answers,)
    trainer = Bare(
        accelerator=SimpleNamespace(
            device=torch.device("cpu"),
            process_index=0,
            gather=lambda value: value,
            reduce=lambda value, reduction: value,
        ),
        model=policy,
        ref_model=reference,
        args=SimpleNamespace(
            per_device_train_batch_size=8,
            gradient_checkpointing_kwargs=None,
            gradient_accumulation_steps=1,
            steps_per_generation=1,
        ),
        _tokenizer=SimpleNamespace(pad_token_id=0),
        _generate=lambda prompts: ([[1]] * len(prompts), answers, *rest),
        _get_per_token_logps_and_entropies=lambda model, *a, **k: (
            told.logps if model is policy else told.reference_logps,
            None,
            None,
        ),
        _calculate_rewards=lambda *a: EARNED[:, None],
        reward_weights=torch.ones(1),
        reward_func_names=["earned"],
        num_generations=4,
        num_iterations=1,
        beta=spec.kl_weight,
        multi_objective_aggregation="sum_then_normalize",
        scale_rewards=getattr(spec, "scale", None),
        normalize_advantages=getattr(spec, "normalise", None),
        _metrics={"train": defaultdict(list)},
        _logs=defaultdict(list, rewards=defaultdict(list)),
        _pending_extra_logs={},
        _pending_metrics={},
    )
    scored = kind._generate_and_score_completions(trainer, [{"prompt": prompt} for prompt in prompts])
    return scored["advantages"]


@pytest.mark.parametrize(
    ("stage", "settings"),
    [
        ("grpo", {}),
        ("grpo", {"scale": "batch"}),
        ("grpo", {"scale": "none", "kl_weight": 0.5}),
        ("rloo", {}),
        ("rloo", {"normalise": True}),
        ("rloo", {"kl_weight": 0.5}),
        ("rloo", {"kl_weight": 0}),
    ],
)
def test_advantages_are_those_of_trl(trl_trainers: dict[str, Any], stage: str, settings: dict[str, Any]) -> None:
    """A group whose answers earned the same has none, but where they pay for their divergence."""
    spec: Any = STAGE_SPECS[stage].model_validate({"group_size": 4, "batch_size": 8, **settings})
    kind: type[GroupTrainer] = GrpoTrainer if stage == "grpo" else RlooTrainer
    _, told = told_of()
    found = bare(kind, spec).advantages(EARNED, told.logps - told.reference_logps, told.mask)
    torch.testing.assert_close(found, advantages_by_trl(trl_trainers[stage], spec))
    assert bool((found[:4] != 0).any())
    assert bool((found[4:] != 0).any()) == (stage == "rloo" and spec.kl_weight > 0)


# --- Settings ---------------------------------------------------------------------------------------------------------


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
