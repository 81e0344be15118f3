"""Supervised fine-tuning on conversations: loss on what the assistant says only, through TRL's SFTTrainer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from training.ledger import LedgerBook
from training.models import ModelSource, load_config
from training.packing import EpochOrder, RowCollator, TokenRow
from training.rows import Encoder, RawRow, draw_replay
from training.specs import PackedSpec, PretrainSpec, SftSpec
from training.stages.base import (
    GuardedTrainer,
    Material,
    Setting,
    Stage,
    probe_of,
    trainer_arguments,
)


class LanguageModelTrainer(GuardedTrainer, SFTTrainer):
    """TRL's SFTTrainer on rows that are tokenised, masked and packed already."""


class LanguageStage(Stage):
    """A stage on single sequences."""

    def collator(self, spec: PackedSpec, material: Material, source: ModelSource) -> RowCollator:
        """Return what packs the rows of a batch, or pads them."""
        return RowCollator(
            material.rows,
            source.tokenizer.pad_token_id,
            load_config(source.path).get_text_config().hidden_size,
            spec.max_length,
            spec.packs,
            # Behind a soft prompt positions are counted from the prompt on, by the model itself.
            masked=spec.method.virtual_tokens > 0,
        )

    def order(self, spec: PackedSpec, material: Material) -> EpochOrder:
        """Return an order by chance; where rows are padded, rows of like length are neighbours."""
        return EpochOrder(
            [len(row) for row in material.rows],
            seed=spec.seed,
            group_by=0 if spec.packs else spec.batch_size,
            own=material.own,
            epochs=spec.epochs,
        )

    def language_trainer(
        self,
        spec: PackedSpec,
        model: Any,
        material: Material,
        setting: Setting,
        callbacks: list[TrainerCallback],
        **arguments: Any,
    ) -> LanguageModelTrainer:
        """Return an SFTTrainer fed with `material`; `arguments` are told to it beside those of every stage."""
        config = SFTConfig(
            **trainer_arguments(spec, setting),
            **arguments,
            packing=False,  # RowCollator packs, within a batch
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        trainer = LanguageModelTrainer(
            model=model,
            args=config,
            callbacks=callbacks,
            **self.parts(spec, material, setting),
        )
        self.order_rows(trainer, spec, material)
        trainer.settle(spec)
        return trainer


class Sft(LanguageStage):
    """Conversations in, an assistant out."""

    name = "sft"
    needs_chat_template = True

    def encode(
        self,
        spec: SftSpec,
        source: ModelSource,
        rows: Sequence[RawRow],
        replay: Sequence[RawRow],
        replay_share: float,
    ) -> Material:
        """Encode `{"messages"}` rows; `batch_size` counts conversations, packed or not."""
        book = LedgerBook()
        encoder = Encoder(source, spec.max_length)
        encoded = encoder.conversations(rows, book, last_only=spec.loss_on == "completion")
        return language_material(spec, encoder, encoded, book, replay, replay_share)

    def trainer(
        self, spec: SftSpec, model: Any, material: Material, setting: Setting, callbacks: list[TrainerCallback]
    ) -> LanguageModelTrainer:
        """Return the trainer; rows of one batch are packed (`packing`), or padded among rows of like length."""
        return self.language_trainer(spec, model, material, setting, callbacks, neftune_noise_alpha=spec.neftune_alpha)


def language_material(
    spec: SftSpec | PretrainSpec,
    encoder: Encoder,
    encoded: list[TokenRow],
    book: LedgerBook,
    replay: Sequence[RawRow],
    replay_share: float,
) -> Material:
    """Mix replay rows in and close the ledger."""
    guards = {}
    epochs: list[list[TokenRow]] = []
    if replay_share and encoded:
        pool = _encode_replay(encoder, replay)
        epochs = draw_replay(encoded, pool, replay_share, epochs=math.ceil(spec.epochs), seed=spec.seed)
        tokens = sum(len(row) for epoch in epochs for row in epoch) / len(epochs)
        share = tokens / (tokens + sum(map(len, encoded)))
        distinct = len({row.id for epoch in epochs for row in epoch})
        guards["replay_share"] = f"{share:.3f} of the tokens, {len(epochs[0])} rows an epoch, {distinct} in all"
    every = [*encoded, *(row for epoch in epochs for row in epoch)]
    first_epoch = [*encoded, *(epochs[0] if epochs else ())]
    ledger = book.close(
        max_lost_share=spec.max_lost_share,
        replay_rows=len(epochs[0]) if epochs else 0,
        tokens=sum(map(len, first_epoch)),
        target_tokens=sum(row.targets for row in first_epoch),
    )
    guards["end_supervised"] = f"in all {len(every)} rows"
    guards["prompt_is_prefix"] = guards["single_start"] = "in all rows"
    probe = probe_of([row.input_ids.tolist() for row in encoded])
    return Material(every, ledger, probe, guards, own=len(encoded))


def _encode_replay(encoder: Encoder, replay: Sequence[RawRow]) -> list[TokenRow]:
    """Encode replay rows by what they hold: text carries loss on each token, a conversation on its answers.

    Rows that can't be used are left out; the ledger counts the stage's own rows only.
    """
    texts = [row for row in replay if "text" in row.payload]
    conversations = [row for row in replay if "text" not in row.payload]
    return [*encoder.conversations(conversations, LedgerBook()), *encoder.texts(texts)]
