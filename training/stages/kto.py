"""Kahneman-Tversky optimisation (arXiv 2402.01306), through TRL's KTOTrainer.

The catalogue keeps preference pairs; each becomes two rows, an answer that is wanted and one that is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback
from trl import KTOConfig, KTOTrainer

from data_catalog.errors import TrainingError
from training.models import ModelSource
from training.packing import EpochOrder
from training.rows import PairRow, RawRow
from training.specs import KtoSpec, StageSpec
from training.stages.base import Material, Setting, trainer_arguments
from training.stages.pairs import PairStage, lay_out_answers
from training.stages.reference import ReferenceTrainer, build


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """One answer to a prompt, wanted or not, and the answer to another prompt that the KL term is estimated on."""

    id: str
    prompt: list[int]
    answer: list[int]
    desirable: bool
    mismatched: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + max(len(self.answer), len(self.mismatched))


def unpaired(pairs: Sequence[PairRow], *, seed: int, max_length: int) -> list[AnswerRow]:
    """Return two rows of each pair, each with a mismatched answer: the like one of a pair with another prompt.

    The KL term is the mean log-ratio of policy and reference on such answers (arXiv 2402.01306, section 4.1). TRL takes
    them from the neighbours in a batch of fixed order; a partner drawn once leaves batches free to be shuffled, and its
    reference can be computed once. Raises TrainingError where all prompts are the same.
    """
    # In the order of prompts, a step of the largest number of equal ones always leads to another prompt, unless more
    # than half are equal.
    shuffled = np.random.default_rng([seed, 0x4B]).permutation(len(pairs)).tolist()
    order = sorted(shuffled, key=lambda index: pairs[index].prompt)
    step = max(Counter(tuple(pair.prompt) for pair in pairs).values())
    if step == len(pairs):
        raise TrainingError(
            f"kto can't estimate its KL term: all {len(pairs)} pairs have the same prompt",
            valid="pairs of at least two prompts",
            next_step="add pairs, or set `loss: apo_zero_unpaired`, which has no such term",
        )
    partner = {index: pairs[order[(place + step) % len(order)]] for place, index in enumerate(order)}
    rows = []
    for index, pair in enumerate(pairs):
        # A mismatched answer may be cut: nothing is learned from it.
        room = max(1, max_length - len(pair.prompt))
        good, bad = partner[index].chosen[:room], partner[index].rejected[:room]
        rows.append(AnswerRow(f"{pair.id} (chosen)", pair.prompt, pair.chosen, True, good))
        rows.append(AnswerRow(f"{pair.id} (rejected)", pair.prompt, pair.rejected, False, bad))
    return rows


def alone(pairs: Sequence[PairRow]) -> list[AnswerRow]:
    """Return two rows of each pair, without a mismatched answer."""
    return [
        AnswerRow(f"{pair.id} ({side})", pair.prompt, answer, side == "chosen", [])
        for pair in pairs
        for side, answer in (("chosen", pair.chosen), ("rejected", pair.rejected))
    ]


@dataclass
class AnswerCollator:
    """Makes a batch from `[{"row": index}, ...]`: answers, and mismatched ones where the rows have them.

    `reference` is filled in once: (rows, 2) log-probabilities of answer and mismatched answer.
    """

    rows: Sequence[AnswerRow]
    pad_token: int
    reference: np.ndarray | None = field(default=None)

    def __call__(self, examples: Sequence[dict[str, int]]) -> dict[str, Any]:
        """Return the batch of these rows, and their indices as `rows`."""
        indices = [example["row"] for example in examples]
        rows = [self.rows[index] for index in indices]
        lines = vars(lay_out_answers([(row.prompt, row.answer) for row in rows], self.pad_token))
        batch = {**lines, "label": torch.tensor([row.desirable for row in rows]), "rows": torch.tensor(indices)}
        if rows[0].mismatched:
            other = vars(lay_out_answers([(row.prompt, row.mismatched) for row in rows], self.pad_token))
            batch |= {f"KL_{name}": value for name, value in other.items()}
        if self.reference is not None:
            answers, mismatched = torch.from_numpy(self.reference[indices]).unbind(dim=1)
            batch |= {"ref_logps": answers, "ref_KL_logps": mismatched}
        return batch


class BothSides(EpochOrder):
    """The order of pairs, with the two rows of a pair side by side, so that a batch has wanted and unwanted answers.

    Rows of like length alone would often make a batch of one side: what is wrong tends to be longer, or shorter.
    """

    def __init__(self, rows: Sequence[AnswerRow], *, seed: int, batch_size: int) -> None:
        lengths = [max(len(one), len(other)) for one, other in zip(rows[::2], rows[1::2], strict=True)]
        super().__init__(lengths, seed=seed, group_by=batch_size // 2)

    def __len__(self) -> int:
        return 2 * super().__len__()

    def __iter__(self) -> Iterator[int]:
        return (row for pair in super().__iter__() for row in (2 * pair, 2 * pair + 1))


class UnpairedTrainer(ReferenceTrainer, KTOTrainer):
    """TRL's KTOTrainer with a cached reference."""

    loss_type: str
    desirable_weight: float
    step0_expected = 0.5

    def reference_logps(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the log-probabilities of answers and of mismatched answers (0 where there are none)."""
        answers = self.answer_logps(batch["input_ids"], batch["attention_mask"], batch["completion_mask"])
        if "KL_input_ids" not in batch:
            return torch.stack([answers, torch.zeros_like(answers)], dim=1)
        mismatched = self.answer_logps(batch["KL_input_ids"], batch["KL_attention_mask"], batch["KL_completion_mask"])
        return torch.stack([answers, mismatched], dim=1)

    def step0_loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the loss without the KL term as if every answer were wanted.

        With the term, or with wanted and unwanted answers, a reference that is off everywhere would cancel out.
        """
        kept = self.loss_type, self.desirable_weight
        self.loss_type, self.desirable_weight = "apo_zero_unpaired", 1.0
        try:
            wanted = {**batch, "label": torch.ones_like(batch["label"])}
            return torch.as_tensor(self.compute_loss(self.model, wanted))
        finally:
            self.loss_type, self.desirable_weight = kept

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        finite: list[bool] = []

        def watched(**arguments: Any) -> Any:
            output = model(**arguments)
            finite.append(bool(torch.isfinite(output.log_probs).all()))
            return output

        loss = super()._compute_loss(watched, inputs, return_outputs)
        # TRL takes the mean over what is not NaN; here one such row is enough to stop.
        return loss if all(finite) else loss * torch.nan


class Kto(PairStage):
    """Preference pairs in, a model that gives wanted answers and not unwanted ones out."""

    name = "kto"
    least_batch = 2

    def encode(
        self,
        spec: StageSpec,
        source: ModelSource,
        rows: Sequence[RawRow],
        replay: Sequence[RawRow],
        replay_share: float,
    ) -> Material:
        """Encode the pairs and take them apart; the ledger counts pairs, `batch_size` answers."""
        assert isinstance(spec, KtoSpec), "train() calls the stage of the spec"
        material = super().encode(spec, source, rows, replay, replay_share)
        if spec.loss == "apo_zero_unpaired":
            return replace(material, rows=alone(material.rows))
        return replace(material, rows=unpaired(material.rows, seed=spec.seed, max_length=spec.max_length))

    def collator(self, spec: StageSpec, material: Material, source: ModelSource) -> AnswerCollator:
        """Return what lays answers out, and mismatched ones beside them."""
        return AnswerCollator(material.rows, source.tokenizer.pad_token_id)

    def order(self, spec: StageSpec, material: Material) -> BothSides:
        """Return an order in which the two answers of a pair are neighbours."""
        return BothSides(material.rows, seed=spec.seed, batch_size=spec.batch_size)

    def trainer(
        self, spec: KtoSpec, model: Any, material: Material, setting: Setting, callbacks: list[TrainerCallback]
    ) -> UnpairedTrainer:
        """Return the trainer."""

        def make() -> UnpairedTrainer:
            trainer = UnpairedTrainer(
                model=model,
                args=KTOConfig(
                    **trainer_arguments(spec, setting),
                    beta=spec.beta,
                    loss_type=spec.loss,
                    desirable_weight=spec.desirable_weight,
                    undesirable_weight=spec.undesirable_weight,
                    precompute_ref_log_probs=True,
                    disable_dropout=True,
                ),
                callbacks=callbacks,
                **self.parts(spec, material, setting),
            )
            self.order_rows(trainer, spec, material)
            return trainer

        return build(make, spec, setting.source)
