"""Documents in, dataset versions out: the step ingest, and the datasets of each stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from data_catalog.catalogue import DocumentDiff
from data_catalog.datasets import write_dataset
from data_catalog.errors import DataError
from data_catalog.exclusions import Exclusion, exclusion_of, list_exclusions
from data_catalog.identity import digest
from data_catalog.records import Chunk, DatasetVersion, Document, Item, Kind, Split
from flows.config import StageConfig
from flows.context import RunContext
from flows.document_parser import document_parser
from generators.chunks import cut
from generators.documents import ReadResult, Refusal, Remark, read_documents
from generators.documents.results import counted, endings
from generators.recipes import document_text_items
from generators.tokens import load_counter
from generators.withholding import Open, withhold

STAGE_KINDS: Mapping[str, Kind] = {"pretrain": Kind.TEXT, "sft": Kind.MESSAGES}
"""Stages that train on all accepted items of a kind unless their `data.recipes` says otherwise."""
QUESTION_RECIPES = ("grounded_qa", "unanswerable")
"""What `ppo`, `grpo`, `rloo` and the preference stages ask the student unless their `data.recipes` says otherwise:
questions with short answers, which can be compared."""

MAX_NOTES = 20
"""Lines of one kind that the ingest step writes."""


@dataclass(frozen=True)
class Ingested:
    """The documents as they stand now, without what is withheld (`documents.withhold_sensitive`)."""

    documents: tuple[Document, ...]
    chunks: tuple[Chunk, ...]
    refusals: tuple[Refusal, ...]
    diff: DocumentDiff
    remarks: tuple[Remark, ...] = ()


def ingest(ctx: RunContext) -> Ingested:
    """Read, cut and store the documents. Always done: only reading tells whether something changed."""
    spec = ctx.config.documents
    ctx.reporter.step_started("ingest")
    on_progress = partial(ctx.reporter.step_progress, "ingest", detail="files parsed")
    read = without_excluded(
        read_documents(spec, document_parser(ctx.home, on_progress)), list_exclusions(ctx.catalogue)
    )
    count_tokens = load_counter(ctx.config.student.model)
    chunks = [chunk for document in read.documents for chunk in cut(document, spec, count_tokens)]
    refused = [(refusal.path, refusal.reason) for refusal in read.refusals]
    diff = ctx.catalogue.sync_documents(read.documents, chunks, refused)
    ctx.reporter.step_done("ingest", _ingest_line(len(read.documents), len(chunks), diff, len(refused)))
    seen = withhold(read.documents, chunks, spec.withhold_sensitive)
    for line in ingest_notes(read, seen):
        ctx.reporter.note(line)
    return Ingested(seen.documents, seen.chunks, read.refusals, diff, read.remarks)


def without_excluded(read: ReadResult, exclusions: Sequence[Exclusion]) -> ReadResult:
    """Return what was read without the documents that are excluded, which are refused by name."""
    kept, refused = [], []
    for document in read.documents:
        exclusion = exclusion_of(document, exclusions)
        if exclusion is None:
            kept.append(document)
            continue
        day = f"{datetime.fromtimestamp(exclusion.excluded_at, UTC):%Y-%m-%d}"
        reason = f"excluded by `tutelage forget` on {day} ({exclusion.actor}); --undo takes it back"
        refused.append(Refusal(document.path, reason))
    return replace(read, documents=tuple(kept), refusals=(*read.refusals, *refused))


def _ingest_line(documents: int, chunks: int, diff: DocumentDiff, refused: int) -> str:
    changes = [
        f"{count:,} {word}"
        for word, count in (
            ("new", len(diff.added)),
            ("changed", len(diff.changed)),
            ("withdrawn", len(diff.removed)),
            ("refused", refused),
        )
        if count
    ]
    return f"{documents:,} documents, {chunks:,} chunks" + (f" ({', '.join(changes)})" if changes else "")


def ingest_notes(read: ReadResult, seen: Open) -> Iterator[str]:
    """Yield what a user should know of the documents that were read, and of what was not, or will not be used."""
    yield from _first([f"left out {refusal.path}: {refusal.reason}" for refusal in read.refusals], "more were left out")
    yield from _first([f"{remark.path}: {remark}" for remark in read.remarks], "more documents have remarks like these")
    removed: Counter[str] = Counter()
    for remark in read.remarks:
        removed.update(remark.removed)
    if removed:
        affected = sum(bool(remark.removed) for remark in read.remarks)
        of_all = f"{affected:,} of {len(read.documents):,} documents"
        yield f"text that no reader sees was removed from {of_all}: {counted(removed)}"
    if seen.withheld:
        kinds = ", ".join(f"{kind} in {count:,}" for kind, count in seen.kinds.items())
        yield f"withheld {seen.withheld:,} chunks with personal data or secrets: {kinds} (documents.withhold_sensitive)"
    if read.not_included:
        yield f"not looked at: {endings(read.not_included)} (documents.include)"


def _first(lines: Sequence[str], rest: str) -> Iterator[str]:
    yield from lines[:MAX_NOTES]
    if len(lines) > MAX_NOTES:
        yield f"{len(lines) - MAX_NOTES:,} {rest}; the report has them all"


def stage_items(stage: StageConfig, accepted: Sequence[Item]) -> list[Item]:
    """Return the accepted items of the train split that a stage's recipes and part name."""
    kind = STAGE_KINDS.get(stage.train.stage)
    recipes = stage.data.recipes or (() if kind else QUESTION_RECIPES)
    low, high = stage.data.part
    return [
        item
        for item in accepted
        if (item.recipe in recipes if recipes else item.kind is kind)
        and item.split is Split.TRAIN
        and low <= _position(item) < high
    ]


def _position(item: Item) -> float:
    """Return where an item stands in [0, 1): by its question, so that equal questions stay together."""
    return int(digest(item.meta.get("question") or item.payload)[:8], 16) / 16**8


def stage_dataset(ctx: RunContext, stage: StageConfig, ingested: Ingested, accepted: Sequence[Item]) -> DatasetVersion:
    """Write the dataset version of a stage that takes texts or conversations: train split only, exact, immutable."""
    kind = STAGE_KINDS.get(stage.train.stage, Kind.MESSAGES)
    rows = stage_items(stage, accepted)
    if stage.train.stage == "pretrain" and stage.data.documents:
        texts = document_text_items(ingested.documents, ingested.chunks)
        ctx.catalogue.add_items(texts)
        rows += texts
    wrong = sorted({item.recipe for item in rows if item.kind is not kind})
    if wrong:
        raise DataError(
            f"stage {stage.name} ({stage.train.stage}) can't train on items of {', '.join(wrong)}",
            valid=f"recipes that make {kind} items",
            next_step=f"edit stages[{stage.name}].data.recipes",
        )
    if not rows:
        raise DataError(
            f"no accepted items for stage {stage.name} from {', '.join(stage.data.recipes) or 'any recipe'}",
            next_step="the funnel in the report says which filter took them",
        )
    return write_dataset(ctx.catalogue, f"{ctx.config.project}-{stage.name}", kind, rows)
