"""Classification by template and verbaliser: the student learns to answer with the word of the right label.

Each text in each template is a row, and a row is as many lines of a batch as the labels have words: the prompt, and
behind it one word. All lines are scored by TRL's own head, at the words' tokens only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from data_catalog.errors import TrainingError
from data_catalog.labelled import question
from training.classify_specs import ClassifySpec
from training.label_scores import label_loss, label_scores
from training.ledger import LedgerBook
from training.models import ModelSource
from training.packing import NO_LOSS, EpochOrder
from training.rows import Encoder, RawRow
from training.stages.base import (
    GuardedTrainer,
    Material,
    Setting,
    Stage,
    answer_logps,
    probe_of,
    trainer_arguments,
)
from training.stages.pairs import lay_out_answers

EMPTY_TEXT = "empty text"


@dataclass(frozen=True, slots=True)
class LabelRow:
    """A text in one template: its prompt, every label's words as answers with their end token, the right label."""

    id: str
    prompt: list[int]
    words: list[list[int]]
    right: int

    def __len__(self) -> int:
        return len(self.prompt) + max(map(len, self.words))


@dataclass(frozen=True)
class LabelCollator:
    """Makes a batch from `[{"row": index}, ...]`: the lines of each row side by side, one for each word.

    `right`, int64 (rows,), is the place of each row's label among the labels.
    """

    rows: Sequence[LabelRow]
    pad_token: int

    def __call__(self, examples: Sequence[dict[str, int]]) -> dict[str, torch.Tensor]:
        """Return the batch of these rows, and their indices as `rows`."""
        indices = [example["row"] for example in examples]
        rows = [self.rows[index] for index in indices]
        lines = lay_out_answers([(row.prompt, word) for row in rows for word in row.words], self.pad_token)
        return {**vars(lines), "right": torch.tensor([row.right for row in rows]), "rows": torch.tensor(indices)}


class _LabelLoss(SFTTrainer):
    """TRL's SFTTrainer, of which the head and the loop are used, with the loss of the labels."""

    label_of_word: torch.Tensor
    labels: int
    likelihood_weight: float

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Return the loss of a batch of `LabelCollator`, and note how many rows' labels score highest."""
        right, mask = inputs["right"], inputs["completion_mask"]
        sums = answer_logps(model, inputs["input_ids"], inputs["attention_mask"], mask)
        words = (sums / mask.sum(dim=1)).view(len(right), -1)
        scores = label_scores(words, self.label_of_word.to(words.device), self.labels)
        hits = (scores.detach().argmax(dim=1) == right).float().mean()
        self._metrics["train"]["label_accuracy"].append(float(hits))
        return label_loss(scores, right, self.likelihood_weight)


class LabelTrainer(GuardedTrainer, _LabelLoss):
    """Trains on rows that are tokenised already."""


class Classify(Stage):
    """Labelled texts in, a student that answers with their labels out."""

    name = "classify"
    needs_chat_template = True

    def encode(
        self,
        spec: ClassifySpec,
        source: ModelSource,
        rows: Sequence[RawRow],
        replay: Sequence[RawRow],
        replay_share: float,
    ) -> Material:
        """Encode `{"text", "label"}` rows, each in every template; no replay can be mixed in."""
        if replay_share:
            raise TrainingError(
                "a classify stage can't mix in replay rows: they have no label",
                valid="replay_share: 0",
                next_step="rehearse other skills in an sft stage before it, or train by lora at a low rate",
            )
        book, encoder = LedgerBook(), Encoder(source, spec.max_length)
        encoded = [encoded for row in rows for encoded in _encoded(row, spec, encoder, book)]
        if len({row.right for row in encoded}) == 1:
            raise TrainingError(
                f"all {len(rows)} rows have the label {list(spec.labels)[encoded[0].right]!r}: nothing tells it apart",
                valid="rows of two labels or more",
                next_step="add rows of the other labels",
            )
        ledger = book.close(
            max_lost_share=spec.max_lost_share,
            replay_rows=0,
            tokens=sum(len(row.prompt) + len(word) for row in encoded for word in row.words),
            target_tokens=sum(len(word) for row in encoded for word in row.words),
        )
        guards = {
            "end_supervised": f"behind all {len(spec.words)} words of all {len(encoded)} rows",
            "prompt_is_prefix": "in all rows",
            "single_start": "in all rows",
        }
        probe = probe_of([row.prompt + row.words[0] for row in encoded])
        return Material(encoded, ledger, probe, guards)

    def collator(self, spec: ClassifySpec, material: Material, source: ModelSource) -> LabelCollator:
        """Return what lays the words of each row out in one rectangle."""
        return LabelCollator(material.rows, source.tokenizer.pad_token_id)

    def order(self, spec: ClassifySpec, material: Material) -> EpochOrder:
        """Return an order by chance in which rows of like length are neighbours."""
        return EpochOrder([len(row) for row in material.rows], seed=spec.seed, group_by=spec.batch_size)

    def trainer(
        self, spec: ClassifySpec, model: Any, material: Material, setting: Setting, callbacks: list[TrainerCallback]
    ) -> LabelTrainer:
        """Return the trainer; `batch_size` counts rows, each of which is a line for every word."""
        config = SFTConfig(
            **trainer_arguments(spec, setting), packing=False, dataset_kwargs={"skip_prepare_dataset": True}
        )
        trainer = LabelTrainer(model=model, args=config, callbacks=callbacks, **self.parts(spec, material, setting))
        # The loss is a mean over the rows of a batch, not over tokens that were counted for the whole step.
        trainer.model_accepts_loss_kwargs = False
        trainer.label_of_word = torch.tensor(spec.label_of_word)
        trainer.labels = len(spec.labels)
        trainer.likelihood_weight = spec.likelihood_weight
        self.order_rows(trainer, spec, material)
        trainer.settle(spec)
        return trainer


def _encoded(row: RawRow, spec: ClassifySpec, encoder: Encoder, book: LedgerBook) -> Iterator[LabelRow]:
    """Yield a row in each template, or none where one of its lines can't be used, which the book is told."""
    text, right = _text_and_label(row, spec)
    if not text.strip():
        book.drop(row.id, EMPTY_TEXT)
        return
    made, lost = [], LedgerBook()
    for template in spec.templates:
        asked = {"role": "user", "content": question(template, text)}
        lines = [RawRow(row.id, {"messages": [asked, _said(word)]}) for word in spec.words]
        encoded = encoder.conversations(lines, lost)
        if lost.reasons:
            book.drop(row.id, next(iter(lost.reasons)))
            return
        starts = [int((line.labels != NO_LOSS).argmax()) for line in encoded]
        ids = [line.input_ids.tolist() for line in encoded]
        words = [one[start:] for one, start in zip(ids, starts, strict=True)]
        made.append(LabelRow(row.id, ids[0][: starts[0]], words, right))
    book.keep()
    yield from made


def _said(word: str) -> Mapping[str, str]:
    return {"role": "assistant", "content": word}


def _text_and_label(row: RawRow, spec: ClassifySpec) -> tuple[str, int]:
    payload = row.payload if isinstance(row.payload, Mapping) else {}
    text, label = payload.get("text"), payload.get("label")
    if not isinstance(text, str) or not isinstance(label, str):
        raise TrainingError(
            f"row {row.id} has no 'text' and 'label'; it has: {', '.join(sorted(payload)) or 'nothing'}",
            valid='{"text", "label"}, both strings',
            next_step="give the stage a dataset of its own kind",
        )
    if label not in spec.labels:
        raise TrainingError(
            f"row {row.id} has the label {label!r:.80}, which the stage doesn't know",
            valid=", ".join(spec.labels),
            next_step="add the label with its words to `labels`, or correct the row",
        )
    return text, list(spec.labels).index(label)
