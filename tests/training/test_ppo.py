"""Reward models and PPO: the formulas by hand, the loop on a toy task, and the two stages one behind the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from data_catalog.errors import Interrupted, TrainingError
from tests.training.test_train import StopAt, run
from tests.training.test_train import spec_of as taught
from tests.training.tiny import STAGE_SPECS, UNUSED, Lines, identical, payloads, train_job, weights
from training import ppo_math
from training.actor_critic import ActorCritic, answer, look
from training.ledger import LedgerBook
from training.methods import method_for
from training.models import ModelSource, open_source
from training.reward_model import RewardModel
from training.rows import Encoder, RawRow
from training.specs import PpoSpec
from training.stages.base import Setting
from training.stages.ppo import PpoTrainer, ppo_trainer
from training.stages.rollouts import RolloutOrder
from training.train import STAGES

METHODS = ("full", "lora")
RATES = {"full": 2e-3, "lora": 1e-2}


@pytest.fixture(scope="module")
def source(base: Path) -> ModelSource:
    return open_source(base, needs_chat_template=True)


def spec_of(stage: str, method: str = "full", **settings: Any) -> Any:
    given = {"method": method, "learning_rate": RATES[method], "max_length": 128, "log_steps": 1, "warmup_share": 0}
    own = {"reward": {"epochs": 4}, "ppo": {"rollout": 8, "passes": 2, "max_new_tokens": 6}}[stage]
    return STAGE_SPECS[stage].model_validate({**given, **own, **settings})


# --- The formulas -----------------------------------------------------------------------------------------------------

MASK = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])


def test_a_token_earns_its_divergence_and_the_last_one_the_score() -> None:
    log_ratios = torch.tensor([[0.5, -1.0, 0.25], [2.0, 9.0, 9.0]])
    rewards = ppo_math.token_rewards(torch.tensor([3.0, -1.0]), log_ratios, MASK, 0.1)
    torch.testing.assert_close(rewards, torch.tensor([[-0.05, 0.1, 2.975], [-1.2, 0.0, 0.0]]))


def test_advantages_by_hand() -> None:
    """With γ = 0.9 and λ = 0.5; what stands behind an answer's end counts for nothing."""
    rewards = torch.tensor([[1.0, 0.0, 2.0], [4.0, 0.0, 0.0]])
    values = torch.tensor([[0.5, 1.0, -1.0], [1.0, 7.0, 7.0]])
    found = ppo_math.generalised_advantages(rewards, values, MASK, discount=0.9, gae_lambda=0.5)
    third = 2.0 + 1.0
    second = (0.0 + 0.9 * -1.0 - 1.0) + 0.45 * third
    first = (1.0 + 0.9 * 1.0 - 0.5) + 0.45 * second
    torch.testing.assert_close(found.advantages, torch.tensor([[first, second, third], [3.0, 0.0, 0.0]]))
    torch.testing.assert_close(found.returns, torch.tensor([[first + 0.5, second + 1.0, third - 1.0], [4.0, 0.0, 0.0]]))


def test_without_discount_the_returns_are_the_sums_of_what_follows() -> None:
    rewards, values = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.3, -0.2, 5.0]])
    found = ppo_math.generalised_advantages(rewards, values, torch.ones(1, 3), discount=1.0, gae_lambda=1.0)
    torch.testing.assert_close(found.returns, torch.tensor([[6.0, 5.0, 3.0]]))


def test_whitened_values_are_told_by_the_answers_alone() -> None:
    found = ppo_math.whitened(torch.tensor([[1.0, 2.0, 3.0], [6.0, 100.0, 100.0]]), MASK)
    kept = found[MASK.bool()]
    assert float(kept.mean()) == pytest.approx(0, abs=1e-6)
    assert float(kept.var(correction=0)) == pytest.approx(1, abs=1e-4)
    assert found[1, 1:].tolist() == [0, 0]


def test_the_policy_loss_by_hand() -> None:
    """Ratios 2, 0.5 and 1.1 with advantages 1, -1 and 3: clipped at 1.2, clipped at 0.8, not clipped."""
    logps = torch.tensor([[math.log(2.0), math.log(0.5), math.log(1.1)]])
    loss = ppo_math.policy_loss(logps, torch.zeros(1, 3), torch.tensor([[1.0, -1.0, 3.0]]), torch.ones(1, 3), 0.2)
    assert float(loss) == pytest.approx(-(1.2 - 0.8 + 3.3) / 3)
    # A clipped token has no gradient.
    logps.requires_grad_()
    ppo_math.policy_loss(logps, torch.zeros(1, 3), torch.tensor([[1.0, -1.0, 3.0]]), torch.ones(1, 3), 0.2).backward()
    assert logps.grad is not None
    assert (logps.grad[0] != 0).tolist() == [False, False, True]


def test_the_value_loss_by_hand() -> None:
    """From 0 to 1 with a return of 0.5: kept at 0.2 it is off by 0.3, as it is by 0.5, so 0.5 counts."""
    values, returns = torch.tensor([[1.0, 0.1]]), torch.tensor([[0.5, 1.0]])
    loss = ppo_math.value_loss(values, torch.zeros(1, 2), returns, torch.ones(1, 2), 0.2)
    assert float(loss) == pytest.approx(0.5 * (0.25 + 0.81) / 2)


def test_the_kl_weight_follows_its_target() -> None:
    assert ppo_math.adapted_kl_weight(0.5, 6.0, 6.0) == 0.5
    assert ppo_math.adapted_kl_weight(0.5, 6.6, 6.0) == pytest.approx(0.5 * 1.01)
    assert ppo_math.adapted_kl_weight(0.5, 600.0, 6.0) == pytest.approx(0.5 * 1.02)
    assert ppo_math.adapted_kl_weight(0.5, -3.0, 6.0) == pytest.approx(0.5 * 0.98)


# --- Answering --------------------------------------------------------------------------------------------------------


def prompts_of(source: ModelSource, count: int = 4) -> list[list[int]]:
    questions = [row["messages"][0]["content"] * (1 + number % 2) for number, row in enumerate(payloads("sft", count))]
    return Encoder(source, 128).prompts([[{"role": "user", "content": question}] for question in questions])


def sampled(source: ModelSource, model: Any, tokens: int = 6) -> Any:
    torch.manual_seed(5)
    return answer(
        model,
        prompts_of(source),
        names=["a", "b", "c", "d"],
        tokens=tokens,
        end_tokens=source.end_tokens,
        pad_token=int(source.tokenizer.pad_token_id),
    )


def test_an_answer_is_sampled_from_the_policy(source: ModelSource) -> None:
    """Padded and cached, against one row at a time: each token's log-probability; and its end is where it ends."""
    model = AutoModelForCausalLM.from_pretrained(source.path)
    answered = sampled(source, model)
    said = ActorCritic(model)(answered)
    assert answered.mask.shape[1] <= 6
    for number, row in enumerate(answered.conversations()):
        prompt = prompts_of(source)[number]
        assert row[: len(prompt)] == prompt
        fresh = row[len(prompt) :]
        assert len(fresh) == int(answered.mask[number].sum())
        assert bool(answered.ended[number]) == (fresh[-1] in source.end_tokens)
        assert not any(token in source.end_tokens for token in fresh[:-1])
        with torch.no_grad():
            logps = model(torch.tensor([row])).logits[0].log_softmax(-1)
        expected = [float(logps[len(prompt) - 1 + place, token]) for place, token in enumerate(fresh)]
        assert said.logps[number, : len(fresh)].tolist() == pytest.approx(expected, abs=1e-4)
        assert said.logps[number, len(fresh) :].abs().sum() == 0
    torch.testing.assert_close(look(model, answered).logps, said.logps)
    assert sampled(source, model).ids.equal(answered.ids)


def test_a_sure_policy_says_what_it_is_sure_of(source: ModelSource) -> None:
    model = AutoModelForCausalLM.from_pretrained(source.path)
    with torch.no_grad():
        model.lm_head.weight *= 1e4
    for prompt, row in zip(prompts_of(source), sampled(source, model).conversations(), strict=True):
        greedy = list(prompt)
        while len(greedy) < len(row):
            greedy.append(int(model(torch.tensor([greedy])).logits[0, -1].argmax()))
        assert row == greedy


def test_nan_can_not_be_sampled_from(source: ModelSource) -> None:
    model = AutoModelForCausalLM.from_pretrained(source.path)
    with torch.no_grad():
        model.model.embed_tokens.weight[prompts_of(source)[2][-8]] = math.nan
    with pytest.raises(TrainingError, match=r"logits are not finite where it answers the rows .*c"):
        sampled(source, model)


def test_the_order_of_rollouts() -> None:
    """Each prompt once an epoch, in rollouts, each of them `passes` times; the last one of an epoch may be smaller."""
    order = RolloutOrder(10, seed=3, rollout=4, passes=3)
    assert (order.rollouts, len(order)) == (3, 30)
    seen = []
    for epoch in range(2):
        order.set_epoch(epoch)
        turns = [divmod(index, 10) for index in order]
        assert [rollout for rollout, _ in turns] == [3 * epoch + n for n in (0,) * 12 + (1,) * 12 + (2,) * 6]
        for number in range(3):
            of_rollout = [prompt for rollout, prompt in turns if rollout == 3 * epoch + number]
            assert sorted(of_rollout) == sorted(order.rows_of(3 * epoch + number) * 3)
        once = [prompt for number in range(3) for prompt in order.rows_of(3 * epoch + number)]
        assert sorted(once) == list(range(10))
        seen.append([prompt for _, prompt in turns])
    assert seen[0] != seen[1]


def test_a_rollout_is_whole_minibatches() -> None:
    with pytest.raises(ValidationError, match="nearest that works: rollout: 8"):
        PpoSpec(rollout=9, batch_size=8)


# --- The loop ---------------------------------------------------------------------------------------------------------


def loop(source: ModelSource, score: Any, folder: Path = UNUSED, count: int = 8, **settings: Any) -> PpoTrainer:
    spec = spec_of("ppo", settings.pop("method", "lora"), **settings)
    rows = [RawRow(f"r{number}", row) for number, row in enumerate(payloads("ppo", count))]
    material = STAGES["ppo"].encode(spec, source, rows, [], 0.0)
    model = method_for(spec).prepare(method_for(spec).load(source, torch.float32), spec, source)
    return ppo_trainer(spec, model, material, Setting(source, torch.float32, folder), [], score)


def lengths(conversations: Sequence[Sequence[int]]) -> torch.Tensor:
    return torch.tensor([float(len(row) % 5) for row in conversations])


def disturb(trainer: PpoTrainer) -> None:
    torch.manual_seed(11)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)


def outcome(source: ModelSource, **settings: Any) -> tuple[float, float]:
    """Return the loss some way from the rollout, and the weight of the divergence behind it."""
    trainer = loop(source, lengths, **settings)
    disturb(trainer)  # another policy than the reference, and values that are not 0
    torch.manual_seed(12)
    trainer.experience = trainer.roll_out(0)
    disturb(trainer)
    batch = trainer.data_collator([{"rollout": 0, "row": row} for row in range(8)])
    with torch.no_grad():
        return float(trainer.compute_loss(trainer.model, batch)), trainer.experience.kl_weight


@pytest.fixture(scope="module")
def usual(source: ModelSource) -> tuple[float, float]:
    return outcome(source)


@pytest.mark.parametrize(
    "changed",
    [
        {"clip": 0.01},
        {"discount": 0.5},
        {"gae_lambda": 0.1},
        {"value_weight": 0.7},
        {"kl_weight": 0.5},
        {"kl_target": None},
        {"unfinished_penalty": 4.0},
    ],
)
def test_the_loop_reads_its_settings(source: ModelSource, usual: tuple[float, float], changed: dict[str, Any]) -> None:
    other = outcome(source, **changed)
    place = 1 if "kl_target" in changed else 0
    assert other[place] != usual[place]


def test_the_loop_starts_at_its_reference(source: ModelSource) -> None:
    """Before the first step: no divergence, ratios of 1, values of 0, so the returns are what the answers earned."""
    trainer = loop(source, lengths, unfinished_penalty=2.0)
    told = trainer.roll_out(0)
    assert trainer._seen["kl"][0] == pytest.approx(0, abs=1e-3)
    assert told.values.abs().max() == 0
    prompts = [trainer.prompts[index].prompt for index in trainer.order.rows_of(0)]
    rows = [ids[mask.bool()].tolist() for ids, mask in zip(told.ids, told.attention_mask, strict=True)]
    assert [row[: len(prompt)] for row, prompt in zip(rows, prompts, strict=True)] == prompts
    expected = lengths(rows) - 2.0 * (~told.ended).float()
    last = told.mask.sum(dim=1) - 1
    torch.testing.assert_close(told.returns[torch.arange(8), last], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_learns_a_toy_task_in_seconds(source: ModelSource, tmp_path: Path) -> None:
    """The more of an answer is of one kind of tokens, the better; at first that is one in four.

    All weights: on a random model, whose head LoRA leaves as it is, hidden states hardly move the logits.
    """

    def share(conversations: Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.tensor([sum(token % 4 == 0 for token in row[-2:]) / 2 for row in conversations])

    of_answers: dict[str, Any] = {"rollout": 80, "batch_size": 80, "passes": 4, "max_new_tokens": 2}
    rest: dict[str, Any] = {"epochs": 15, "unfinished_penalty": 0, "kl_weight": 0.0, "kl_target": None}
    trainer = loop(source, share, tmp_path, 80, method="full", schedule="constant_with_warmup", **of_answers, **rest)
    trainer.train()
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    assert len(rewards) == 15
    assert rewards[0] < 0.3
    assert rewards[-1] > 0.8


# --- The stages -------------------------------------------------------------------------------------------------------


def test_centring_holds_the_mean_reward_at_zero(source: ModelSource) -> None:
    spec = spec_of("reward", "lora", centring=0.5)
    rows = [RawRow(f"r{number}", row) for number, row in enumerate(payloads("reward", 6))]
    material = STAGES["reward"].encode(spec, source, rows, [], 0.0)
    method = STAGES["reward"].method(spec)
    model = method.prepare(method.load(source, torch.float32), spec, source)
    trainer = STAGES["reward"].trainer(spec, model, material, Setting(source, torch.float32, UNUSED), [])
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "score" in name:
                parameter.fill_(0.05)
    batch = trainer.data_collator([{"row": index} for index in range(6)])
    with torch.no_grad():
        rewards = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
        loss = float(trainer.compute_loss(trainer.model, batch))
    chosen, rejected = rewards.chunk(2)
    preference = -torch.nn.functional.logsigmoid(chosen - rejected).mean()
    assert rewards.abs().min() > 0
    assert loss == pytest.approx(float(preference + 0.5 * ((chosen + rejected) ** 2).mean()), rel=1e-4)


def conversations_of(source: ModelSource) -> tuple[list[list[int]], list[list[int]]]:
    rows = [RawRow(str(number), row) for number, row in enumerate(payloads("reward"))]
    pairs = Encoder(source, 128).pairs(rows, LedgerBook())
    return [pair.prompt + pair.chosen for pair in pairs], [pair.prompt + pair.rejected for pair in pairs]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_reward_model_is_trained_saved_and_used(base: Path, source: ModelSource, tmp_path: Path, method: str) -> None:
    """It starts at ln 2, prefers what was chosen, also when loaded again; and PPO earns more of its reward."""
    sft = train_job(tmp_path / "sft", base, taught("sft", epochs=8, learning_rate=5e-3), payloads("sft"))
    run(sft)
    job = train_job(tmp_path / "reward", sft.output, spec_of("reward", method), payloads("reward"))
    result = run(job)
    assert result.metrics[0].loss == pytest.approx(math.log(2), abs=1e-4)
    assert result.metrics[-1].loss < 0.5 * result.metrics[0].loss
    assert ("merge_parity" in result.guards) == (method == "lora")
    judge = RewardModel(job.output, source, torch.float32)
    good, bad = (judge.score(conversations) for conversations in conversations_of(source))
    assert float((good > bad).float().mean()) > 0.9
    alone = torch.cat([judge.score([row]) for row in conversations_of(source)[0]])
    torch.testing.assert_close(alone, good, rtol=1e-3, atol=1e-4)

    ppo = train_job(
        tmp_path / "ppo",
        sft.output,
        spec_of("ppo", method, epochs=8, rollout=24, passes=4, batch_size=24, kl_weight=0.01),
        payloads("ppo"),
        reward_model=job.output,
    )
    trained = run(ppo)
    rewards = [point.values["reward"] for point in trained.metrics if "reward" in point.values]
    assert len(rewards) == 8
    assert sum(rewards[-3:]) > sum(rewards[:3]) + 0.1
    assert trained.metrics[0].values["kl"] == pytest.approx(0, abs=1e-3)
    assert ("merge_parity" in trained.guards) == (method == "lora")
    assert weights(ppo.output).keys() == weights(base).keys()
    assert not identical(sft.output, ppo.output)
    assert torch.isfinite(AutoModelForCausalLM.from_pretrained(ppo.output)(torch.tensor([[5, 6]])).logits).all()


@pytest.mark.slow
def test_resuming_in_the_middle_of_a_rollout_is_exact(base: Path, tmp_path: Path) -> None:
    reward = train_job(tmp_path / "reward", base, spec_of("reward", epochs=1), payloads("reward"))
    run(reward)
    # Steps 1 to 4 learn from the first rollout, 5 to 8 from the second, 9 to 12 from the third one.
    spec = spec_of("ppo", "lora", rollout=16, batch_size=8, passes=2, epochs=3, checkpoint_steps=3)
    jobs = [
        train_job(tmp_path / name, base, spec, payloads("ppo", 16), reward_model=reward.output)
        for name in ("whole", "broken")
    ]
    expected = run(jobs[0])
    stop = StopAt(5)
    with pytest.raises(Interrupted):
        run(jobs[1], stop=stop, progress=stop)
    lines = Lines()
    result = run(jobs[1], progress=lines)
    assert {"event": "resumed", "step": 6} in lines.events
    assert [point.loss for point in result.metrics] == [point.loss for point in expected.metrics]
    assert identical(jobs[0].output, jobs[1].output)


def test_ppo_needs_a_reward_model_of_its_family(base: Path, tmp_path: Path) -> None:
    job = train_job(tmp_path, base, spec_of("ppo"), payloads("ppo"))
    with pytest.raises(TrainingError, match="a ppo stage needs a reward model"):
        run(job)


def test_ppo_takes_no_replay_and_no_more_positions_than_there_are(base: Path, tmp_path: Path) -> None:
    replay = tmp_path / "replay.jsonl"
    replay.write_text('{"text": "x"}\n')
    with pytest.raises(TrainingError, match="learns from its own answers"):
        run(train_job(tmp_path, base, spec_of("ppo"), payloads("ppo"), replay=replay, replay_share=0.3))
    with pytest.raises(TrainingError, match="beyond the model's 512 positions"):
        loop(open_source(base, needs_chat_template=True), lengths, max_new_tokens=500)
