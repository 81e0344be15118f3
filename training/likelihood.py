"""How likely a model finds given texts: log-probabilities of continuations, in right-padded batches.

log P(text | prompt) = sum over the text's tokens of log softmax(logits)[token], in natural logarithms. What is asked is
a `Request` with `max_tokens` of 0; what is answered is the JSON of a `Likelihood`.

Source: Brown et al., Language Models are Few-Shot Learners (arXiv 2005.14165), section 2.4; long texts in windows:
Gao et al., A Framework for Few-Shot Language Model Evaluation (lm-evaluation-harness), `loglikelihood_rolling`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from data_catalog.errors import TrainingError
from data_catalog.records import Completion, Likelihood, Request
from training.models import ModelSource
from training.rows import Encoder
from training.student import Student

_LOGITS = 2**27
"""Logits of one batch at most: 512 MB in float32, whatever the size of the vocabulary."""


@dataclass(frozen=True)
class _Piece:
    """Tokens for one forward; those from `start` on are scored, and then the end behind them where that is asked."""

    row: _Row
    ids: list[int]
    start: int

    @property
    def targets(self) -> list[int]:
        return self.ids[self.start :]


@dataclass
class _Row:
    """One request: a piece for a chat's continuation, one or more for plain text."""

    request: Request
    pieces: list[_Piece] = field(default_factory=list)
    ends: bool = False
    """Whether the probability of ending is asked."""
    open: int = 0
    logprob: float = 0.0
    end_logprob: float = 0.0

    def cut(self, ids: list[int], start: int) -> None:
        """Add a piece that is to be scored."""
        self.pieces.append(_Piece(self, ids, start))
        self.open += 1

    def completion(self, seconds: float) -> Completion:
        """Return what was found."""
        tokens = sum(len(piece.targets) for piece in self.pieces)
        if not math.isfinite(self.logprob + self.end_logprob):
            raise TrainingError(
                f"the model gives request {self.request.key} a log-probability of {self.logprob}",
                valid="a finite number",
                next_step="check the model's weights: their logits are not finite",
            )
        found = Likelihood(logprob=self.logprob, tokens=tokens, end_logprob=self.end_logprob)
        return Completion(
            request_key=self.request.key,
            text=found.model_dump_json(),
            finish_reason="stop",
            prompt_tokens=sum(piece.start for piece in self.pieces),
            completion_tokens=0,
            seconds=seconds,
        )


def _contents(request: Request) -> tuple[str, str]:
    before, text = request.messages
    return before.content, text.content


class Likelihoods:
    """Answers requests of likelihood with a student.

    Args:
        student: the loaded model.
        encoder: of its tokenizer and chat template.
        source: its special tokens.
        positions: that the model knows, without those of a soft prompt.
        batch_tokens: of one padded batch at most; fewer where the logits of so many would not fit.
    """

    def __init__(
        self, student: Student, encoder: Encoder, source: ModelSource, *, positions: int, batch_tokens: int
    ) -> None:
        self._student = student
        self._encoder = encoder
        self._positions = positions
        begin = source.tokenizer.bos_token_id
        # As in lm-evaluation-harness: a family without a start token begins a text behind the end of another.
        self._begin = source.end_token if begin is None else int(begin)
        self._ends = sorted(source.end_tokens)
        vocabulary = int(student.model.get_input_embeddings().weight.shape[0])
        self._batch_tokens = max(1, min(batch_tokens, _LOGITS // vocabulary))

    def complete(self, requests: Sequence[Request]) -> Iterator[Sequence[Completion]]:
        """Yield the likelihoods of one batch after another, longest first.

        A continuation that with its prompt is longer than the model's positions is missing: cut, it would not be
        comparable with its rivals. Plain text is scored in windows, the first token of each behind the last one of the
        window before.
        """
        rows = self._rows(requests)
        pieces = sorted((piece for row in rows for piece in row.pieces), key=lambda piece: -len(piece.ids))
        for batch in self._batches(pieces):
            began = time.monotonic()
            self._score(batch)
            seconds = (time.monotonic() - began) / len(batch)
            touched = {id(piece.row): piece.row for piece in batch}
            yield [row.completion(seconds) for row in touched.values() if not row.open]

    def _rows(self, requests: Sequence[Request]) -> list[_Row]:
        rows, chats = [], []
        for request in requests:
            if not request.plain:
                chats.append(request)
            elif len(request.messages) == 1:
                rows.append(self._plain_row(request))
            else:
                rows += self._fitting(request, *self._encoder.text_continuation(*_contents(request)))
        messages = [[turn.model_dump() for turn in request.messages] for request in chats]
        for request, (prompt, text) in zip(chats, self._encoder.continuations(messages), strict=True):
            rows += self._fitting(request, prompt, text)
        return rows

    def _fitting(self, request: Request, prompt: list[int], text: list[int]) -> list[_Row]:
        if len(prompt) + len(text) > self._positions:
            return []
        row = _Row(request, ends=not request.plain)
        row.cut([*prompt, *text], len(prompt))
        return [row]

    def _plain_row(self, request: Request) -> _Row:
        row, ids = _Row(request), [self._begin, *self._encoder.plain(request.messages[0].content)]
        for start in range(0, max(1, len(ids) - 1), self._positions - 1):
            row.cut(ids[start : start + self._positions], 1)
        return row

    def _batches(self, pieces: Sequence[_Piece]) -> Iterator[list[_Piece]]:
        batch: list[_Piece] = []
        for piece in pieces:
            if batch and len(batch[0].ids) * (len(batch) + 1) > self._batch_tokens:
                yield batch
                batch = []
            batch.append(piece)
        if batch:
            yield batch

    @torch.inference_mode()
    def _score(self, batch: Sequence[_Piece]) -> None:
        """Add each piece's log-probability to its row's."""
        # Padding on the right: causal attention never looks there, so nothing has to be masked.
        tokens = torch.full((len(batch), len(batch[0].ids)), self._begin)
        for number, piece in enumerate(batch):
            tokens[number, : len(piece.ids)] = torch.tensor(piece.ids)
        logits = self._student.forward(tokens)
        for number, piece in enumerate(batch):
            row, count = piece.row, len(piece.targets)
            # The logits at a position are of the token behind it.
            logs = logits[number, piece.start - 1 : len(piece.ids)].float().log_softmax(dim=-1)
            targets = torch.tensor(piece.targets, dtype=torch.long, device=logs.device)
            row.logprob += float(logs[:count].gather(-1, targets[:, None]).double().sum())
            if row.ends:
                row.end_logprob = float(logs[count, self._ends].double().logsumexp(dim=-1))
            row.open -= 1
