"""GRPO and RLOO: rewards, refusals, the loop on a toy task, and the two stages. Formulas: test_group_math."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from data_catalog.errors import Interrupted, TrainingError
from data_catalog.records import Message
from evaluation.samples import Sample
from evaluation.scorers.contains import Contains
from evaluation.scorers.exact_match import ExactMatch
from evaluation.scorers.parts import Answer
from evaluation.scorers.token_f1 import TokenF1
from tests.training.test_train import StopAt, run
from tests.training.test_train import spec_of as taught
from tests.training.tiny import STAGE_SPECS, UNUSED, Lines, facts, identical, messages, payloads, train_job
from training import group_math
from training.actor_critic import Answered, joined, look
from training.methods import method_for
from training.models import ModelSource, open_source
from training.rewards import VERIFIABLE, Rewarder
from training.rows import RawRow
from training.specs import GrpoSpec, TrainJob
from training.stages.base import Setting
from training.stages.groups import GroupStage
from training.stages.rollouts import RolloutOrder
from training.train import STAGES

STAGES_HERE = ("grpo", "rloo")
METHODS = ("full", "lora", "qlora", "ia3", "adapter")
RATES = {"full": 1e-3, "lora": 5e-3, "qlora": 5e-3, "ia3": 1e-1, "adapter": 5e-3}


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


def loop(stage: str, source: ModelSource, score: Any, folder: Path = UNUSED, count: int = 4, **settings: Any) -> Any:
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
    read = [ids[mask.bool()].tolist() for ids, mask in zip(told.ids, told.attention_mask, strict=True)]
    assert [row[: len(prompt)] for row, prompt in zip(read, prompts, strict=True)] == prompts
    earned = last_tokens(read) - 9 * (~told.ended).float()
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


# --- The stages -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model whose answers end, and name one of eight colours."""
    job = train_job(
        tmp_path_factory.mktemp("sft"), base, taught("sft", epochs=40, learning_rate=5e-3), payloads("sft", 8)
    )
    run(job)
    return job.output


def job_of(folder: Path, model: Path, stage: str, method: str = "lora", **settings: Any) -> TrainJob:
    own = {"rollout": 8, "group_size": 4, "batch_size": 32, "max_new_tokens": 12, "reward": "token_f1"}
    return train_job(folder, model, spec_of(stage, method, **{**own, **settings}), payloads(stage, 8))


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "method"), [("grpo", "lora"), ("rloo", "full")])
def test_earns_more(learned: Path, tmp_path: Path, stage: str, method: str) -> None:
    """All questions want the same colour now, which one answer in eight or fewer has at first."""
    of_answers = {"rollout": 8, "group_size": 8, "batch_size": 64, "passes": 2, "max_new_tokens": 12}
    spec = spec_of(stage, method, reward="contains", epochs=8, schedule="constant_with_warmup", **of_answers)
    rows = [messages(question, "red") for question, _ in facts(8)]
    result = run(train_job(tmp_path, learned, spec, rows))
    rewards = result.logged("reward")
    assert len(rewards) == 8
    assert result.steps == 16
    assert rewards[0] < 0.15
    assert sum(rewards[-3:]) / 3 > rewards[0] + 0.1, rewards
    assert result.logged("kl")[0] == pytest.approx(0, abs=1e-2)
    assert result.logged("kl")[-1] > 0.1
    assert min(result.logged("ended")) > 0.7
    assert 0 < result.equal_groups < 1


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stage", STAGES_HERE)
def test_every_method_learns_from_a_rollout_and_is_saved(
    learned: Path, tmp_path: Path, stage: str, method: str
) -> None:
    """At a low rate each pass over the same answers makes those that earned more likelier, so the loss falls."""
    job = job_of(tmp_path, learned, stage, method, passes=3, learning_rate=RATES[method] / 4)
    result = run(job)
    losses = [point.loss for point in result.metrics]
    assert len(losses) == 3
    assert losses[2] < losses[0] - 0.004, losses
    assert result.logged("kl") == pytest.approx((0,), abs=1e-2)
    assert result.ledger.kept == result.ledger.rows == 8
    assert {"weights_changed", "adapter_active"} & result.guards.keys()
    assert not identical(learned, job.output)


@pytest.mark.slow
def test_answers_that_all_earn_the_same_teach_nothing_and_it_is_said(base: Path, tmp_path: Path) -> None:
    """A random model never has the answer, and here it loses nothing by not ending."""
    job = job_of(tmp_path, base, "grpo", epochs=2, reward="exact_match", unfinished_penalty=0)
    lines = Lines()
    with pytest.raises(TrainingError, match="the answers to each prompt all earned the same"):
        run(job, progress=lines)
    steps = [event for event in lines.events if event["event"] == "step"]
    assert [(event["reward"], event["equal_groups"]) for event in steps] == [(0, 1), (0, 1)]
    assert not job.output.exists()


@pytest.mark.slow
def test_resuming_in_the_middle_of_a_rollout_is_exact(base: Path, tmp_path: Path) -> None:
    """Steps 1 to 4 learn from the first rollout, 5 to 8 from the second one, 9 to 12 from the third one."""
    settings = {"rollout": 4, "group_size": 2, "batch_size": 4, "passes": 2, "epochs": 3, "checkpoint_steps": 3}
    spec, rows = spec_of("rloo", reward="token_f1", **settings), payloads("rloo", 4)
    jobs = [train_job(tmp_path / name, base, spec, rows) for name in ("whole", "broken")]
    expected = run(jobs[0])
    stop = StopAt(5)
    with pytest.raises(Interrupted):
        run(jobs[1], stop=stop, progress=stop)
    lines = Lines()
    result = run(jobs[1], progress=lines)
    assert {"event": "resumed", "step": 6} in lines.events
    assert result.metrics == expected.metrics
    assert identical(jobs[0].output, jobs[1].output)
