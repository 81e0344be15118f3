"""Answers from local weights: batched, left-padded generation with a preallocated key/value cache.

The same request gets the same answer whatever else is in its batch, as far as floating point allows: each row draws
its random numbers from a generator that is seeded with its request key.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from data_catalog.errors import TrainingError
from data_catalog.records import Completion, Request, Sampling
from training.likelihood import Likelihoods
from training.methods import load_student
from training.models import Precision, device, open_source, resolve_precision
from training.rows import Encoder

_COMPACT_BELOW = 0.75
"""Rows that ended are taken out of a batch once fewer than this share is still running."""


class LocalCompleter:
    """A `data_catalog.completer.Completer` over a model directory.

    Args:
        model: directory with safetensors, tokenizer and chat template; or with a base and an adapter beside it.
        fingerprint: what stands for the model in request keys.
        batch_tokens: prompt and new tokens of one padded batch at most.
        precision: of weights and arithmetic; `auto` is bfloat16 on a GPU that has it, float32 otherwise.
        on_tokens: called after each step of a batch with a request's key and all tokens of its answer so far.

    Raises TrainingError for a directory that can't be used, for an adapter that changes nothing, and for requests with
    a response schema, which local generation can't hold an answer to.
    """

    def __init__(
        self,
        model: Path,
        fingerprint: str,
        *,
        batch_tokens: int = 16_384,
        precision: Precision = "auto",
        on_tokens: Callable[[str, Sequence[int]], None] | None = None,
    ) -> None:
        source = open_source(model, needs_chat_template=True)
        self._fingerprint = fingerprint
        self._batch_tokens = batch_tokens
        self._on_tokens = on_tokens
        self._tokenizer = source.tokenizer
        self._encoder = Encoder(source, max_length=2**31)
        self._ends = torch.tensor(sorted(source.end_tokens), device=device())
        self._student = load_student(source, resolve_precision(precision))
        self._model = self._student.model
        if source.adapter is not None:
            # PEFT only warns where the weights of an adapter don't fit; the answers would be the base's.
            self._student.check_active(torch.tensor([self._encoder.prompt([{"role": "user", "content": "?"}])]))
        config = self._model.config.get_text_config()
        self._positions = int(config.max_position_embeddings) - self._student.virtual_tokens
        self._likelihoods = Likelihoods(
            self._student, self._encoder, source, positions=self._positions, batch_tokens=batch_tokens
        )

    @property
    def fingerprint(self) -> str:
        """What stands for the model in request keys."""
        return self._fingerprint

    @property
    def positions(self) -> int:
        """Tokens of prompt and answer together at most."""
        return self._positions

    def text(self, tokens: Sequence[int]) -> str:
        """Return an answer's tokens as text, without control tokens."""
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    def complete(self, requests: Sequence[Request]) -> Iterator[Sequence[Completion]]:
        """Yield the completions of one padded batch after another, longest prompts first.

        A request whose prompt leaves no room for an answer within the model's positions is missing from the batches.
        Requests of likelihood are answered last.
        """
        for request in requests:
            if request.of_embedding:
                raise TrainingError(
                    f"request {request.key} asks for the vector of a text, which a language model does not give",
                    next_step="name an endpoint with /v1/embeddings as `embedder`",
                )
            if request.response_schema is not None:
                raise TrainingError(
                    f"request {request.key} asks for a JSON schema, which local generation can't enforce",
                    next_step="ask a served model (vLLM) instead",
                )
        for batch in self._batches([request for request in requests if not request.of_likelihood]):
            yield self._answer(batch)
        yield from self._likelihoods.complete([request for request in requests if request.of_likelihood])

    def _batches(self, requests: Sequence[Request]) -> Iterator[list[_Row]]:
        rows = [
            _Row(request, prompt, min(request.sampling.max_tokens, self._positions - len(prompt)))
            for request, prompt in self._prompts(requests)
            if len(prompt) < self._positions
        ]
        rows.sort(key=lambda row: (len(row.prompt) + row.limit, len(row.prompt)), reverse=True)
        batch: list[_Row] = []
        prompt = limit = 0
        for row in rows:
            prompt, limit = max(prompt, len(row.prompt)), max(limit, row.limit)
            if batch and (prompt + limit) * (len(batch) + 1) > self._batch_tokens:
                yield batch
                batch, prompt, limit = [], len(row.prompt), row.limit
            batch.append(row)
        if batch:
            yield batch

    def _prompts(self, requests: Sequence[Request]) -> Iterator[tuple[Request, list[int]]]:
        chats = [request for request in requests if not request.continues_text]
        prompts = self._encoder.prompts([[turn.model_dump() for turn in request.messages] for request in chats])
        yield from zip(chats, prompts, strict=True)
        for request in requests:
            if request.continues_text:
                yield request, self._encoder.text_prompt(request.messages[0].content)

    def _answer(self, rows: list[_Row]) -> list[Completion]:
        began = time.monotonic()
        self._decode(rows)
        seconds = (time.monotonic() - began) / len(rows)
        texts = self._tokenizer.batch_decode([row.text_tokens for row in rows], skip_special_tokens=True)
        return [
            Completion(
                request_key=row.request.key,
                text=text,
                finish_reason="stop" if row.ended else "length",
                prompt_tokens=len(row.prompt),
                completion_tokens=len(row.tokens),
                seconds=seconds,
            )
            for row, text in zip(rows, texts, strict=True)
        ]

    @torch.inference_mode()
    def _decode(self, rows: list[_Row]) -> None:
        """Append tokens to each row until it ends or meets its limit."""
        limit = max(row.limit for row in rows)
        width = max(len(row.prompt) for row in rows)
        where, before = self._ends.device, self._student.virtual_tokens
        tokens = torch.full((len(rows), width), int(self._tokenizer.pad_token_id))
        mask = torch.ones((len(rows), before + width + limit), dtype=torch.long)
        for number, row in enumerate(rows):
            tokens[number, width - len(row.prompt) :] = torch.tensor(row.prompt)
            mask[number, before : before + width - len(row.prompt)] = 0
        tokens, mask = tokens.to(where), mask.to(where)
        positions = (mask[:, : before + width].cumsum(dim=1) - 1).clamp(min=0)[:, before:]
        cache = _preallocated_cache(self._model.config, before + width + limit)
        self._student.prime(cache, len(rows))
        sampler = RowSampler.of([row.request for row in rows], limit, where)
        running = list(rows)
        for step in range(limit):
            logits = self._model(
                input_ids=tokens,
                attention_mask=mask[:, : before + width + step],
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            drawn = sampler.draw(logits.float(), step)
            ended = torch.isin(drawn, self._ends).tolist()
            for row, token, end in zip(running, drawn.tolist(), ended, strict=True):
                row.take(token, ended=end)
            if self._on_tokens is not None:
                for row in running:
                    self._on_tokens(row.request.key, row.text_tokens)
            tokens, positions = drawn[:, None], positions[:, -1:] + 1
            alive = [number for number, row in enumerate(running) if not row.done]
            if not alive:
                return
            if len(alive) < _COMPACT_BELOW * len(running):
                kept = torch.tensor(alive, device=where)
                tokens, positions, mask = tokens[kept], positions[kept], mask[kept]
                cache.batch_select_indices(kept)
                sampler = sampler.select(kept)
                running = [running[number] for number in alive]


@dataclass
class _Row:
    """One request on its way through a batch."""

    request: Request
    prompt: list[int]
    limit: int
    """New tokens at most."""
    tokens: list[int] = field(default_factory=list)
    ended: bool = False

    @property
    def done(self) -> bool:
        return self.ended or len(self.tokens) >= self.limit

    @property
    def text_tokens(self) -> list[int]:
        """The tokens without the one that ends the answer."""
        return self.tokens[:-1] if self.ended else self.tokens

    def take(self, token: int, *, ended: bool) -> None:
        """Add a token, unless the row is done and only waits for its batch."""
        if not self.done:
            self.tokens.append(token)
            self.ended = ended


@dataclass(frozen=True)
class RowSampler:
    """Draws one token per row, each row with its own temperature, top_p and random numbers.

    Shapes: temperature, top_p (rows, 1); uniforms (rows, steps) in [0, 1).
    """

    temperature: torch.Tensor
    top_p: torch.Tensor
    uniforms: torch.Tensor

    @classmethod
    def of(cls, requests: Sequence[Request], steps: int, where: torch.device) -> RowSampler:
        """Make the sampler of a batch; a row's random numbers depend on its request key alone."""
        samplings: list[Sampling] = [request.sampling for request in requests]
        uniforms = np.zeros((len(requests), steps))
        for number, request in enumerate(requests):
            if request.sampling.temperature > 0:
                uniforms[number] = row_uniforms(request.key, steps)

        def column(values: list[float]) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.float64, device=where)[:, None]

        return cls(
            column([sampling.temperature for sampling in samplings]),
            column([sampling.top_p for sampling in samplings]),
            torch.from_numpy(uniforms).to(where),
        )

    def select(self, kept: torch.Tensor) -> RowSampler:
        """Return the sampler of some of the rows."""
        return RowSampler(self.temperature[kept], self.top_p[kept], self.uniforms[kept])

    def draw(self, logits: torch.Tensor, step: int) -> torch.Tensor:
        """Return one token id per row of `logits` (rows, vocabulary): the likeliest where temperature is 0.

        Elsewhere by inverse transform: the first token at which the cumulative probability exceeds the row's uniform
        number of this step.
        """
        greedy = logits.argmax(dim=-1)
        sampled_rows = self.temperature[:, 0] > 0
        if not bool(sampled_rows.any()):
            return greedy
        scaled = logits.double() / self.temperature.clamp(min=1e-6)
        probabilities = nucleus(torch.softmax(scaled, dim=-1), self.top_p)
        cumulative = probabilities.cumsum(dim=-1)
        threshold = self.uniforms[:, step : step + 1] * cumulative[:, -1:]
        drawn = torch.searchsorted(cumulative, threshold, right=True)[:, 0]
        return torch.where(sampled_rows, drawn.clamp(max=logits.shape[-1] - 1), greedy)


def nucleus(probabilities: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Return `probabilities` (rows, vocabulary) with all but the smallest set that reaches `top_p` (rows, 1) at zero.

    Not normalised again. Source: Holtzman et al., arXiv 1904.09751, section 3.1.
    """
    if bool((top_p >= 1).all()):
        return probabilities
    ordered, indices = probabilities.sort(dim=-1, descending=True, stable=True)
    outside = (ordered.cumsum(dim=-1) - ordered) >= top_p
    return probabilities.masked_fill(torch.zeros_like(outside).scatter(-1, indices, outside), 0.0)


def row_uniforms(key: str, count: int) -> np.ndarray:
    """Return `count` uniform numbers in [0, 1) that depend on a request key alone (Philox, seeded by its SHA-256)."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


class _PreallocatedLayer(DynamicLayer):
    """Keys and values of one layer in a buffer of the final size.

    The layer it stands for copies all it has at each step, which takes longer than the step itself on a CPU.
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        self._length = length
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new states behind the old ones; return a view of all."""
        if self._buffers is None:
            self.lazy_initialization(key_states, value_states)
            shape = (*key_states.shape[:2], self._length)
            self._buffers = (
                key_states.new_empty((*shape, key_states.shape[-1])),
                value_states.new_empty((*shape, value_states.shape[-1])),
            )
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        keys, values = self._buffers
        keys[:, :, start:end] = key_states
        values[:, :, start:end] = value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some rows of the batch."""
        if self._buffers is not None:
            end = self.get_seq_length()
            keys, values = self._buffers
            self._buffers = keys[indices], values[indices]
            self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)


def _preallocated_cache(config: Any, length: int) -> DynamicCache:
    """Return a cache whose full-attention layers are preallocated; other kinds (sliding, linear) stay as they are."""
    cache = DynamicCache(config=config)
    cache.layers = [_PreallocatedLayer(length) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
