"""What answers earn: by a reward model, and by the answer that a row has.

What is compared with the expected answer is compared as evaluation does (`data_catalog.text`), so that a stage is paid
for what its gate measures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from data_catalog.errors import TrainingError
from data_catalog.text import contains_words, normalise_answer, token_f1, words
from training.sampled_specs import RewardName

Score = Callable[[Sequence[Sequence[int]]], torch.Tensor]
"""From conversations (tokens) to their rewards, shape (conversations,)."""


def exact_match(answer: str, expected: str) -> float:
    """Return 1 where both are the same answer once normalised, else 0."""
    return float(normalise_answer(answer) == normalise_answer(expected))


def contains(answer: str, expected: str) -> float:
    """Return 1 where the expected answer stands in the answer as whole words in a row, else 0."""
    return float(contains_words(words(answer), words(expected)))


VERIFIABLE: Mapping[str, Callable[[str, str], float]] = {
    "exact_match": exact_match,
    "token_f1": token_f1,
    "contains": contains,
}
"""Rewards in [0, 1] of an answer, given the expected one; names and measures are those of the scorers."""


@dataclass(frozen=True)
class Rewarder:
    """The rewards of a stage with their weights."""

    weights: Mapping[RewardName, float]
    tokenizer: PreTrainedTokenizerBase
    model: Score | None = None
    """Scores by the reward model, where `model` is among the rewards."""

    def parts(
        self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], expected: Sequence[str]
    ) -> dict[str, torch.Tensor]:
        """Return each reward by its name, unweighted, float32 (answers,); answers are tokens with their end token."""
        found: dict[str, torch.Tensor] = {}
        texts = [str(self.tokenizer.decode(answer, skip_special_tokens=True)) for answer in answers]
        for name in self.weights:
            if name != "model":
                measure = VERIFIABLE[name]
                found[name] = torch.tensor([measure(*pair) for pair in zip(texts, expected, strict=True)])
            elif self.model is None:
                raise TypeError("`model` is among the rewards, and there is no reward model")
            else:
                wholes = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
                found[name] = self.model(wholes).float().cpu()
        return found

    def total(self, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the weighted sum of rewards, (answers,)."""
        return torch.stack([self.weights[name] * parts[name] for name in self.weights]).sum(dim=0)


def check_rewards(rewards: torch.Tensor, row_ids: Sequence[str]) -> None:
    """Raise TrainingError, with the ids, where a reward (answers,) is NaN or infinite."""
    broken = [row for row, fine in zip(row_ids, torch.isfinite(rewards).tolist(), strict=True) if not fine]
    if broken:
        raise TrainingError(
            f"the reward of an answer is not finite, on the rows {', '.join(dict.fromkeys(broken))}",
            valid="a finite reward",
            next_step="train the reward model again with a lower learning_rate, or leave `model` out of `reward`",
        )
