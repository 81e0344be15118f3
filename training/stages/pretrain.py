"""Continued pretraining on text: every token is a target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback

from training.ledger import LedgerBook
from training.models import ModelSource
from training.rows import Encoder, RawRow
from training.specs import PretrainSpec
from training.stages.base import Material, Setting
from training.stages.sft import LanguageModelTrainer, LanguageStage, language_material


class Pretrain(LanguageStage):
    """Text in, a model that has read it out."""

    name = "pretrain"
    needs_chat_template = False

    def encode(
        self,
        spec: PretrainSpec,
        source: ModelSource,
        rows: Sequence[RawRow],
        replay: Sequence[RawRow],
        replay_share: float,
    ) -> Material:
        """Encode `{"text"}` rows; a text longer than `max_length` is split, never cut."""
        encoder = Encoder(source, spec.max_length)
        book = LedgerBook()
        encoded = encoder.texts(rows)
        present = {row.id for row in encoded}
        for row in rows:
            if row.id in present:
                book.keep()
            else:
                book.drop(row.id, "empty text")
        return language_material(spec, encoder, encoded, book, replay, replay_share)

    def trainer(
        self, spec: PretrainSpec, model: Any, material: Material, setting: Setting, callbacks: list[TrainerCallback]
    ) -> LanguageModelTrainer:
        """Return the trainer; `batch_size` counts texts (or their pieces), which are packed or padded in a batch."""
        return self.language_trainer(spec, model, material, setting, callbacks)
