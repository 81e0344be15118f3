"""The losses of the preference stages: TRL's own code, on our batches, gives what the papers' formulas give."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM

from data_catalog.errors import TrainingError
from tests.training.test_train import run, spec_of
from tests.training.tiny import UNUSED, payloads, train_job
from training.ledger import LedgerBook
from training.methods import method_for
from training.models import ModelSource, open_source
from training.rows import Encoder, PairRow, RawRow
from training.specs import DpoSpec
from training.stage_specs import SMOOTHED, DpoLoss
from training.stages.base import Material, Setting
from training.stages.kto import BothSides, unpaired
from training.train import STAGES

BETA, EPSILON, LN2 = 0.1, 0.1, math.log(2)
AT_STEP_0 = {
    "sigmoid": LN2,
    "hinge": 1.0,
    "ipo": (1 / (2 * BETA)) ** 2,
    "exo_pair": 0.5 * (math.log(0.5) - math.log(1 - EPSILON)) + 0.5 * (math.log(0.5) - math.log(EPSILON)),
    "nca_pair": 2 * LN2,
    "robust": LN2,
    "bco_pair": 2 * LN2,
    "sppo_hard": 2 * (0.5 / BETA) ** 2,
    "aot": LN2,
    "aot_unpaired": LN2,
    "apo_zero": 1.0,
    "apo_down": 1.0,
    "discopop": 0.5 * LN2 + 0.5,
    "sigmoid_norm": LN2,
}
"""Each loss where policy and reference are the same, by hand from the papers that `DpoSpec.loss` names."""


@pytest.fixture(scope="module")
def source(base: Path) -> ModelSource:
    return open_source(base, needs_chat_template=True)


def raw(stage: str, count: int = 6) -> list[RawRow]:
    return [RawRow(f"r{number}", row) for number, row in enumerate(payloads(stage, count))]


def material_of(source: ModelSource, spec: Any) -> Material:
    return STAGES[spec.stage].encode(spec, source, raw(spec.stage), [], 0.0)


def trainer_of(source: ModelSource, spec: Any) -> Any:
    model = method_for(spec).prepare(method_for(spec).load(source, torch.float32), spec, source)
    return STAGES[spec.stage].trainer(
        spec, model, material_of(source, spec), Setting(source, torch.float32, UNUSED), []
    )


def loss_of(trainer: Any) -> float:
    """Return the loss of all rows as one batch."""
    rows = len(trainer.row_ids)
    batch = trainer._prepare_inputs(trainer.data_collator([{"row": index} for index in range(rows)]))
    with torch.no_grad():
        return float(trainer.compute_loss(trainer.model, batch))


def dpo_spec(**settings: Any) -> Any:
    return spec_of("dpo", "lora", beta=BETA, **settings)


def smoothing(loss: str) -> dict[str, float]:
    return {"label_smoothing": EPSILON} if loss in SMOOTHED else {}


def pairs_of(source: ModelSource) -> list[PairRow]:
    return Encoder(source, 128).pairs(raw("dpo"), LedgerBook())


def token_logps(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Return the log-probability of each token behind the first, prompt and answer."""
    ids = torch.tensor([prompt + answer])
    with torch.no_grad():
        logps = model(ids).logits[0, :-1].log_softmax(-1)
    return logps.gather(1, ids[0, 1:, None])[:, 0]


# --- DPO --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dpo_trainer(source: ModelSource) -> Any:
    return trainer_of(source, dpo_spec())


def test_the_losses_are_those_of_the_installed_trl(dpo_trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dpo_trainer, "loss_types", ["unheard_of"])
    with pytest.raises(ValueError, match="Unknown loss type") as caught:
        loss_of(dpo_trainer)
    listed = str(caught.value).split("one of", 1)[1]
    assert set(re.findall(r"'(\w+)'", listed)) == set(get_args(DpoLoss)) == {*AT_STEP_0, "sft"}


@pytest.mark.parametrize("loss", sorted(AT_STEP_0))
def test_a_loss_starts_where_its_formula_says(source: ModelSource, loss: str) -> None:
    spec = dpo_spec(loss=loss, **smoothing(loss))
    fresh = trainer_of(source, spec)
    assert (fresh.loss_types, fresh.loss_weights) == ([loss], [1.0])
    assert loss_of(fresh) == pytest.approx(AT_STEP_0[loss], rel=1e-4)


def test_a_mix_is_the_weighted_sum(source: ModelSource) -> None:
    trainer = trainer_of(source, dpo_spec(loss={"sigmoid": 0.5, "hinge": 0.25, "sft": 2.0}))
    model = AutoModelForCausalLM.from_pretrained(source.path)
    answers = [token_logps(model, pair.prompt, pair.chosen)[len(pair.prompt) - 1 :] for pair in pairs_of(source)]
    likelihood = -float(torch.cat(answers).mean())
    assert loss_of(trainer) == pytest.approx(0.5 * LN2 + 0.25 + 2 * likelihood, rel=1e-4)


def test_label_smoothing_is_heeded(source: ModelSource) -> None:
    """Away from the reference: the chosen answer twenty nats likelier, as far as the loss knows."""
    losses = []
    for epsilon in (0.1, 0.3):
        trainer = trainer_of(source, dpo_spec(loss="robust", label_smoothing=epsilon))
        trainer.data_collator.reference[:, 0] -= 20
        losses.append(loss_of(trainer))
        right, wrong = -logsigmoid(torch.tensor(2.0)), -logsigmoid(torch.tensor(-2.0))
        expected = ((1 - epsilon) * right - epsilon * wrong) / (1 - 2 * epsilon)
        assert losses[-1] == pytest.approx(float(expected), rel=1e-3)
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"loss": "sft"}, "nearest that works: stage sft"),
        ({"loss": "sigmod"}, "Input should be 'sigmoid', 'hinge'"),
        ({"loss": {}}, "at least 1 item"),
        ({"loss": {"sigmoid": 0}}, "greater than 0"),
        ({"loss": {"sigmoid": math.nan}}, "finite number"),
        ({"loss": "exo_pair"}, "`exo_pair` needs `label_smoothing`"),
        ({"label_smoothing": 0.1}, "nearest that works: loss: robust"),
        ({"loss": "robust", "label_smoothing": 0.5}, "less than 0.5"),
    ],
)
def test_losses_that_can_not_be_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DpoSpec.model_validate(settings)
    assert said in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("loss", sorted(AT_STEP_0))
def test_a_loss_falls_in_training(base: Path, tmp_path: Path, loss: str) -> None:
    spec = dpo_spec(loss=loss, **smoothing(loss), learning_rate=2e-3, epochs=3, log_steps=1, warmup_share=0)
    result = run(train_job(tmp_path, base, spec, payloads("dpo")))
    losses = [point.loss for point in result.metrics]
    assert losses[0] == pytest.approx(AT_STEP_0[loss], rel=1e-2)
    assert losses[-1] < losses[0]
    assert result.guards["dpo_step0_loss"].startswith("0.6931")


# --- KTO --------------------------------------------------------------------------------------------------------------


def test_a_mismatched_answer_belongs_to_another_prompt(source: ModelSource) -> None:
    pairs = [
        *pairs_of(source),
        PairRow("twice-1", pairs_of(source)[0].prompt, [7, 3], [8, 3]),
        PairRow("twice-2", pairs_of(source)[0].prompt, [9, 3], [8, 9, 3]),
    ]
    for seed in range(5):
        rows = unpaired(pairs, seed=seed, max_length=128)
        assert [row.desirable for row in rows] == [True, False] * len(pairs)
        assert [row.answer for row in rows] == [answer for pair in pairs for answer in (pair.chosen, pair.rejected)]
        by_answer = {tuple(answer): pair.prompt for pair in pairs for answer in (pair.chosen, pair.rejected)}
        assert all(by_answer[tuple(row.mismatched)] != row.prompt for row in rows)
    assert unpaired(pairs, seed=1, max_length=128) == unpaired(pairs, seed=1, max_length=128)
    assert unpaired(pairs, seed=1, max_length=128) != unpaired(pairs, seed=2, max_length=128)
    longest = max(len(pair) for pair in pairs)
    assert all(len(row) <= longest for row in unpaired(pairs, seed=1, max_length=longest))


def test_a_batch_has_wanted_and_unwanted_answers(source: ModelSource) -> None:
    rows = unpaired(pairs_of(source), seed=1, max_length=128)
    order = BothSides(rows, seed=3, batch_size=4)
    epochs = []
    for epoch in range(2):
        order.set_epoch(epoch)
        epochs.append(list(order))
        assert sorted(epochs[-1]) == list(range(len(rows))) == list(range(len(order)))
        for start in range(0, len(rows), 4):
            assert sum(rows[index].desirable for index in epochs[-1][start : start + 4]) == 2
    assert epochs[0] != epochs[1]


def test_kto_needs_two_prompts(source: ModelSource) -> None:
    pair = pairs_of(source)[0]
    with pytest.raises(TrainingError, match="all 1 pairs have the same prompt") as caught:
        unpaired([pair], seed=1, max_length=128)
    assert "apo_zero_unpaired" in caught.value.next_step


@pytest.mark.parametrize("loss", ["kto", "apo_zero_unpaired"])
def test_kto_is_its_formula(source: ModelSource, loss: str) -> None:
    """The reference is moved by known amounts, so log-ratios and the KL term are known (arXiv 2402.01306, eq. 7)."""
    beta, wanted, unwanted = 0.3, 1.5, 0.7
    spec = spec_of("kto", "lora", loss=loss, beta=beta, desirable_weight=wanted, undesirable_weight=unwanted)
    trainer = trainer_of(source, spec)
    assert loss_of(trainer) == pytest.approx((wanted + unwanted) / 4, rel=1e-4)  # policy and reference are one
    rng = np.random.default_rng(5)
    rows = len(trainer.row_ids)
    ratios, mismatched = rng.normal(size=rows), np.abs(rng.normal(size=rows))
    trainer.data_collator.reference -= np.stack([ratios, mismatched], axis=1).astype(np.float32)
    kl = mismatched.mean() if loss == "kto" else 0.0
    signs = np.array([1 if row.desirable else -1 for row in trainer.data_collator.rows])
    weights = np.where(signs > 0, wanted, unwanted)
    expected = (weights * (1 - 1 / (1 + np.exp(-beta * signs * (ratios - kl))))).mean()
    assert loss_of(trainer) == pytest.approx(expected, rel=1e-3)


def test_a_wrong_reference_stops_kto(source: ModelSource) -> None:
    """Also one that is off by the same amount everywhere, which cancels out of the loss itself."""
    trainer = trainer_of(source, spec_of("kto", "lora"))
    assert trainer.check_step0(torch.float32, is_reference=True).startswith("0.5000")
    assert trainer.loss_type == "kto"
    trainer.data_collator.reference -= 0.5
    assert loss_of(trainer) == pytest.approx(0.5, abs=1e-4)
    with pytest.raises(TrainingError, match="the reference is not the model that is trained"):
        trainer.check_step0(torch.float32, is_reference=True)


# --- ORPO and SimPO ---------------------------------------------------------------------------------------------------


def mean_logps(source: ModelSource, model: Any) -> torch.Tensor:
    """Return mean log-probabilities per answer token, shape (pairs, 2): chosen, rejected."""
    return torch.tensor(
        [
            [float(token_logps(model, pair.prompt, answer)[len(pair.prompt) - 1 :].mean()) for answer in answers]
            for pair in pairs_of(source)
            for answers in [(pair.chosen, pair.rejected)]
        ]
    )


def test_orpo_is_its_formula(source: ModelSource) -> None:
    """Likelihood of prompt and chosen answer, less beta times log sigmoid of the log odds ratio: arXiv 2403.07691."""
    model = AutoModelForCausalLM.from_pretrained(source.path)
    logps = mean_logps(source, model)
    odds = logps - torch.log1p(-logps.exp())
    whole = torch.cat([token_logps(model, pair.prompt, pair.chosen) for pair in pairs_of(source)])
    for beta in (0.1, 0.8):
        expected = -whole.mean() - beta * logsigmoid(odds[:, 0] - odds[:, 1]).mean()
        trainer = trainer_of(source, spec_of("orpo", "lora", beta=beta))
        assert loss_of(trainer) == pytest.approx(float(expected), rel=1e-4)


def test_simpo_is_its_formula(source: ModelSource) -> None:
    """-log sigmoid of beta times the difference of mean log-probabilities, less gamma: arXiv 2405.14734, equation 6."""
    model = AutoModelForCausalLM.from_pretrained(source.path)
    logps = mean_logps(source, model)
    answers = [token_logps(model, pair.prompt, pair.chosen)[len(pair.prompt) - 1 :] for pair in pairs_of(source)]
    for beta, gamma, weight in ((2.0, 1.0, 0.0), (2.5, 0.3, 0.0), (2.0, 1.0, 0.5)):
        expected = -logsigmoid(beta * (logps[:, 0] - logps[:, 1]) - gamma).mean() - weight * torch.cat(answers).mean()
        spec = spec_of("simpo", "lora", beta=beta, gamma=gamma, sft_weight=weight)
        assert loss_of(trainer_of(source, spec)) == pytest.approx(float(expected), rel=1e-4)


# --- All of them ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["kto", "orpo", "simpo"])
def test_goes_on_from_sft(base: Path, tmp_path: Path, stage: str) -> None:
    first = train_job(tmp_path / "1", base, spec_of("sft", "lora", epochs=2), payloads("sft"))
    run(first)
    second = train_job(tmp_path / "2", first.output, spec_of(stage, "lora", log_steps=1), payloads(stage))
    result = run(second)
    assert result.metrics[-1].loss < result.metrics[0].loss
    assert result.metrics[-1].values["rewards/margins"] > result.metrics[0].values["rewards/margins"]
    assert stage != "kto" or result.guards["kto_step0_loss"].startswith("0.5000")
