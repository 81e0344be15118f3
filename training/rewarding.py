"""Rewards of answers: what a trained reward model makes of conversations, in right-padded batches.

What is asked is a `Request` with `max_tokens` of 0 that ends with the assistant's turn; what is answered is the JSON of
a `Reward`. The conversation is laid out as the `reward` stage lays it out: whole, up to the answer's end token.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_catalog.errors import TrainingError
from data_catalog.records import Completion, Request, Reward
from training.ledger import LedgerBook
from training.models import Precision, open_source, resolve_precision
from training.reward_model import RewardModel
from training.rows import Encoder, RawRow


class RewardCompleter:
    """A `data_catalog.completer.Completer` over the directory of a reward model.

    Args:
        model: what a `reward` stage left.
        fingerprint: what stands for the model in request keys.
        batch_tokens: of one padded batch at most.
        precision: of weights and arithmetic; `auto` is bfloat16 on a GPU that has it, float32 otherwise.

    Raises TrainingError for a directory that can't be used, for a request that is no conversation with an answer, and
    for a reward that is no number.
    """

    def __init__(
        self, model: Path, fingerprint: str, *, batch_tokens: int = 16_384, precision: Precision = "auto"
    ) -> None:
        source = open_source(model, needs_chat_template=True)
        self._fingerprint = fingerprint
        self._batch_tokens = batch_tokens
        self._model = RewardModel(model, source, resolve_precision(precision))
        positions = int(self._model.model.config.get_text_config().max_position_embeddings)
        self._encoder = Encoder(source, positions)

    @property
    def fingerprint(self) -> str:
        """What stands for the model in request keys."""
        return self._fingerprint

    def complete(self, requests: Sequence[Request]) -> Iterator[Sequence[Completion]]:
        """Yield the rewards of one batch after another, longest first.

        A conversation that is longer than the model's positions, or that no stage would train on (a turn without text,
        roles out of order), is missing.
        """
        for request in requests:
            if not request.of_likelihood or len(request.messages) < 2:
                raise TrainingError(
                    f"request {request.key} asks a reward model for words",
                    valid="a conversation that ends with the answer to be judged, with max_tokens of 0",
                    next_step="ask a language model instead",
                )
        for batch in self._batches(self._rows(requests)):
            began = time.monotonic()
            rewards = self._model.score([tokens for _, tokens in batch]).tolist()
            seconds = (time.monotonic() - began) / len(batch)
            yield [
                self._completion(key, len(tokens), reward, seconds)
                for (key, tokens), reward in zip(batch, rewards, strict=True)
            ]

    def _rows(self, requests: Sequence[Request]) -> list[tuple[str, list[int]]]:
        rows = [
            RawRow(request.key, {"messages": [turn.model_dump() for turn in request.messages]}) for request in requests
        ]
        # The last answer alone is wanted, so that a conversation which does not fit is left out, not cut before it.
        encoded = self._encoder.conversations(rows, LedgerBook(), last_only=True)
        found = [(row.id, row.input_ids.tolist()) for row in encoded]
        return sorted(found, key=lambda pair: (-len(pair[1]), pair[0]))

    def _batches(self, rows: Sequence[tuple[str, list[int]]]) -> Iterator[list[tuple[str, list[int]]]]:
        batch: list[tuple[str, list[int]]] = []
        for row in rows:
            if batch and len(batch[0][1]) * (len(batch) + 1) > self._batch_tokens:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _completion(self, key: str, tokens: int, reward: float, seconds: float) -> Completion:
        if not math.isfinite(reward):
            raise TrainingError(
                f"the reward model gives request {key} a reward of {reward}",
                valid="a finite number",
                next_step="check the model's weights: their logits are not finite",
            )
        return Completion(
            request_key=key,
            text=Reward(reward=reward).model_dump_json(),
            finish_reason="stop",
            prompt_tokens=tokens,
            seconds=seconds,
        )
