"""Every field that a user may set is read by something: changing it changes what is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from training.method_specs import LoraSpec, QloraSpec
from training.models import open_source
from training.specs import (
    ClassifySpec,
    DpoSpec,
    GrpoSpec,
    KtoSpec,
    OrpoSpec,
    PpoSpec,
    PretrainSpec,
    RewardSpec,
    RlooSpec,
    SftSpec,
    SimpoSpec,
    StageSpec,
)
from training.stages.base import Setting, trainer_arguments

# Another value for each field that goes to the trainer as it is.
CHANGED: dict[str, Any] = {
    "learning_rate": 3e-3,
    "epochs": 7.0,
    "batch_size": 3,
    "gradient_accumulation": 5,
    "warmup_share": 0.4,
    "schedule": "cosine",
    "weight_decay": 0.3,
    "max_grad_norm": 0.2,
    "gradient_checkpointing": True,
    "seed": 7,
    "checkpoint_steps": 11,
    "log_steps": 3,
}
# The others, and the test that shows what they do.
SHOWN_ELSEWHERE = {
    "stage": "test_train: test_every_stage_of_the_specs_exists",
    "method": "test_methods: test_rank_and_alpha_are_heeded",
    "max_length": "test_rows: test_each_loss_is_counted_with_its_reason",
    "max_lost_share": "test_rows: test_too_much_lost_stops_before_training",
    "precision": "test_models: test_a_cpu_computes_in_float32_unless_told_otherwise",
    "packing": "test_train: test_packed_and_padded_training_are_the_same_training",
    "beta": "test_train: test_beta_scales_the_preference",
    "loss_on": "test_rows: test_only_the_last_answer_carries_loss_if_asked",
    "neftune_alpha": "test_bad_input: test_noise_on_the_embeddings_is_there_in_training_only",
    "loss": "test_preferences: test_a_loss_starts_where_its_formula_says",
    "label_smoothing": "test_preferences: test_label_smoothing_is_heeded",
    "desirable_weight": "test_preferences: test_kto_is_its_formula",
    "undesirable_weight": "test_preferences: test_kto_is_its_formula",
    "gamma": "test_preferences: test_simpo_is_its_formula",
    "centring": "test_ppo: test_centring_holds_the_mean_reward_at_zero",
    "rollout": "test_ppo: test_the_order_of_rollouts",
    "passes": "test_ppo: test_the_order_of_rollouts",
    "max_new_tokens": "test_ppo: test_an_answer_is_sampled_from_the_policy",
    "clip": "test_ppo: test_the_loop_reads_its_settings",
    "discount": "test_ppo: test_the_loop_reads_its_settings",
    "gae_lambda": "test_ppo: test_the_loop_reads_its_settings",
    "value_weight": "test_ppo: test_the_loop_reads_its_settings",
    "kl_weight": "test_ppo: test_the_loop_reads_its_settings",
    "kl_target": "test_ppo: test_the_loop_reads_its_settings",
    "unfinished_penalty": "test_ppo: test_the_loop_reads_its_settings",
    "labels": "test_classify: test_a_row_is_a_line_for_every_word",
    "templates": "test_classify: test_a_row_is_a_line_for_every_word",
    "content_free": "../evaluation/test_classifying: test_calibration_takes_out_what_a_text_that_says_nothing_gets",
    "likelihood_weight": "test_classify: test_the_first_loss_is_its_formula",
    "group_size": "test_groups: test_each_prompt_is_answered_by_a_group",
    "reward": "test_groups: test_several_rewards_are_weighed",
    "clip_high": "test_group_math: test_grpo_reads_its_settings",
    "importance": "test_group_math: test_grpo_reads_its_settings",
    "scale": "test_group_math: test_grpo_reads_its_settings",
    "normalise": "test_group_math: test_rloo_reads_its_settings",
    "sft_weight": "test_preferences: test_simpo_is_its_formula",
}


@pytest.fixture(scope="module")
def setting(base: Path) -> Setting:
    return Setting(open_source(base, needs_chat_template=True), torch.float32, Path("checkpoints"))


@pytest.mark.parametrize(
    "kind",
    [
        PretrainSpec,
        SftSpec,
        DpoSpec,
        KtoSpec,
        OrpoSpec,
        SimpoSpec,
        RewardSpec,
        PpoSpec,
        GrpoSpec,
        RlooSpec,
        ClassifySpec,
    ],
)
def test_no_field_is_forgotten(kind: type[StageSpec]) -> None:
    assert set(kind.model_fields) <= CHANGED.keys() | SHOWN_ELSEWHERE.keys()
    for place in SHOWN_ELSEWHERE.values():
        file, test = place.split(": ")
        assert f"def {test}(" in (Path(__file__).parent / f"{file}.py").read_text("utf-8")


@pytest.mark.parametrize("field", sorted(CHANGED))
def test_the_trainer_is_told(setting: Setting, field: str) -> None:
    spec = SftSpec()
    before = trainer_arguments(spec, setting)
    after = trainer_arguments(spec.model_copy(update={field: CHANGED[field]}), setting)
    changed = [name for name in before if before[name] != after[name]]
    assert len(changed) == 1
    assert after[changed[0]] == CHANGED[field]


def test_a_method_may_be_given_by_its_name() -> None:
    assert SftSpec.model_validate({"method": "qlora"}).method == QloraSpec()
    assert SftSpec.model_validate({"method": {"name": "lora", "rank": 4}}).method == LoraSpec(rank=4)
    with pytest.raises(ValidationError, match="prefix"):
        SftSpec.model_validate({"method": "prefix"})
